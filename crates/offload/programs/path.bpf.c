/*
 * The path in the kernel: packets of flows that the router has decided, between TUN devices, over a hidden veth pair for each
 * peer.
 *
 *   peer's namespace                                    host's namespace
 *   peer's TUN --peer_out--> pair ======== pair --host_in--> router's TUN, as if the router had written the packet there
 *   peer's TUN <--peer_in--- pair ======== pair <--host_out-- router's TUN, in place of the router's reading it
 *
 * peer_out and host_out are on the egress of the TUN devices: what they don't take goes on to the reader, which is the router.
 * host_in and peer_in are on the ingress of the pair. host_in is the authority: root in the peer's namespace can send anything
 * there, so that whatever isn't decided ends there. The clerk sees no packets, but messages of the router's process.
 * Instructions in src/generated.rs are made of this file, see tests/generated.rs.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "shared.h"

/* skbuff.h: the checksum is still to be computed. */
#define CHECKSUM_PARTIAL 3
/* As MAX_SEGMENTS of crates/wire/src/vnet.rs: a packet with more segments is made to cause work. */
#define MAX_SEGMENTS 2048
/* skbuff.h, the same numbers since Linux 4.18. What is not among these is of tunnels, fragments, or a later kernel's. */
#define SKB_GSO_TCPV4 (1 << 0)
#define SKB_GSO_DODGY (1 << 1)
#define SKB_GSO_TCP_ECN (1 << 2)
#define SKB_GSO_TCP_FIXEDID (1 << 3)
#define SKB_GSO_TCPV6 (1 << 4)
#define SKB_GSO_UDP_L4 (1 << 17)
/* Bits of the 14th byte of a TCP header (RFC 9293): the router has to see these, to know the state of the connection. */
#define TCP_FIN_SYN_RST 0x07
#define TCP_FLAGS_AT 13
#define TCP_OFFSET_AT 12
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO_REQUEST 8
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP_LEN 8
#define UDP_LEN 8
#define TCP_LEN 20

/* The loader knows the maps by these names. It makes them itself, so that there is nothing in them. */
char flows SEC("maps"), records SEC("maps"), claims SEC("maps"), pairs SEC("maps");
volatile struct control control SEC(".data.control");
const volatile struct kernel_layout layout SEC(".rodata.layout");

/* A packet that may have a verdict. */
struct packet {
	struct flow_key key;
	__u32 transport; /* offset of the TCP, UDP or ICMP header */
	__u32 payload;   /* offset of what follows it */
};

/*
 * Has the compiler forget where a pointer comes from: the verifier follows a comparison only if it is made with the pointer that is
 * used afterwards.
 */
#define FORGET_ORIGIN(pointer) asm volatile("" : "+r"(pointer))

/* So many bytes at an offset, in one piece; 0 if the packet is shorter. Pointers of before are void. */
static __always_inline __u8 *bytes_at(struct __sk_buff *skb, __u32 offset, __u32 len)
{
	__u8 *start = (void *)(long)skb->data + offset;

	FORGET_ORIGIN(start);
	if (start + len > (__u8 *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, offset + len))
			return 0;
		start = (void *)(long)skb->data + offset;
		FORGET_ORIGIN(start);
		if (start + len > (__u8 *)(long)skb->data_end)
			return 0;
	}
	return start;
}

static __always_inline int parse_transport(struct __sk_buff *skb, struct packet *packet)
{
	struct flow_key *key = &packet->key;
	__u8 *header;

	if (key->protocol == IPPROTO_TCP) {
		header = bytes_at(skb, packet->transport, TCP_LEN);
		if (!header || header[TCP_FLAGS_AT] & TCP_FIN_SYN_RST)
			return -1;
		packet->payload = packet->transport + (header[TCP_OFFSET_AT] >> 4) * 4;
		if (packet->payload < packet->transport + TCP_LEN || packet->payload > skb->len)
			return -1;
	} else if (key->protocol == IPPROTO_UDP) {
		header = bytes_at(skb, packet->transport, UDP_LEN);
		if (!header)
			return -1;
		packet->payload = packet->transport + UDP_LEN;
	} else {
		header = bytes_at(skb, packet->transport, ICMP_LEN);
		if (!header || header[1])
			return -1;
		if (key->protocol == IPPROTO_ICMP ? header[0] != ICMP_ECHO_REPLY && header[0] != ICMP_ECHO_REQUEST
						  : header[0] != ICMP6_ECHO_REPLY && header[0] != ICMP6_ECHO_REQUEST)
			return -1;
		key->source_port = *(__u16 *)(header + 4);
		key->destination_port = bpf_htons(header[0]);
		packet->payload = packet->transport + ICMP_LEN;
		return 0;
	}
	key->source_port = *(__u16 *)header;
	key->destination_port = *(__u16 *)(header + 2);
	return 0;
}

/* IPv4-mapped (RFC 4291, 2.5.5.2). The maps have IPv4 addresses so, and no packet of IPv6 may pass for one of IPv4. */
static __always_inline int is_mapped(const __u32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
}

/*
 * Reads the headers from an offset on. Fails for what has no verdict: other protocols, fragments, IP options, extension
 * headers, VLANs, lengths that don't agree, IPv4-mapped addresses in IPv6.
 */
static __always_inline int parse(struct __sk_buff *skb, __u32 start, __u8 direction, struct packet *packet)
{
	struct flow_key *key = &packet->key;

	__builtin_memset(packet, 0, sizeof *packet);
	key->direction = direction;
	if (skb->vlan_present)
		return -1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)bytes_at(skb, start, sizeof *ip);
		if (!ip || *(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0xbfff))
			return -1;
		if (bpf_ntohs(ip->tot_len) != skb->len - start)
			return -1;
		key->source[2] = key->destination[2] = bpf_htonl(0xffff);
		key->source[3] = ip->saddr;
		key->destination[3] = ip->daddr;
		key->protocol = ip->protocol;
		if (key->protocol == IPPROTO_ICMPV6)
			return -1;
		packet->transport = start + sizeof *ip;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)bytes_at(skb, start, sizeof *ip);
		if (!ip || *(__u8 *)ip >> 4 != 6)
			return -1;
		if (bpf_ntohs(ip->payload_len) + sizeof *ip != skb->len - start)
			return -1;
		__builtin_memcpy(key->source, &ip->saddr, 16);
		__builtin_memcpy(key->destination, &ip->daddr, 16);
		key->protocol = ip->nexthdr;
		if (key->protocol == IPPROTO_ICMP || is_mapped(key->source) || is_mapped(key->destination))
			return -1;
		packet->transport = start + sizeof *ip;
	} else {
		return -1;
	}
	if (key->protocol != IPPROTO_TCP && key->protocol != IPPROTO_UDP && key->protocol != IPPROTO_ICMP &&
	    key->protocol != IPPROTO_ICMPV6)
		return -1;
	return parse_transport(skb, packet);
}

/* From the kernel's own struct sk_buff, which the context is. */
#define READ(to, offset) bpf_probe_read_kernel(to, sizeof *(to), (void *)skb + (offset))

/* Returns true if a GSO packet would be cut into too many pieces, or not as its protocol is: the router would refuse it. */
static __always_inline int is_cut_badly(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 part[BUFFER_PART_LEN] __attribute__((aligned(8)));
	__u32 size = skb->gso_size, type = 0, allowed;
	__u64 info;

	if (!size)
		return 0;
	if (skb->len <= packet->payload || (skb->len - packet->payload - 1) / size >= MAX_SEGMENTS)
		return 1;
	if (READ(&part, layout.buffer))
		return 1;
	/* struct skb_shared_info, behind the end of the buffer, which counts from its head. */
	info = *(__u64 *)(part + sizeof part - sizeof info) + *(__u32 *)(part + layout.end);
	if (bpf_probe_read_kernel(&type, sizeof type, (void *)(info + layout.gso_type)))
		return 1;
	if (packet->key.protocol == IPPROTO_TCP)
		allowed = SKB_GSO_TCP_ECN | SKB_GSO_TCP_FIXEDID |
			  (skb->protocol == bpf_htons(ETH_P_IP) ? SKB_GSO_TCPV4 : SKB_GSO_TCPV6);
	else if (packet->key.protocol == IPPROTO_UDP)
		allowed = SKB_GSO_UDP_L4;
	else
		return 1;
	return (type & ~(allowed | SKB_GSO_DODGY)) != 0;
}

/*
 * Returns true if the kernel would write a checksum elsewhere than into that of the transport header. Who may open packet
 * sockets can ask for that (packet(7), PACKET_VNET_HDR), and have ports or addresses changed after they were judged. So it is
 * with what is tunneled in UDP, too, without any ill intent. `start` is where the IP header is, as in parse().
 */
static __always_inline int has_other_checksum(struct __sk_buff *skb, const struct packet *packet, __u32 start)
{
	__u8 part[CHECKSUM_PART_LEN] __attribute__((aligned(8))), protocol = packet->key.protocol;
	__u16 begin, offset, network;

	if (READ(&part, layout.checksum))
		return 1;
	if ((part[layout.ip_summed] >> (layout.ip_summed_shift & 7) & 3) != CHECKSUM_PARTIAL)
		/* Each piece of a GSO packet needs a checksum of its own. */
		return skb->gso_size != 0;
	begin = *(__u16 *)(part + layout.csum_start);
	offset = *(__u16 *)(part + layout.csum_offset);
	network = *(__u16 *)(part + layout.network_header);
	/* All three count from the start of the buffer. What gives the packet to a program has set that of the IP header. */
	if (begin != network + (packet->transport - start))
		return 1;
	return offset != (protocol == IPPROTO_TCP ? 16 : protocol == IPPROTO_UDP ? 6 : 2);
}

/* A number with a version, as it stands in a record. */
static __always_inline __u64 stamped(__u64 number, __u32 version)
{
	return number | (__u64)version << STAMP_SHIFT;
}

/*
 * Takes a number out of a record. Returns 0 if it is of another version: then the record serves another flow by now. So it does if
 * the number is 0.
 */
static __always_inline __u32 number_of(__u64 number, __u32 version)
{
	return number >> STAMP_SHIFT == version ? (__u32)number : 0;
}

static __always_inline int holds(const volatile struct record *record, __u32 version)
{
	return record->generation == stamped(control.generation, version);
}

/* Returns true if this version of a record is for the packet, which has come by `from`, and lets it pass. */
static __always_inline int is_for(const volatile struct record *record, __u32 version, const struct packet *packet,
				  __u32 from)
{
	const struct flow_key *key = &packet->key;
	__u64 difference;
	int i;

	difference = record->transport ^
		     stamped(*(const __u32 *)&key->source_port | (__u64)key->protocol << 32, version);
#pragma unroll
	for (i = 0; i < 4; i++) {
		difference |= record->source[i] ^ stamped(key->source[i], version);
		difference |= record->destination[i] ^ stamped(key->destination[i], version);
	}
	difference |= record->from ^ stamped(from, version);
	return !difference && holds(record, version);
}

static __always_inline void count(struct record *record, __u32 version, __u32 len)
{
	__sync_fetch_and_add(&record->passed[version & 1].packets, 1);
	__sync_fetch_and_add(&record->passed[version & 1].bytes, len);
}

/* The verdict for a packet that is about to enter a pair. */
static __always_inline struct record *record_of(const struct packet *packet, __u32 *place, __u32 *version)
{
	volatile __u64 *found = bpf_map_lookup_elem(&flows, &packet->key);
	union {
		__u64 number;
		struct verdict verdict;
	} value;

	if (!found)
		return 0;
	value.number = *found;
	*place = value.verdict.place;
	*version = value.verdict.version;
	return bpf_map_lookup_elem(&records, place);
}

/*
 * The link layer header of packets in pairs, of which the kernel reads the type alone. The first byte is not that of a multicast
 * address. In the others peer_out says where the record is, so that host_in needn't look for it. It is a hint: host_in believes
 * nothing of it.
 */
struct hint {
	__u8 unused[2]; /* behind these, numbers are aligned as in an IP header */
	__u32 place;
	__u32 version;
	__u8 unused_too[2];
	__be16 protocol;
} __attribute__((packed));

/* Sends a packet of a TUN device by the pair (bpf_redirect_neigh drops packets of devices without a link layer header). */
static __always_inline int to_pair(struct __sk_buff *skb, __u32 end, __u32 place, __u32 version)
{
	__be16 protocol = skb->protocol;
	struct hint *hint;

	if (bpf_skb_change_head(skb, sizeof *hint, 0))
		return TC_ACT_SHOT;
	hint = (void *)bytes_at(skb, 0, sizeof *hint);
	if (!hint)
		return TC_ACT_SHOT;
	hint->place = place;
	hint->version = version;
	hint->protocol = protocol;
	return bpf_redirect(end, 0);
}

/* The pair with this index. */
static __always_inline struct pair *pair_at(__u32 index)
{
	__u32 place = index & (MAX_PAIRS - 1);
	struct pair *pair = bpf_map_lookup_elem(&pairs, &place);

	return pair && (__u32)pair->indexes == index ? pair : 0;
}

/* On the egress of the peer's device. Both ends of a pair have the same index. */
SEC("tc/peer_out") int peer_out(struct __sk_buff *skb)
{
	struct packet packet;
	__u32 place, version, end;
	volatile struct record *record;

	if (parse(skb, 0, FROM_PEER, &packet))
		return TC_ACT_OK;
	record = record_of(&packet, &place, &version);
	if (!record || !holds(record, version))
		return TC_ACT_OK;
	end = number_of(record->from, version);
	if (!end || is_cut_badly(skb, &packet) || has_other_checksum(skb, &packet, 0))
		return TC_ACT_OK;
	return to_pair(skb, end, place, version);
}

/* On the ingress of the pair, at the host. */
SEC("tc/host_in") int host_in(struct __sk_buff *skb)
{
	struct packet packet;
	struct claim claim = {.end = skb->ifindex};
	struct record *record = 0;
	struct hint *hint;
	struct pair *pair;
	__u32 place, version, to;
	__u64 found;

	if (parse(skb, ETH_HLEN, FROM_PEER, &packet))
		goto undecided;
	__builtin_memcpy(claim.address, packet.key.source, sizeof claim.address);
	if (!bpf_map_lookup_elem(&claims, &claim)) {
		pair = pair_at(claim.end);
		if (pair)
			__sync_fetch_and_add(&pair->spoofed, 1);
		return TC_ACT_SHOT;
	}
	hint = (void *)bytes_at(skb, 0, sizeof *hint);
	if (!hint)
		goto undecided;
	place = hint->place;
	version = hint->version;
	record = bpf_map_lookup_elem(&records, &place);
	if (!record || version >> STAMP_BITS || !is_for(record, version, &packet, claim.end))
		goto undecided;
	found = *(volatile __u64 *)&record->to;
	if (found >> STAMP_SHIFT != version || is_cut_badly(skb, &packet) || has_other_checksum(skb, &packet, ETH_HLEN))
		goto undecided;
	count(record, version, skb->len - ETH_HLEN);
	to = found;
	if (to)
		return bpf_redirect(to, 0);
	return bpf_redirect(control.device, BPF_F_INGRESS);
undecided:
	pair = pair_at(claim.end);
	if (pair)
		__sync_fetch_and_add(&pair->undecided, 1);
	return TC_ACT_SHOT;
}

/* On the egress of the router's device. */
SEC("tc/host_out") int host_out(struct __sk_buff *skb)
{
	struct packet packet;
	struct record *record;
	__u32 place, version, to;

	if (parse(skb, 0, FROM_HOST, &packet))
		return TC_ACT_OK;
	record = record_of(&packet, &place, &version);
	if (!record || !is_for(record, version, &packet, 0))
		return TC_ACT_OK;
	to = number_of(*(volatile __u64 *)&record->to, version);
	if (!to || is_cut_badly(skb, &packet) || has_other_checksum(skb, &packet, 0))
		return TC_ACT_OK;
	count(record, version, skb->len);
	return to_pair(skb, to, 0, 0);
}

/* On the ingress of the pair, at the peer. What comes here, the host has sent. */
SEC("tc/peer_in") int peer_in(struct __sk_buff *skb)
{
	volatile struct pair *pair;
	__u32 place = skb->ifindex & (MAX_PAIRS - 1);
	__u64 indexes;

	pair = bpf_map_lookup_elem(&pairs, &place);
	if (!pair)
		return TC_ACT_SHOT;
	indexes = pair->indexes;
	return (__u32)indexes == skb->ifindex ? bpf_redirect(indexes >> 32, BPF_F_INGRESS) : TC_ACT_SHOT;
}

/* Says what has become of a change: 0, or a negative error number. */
static __always_inline void answer(const struct change *change, long result)
{
	control.answer = (__u64)change->number << 32 | (__u32)-result;
}

/*
 * On a unix socket that only the router's process sends to: makes the changes that it asks for, within its call of send(2). That
 * process may not call bpf(2). The kernel drops a message for which a socket filter returns 0, so that nobody has to receive it.
 * What is no change has no answer.
 */
SEC("socket/clerk") int clerk(struct __sk_buff *skb)
{
	struct flow_change of_flow;
	struct claim_change of_claim;
	__u32 unused = 0;

	if (skb->len == sizeof of_flow) {
		if (bpf_skb_load_bytes(skb, 0, &of_flow, sizeof of_flow))
			return 0;
		if (of_flow.change.kind == SET_FLOW)
			answer(&of_flow.change, bpf_map_update_elem(&flows, &of_flow.key, &of_flow.verdict, BPF_ANY));
		else if (of_flow.change.kind == REMOVE_FLOW)
			answer(&of_flow.change, bpf_map_delete_elem(&flows, &of_flow.key));
	} else if (skb->len == sizeof of_claim) {
		if (bpf_skb_load_bytes(skb, 0, &of_claim, sizeof of_claim))
			return 0;
		if (of_claim.change.kind == SET_CLAIM)
			answer(&of_claim.change, bpf_map_update_elem(&claims, &of_claim.claim, &unused, BPF_ANY));
		else if (of_claim.change.kind == REMOVE_CLAIM)
			answer(&of_claim.change, bpf_map_delete_elem(&claims, &of_claim.claim));
	}
	return 0;
}

/* bpf_probe_read_kernel is for programs under a licence that is compatible with the GPL. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
