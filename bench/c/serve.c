/* The other side of the helpers: echoes single bytes, accepts connections, swallows datagrams. Says "ready", and runs
 * until it is killed or its parent dies. */
#include "common.h"

#include <signal.h>
#include <sys/prctl.h>

static int listener(int type, uint16_t port)
{
	struct sockaddr_in any = address("0.0.0.0", port);
	int one = 1, fd = socket(AF_INET, type, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
	    bind(fd, (struct sockaddr *)&any, sizeof any) || (type == SOCK_STREAM && listen(fd, 4096)))
		err(1, "port %u", port);
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

/* A child for each of the two TCP ports; a client that got lost must not keep the next one waiting. */
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
	/* Nobody reads it: a full buffer swallows datagrams, and no ICMP error goes back. */
	listener(SOCK_DGRAM, SINK_PORT);
	accept_forever(listener(SOCK_STREAM, ECHO_PORT), echo);
	accept_forever(listener(SOCK_STREAM, CONNECT_PORT), NULL);
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
