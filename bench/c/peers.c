/* peers <stream|attached> <socket> <first address> <count> <address of the router's host>: idle peers of a router. Each
 * connects and claims an address with one packet. Prints "ready" when all have done so, and keeps them connected until
 * it is killed. Attached peers get a TUN device each, in the namespace that this program runs in. */
#include "router_peer.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>

static int connect_or_end(const char *path)
{
	int fd = connect_to_router(path, 0);
	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static void stream_peer(const char *path, uint32_t own, uint32_t host)
{
	int fd = connect_or_end(path);
	uint8_t frame[HEADER_LEN + CLAIM_LEN];
	put_header(frame, CLAIM_LEN, PACKET);
	claim_packet(frame + HEADER_LEN, own, host);
	if (write(fd, frame, sizeof frame) != sizeof frame)
		err(1, "write");
}

/* The device outlives its descriptors, until its namespace ends: a namespace removes all its devices at once, while
 * closing the descriptors would remove them one by one, 20 ms each. */
static int make_lasting_device(int index, int *interface)
{
	char name[IFNAMSIZ];
	snprintf(name, sizeof name, "idle%d", index);
	int device = make_device(name, interface);
	if (device < 0 || ioctl(device, TUNSETPERSIST, 1))
		err(1, "%s", name);
	return device;
}

static void await_answer(int fd)
{
	struct timeval patience = {.tv_sec = 5};
	uint8_t answer[12];
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) ||
	    recv(fd, answer, sizeof answer, MSG_WAITALL) != sizeof answer)
		err(1, "the router does not answer");
	if (answer[3] != ANSWER || answer[5] != 1)
		errx(1, "the router does not attach the device: frame of kind %u, status %u", answer[3], answer[5]);
}

static void attached_peer(const char *path, int index, uint32_t own, uint32_t host)
{
	static int out = -1;
	if (out < 0 && (out = socket(AF_PACKET, SOCK_DGRAM, 0)) < 0)
		err(1, "packet socket");
	int interface, fd = connect_or_end(path), device = make_lasting_device(index, &interface);
	if (send_hello(fd, device))
		err(1, "hello");
	await_answer(fd);
	uint8_t packet[CLAIM_LEN];
	claim_packet(packet, own, host);
	/* The packet leaves by the device, where the router reads it. */
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
	uint32_t first = ntohl(ipv4(argv[3]));
	uint32_t host = ipv4(argv[5]);
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
