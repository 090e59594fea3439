/* Programs that hold both ends of something, each in a network namespace of its own, and watch for silence. Direction 0
 * is towards the first end, direction 1 towards the second. */
#ifndef ENDS_H
#define ENDS_H

#include "basics.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>

/* A silence of this many seconds is reported while it lasts. */
static const double WORTH_TELLING = 0.02;

static volatile sig_atomic_t is_over;

static void end(int number)
{
	(void)number;
	is_over = 1;
}

/* SIGTERM asks for the results. */
static inline void catch_end(void)
{
	struct sigaction action = {.sa_handler = end};
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

/* Sockets made from now on are in the network namespace of a process. */
static inline void enter(const char *pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
	int space = open(path, O_RDONLY | O_CLOEXEC);
	if (space < 0 || setns(space, CLONE_NEWNET))
		err(1, "%s", path);
	close(space);
}

struct watch {
	int direction;
	double last, longest;
};

/* Something has arrived, or everything is over. */
static inline void heard(struct watch *watch)
{
	double time = now(), silence = time - watch->last;
	if (watch->last == 0)
		silence = 0;
	if (silence >= WORTH_TELLING)
		printf("silence %d %.6f %.6f\n", watch->direction, watch->last, silence);
	if (silence > watch->longest)
		watch->longest = silence;
	watch->last = time;
}

#endif
