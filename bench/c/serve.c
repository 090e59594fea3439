/* The other side of the helpers: echoes single bytes, accepts connections, discards datagrams. Prints "ready", and runs
 * until it is killed or its parent dies. */
#include "common.h"

#include <signal.h>
#include <sys/prctl.h>

/* There is a socket for each version of IP, so that no IPv4 packet takes the path of IPv6. */
static const char *const ANY[] = {"0.0.0.0", "::"};
enum { VERSIONS = sizeof ANY / sizeof *ANY };

static int listener(const char *any, int type, uint16_t port)
{
	struct endpoint own = endpoint(any, port);
	int one = 1, fd = socket(own.any.sa_family, type, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
	    (own.any.sa_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one)) ||
	    bind(fd, &own.any, own.length) || (type == SOCK_STREAM && listen(fd, 4096)))
		err(1, "%s, port %u", any, port);
	return fd;
}

static void echo(int fd)
{
	char byte;
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
		;
	exit(0);
}

/* A child serves each listening socket, and one more each connection: a client that vanished must not keep the next one
 * waiting. */
static void accept_forever(int fd, void (*serve)(int))
{
	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		int client = accept(fd, NULL, NULL);
		if (client < 0)
			continue;
		if (serve && !fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			serve(client);
		}
		close(client);
	}
}

int main(void)
{
	signal(SIGCHLD, SIG_IGN);
	for (int i = 0; i < VERSIONS; i++) {
		/* Nobody reads this socket: its full buffer drops datagrams, and no ICMP error goes back. */
		listener(ANY[i], SOCK_DGRAM, SINK_PORT);
		accept_forever(listener(ANY[i], SOCK_STREAM, ECHO_PORT), echo);
		accept_forever(listener(ANY[i], SOCK_STREAM, CONNECT_PORT), NULL);
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
