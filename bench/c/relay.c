/* relay <netns file> <netns file>: makes a TUN device "tun0" with all offloads in each of two network namespaces, and
 * moves packets between them. It looks at no packet and knows no addresses. This is the best that one thread can do
 * through two TUN devices, with one packet to a system call. */
#include "common.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

enum { BUDGET = 64, HEADER = 10, LONGEST = 65535 };

/* Newer than some distributions' linux/if_tun.h. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

static int make_device(const char *netns)
{
	int space = open(netns, O_RDONLY | O_CLOEXEC);
	if (space < 0 || setns(space, CLONE_NEWNET))
		err(1, "%s", netns);
	close(space);
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct ifreq request = {.ifr_name = "tun0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	int header = HEADER;
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) || ioctl(fd, TUNSETVNETHDRSZ, &header))
		err(1, "tun0");
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) && ioctl(fd, TUNSETOFFLOAD, offloads))
		err(1, "offloads");
	return fd;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: relay <netns file> <netns file>");
	int fds[2] = {make_device(argv[1]), make_device(argv[2])};
	int queue = epoll_create1(EPOLL_CLOEXEC);
	for (uint32_t i = 0; i < 2; i++) {
		struct epoll_event event = {EPOLLIN, {.u32 = i}};
		if (epoll_ctl(queue, EPOLL_CTL_ADD, fds[i], &event))
			err(1, "epoll");
	}
	puts("ready");
	fflush(stdout);
	static char packet[HEADER + LONGEST];
	for (;;) {
		struct epoll_event events[2];
		int count = epoll_wait(queue, events, 2, -1);
		for (int i = 0; i < count; i++) {
			int from = fds[events[i].data.u32], to = fds[!events[i].data.u32];
			for (int k = 0; k < BUDGET; k++) {
				ssize_t len = read(from, packet, sizeof packet);
				if (len < 0)
					break;
				/* A packet that the other device refuses is lost. */
				if (write(to, packet, len) < 0)
					continue;
			}
		}
	}
}
