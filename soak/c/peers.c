/* peers <seed> <socket> <number> <count> <first address> <address of the router's host> <first IPv6 address>
 * <IPv6 address of the router's host> <honest vassal's address of either version>...:
 * vassal-like peers that come, misbehave in one way or another, and go, each with its own random numbers. Prints
 * "ready". After SIGTERM it closes everything and prints "done" with what it did, as "<name> <count>" pairs. */
#include "router_peer.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <signal.h>
#include <stdbool.h>

/* What the peers of a kind do from connecting to closing, and how many of 100 are of that kind. */
#define KINDS(KIND)     \
	KIND(churns, 10)    /* leaves at once */ \
	KIND(idles, 12)     /* claims its addresses */ \
	KIND(says_nothing, 6) \
	KIND(floods, 10)    /* frames as fast as the socket takes them, to everybody */ \
	KIND(never_reads, 6) /* sends requests to the host, and doesn't read the answers */ \
	KIND(halves, 6)     /* holds back the second half of a frame */ \
	KIND(garbles, 6)    /* sends bytes that are no frames */ \
	KIND(steals, 8)     /* claims the honest vassals' addresses */ \
	KIND(bends, 8)      /* sends IPv6 packets with odd sources, extension headers, fragments, routing headers */ \
	KIND(is_odd, 6)     /* sends unknown frames, rules of every length, empty frames, hellos at any time */ \
	KIND(lies, 4)       /* offers descriptors that are no devices */ \
	KIND(attaches, 8)   /* attaches a device, and comes back with it to the next router */ \
	KIND(is_deaf, 3)    /* attaches a device, but never reads what the next router sends */ \
	KIND(floods_device, 5) \
	KIND(shuts_device, 2) /* sets its interface down */

#define NAME(name, weight) name,
#define TEXT(name, weight) #name,
#define WEIGHT(name, weight) weight,
enum kind { KINDS(NAME) KIND_COUNT };
static const char *const KIND_NAMES[] = {KINDS(TEXT)};
static const int WEIGHTS[] = {KINDS(WEIGHT)};

enum { MAX_PEERS = 1000, MAX_VICTIMS = 8, OUT_LEN = 8192, BURST = 32, DEVICE_PACKET_LEN = 500, FRAME_LIMIT = 8188 };
/* The largest number of IPv6 extension headers in a packet; each has at most 24 bytes. */
enum { MOST_HEADERS = 12, BENT_LEN = IP6_LEN + MOST_HEADERS * 24 + 72 };

/* Seconds: between two turns, the longest life, and the longest pause before the next one. */
static const double TURN = 0.002, LONGEST_LIFE = 5, LONGEST_PAUSE = 1;

struct peer {
	int fd, device, interface;
	enum kind kind;
	uint32_t own;
	struct in6_addr own6;
	/* When the peer goes, if it is connected, else when it comes. */
	double until;
	/* What the peer sends, and how much of it has been sent. */
	uint8_t out[OUT_LEN];
	size_t length, sent;
};

static struct {
	unsigned long long connected, refused, ended_by_router, frames, bytes, device_packets, attached, not_attached, renewed,
		lives[KIND_COUNT];
} counts;

static struct peer peers[MAX_PEERS];
static int peer_count, packet_socket;
static const char *socket_path;
static uint32_t host, victims[MAX_VICTIMS];
static struct in6_addr host6, victims6[MAX_VICTIMS];
static int victim_count, victim6_count;
static volatile sig_atomic_t is_over;

static void end(int number)
{
	(void)number;
	is_over = 1;
}

static uint64_t dice;

/* Returns a random number below a limit. */
static uint32_t roll(uint32_t limit)
{
	dice ^= dice << 13;
	dice ^= dice >> 7;
	dice ^= dice << 17;
	return (uint64_t)(uint32_t)(dice >> 32) * limit >> 32;
}

static double seconds_up_to(double most)
{
	return most * roll(1000000) / 1e6;
}

static uint32_t anybody(void)
{
	uint32_t which = roll(victim_count + 2);
	return which < (uint32_t)victim_count ? victims[which] : which == (uint32_t)victim_count ? host : peers[roll(peer_count)].own;
}

static struct in6_addr anybody6(void)
{
	uint32_t which = roll(victim6_count + 2);
	if (which < (uint32_t)victim6_count)
		return victims6[which];
	return which == (uint32_t)victim6_count ? host6 : peers[roll(peer_count)].own6;
}

/* Returns an address of this peer's network, so that some peers hold more than one. */
static struct in6_addr neighbour6(const struct peer *peer)
{
	struct in6_addr address = peer->own6;
	address.s6_addr[15] = roll(256);
	return address;
}

/* Returns a source that no vassal may have: unspecified, loopback, link-local, multicast, mapped from IPv4. */
static struct in6_addr odd_source(void)
{
	static const char *const odd[] = {"::", "::1", "fe80::1", "ff02::1", "::ffff:10.0.0.2"};
	return ipv6(odd[roll(sizeof odd / sizeof *odd)]);
}

static void random_bytes(uint8_t *at, size_t length)
{
	for (size_t i = 0; i < length; i++)
		at[i] = roll(256);
}

/* A datagram to the discard port. */
static void put_datagram(uint8_t *packet, size_t length, uint32_t from, uint32_t to)
{
	put_ip(packet, length, IPPROTO_UDP, from, to);
	memset(packet + 20, 0, length - 20);
	put16(packet + 20, 9);
	put16(packet + 22, 9);
	put16(packet + 24, length - 20);
}

static void put_echo_request(uint8_t *packet, size_t length, uint32_t from, uint32_t to)
{
	memset(packet, 0, length);
	put_ip(packet, length, IPPROTO_ICMP, from, to);
	packet[20] = 8;
	put16(packet + 22, checksum(packet + 20, length - 20));
}

/* The datagram has no checksum: computing one would take time from others, and nobody on the way checks it. */
static void put_datagram6(uint8_t *packet, size_t length, struct in6_addr from, struct in6_addr to)
{
	put_ip6(packet, length, IPPROTO_UDP, from, to);
	uint8_t *udp = packet + IP6_LEN;
	memset(udp, 0, length - IP6_LEN);
	put16(udp, 9);
	put16(udp + 2, 9);
	put16(udp + 4, length - IP6_LEN);
}

/* Extension headers by their numbers, and some that are none: hop-by-hop options, destination options, routing,
 * fragment, authentication, mobility, no next header, TCP. */
static const uint8_t HEADERS[] = {0, 60, 43, 44, 51, 135, 59, 6};

/* Builds an IPv6 packet with a chain of headers that may be well-formed or not. Returns its length, at most BENT_LEN. */
static size_t put_bent_packet(uint8_t *packet, const struct peer *peer)
{
	static const uint8_t routing_types[] = {0, 2, 3, 4, 255};
	struct in6_addr sources[] = {peer->own6, peer->own6, neighbour6(peer), anybody6(), odd_source()};
	struct in6_addr to = roll(10) ? anybody6() : ipv6("ff02::1");
	put_ip6(packet, IP6_LEN, 0, sources[roll(sizeof sources / sizeof *sources)], to);
	uint8_t *next = packet + 6, *at = packet + IP6_LEN;
	for (int headers = roll(MOST_HEADERS + 1); headers > 0; headers--) {
		*next = HEADERS[roll(sizeof HEADERS)];
		next = at;
		/* In units of 8 bytes behind the first 8; a fragment's header has no such field. */
		int units = *next == 44 ? 0 : roll(3);
		memset(at, 0, 8 + 8 * units);
		at[1] = units;
		/* Type and segments left of a routing header, offset of a fragment, an option's type and length. */
		at[2] = roll(2) ? routing_types[roll(sizeof routing_types)] : roll(256);
		at[3] = roll(2) ? units : roll(256);
		at += 8 + 8 * units;
	}
	*next = IPPROTO_UDP;
	size_t payload = 8 + roll(64);
	random_bytes(at, payload);
	put16(at + 4, payload);
	at += payload;
	put16(packet + 4, roll(8) ? at - packet - IP6_LEN : roll(65536));
	return at - packet;
}

/* Returns room for a frame's payload in the peer's output, or NULL if that is full. */
static uint8_t *add_frame(struct peer *peer, size_t size, uint8_t kind)
{
	if (peer->length + HEADER_LEN + size > OUT_LEN)
		return NULL;
	uint8_t *at = peer->out + peer->length;
	put_header(at, size, kind);
	peer->length += HEADER_LEN + size;
	counts.frames++;
	return at + HEADER_LEN;
}

static void add_claim(struct peer *peer, uint32_t address)
{
	uint8_t *packet = add_frame(peer, CLAIM_LEN, PACKET);
	if (packet)
		claim_packet(packet, address, host);
}

static void add_claim6(struct peer *peer, struct in6_addr address)
{
	uint8_t *packet = add_frame(peer, CLAIM6_LEN, PACKET);
	if (packet)
		claim_packet6(packet, address, host6);
}

static void add_flood(struct peer *peer)
{
	bool is_ipv6 = roll(2);
	size_t length = IP6_LEN + 8 + roll(1400);
	for (uint8_t *packet; (packet = add_frame(peer, length, PACKET));) {
		if (is_ipv6)
			put_datagram6(packet, length, roll(50) ? peer->own6 : anybody6(), anybody6());
		else
			put_datagram(packet, length, roll(50) ? peer->own : anybody(), anybody());
	}
}

static void add_questions(struct peer *peer)
{
	bool is_ipv6 = roll(2);
	size_t length = IP6_LEN + 8 + 2 * roll(700);
	for (uint8_t *packet; (packet = add_frame(peer, length, PACKET));) {
		if (is_ipv6)
			put_icmp6(packet, length, 128, peer->own6, host6);
		else
			put_echo_request(packet, length, peer->own, host);
	}
}

static void add_bent_packets(struct peer *peer)
{
	uint8_t bent[BENT_LEN];
	for (int i = 0; i < BURST; i++) {
		size_t length = put_bent_packet(bent, peer);
		uint8_t *packet = add_frame(peer, length, PACKET);
		if (packet)
			memcpy(packet, bent, length);
	}
}

static void add_oddity(struct peer *peer)
{
	size_t size = roll(8) ? 1 + roll(200) : roll(FRAME_LIMIT - CLAIM_LEN);
	static const uint8_t kinds[] = {PACKET, RULES, RULES, HELLO, ANSWER};
	uint8_t *payload = add_frame(peer, size, roll(4) ? kinds[roll(sizeof kinds)] : roll(256));
	if (payload)
		random_bytes(payload, size);
}

static void offer(struct peer *peer, int descriptor)
{
	if (send_hello(peer->fd, descriptor) == 0)
		counts.frames++;
}

static int open_no_device(void)
{
	static const char *const paths[] = {"/dev/zero", "/dev/null", "/", "/proc/self/exe", "/dev/net/tun"};
	enum { PATHS = sizeof paths / sizeof *paths };
	int ends[2], which = roll(PATHS + 1);
	if (which < PATHS)
		return open(paths[which], O_RDONLY | O_CLOEXEC);
	if (pipe(ends))
		return -1;
	close(ends[1]);
	return ends[0];
}

static void open_device(struct peer *peer)
{
	char name[IFNAMSIZ];
	snprintf(name, sizeof name, "soak%d", (int)(peer - peers));
	/* The router may still have the last device of that name. */
	peer->device = make_device(name, &peer->interface);
	if (peer->device >= 0)
		offer(peer, peer->device);
}

/* The router reads what leaves by the device. */
static void send_by_device(struct peer *peer, int count)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = peer->interface};
	uint8_t packet[DEVICE_PACKET_LEN];
	size_t length = sizeof packet;
	uint32_t which = roll(4);
	to.sll_protocol = htons(which < 2 ? ETH_P_IP : ETH_P_IPV6);
	if (which < 2)
		put_datagram(packet, length, peer->own, anybody());
	else if (which == 2)
		put_datagram6(packet, length, peer->own6, anybody6());
	else
		length = put_bent_packet(packet, peer);
	for (int i = 0; i < count; i++)
		if (sendto(packet_socket, packet, length, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) > 0)
			counts.device_packets++;
}

static void set_down(struct peer *peer)
{
	struct ifreq request = {.ifr_flags = 0};
	snprintf(request.ifr_name, sizeof request.ifr_name, "soak%d", (int)(peer - peers));
	ioctl(packet_socket, SIOCSIFFLAGS, &request);
}

static void leave(struct peer *peer)
{
	/* The last process that closes a device waits for its removal: sometimes that is the router. */
	bool device_first = roll(2);
	if (device_first && peer->device >= 0)
		close(peer->device);
	close(peer->fd);
	if (!device_first && peer->device >= 0)
		close(peer->device);
	peer->fd = peer->device = -1;
	peer->until = now() + seconds_up_to(LONGEST_PAUSE);
}

static enum kind any_kind(void)
{
	int at = roll(100);
	for (int kind = 0; kind < KIND_COUNT; kind++)
		if ((at -= WEIGHTS[kind]) < 0)
			return kind;
	return 0;
}

static void come(struct peer *peer)
{
	peer->kind = any_kind();
	peer->length = peer->sent = 0;
	peer->fd = connect_to_router(socket_path, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (peer->fd < 0) {
		counts.refused++;
		peer->until = now() + seconds_up_to(LONGEST_PAUSE);
		return;
	}
	counts.connected++;
	counts.lives[peer->kind]++;
	peer->until = now() + seconds_up_to(LONGEST_LIFE);
	switch (peer->kind) {
	case churns:
		peer->until = now() + seconds_up_to(0.02);
		break;
	case idles:
	case floods:
	case never_reads:
		add_claim(peer, peer->own);
		add_claim6(peer, peer->own6);
		break;
	case halves:
		add_claim(peer, peer->own);
		add_claim(peer, peer->own);
		peer->length -= 1 + roll(HEADER_LEN + CLAIM_LEN - 1);
		break;
	case garbles:
		peer->length = 1 + roll(OUT_LEN - 1);
		random_bytes(peer->out, peer->length);
		break;
	case lies: {
		int descriptor = open_no_device();
		if (descriptor >= 0) {
			offer(peer, descriptor);
			close(descriptor);
		}
		break;
	}
	case attaches:
	case is_deaf:
	case floods_device:
	case shuts_device:
		open_device(peer);
		break;
	default:
		break;
	}
}

/* Sends the peer's output. Returns false if the router has ended the connection. */
static bool send_out(struct peer *peer)
{
	if (peer->sent < peer->length) {
		ssize_t count = send(peer->fd, peer->out + peer->sent, peer->length - peer->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (count < 0)
			return errno == EAGAIN;
		peer->sent += count;
		counts.bytes += count;
	}
	if (peer->sent == peer->length)
		peer->sent = peer->length = 0;
	return true;
}

/* Hello replies come alone: the router sends no packets in frames to attached peers. */
static void hear(struct peer *peer, const uint8_t *bytes, ssize_t length)
{
	for (; length >= HEADER_LEN + 8 && bytes[3] == ANSWER; bytes += HEADER_LEN + 8, length -= HEADER_LEN + 8) {
		switch (bytes[5]) {
		case 1:
			counts.attached++;
			send_by_device(peer, 1);
			if (peer->kind == shuts_device)
				set_down(peer);
			break;
		case 2:
			if (peer->kind != is_deaf && peer->device >= 0) {
				counts.renewed++;
				offer(peer, peer->device);
			}
			break;
		default:
			counts.not_attached++;
		}
	}
}

/* Returns false if the router has ended the connection. */
static bool receive(struct peer *peer)
{
	static uint8_t buffer[65536];
	ssize_t count = recv(peer->fd, buffer, sizeof buffer, MSG_DONTWAIT);
	if (count < 0)
		return errno == EAGAIN;
	hear(peer, buffer, count);
	return count > 0;
}

static void live(struct peer *peer)
{
	double time = now();
	if (peer->fd < 0) {
		if (time >= peer->until)
			come(peer);
		return;
	}
	if (time >= peer->until) {
		leave(peer);
		return;
	}
	if (peer->length == 0) {
		if (peer->kind == floods)
			add_flood(peer);
		else if (peer->kind == never_reads)
			add_questions(peer);
		else if (peer->kind == steals && !roll(20) && roll(2))
			add_claim(peer, victims[roll(victim_count)]);
		else if (peer->kind == steals && !roll(20))
			add_claim6(peer, victims6[roll(victim6_count)]);
		else if (peer->kind == bends && !roll(20))
			add_bent_packets(peer);
		else if (peer->kind == is_odd && !roll(20))
			add_oddity(peer);
	}
	if (peer->kind == floods_device && peer->device >= 0)
		send_by_device(peer, BURST);
	if (!send_out(peer) || (peer->kind != never_reads && !receive(peer))) {
		counts.ended_by_router++;
		leave(peer);
	}
}

static void tell(void)
{
	printf("done connections %llu refused %llu ended_by_router %llu frames %llu bytes %llu device_packets %llu attached %llu "
	       "not_attached %llu renewed %llu",
		counts.connected, counts.refused, counts.ended_by_router, counts.frames, counts.bytes, counts.device_packets,
		counts.attached, counts.not_attached, counts.renewed);
	for (int kind = 0; kind < KIND_COUNT; kind++)
		printf(" %s %llu", KIND_NAMES[kind], counts.lives[kind]);
	puts("");
}

int main(int argc, char **argv)
{
	if (argc < 11 || argc > 9 + MAX_VICTIMS || atoi(argv[4]) < 1 || atoi(argv[4]) > MAX_PEERS)
		errx(2, "usage: peers <seed> <socket> <number> <count> <first address> <address of the router's host> "
			"<first IPv6 address> <IPv6 address of the router's host> <honest vassal's address>...");
	struct sigaction action = {.sa_handler = end};
	sigaction(SIGTERM, &action, NULL);
	/* The state is neither 0, where the generator would stay, nor similar to that of the next number. */
	dice = (strtoull(argv[1], NULL, 10) * 1000 + atoi(argv[3]) + 1) * 0x9e3779b97f4a7c15;
	socket_path = argv[2];
	peer_count = atoi(argv[4]);
	uint32_t first = ntohl(ipv4(argv[5]));
	host = ipv4(argv[6]);
	struct in6_addr first6 = ipv6(argv[7]);
	host6 = ipv6(argv[8]);
	for (int i = 9; i < argc; i++) {
		if (strchr(argv[i], ':'))
			victims6[victim6_count++] = ipv6(argv[i]);
		else
			victims[victim_count++] = ipv4(argv[i]);
	}
	if (!victim_count || !victim6_count)
		errx(2, "there must be an honest vassal of each version of IP");
	packet_socket = socket(AF_PACKET, SOCK_DGRAM, 0);
	if (packet_socket < 0)
		err(1, "packet socket");
	for (int i = 0; i < peer_count; i++) {
		peers[i] = (struct peer){.fd = -1, .device = -1, .own = htonl(first + i), .own6 = first6,
			.until = now() + seconds_up_to(LONGEST_PAUSE)};
		put16(peers[i].own6.s6_addr + 14, i);
	}
	puts("ready");
	fflush(stdout);
	while (!is_over) {
		for (int i = 0; i < peer_count; i++)
			live(&peers[i]);
		struct timespec pause = {.tv_nsec = TURN * 1e9};
		nanosleep(&pause, NULL);
	}
	for (int i = 0; i < peer_count; i++)
		if (peers[i].fd >= 0)
			leave(&peers[i]);
	tell();
}
