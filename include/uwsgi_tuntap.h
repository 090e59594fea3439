/*
 * uwsgi-tuntap: the interfaces for other programs.
 *
 * Two are public: the wire format between a device and its router, and the prototype of the function that
 * `tuntap-use-credentials = <symbol>` names. docs/PROTOCOL.md describes them in prose, with their limits.
 */
#ifndef UWSGI_TUNTAP_H
#define UWSGI_TUNTAP_H

#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Each message on the unix stream is this header and `size` bytes of payload. */
struct uwsgi_tuntap_frame_header {
	uint8_t modifier1;  /* 0; receivers ignore it */
	uint8_t size_le[2]; /* payload length, little endian, 1 to UWSGI_TUNTAP_MAX_PAYLOAD */
	uint8_t modifier2;  /* UWSGI_TUNTAP_FRAME_* */
} __attribute__((packed));

#define UWSGI_TUNTAP_FRAME_PACKET 0 /* one IP packet, without any link-layer header */
#define UWSGI_TUNTAP_FRAME_RULES 1  /* peer rules, which replace earlier ones; not after the first packet */
#define UWSGI_TUNTAP_FRAME_EXTENDED_RULES 0x79 /* peer rules as struct uwsgi_tuntap_extended_rule */

/* A device requests its network's configuration before anything else. A router without this message drops it. */
#define UWSGI_TUNTAP_FRAME_ASK 0x76
#define UWSGI_TUNTAP_FRAME_CONFIGURATION 0x77 /* the router's answer: JSON */
#define UWSGI_TUNTAP_FRAME_CLAIM 0x78         /* addresses that the device claims: JSON, only after an answer */

#define UWSGI_TUNTAP_LEASE_VERSION 1
#define UWSGI_TUNTAP_ASK_V4 1
#define UWSGI_TUNTAP_ASK_V6 2

struct uwsgi_tuntap_ask {
	uint8_t version; /* UWSGI_TUNTAP_LEASE_VERSION */
	uint8_t flags;   /* UWSGI_TUNTAP_ASK_*: the addresses that the router is to choose */
	uint8_t reserved[2];
	uint8_t name_le[8]; /* tells the device from its user's other devices, little endian */
} __attribute__((packed));

/* With its header, a payload of this length fills 8192 bytes, the buffer of the oldest implementation. */
#define UWSGI_TUNTAP_MAX_PAYLOAD 8188

/* A peer rule. Addresses and masks are in host byte order, target and port in network byte order. */
struct uwsgi_tuntap_rule {
	uint8_t direction; /* UWSGI_TUNTAP_RULE_IN or _OUT */
	uint32_t src;
	uint32_t src_mask;
	uint32_t dst;
	uint32_t dst_mask;
	uint8_t action; /* UWSGI_TUNTAP_RULE_ALLOW, _DENY or _ROUTE */
	uint32_t target;
	uint16_t target_port;
} __attribute__((packed));

#define UWSGI_TUNTAP_RULE_IN 0  /* towards the peer */
#define UWSGI_TUNTAP_RULE_OUT 1 /* from the peer */

#define UWSGI_TUNTAP_RULE_ALLOW 0
#define UWSGI_TUNTAP_RULE_DENY 1
#define UWSGI_TUNTAP_RULE_ROUTE 2

/*
 * A peer rule in the extended form, for routers that support it. Ports are in network byte order. An IPv4 address fills
 * the first 4 bytes; bits behind the prefix are 0.
 */
struct uwsgi_tuntap_extended_rule {
	uint8_t direction;
	uint8_t action;
	uint8_t src_version; /* 4 or 6; 0 matches all addresses of both versions */
	uint8_t dst_version;
	uint8_t src_prefix_len;
	uint8_t dst_prefix_len;
	uint8_t flags; /* UWSGI_TUNTAP_RULE_HAS_* or _IS_ICMP */
	uint8_t protocol;
	uint16_t first_port; /* of the destination */
	uint16_t last_port;
	uint8_t target_version; /* 4 or 6, for UWSGI_TUNTAP_RULE_ROUTE */
	uint8_t zero;
	uint16_t target_port;
	uint8_t src[16];
	uint8_t dst[16];
	uint8_t target[16];
} __attribute__((packed));

#define UWSGI_TUNTAP_RULE_REJECT 3 /* an action of this form only: deny, and send an error to the sender */

#define UWSGI_TUNTAP_RULE_HAS_PROTOCOL 1
#define UWSGI_TUNTAP_RULE_HAS_PORTS 2 /* only with _HAS_PROTOCOL and TCP, UDP, SCTP, DCCP or UDP-Lite */
#define UWSGI_TUNTAP_RULE_IS_ICMP 4   /* instead of both: ICMP in IPv4 packets, ICMPv6 in IPv6 packets */

/* First bytes of a device that sends its credentials, without a frame header. SCM_CREDENTIALS travels with them. */
#define UWSGI_TUNTAP_CREDENTIALS_MAGIC "uwsgi-tuntap"

/*
 * The credentials hook. The router calls it once for each device that has sent its credentials. It returns the IPv4
 * address of the device in network byte order; 0 refuses the device. Unless tuntap-router-sandbox is off, the router
 * has no capability by then. If it is strict, the hook can't open files, and a forbidden syscall ends the router.
 */
typedef uint32_t (*uwsgi_tuntap_credentials_hook)(pid_t pid, uid_t uid, gid_t gid);

#ifdef __cplusplus
}
#endif

#endif
