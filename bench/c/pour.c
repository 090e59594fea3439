/* pour <payload> <datagrams per second> <address>...: sends datagrams of so many bytes of payload to each address, so many in
 * a second, until it is killed. */
#include "common.h"

enum { MOST_ADDRESSES = 64, LONGEST = 65507 };

int main(int argc, char **argv)
{
	int count = argc - 3;
	if (count < 1 || count > MOST_ADDRESSES)
		errx(2, "usage: pour <payload> <datagrams per second> <address>...");
	static char payload[LONGEST];
	size_t length = strtoul(argv[1], NULL, 10);
	double rate = atof(argv[2]);
	if (length > LONGEST || rate <= 0)
		errx(2, "payload or rate out of range");
	int fds[MOST_ADDRESSES];
	for (int i = 0; i < count; i++) {
		struct endpoint to = endpoint(argv[3 + i], SINK_PORT);
		fds[i] = socket(to.any.sa_family, SOCK_DGRAM, 0);
		if (fds[i] < 0 || connect(fds[i], &to.any, to.length))
			err(1, "%s", argv[3 + i]);
	}
	struct timespec pause = {.tv_nsec = 1000000};
	double start = now();
	for (unsigned long sent = 0;;) {
		/* What a late wake-up has missed is sent at once. */
		for (unsigned long due = (now() - start) * rate; sent < due; sent++)
			for (int i = 0; i < count; i++)
				if (send(fds[i], payload, length, 0) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
					err(1, "send");
		nanosleep(&pause, NULL);
	}
}
