/* pingpong <address> <seconds>: sends one byte there and one back over one TCP connection. Prints the number of round trips,
 * their median and 99th percentile in microseconds. */
#include "common.h"

enum { MOST = 2000000 };

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: pingpong <address> <seconds>");
	struct endpoint to = endpoint(argv[1], ECHO_PORT);
	int one = 1, fd = socket(to.any.sa_family, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, &to.any, to.length) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
		err(1, "connect");
	static float took[MOST];
	size_t count = 0;
	char byte = 0;
	double start = now(), end = start + atof(argv[2]);
	while (start < end && count < MOST) {
		if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
			err(1, "round trip %zu", count);
		double done = now();
		took[count++] = (done - start) * 1e6;
		start = done;
	}
	qsort(took, count, sizeof *took, ascending);
	printf("%zu %.2f %.2f\n", count, took[count / 2], took[count * 99 / 100]);
}
