/* flood <address> <seconds>: sends datagrams with 64 bytes of payload as fast as it can. Prints how many
 * were sent. */
#include "common.h"

enum { BATCH = 64, PAYLOAD = 64 };

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: flood <address> <seconds>");
	struct endpoint to = endpoint(argv[1], SINK_PORT);
	int fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
	if (fd < 0 || connect(fd, &to.any, to.length))
		err(1, "socket");
	static char payload[PAYLOAD];
	struct iovec part = {payload, PAYLOAD};
	struct mmsghdr batch[BATCH] = {0};
	for (int i = 0; i < BATCH; i++)
		batch[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
	unsigned long sent = 0;
	for (double end = now() + atof(argv[2]); now() < end;) {
		int count = sendmmsg(fd, batch, BATCH, 0);
		if (count > 0)
			sent += count;
		else if (errno != ENOBUFS && errno != ECONNREFUSED)
			err(1, "sendmmsg");
	}
	printf("%lu\n", sent);
}
