/* probe <pid> <address> <pid> <address> <port>: sends datagrams both ways between the network namespaces of two
 * processes, one every 10 ms. Prints "ready" and, after SIGTERM, for each direction
 * "done <direction> <seconds> <datagrams sent> <datagrams received> 0 <longest silence>". */
#include "ends.h"

static const double INTERVAL = 0.01;

static int bound(const char *pid, struct endpoint own)
{
	enter(pid);
	int fd = socket(own.any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, &own.any, own.length))
		err(1, "bind");
	return fd;
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: probe <pid> <address> <pid> <address> <port>");
	uint16_t port = atoi(argv[5]);
	struct endpoint endpoints[2] = {endpoint(argv[2], port), endpoint(argv[4], port)};
	int fds[2] = {bound(argv[1], endpoints[0]), bound(argv[3], endpoints[1])};
	struct watch watches[2] = {{.direction = 0}, {.direction = 1}};
	unsigned long sent = 0, received[2] = {0};
	catch_end();
	puts("ready");
	double start = now(), next = start;
	while (!is_over) {
		if (now() >= next) {
			for (int i = 0; i < 2; i++)
				sendto(fds[1 - i], "", 1, 0, &endpoints[i].any, endpoints[i].length);
			sent++;
			next += INTERVAL;
		}
		double left = next - now();
		struct timespec time = {.tv_nsec = left > 0 ? left * 1e9 : 0};
		struct pollfd polled[2] = {{.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN}};
		if (ppoll(polled, 2, &time, NULL) <= 0)
			continue;
		for (int i = 0; i < 2; i++) {
			char byte;
			while (recv(fds[i], &byte, 1, 0) >= 0) {
				received[i]++;
				heard(&watches[i]);
			}
		}
	}
	for (int i = 0; i < 2; i++) {
		heard(&watches[i]);
		printf("done %d %.3f %lu %lu 0 %.6f\n", i, now() - start, sent, received[i], watches[i].longest);
	}
}
