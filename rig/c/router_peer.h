/* What a program needs to be a peer of a router: docs/PROTOCOL.md. */
#ifndef ROUTER_PEER_H
#define ROUTER_PEER_H

#include "basics.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/un.h>

/* Kinds of frames (modifier2), and lengths in bytes. */
enum { PACKET = 0, RULES = 1, HELLO = 0x74, ANSWER = 0x75 };
enum { HEADER_LEN = 4, CLAIM_LEN = 28, IP6_LEN = 40, CLAIM6_LEN = IP6_LEN + 8 };

/* Over an even number of bytes, and what was summed before. */
static inline uint16_t checksum_on(uint32_t sum, const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i + 1 < length; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static inline uint16_t checksum(const uint8_t *bytes, size_t length)
{
	return checksum_on(0, bytes, length);
}

static inline void put16(uint8_t *at, uint16_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

/* A frame's header. */
static inline void put_header(uint8_t *at, size_t size, uint8_t kind)
{
	at[0] = 0;
	at[1] = size;
	at[2] = size >> 8;
	at[3] = kind;
}

/* An IPv4 header without options. Addresses are in network byte order. */
static inline void put_ip(uint8_t *packet, size_t length, uint8_t protocol, uint32_t from, uint32_t to)
{
	memset(packet, 0, 20);
	packet[0] = 0x45;
	put16(packet + 2, length);
	packet[8] = 64;
	packet[9] = protocol;
	memcpy(packet + 12, &from, 4);
	memcpy(packet + 16, &to, 4);
	put16(packet + 10, checksum(packet, 20));
}

/* An echo reply that nobody asked for: the host takes it and says nothing. */
static inline void claim_packet(uint8_t *packet, uint32_t from, uint32_t to)
{
	memset(packet, 0, CLAIM_LEN);
	put_ip(packet, CLAIM_LEN, IPPROTO_ICMP, from, to);
	put16(packet + 22, checksum(packet + 20, CLAIM_LEN - 20));
}

/* An IPv6 header without extensions. */
static inline void put_ip6(uint8_t *packet, size_t length, uint8_t next, struct in6_addr from, struct in6_addr to)
{
	memset(packet, 0, IP6_LEN);
	packet[0] = 0x60;
	put16(packet + 4, length - IP6_LEN);
	packet[6] = next;
	packet[7] = 64;
	memcpy(packet + 8, &from, 16);
	memcpy(packet + 24, &to, 16);
}

/* An ICMPv6 message of a type, filled with zeros. Its checksum is over the addresses, too: RFC 8200, section 8.1. */
static inline void put_icmp6(uint8_t *packet, size_t length, uint8_t type, struct in6_addr from, struct in6_addr to)
{
	put_ip6(packet, length, IPPROTO_ICMPV6, from, to);
	memset(packet + IP6_LEN, 0, length - IP6_LEN);
	packet[IP6_LEN] = type;
	put16(packet + IP6_LEN + 2, checksum_on(length - IP6_LEN + IPPROTO_ICMPV6, packet + 8, length - 8));
}

/* Over IPv6: an echo reply that nobody asked for. */
static inline void claim_packet6(uint8_t *packet, struct in6_addr from, struct in6_addr to)
{
	put_icmp6(packet, CLAIM6_LEN, 129, from, to);
}

/* Returns -1 with errno set if there is no connection. */
static inline int connect_to_router(const char *path, int flags)
{
	struct sockaddr_un router = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof router.sun_path)
		errx(2, "the path is too long: %s", path);
	strcpy(router.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&router, sizeof router)) {
		int error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

/* A device that is up, and its interface's number. Returns -1 with errno set if it can't be made. */
static inline int make_device(const char *name, int *interface)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), any = socket(AF_INET, SOCK_DGRAM, 0);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	int failed = fd < 0 || any < 0 || ioctl(fd, TUNSETIFF, &request);
	request.ifr_flags = IFF_UP;
	failed = failed || ioctl(any, SIOCSIFFLAGS, &request) || ioctl(any, SIOCGIFINDEX, &request);
	int error = errno;
	*interface = request.ifr_ifindex;
	close(any);
	if (failed) {
		close(fd);
		fd = -1;
	}
	errno = error;
	return fd;
}

/* Offers a descriptor as a device, with a header of 10 bytes before packets and no offloads. Returns 0, or -1 with errno
 * set. */
static inline int send_hello(int fd, int device)
{
	uint8_t hello[] = {0, 8, 0, HELLO, 1, 10, 0, 0, 0, 0, 0, 0};
	struct iovec part = {hello, sizeof hello};
	union {
		char room[CMSG_SPACE(sizeof device)];
		struct cmsghdr aligned;
	} control = {0};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
	*rights = (struct cmsghdr){
		.cmsg_len = CMSG_LEN(sizeof device), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(rights), &device, sizeof device);
	return sendmsg(fd, &message, MSG_NOSIGNAL) == sizeof hello ? 0 : -1;
}

#endif
