/* peers <stream|attached> <socket> <first address> <count> <address of the router's host>: idle peers of a router. Each
 * connects and claims an address with one packet. Says "ready" when all have done so, and holds them until it is
 * killed. Attached peers get a TUN device each, in the namespace that this runs in. */
#include "common.h"

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/un.h>

/* What a uwsgi header says before a packet: modifier1 0, the size, modifier2 0. */
struct frame {
	uint8_t modifier1, size_low, size_high, modifier2;
	uint8_t packet[28];
} __attribute__((packed));

static uint16_t checksum(const uint8_t *bytes, size_t length)
{
	uint32_t sum = 0;
	for (size_t i = 0; i + 1 < length; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

/* An echo reply that nobody asked for: the host takes it and says nothing. */
static void claim_packet(uint8_t *packet, uint32_t from, uint32_t to)
{
	memset(packet, 0, 28);
	packet[0] = 0x45;
	put16(packet + 2, 28);
	packet[8] = 64;
	packet[9] = IPPROTO_ICMP;
	memcpy(packet + 12, &from, 4);
	memcpy(packet + 16, &to, 4);
	put16(packet + 10, checksum(packet, 20));
	put16(packet + 22, checksum(packet + 20, 8));
}

static int connect_to_router(const char *path)
{
	struct sockaddr_un router = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof router.sun_path)
		errx(2, "the path is too long: %s", path);
	strcpy(router.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&router, sizeof router))
		err(1, "%s", path);
	return fd;
}

static void stream_peer(const char *path, uint32_t own, uint32_t host)
{
	int fd = connect_to_router(path);
	struct frame frame = {.size_low = sizeof frame.packet};
	claim_packet(frame.packet, own, host);
	if (write(fd, &frame, sizeof frame) != sizeof frame)
		err(1, "write");
}

/* A device that is up. It outlives its descriptors, until its namespace ends: a namespace removes all its devices at
 * once, while the ends of descriptors would remove them one by one, 20 ms each. */
static int make_device(int index, int *interface)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR), any = socket(AF_INET, SOCK_DGRAM, 0);
	snprintf(request.ifr_name, sizeof request.ifr_name, "idle%d", index);
	if (fd < 0 || any < 0 || ioctl(fd, TUNSETIFF, &request) || ioctl(fd, TUNSETPERSIST, 1))
		err(1, "%s", request.ifr_name);
	request.ifr_flags = IFF_UP;
	if (ioctl(any, SIOCSIFFLAGS, &request) || ioctl(any, SIOCGIFINDEX, &request))
		err(1, "%s", request.ifr_name);
	*interface = request.ifr_ifindex;
	close(any);
	return fd;
}

static void send_hello(int fd, int device)
{
	/* docs/PROTOCOL.md: a frame of 8 bytes; version 1, a header of 10 bytes before packets, no offloads */
	uint8_t hello[] = {0, 8, 0, 0x74, 1, 10, 0, 0, 0, 0, 0, 0};
	struct iovec part = {hello, sizeof hello};
	union {
		char room[CMSG_SPACE(sizeof device)];
		struct cmsghdr aligned;
	} control = {0};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	*rights = (struct cmsghdr){
		.cmsg_len = CMSG_LEN(sizeof device), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(rights), &device, sizeof device);
	if (sendmsg(fd, &message, 0) != sizeof hello)
		err(1, "hello");
}

static void await_answer(int fd)
{
	struct timeval patience = {.tv_sec = 5};
	uint8_t answer[12];
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ||
	    recv(fd, answer, sizeof answer, MSG_WAITALL) != sizeof answer)
		err(1, "the router does not answer");
	if (answer[3] != 0x75 || answer[5] != 1)
		errx(1, "the router does not attach the device: frame of kind %u, status %u", answer[3], answer[5]);
}

static void attached_peer(const char *path, int index, uint32_t own, uint32_t host)
{
	static int out = -1;
	if (out < 0 && (out = socket(AF_PACKET, SOCK_DGRAM, 0)) < 0)
		err(1, "packet socket");
	int interface, fd = connect_to_router(path), device = make_device(index, &interface);
	send_hello(fd, device);
	await_answer(fd);
	uint8_t packet[28];
	claim_packet(packet, own, host);
	/* Leaves by the device: the router reads it there. */
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = interface};
	if (sendto(out, packet, sizeof packet, 0, (struct sockaddr *)&to, sizeof to) != sizeof packet)
		err(1, "claim");
	close(device);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: peers <stream|attached> <socket> <first address> <count> <address of the router's host>");
	int attached = !strcmp(argv[1], "attached");
	const char *path = argv[2];
	uint32_t first = ntohl(address(argv[3], 0).sin_addr.s_addr);
	uint32_t host = address(argv[5], 0).sin_addr.s_addr;
	for (int i = 0; i < atoi(argv[4]); i++) {
		if (attached)
			attached_peer(path, i, htonl(first + i), host);
		else
			stream_peer(path, htonl(first + i), host);
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
