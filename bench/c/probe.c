/* probe <address> <milliseconds>: sends a datagram each so many milliseconds, until standard input ends. Prints "ready", and in the
 * end for each datagram when it was sent, in seconds since 1970, and when it came back, or "-" if it didn't. */
#include "common.h"

#include <poll.h>

enum { MOST = 1000000, AFTER = 200 };

static double clock_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double sent[MOST], back[MOST];
static uint32_t count;

static void take_all(int fd)
{
	uint32_t number;
	/* What the kernel reports of an ICMP error is no datagram. */
	for (ssize_t length; (length = recv(fd, &number, sizeof number, MSG_DONTWAIT)) >= 0 || errno == ECONNREFUSED ||
			     errno == EHOSTUNREACH || errno == ENETUNREACH;)
		if (length == sizeof number && number < count && !back[number])
			back[number] = clock_now();
}

int main(int argc, char **argv)
{
	if (argc != 3 || atof(argv[2]) <= 0)
		errx(2, "usage: probe <address> <milliseconds>");
	struct endpoint to = endpoint(argv[1], SINK_PORT);
	double interval = atof(argv[2]) / 1e3;
	int fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
	if (fd < 0 || connect(fd, &to.any, to.length))
		err(1, "socket");
	puts("ready");
	fflush(stdout);
	struct pollfd polls[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	double next = now();
	while (!polls[0].revents && count < MOST) {
		if (now() >= next) {
			sent[count] = clock_now();
			uint32_t number = count++;
			/* A datagram that nobody takes is one that doesn't come back. */
			if (send(fd, &number, sizeof number, 0) < 0)
				polls[1].revents = 0;
			next += interval;
		}
		double pause = next - now();
		struct timespec wait = {0, pause > 0 ? pause * 1e9 : 0};
		ppoll(polls, 2, &wait, NULL);
		take_all(fd);
	}
	/* The last ones may still be on their way. */
	for (double end = now() + AFTER / 1e3; now() < end; take_all(fd))
		poll(polls + 1, 1, AFTER);
	for (uint32_t i = 0; i < count; i++)
		if (back[i])
			printf("%.6f %.6f\n", sent[i], back[i]);
		else
			printf("%.6f -\n", sent[i]);
}
