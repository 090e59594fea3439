/* connects <address> <seconds>: opens TCP connections, some at a time, and resets each once it is established. Prints
 * the number of established connections per second. */
#include "common.h"

#include <sys/epoll.h>

enum { AT_A_TIME = 16 };

static int poller;
static struct endpoint to;

static void start(void)
{
	int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	/* After a reset no connection stays in TIME_WAIT, so that the ports don't run out. */
	struct linger reset = {.l_onoff = 1};
	struct epoll_event event = {.events = EPOLLOUT, .data.fd = fd};
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) ||
	    (connect(fd, &to.any, to.length) && errno != EINPROGRESS) ||
	    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
		err(1, "connect");
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: connects <address> <seconds>");
	to = endpoint(argv[1], CONNECT_PORT);
	poller = epoll_create1(0);
	for (int i = 0; i < AT_A_TIME; i++)
		start();
	unsigned long stood = 0;
	double begin = now(), end = begin + atof(argv[2]);
	while (now() < end) {
		struct epoll_event events[AT_A_TIME];
		int count = epoll_wait(poller, events, AT_A_TIME, 100);
		for (int i = 0; i < count; i++) {
			int error = 0;
			socklen_t size = sizeof error;
			getsockopt(events[i].data.fd, SOL_SOCKET, SO_ERROR, &error, &size);
			stood += !error;
			close(events[i].data.fd);
			start();
		}
	}
	printf("%.1f\n", stood / (now() - begin));
}
