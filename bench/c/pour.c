/* pour <payload> <datagrams per second> <seconds> <address>...: sends datagrams of so many bytes of payload to each address,
 * so many in a second. An address may come several times: each has a socket of its own. Prints how many were sent in all. */
#include "common.h"

enum { BATCH = 64, MOST_ADDRESSES = 64, LONGEST = 65507 };

/* Datagrams that the kernel has no room for count as sent. */
static void send_all(int fd, struct mmsghdr *batch, unsigned long count)
{
	while (count > 0) {
		int sent = sendmmsg(fd, batch, count < BATCH ? count : BATCH, 0);
		if (sent < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
			err(1, "sendmmsg");
		count -= sent < 0 ? 1 : sent;
	}
}

int main(int argc, char **argv)
{
	int count = argc - 4;
	if (count < 1 || count > MOST_ADDRESSES)
		errx(2, "usage: pour <payload> <datagrams per second> <seconds> <address>...");
	static char payload[LONGEST];
	struct iovec part = {payload, strtoul(argv[1], NULL, 10)};
	double rate = atof(argv[2]);
	if (part.iov_len > LONGEST || rate <= 0)
		errx(2, "payload or rate out of range");
	int fds[MOST_ADDRESSES];
	for (int i = 0; i < count; i++) {
		struct endpoint to = endpoint(argv[4 + i], SINK_PORT);
		fds[i] = socket(to.any.sa_family, SOCK_DGRAM, 0);
		if (fds[i] < 0 || connect(fds[i], &to.any, to.length))
			err(1, "%s", argv[4 + i]);
	}
	struct mmsghdr batch[BATCH] = {0};
	for (int i = 0; i < BATCH; i++)
		batch[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
	struct timespec pause = {.tv_nsec = 1000000};
	unsigned long sent = 0;
	for (double start = now(), end = start + atof(argv[3]); now() < end;) {
		/* What a late wake-up has missed is sent at once. */
		unsigned long due = (now() - start) * rate;
		for (int i = 0; i < count; i++)
			send_all(fds[i], batch, due - sent);
		sent = due;
		nanosleep(&pause, NULL);
	}
	printf("%lu\n", sent * count);
}
