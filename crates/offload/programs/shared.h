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

/*
 * Where the record of these packets is, and which version of it is theirs. Read and written as a whole, as one number: an element
 * that a program has found may become another one's at any time.
 */
struct verdict {
	__u32 place;
	__u32 version;
};

/*
 * What becomes of the packets of a flow, and how many have passed. It serves one flow after the other. Each of the first numbers has
 * the version in its upper STAMP_BITS bits: numbers with the same one were written for the same flow, in whichever order they are
 * read, and whatever is written meanwhile. See src/maps.rs for how it is written.
 */
struct record {
	__u64 generation; /* the flow passes in this one; 0, without a version: in none */
	__u64 from;       /* packets come by this end of a pair at the host, named by its index; 0 is the router's device */
	__u64 to;         /* and leave by this one */
	__u64 transport;  /* source port, destination port and protocol of struct flow_key, from the lowest bits on */
	__u64 source[4];
	__u64 destination[4];
	struct {
		__u64 packets;
		__u64 bytes;
	} passed[2]; /* of even versions, and of odd ones */
};

#define STAMP_BITS 24
#define STAMP_SHIFT (64 - STAMP_BITS)

/* An address that a peer holds. */
struct claim {
	__u32 end; /* of its pair */
	__u32 address[4];
};

/* A pair of devices. Its place is in the lower bits of the index that both ends have, each in its namespace. */
struct pair {
	__u64 indexes; /* of both ends, and in the upper half of the peer's device in its namespace; 0: there is none */
	__u64 spoofed;
	__u64 undecided;
};

/* As MAX_PAIRS in src/maps.rs: places of pairs. A power of 2. */
#define MAX_PAIRS 4096

/* Mapped by the router's process. */
struct control {
	__u64 generation;
	__u64 device; /* index of the router's device */
	__u64 answer; /* to the last change: its number in the upper half, and 0 or the error (errno(3)) */
};

/*
 * How a message of the router's process begins, which asks the clerk for a change of a map. src/clerk.rs writes it. Its length follows
 * from its kind.
 */
struct change {
	__u32 number; /* the sender's, for the answer */
	__u32 kind;   /* SET_FLOW to REMOVE_CLAIM */
};

#define SET_FLOW 1
#define REMOVE_FLOW 2
#define SET_CLAIM 3
#define REMOVE_CLAIM 4

/* SET_FLOW, and REMOVE_FLOW, which has no use for the verdict. */
struct flow_change {
	struct change change;
	struct flow_key key;
	struct verdict verdict;
};

/* SET_CLAIM and REMOVE_CLAIM. */
struct claim_change {
	struct change change;
	struct claim claim;
};

/* Where the running kernel has what __sk_buff doesn't show, in bytes. Read from its BTF by src/maps.rs. */
struct kernel_layout {
	__u32 checksum; /* the part of struct sk_buff with the next four. These are offsets in it. */
	__u32 csum_start;
	__u32 csum_offset;
	__u32 network_header;
	__u32 ip_summed;
	__u32 ip_summed_shift; /* in bits */
	__u32 buffer; /* the part of struct sk_buff with the next one. It ends with the head. */
	__u32 end;
	__u32 gso_type; /* in struct skb_shared_info */
};

/* As in src/maps.rs: bytes of these parts of struct sk_buff. */
#define CHECKSUM_PART_LEN 64
#define BUFFER_PART_LEN 16
