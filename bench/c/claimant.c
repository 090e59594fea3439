/* claimant <socket> <address> <address of the router's host>: a peer of a router that claims an address when a line comes, and
 * hangs up with the next line, and so on. Prints "ready", and the time of each claim and each end, in seconds since 1970. While
 * it has the address it sends each UDP datagram back. */
#include "router_peer.h"

#include <poll.h>

enum { LONGEST = 65535, UDP_LEN = 8, IP_LEN = 20 };

static void tell_time(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	printf("%lld.%09ld\n", (long long)t.tv_sec, t.tv_nsec);
	fflush(stdout);
}

static void swap(uint8_t *one, uint8_t *other, size_t length)
{
	uint8_t kept[8];
	memcpy(kept, one, length);
	memcpy(one, other, length);
	memcpy(other, kept, length);
}

/* Reads one frame, and sends the datagram in it back. Returns 0 if the router has hung up. */
static int reflect(int fd)
{
	static uint8_t frame[HEADER_LEN + LONGEST];
	if (recv(fd, frame, HEADER_LEN, MSG_WAITALL) != HEADER_LEN)
		return 0;
	size_t length = frame[1] | frame[2] << 8;
	uint8_t *packet = frame + HEADER_LEN;
	if (length && recv(fd, packet, length, MSG_WAITALL) != (ssize_t)length)
		return 0;
	if (frame[3] != PACKET || length < IP_LEN + UDP_LEN || packet[0] != 0x45 || packet[9] != IPPROTO_UDP)
		return 1;
	/* Both checksums stay as they are. */
	swap(packet + 12, packet + 16, 4);
	swap(packet + IP_LEN, packet + IP_LEN + 2, 2);
	return send(fd, frame, HEADER_LEN + length, MSG_NOSIGNAL) > 0;
}

static int claim(char **argv)
{
	uint8_t frame[HEADER_LEN + CLAIM_LEN];
	put_header(frame, CLAIM_LEN, PACKET);
	claim_packet(frame + HEADER_LEN, ipv4(argv[2]), ipv4(argv[3]));
	int fd = connect_to_router(argv[1], 0);
	if (fd < 0)
		err(1, "%s", argv[1]);
	tell_time();
	if (write(fd, frame, sizeof frame) != sizeof frame)
		err(1, "write");
	return fd;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: claimant <socket> <address> <address of the router's host>");
	puts("ready");
	fflush(stdout);
	struct pollfd polls[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
	for (;;) {
		if (poll(polls, 2, -1) < 0)
			err(1, "poll");
		if (polls[1].revents && !reflect(polls[1].fd))
			errx(1, "the router has hung up");
		if (!polls[0].revents)
			continue;
		char line[16];
		if (read(STDIN_FILENO, line, sizeof line) <= 0)
			return 0;
		if (polls[1].fd < 0) {
			polls[1].fd = claim(argv);
			continue;
		}
		tell_time();
		close(polls[1].fd);
		polls[1].fd = -1;
	}
}
