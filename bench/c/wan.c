/* wan <netns file> <netns file> <milliseconds> <loss in percent> <Mbit/s>: a long line between two network namespaces. Makes a
 * TUN device "wan0" without offloads in each, and moves packets between them: each takes so long each way, some are lost, and
 * there are no more than so many bits in a second. Packets that wait for more than a tenth of a second for their turn are
 * lost, too. A kernel with netem would do the same by itself. Prints "ready". */
#include "common.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

enum { LONGEST = 65535, ROOM = 65536 };

/* Seconds that a packet may wait for its turn. */
static const double QUEUE = 0.1;

struct packet {
	double due;
	uint16_t length;
	uint8_t *bytes;
};

/* One direction: a ring of packets, in the order in which they are due. */
struct way {
	int from, to;
	double free_at;
	size_t first, count;
	struct packet packets[ROOM];
};

static double delay, loss, rate;

static int make_device(const char *netns)
{
	int space = open(netns, O_RDONLY | O_CLOEXEC);
	if (space < 0 || setns(space, CLONE_NEWNET))
		err(1, "%s", netns);
	close(space);
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct ifreq request = {.ifr_name = "wan0", .ifr_flags = IFF_TUN | IFF_NO_PI};
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request))
		err(1, "wan0");
	return fd;
}

static void take(struct way *way, double at)
{
	static uint8_t buffer[LONGEST];
	ssize_t length;
	while ((length = read(way->from, buffer, sizeof buffer)) > 0) {
		double turn = way->free_at > at ? way->free_at : at;
		if (turn - at > QUEUE || way->count == ROOM || drand48() < loss)
			continue;
		way->free_at = turn + length * 8 / rate;
		struct packet *packet = &way->packets[(way->first + way->count++) % ROOM];
		*packet = (struct packet){way->free_at + delay, length, malloc(length)};
		if (!packet->bytes)
			err(1, "no memory");
		memcpy(packet->bytes, buffer, length);
	}
}

/* Returns when the next packet is due, or a time that is far away. */
static double deliver(struct way *way, double at)
{
	while (way->count) {
		struct packet *packet = &way->packets[way->first];
		if (packet->due > at)
			return packet->due;
		/* A packet that the other device refuses is lost. */
		if (write(way->to, packet->bytes, packet->length) < 0 && errno != EAGAIN && errno != EIO && errno != EINVAL)
			err(1, "wan0");
		free(packet->bytes);
		way->first = (way->first + 1) % ROOM;
		way->count--;
	}
	return at + 1;
}

int main(int argc, char **argv)
{
	if (argc != 6 || atof(argv[5]) <= 0)
		errx(2, "usage: wan <netns file> <netns file> <milliseconds> <loss in percent> <Mbit/s>");
	delay = atof(argv[3]) / 1e3, loss = atof(argv[4]) / 100, rate = atof(argv[5]) * 1e6;
	int fds[2] = {make_device(argv[1]), make_device(argv[2])};
	static struct way ways[2];
	for (int i = 0; i < 2; i++)
		ways[i].from = fds[i], ways[i].to = fds[!i];
	/* The default of 50 us would be added to each delay. */
	prctl(PR_SET_TIMERSLACK, 1);
	puts("ready");
	fflush(stdout);
	for (;;) {
		double at = now(), next = at + 1;
		for (int i = 0; i < 2; i++) {
			take(&ways[i], at);
			double due = deliver(&ways[i], at);
			next = due < next ? due : next;
		}
		double pause = next - now();
		if (pause <= 0)
			continue;
		struct timespec wait = {pause, (pause - (time_t)pause) * 1e9};
		struct pollfd polls[2] = {{.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN}};
		ppoll(polls, 2, &wait, NULL);
	}
}
