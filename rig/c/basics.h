/* What the small programs of benchmark and soak test share. */
#ifndef BASICS_H
#define BASICS_H

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* An address of either version of IP, with its port. */
struct endpoint {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	};
	socklen_t length;
};

static inline struct endpoint endpoint(const char *text, uint16_t port)
{
	struct endpoint v4 = {.v4 = {.sin_family = AF_INET, .sin_port = htons(port)}, .length = sizeof v4.v4};
	struct endpoint v6 = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)}, .length = sizeof v6.v6};
	if (inet_pton(AF_INET, text, &v4.v4.sin_addr) == 1)
		return v4;
	if (inet_pton(AF_INET6, text, &v6.v6.sin6_addr) == 1)
		return v6;
	errx(1, "not an IP address: %s", text);
}

/* An IPv4 address in network byte order. */
static inline uint32_t ipv4(const char *text)
{
	struct in_addr parsed;
	if (inet_pton(AF_INET, text, &parsed) != 1)
		errx(1, "not an IPv4 address: %s", text);
	return parsed.s_addr;
}

static inline struct in6_addr ipv6(const char *text)
{
	struct in6_addr parsed;
	if (inet_pton(AF_INET6, text, &parsed) != 1)
		errx(1, "not an IPv6 address: %s", text);
	return parsed;
}

#endif
