/* stream <pid> <address> <pid> <port> <bytes per second>: one TCP connection, from the network namespace of the second
 * process to an address of that of the first. Both ends send, as fast as they can if the rate is 0, and check what they
 * receive. Prints "ready" when it is connected and, after SIGTERM, once everything that was sent should have arrived,
 * for each direction "done <direction> <seconds> <bytes sent> <bytes received> <wrong bytes> <longest silence>". */
#include "ends.h"

/* The bytes of a direction repeat with a prime period, so that lost or reordered blocks are found. */
enum { PERIOD = 1048573, BLOCK = 256 * 1024 };

/* Seconds for data that is on its way when the sending stops, and between two looks at the clock. */
static const double LAST_WAY = 15, TURN = 0.005;

struct end {
	int fd;
	/* The bytes that this end sends. */
	uint8_t *pattern;
	unsigned long long sent, received, wrong;
	int is_closed;
	struct watch watch;
};

static uint8_t *pattern(uint64_t seed)
{
	uint8_t *bytes = malloc(PERIOD + BLOCK);
	if (!bytes)
		err(1, "no memory");
	for (size_t i = 0; i < PERIOD + BLOCK; i++) {
		if (i >= PERIOD) {
			bytes[i] = bytes[i - PERIOD];
			continue;
		}
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		bytes[i] = seed >> 32;
	}
	return bytes;
}

static void lost(const struct end *end, const char *what)
{
	printf("lost %d %s: %s\n", end->watch.direction, what, strerror(errno));
	exit(1);
}

static void send_more(struct end *end, unsigned long long limit)
{
	size_t length = BLOCK;
	if (limit - end->sent < length)
		length = limit - end->sent;
	ssize_t count = send(end->fd, end->pattern + end->sent % PERIOD, length, MSG_NOSIGNAL);
	if (count > 0)
		end->sent += count;
	else if (count < 0 && errno != EAGAIN && errno != EINTR)
		lost(end, "send");
}

static void receive(struct end *end, const struct end *from)
{
	static uint8_t buffer[BLOCK];
	ssize_t count = recv(end->fd, buffer, sizeof buffer, 0);
	if (count < 0) {
		if (errno != EAGAIN && errno != EINTR)
			lost(end, "receive");
		return;
	}
	if (count == 0) {
		end->is_closed = 1;
		return;
	}
	const uint8_t *expected = from->pattern + end->received % PERIOD;
	if (memcmp(buffer, expected, count)) {
		printf("wrong %d behind byte %llu\n", end->watch.direction, end->received);
		for (ssize_t i = 0; i < count; i++)
			end->wrong += buffer[i] != expected[i];
	}
	end->received += count;
	heard(&end->watch);
}

static void connect_ends(struct end *ends, char **argv)
{
	struct endpoint target = endpoint(argv[2], atoi(argv[4]));
	int one = 1;
	enter(argv[1]);
	int listener = socket(target.any.sa_family, SOCK_STREAM, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
	    bind(listener, &target.any, target.length) || listen(listener, 1))
		err(1, "%s, port %s", argv[2], argv[4]);
	enter(argv[3]);
	ends[1].fd = socket(target.any.sa_family, SOCK_STREAM, 0);
	if (ends[1].fd < 0 || connect(ends[1].fd, &target.any, target.length))
		err(1, "%s, port %s", argv[2], argv[4]);
	ends[0].fd = accept(listener, NULL, NULL);
	if (ends[0].fd < 0)
		err(1, "accept");
	close(listener);
	for (int i = 0; i < 2; i++)
		if (fcntl(ends[i].fd, F_SETFL, O_NONBLOCK))
			err(1, "O_NONBLOCK");
}

static void turn(struct end *ends, unsigned long long limit)
{
	struct pollfd polled[2];
	for (int i = 0; i < 2; i++) {
		int wants_out = ends[i].sent < limit;
		polled[i] = (struct pollfd){
			.fd = ends[i].is_closed && !wants_out ? -1 : ends[i].fd, .events = POLLIN | (wants_out ? POLLOUT : 0)};
	}
	struct timespec time = {.tv_nsec = TURN * 1e9};
	if (ppoll(polled, 2, &time, NULL) <= 0)
		return;
	for (int i = 0; i < 2; i++) {
		if (polled[i].revents & (POLLIN | POLLHUP | POLLERR))
			receive(&ends[i], &ends[1 - i]);
		if (polled[i].revents & POLLOUT)
			send_more(&ends[i], limit);
	}
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: stream <pid> <address> <pid> <port> <bytes per second>");
	struct end ends[2] = {
		{.pattern = pattern(1), .watch.direction = 0}, {.pattern = pattern(2), .watch.direction = 1}};
	double rate = atof(argv[5]);
	connect_ends(ends, argv);
	catch_end();
	puts("ready");
	double start = now();
	while (!is_over)
		turn(ends, rate ? (unsigned long long)(rate * (now() - start)) : ~0ULL);
	double stop = now();
	for (int i = 0; i < 2; i++) {
		heard(&ends[i].watch);
		shutdown(ends[i].fd, SHUT_WR);
	}
	while (!(ends[0].is_closed && ends[1].is_closed) && now() < stop + LAST_WAY)
		turn(ends, 0);
	for (int i = 0; i < 2; i++)
		printf("done %d %.3f %llu %llu %llu %.6f\n", i, stop - start, ends[1 - i].sent, ends[i].received, ends[i].wrong,
			ends[i].watch.longest);
}
