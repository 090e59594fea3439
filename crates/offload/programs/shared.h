/* What the programs and the router's process share: keys and values of the maps. src/maps.rs has the same in Rust. */
#pragma once

/* What the packets of a verdict have in common. In network byte order; IPv4 addresses as ::ffff:a.b.c.d (RFC 4291). */
struct flow_key {
	__u32 source[4];
	__u32 destination[4];
	__u16 source_port;      /* ICMP: the identifier of an echo message */
	__u16 destination_port; /* ICMP: its type */
	__u8 protocol;
	__u8 direction; /* a packet through the host meets both: it leaves one peer and goes to another one */
	__u8 unused[2];
};

#define FROM_PEER 0
#define FROM_HOST 1

/* What becomes of these packets. They come and go by ends of pairs at the host, named by index; 0 is the router's device. */
struct verdict {
	__u32 place; /* of its record */
	__u32 from;
	__u32 to;
	__u32 unused;
};

/* Mapped by the router's process, which makes a verdict void by one store. */
struct record {
	__u64 packets;
	__u64 bytes;
	__u64 last; /* when the last packet has passed: nanoseconds of CLOCK_MONOTONIC */
	__u32 generation; /* the verdict holds in this one; 0: in none */
	__u32 entry;      /* in this one, packets enter a pair by it; 0: only those that are on their way pass */
};

/* An address that a peer holds. */
struct claim {
	__u32 end; /* of its pair */
	__u32 address[4];
};

/* A pair of devices, by the index that both have, each in its namespace. */
struct pair {
	__u32 device; /* index of the peer's device in its namespace */
	__u32 unused;
	__u64 spoofed;
	__u64 undecided;
};

/* Mapped by the router's process. */
struct control {
	__u64 generation;
	__u64 device; /* index of the router's device */
};

/* Where the running kernel has what __sk_buff doesn't show, in bytes. Read from its BTF by src/btf.rs. */
struct kernel_layout {
	__u32 head; /* these in struct sk_buff */
	__u32 data;
	__u32 end;
	__u32 csum_start;
	__u32 csum_offset;
	__u32 ip_summed;
	__u32 ip_summed_shift; /* in bits */
	__u32 gso_type; /* in struct skb_shared_info */
};
