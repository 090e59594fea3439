//! nftables rules: conditions, and what becomes of packets that meet them. Their expressions are those that nft(8) makes of
//! the same words, so that it can list them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_netfilter::nftables::{Expressions, MetaKey, Operator, Verdict, VerdictAttribute};

use super::expression::{self, Header, Tracked};
use super::set::{Family, Set};

/// Length of an interface's name in the kernel, with the NULs behind it (IFNAMSIZ).
const INTERFACE_NAME_LEN: usize = 16;

/// Offsets of addresses in IP headers (RFC 791, RFC 8200), and of the destination port in headers of TCP, UDP and SCTP.
pub(super) const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
pub(super) const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;
const DESTINATION_PORT: u32 = 2;

/// Where an IPv4 header says whether more fragments follow, and what the offset of this one is (RFC 791); and the number of
/// IPv6's extension header for that (RFC 8200).
const IPV4_FRAGMENT: u32 = 6;
const IPV4_MORE_OR_OFFSET: u16 = 0x3fff;
const IPV6_FRAGMENT: u8 = 44;

/// The protocol numbers of ICMP and ICMPv6, each with its type of echo requests (RFC 792, RFC 4443), which is the first byte
/// of the message.
const ICMP: (u8, u8) = (1, 8);
const ICMPV6: (u8, u8) = (58, 128);
const ICMP_TYPE: u32 = 0;

/// Offset and bits of the flags in a TCP header (RFC 9293).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 0x02;
const SYN_AND_RST: u8 = 0x06;

/// Bits of a connection's state (`enum ip_conntrack_info` of linux/netfilter/nf_conntrack_common.h, as NF_CT_STATE_BIT makes
/// them).
const INVALID: u32 = 1;
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;
const UNTRACKED: u32 = 1 << 6;

/// Bits of a connection's status (`enum ip_conntrack_status` there): its first packet was let through; the destination
/// was changed.
const STATUS_CONFIRMED: u32 = 1 << 3;
const STATUS_DNAT: u32 = 1 << 5;

/// A token bucket: what a source may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// What is counted.
    pub unit: Unit,
    /// How much in a second.
    pub per_second: u32,
    /// How much at once after a while of silence.
    pub burst: u32,
}

/// What a rate counts (`enum nft_limit_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Packets
    Packets = 0,
    /// Bytes of packets
    Bytes = 1,
}

/// A transport protocol (RFC 5237).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP
    Tcp = 6,
    /// UDP
    Udp = 17,
}

/// What the sender of a rejected packet gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// A TCP reset; for rules of TCP only.
    TcpReset,
    /// ICMP's or ICMPv6's "port unreachable".
    PortUnreachable,
}

/// One nftables rule: conditions in order, then what happens to packets that meet them all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NftRule {
    expressions: Vec<Expressions>,
    comment: Option<&'static str>,
}

/// Conditions.
impl NftRule {
    /// A rule for every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// If the packet came in by this interface.
    #[must_use]
    pub fn iif(self, interface: &str) -> Self {
        self.add(expression::meta(MetaKey::Iifname)).equals(interface_name(interface))
    }

    /// If the packet came in by an interface of this group (ip-link(8)).
    #[must_use]
    pub fn iif_group(self, group: u32) -> Self {
        self.add(expression::meta(MetaKey::Iifgroup)).equals(group.to_ne_bytes().to_vec())
    }

    /// If the packet goes out by this interface.
    #[must_use]
    pub fn oif(self, interface: &str) -> Self {
        self.add(expression::meta(MetaKey::Oifname)).equals(interface_name(interface))
    }

    /// If the source is in a network.
    #[must_use]
    pub fn from(self, net: IpNet) -> Self {
        self.address_in(net, IPV4_SOURCE, IPV6_SOURCE)
    }

    /// If the destination is in a network.
    #[must_use]
    pub fn to(self, net: IpNet) -> Self {
        self.address_in(net, IPV4_DESTINATION, IPV6_DESTINATION)
    }

    /// If the destination is none of this machine's own addresses.
    #[must_use]
    pub fn to_others(self) -> Self {
        self.add(expression::destination_type()).compares(Operator::NotEqual, expression::local_type())
    }

    /// If the destination is one of this machine's own addresses.
    #[must_use]
    pub fn to_this_host(self) -> Self {
        self.add(expression::destination_type()).equals(expression::local_type())
    }

    /// If the kernel would send packets to the source by the interface by which this one came in.
    #[must_use]
    pub fn came_by_way_back(self) -> Self {
        self.add(expression::way_back()).compares(Operator::NotEqual, vec![0; 4])
    }

    /// If the packet is of the family of an address.
    #[must_use]
    pub fn of_family(self, address: IpAddr) -> Self {
        self.with_family(Family::of(address))
    }

    /// If the packet is of this protocol (IANA, "Protocol Numbers"), behind all extension headers.
    #[must_use]
    pub fn of_protocol(self, protocol: u8) -> Self {
        self.add(expression::meta(MetaKey::L4Proto)).equals(vec![protocol])
    }

    /// If the packet is for this port.
    #[must_use]
    pub fn to_port(self, transport: Transport, port: u16) -> Self {
        self.of_protocol(transport as u8).to_ports(port, port)
    }

    /// If the packet is for one of these ports. Its protocol must have ports where those of TCP are.
    #[must_use]
    pub fn to_ports(self, first: u16, last: u16) -> Self {
        let loaded = self.add(expression::payload(Header::Transport, DESTINATION_PORT, size_of::<u16>()));
        let [first, last] = [first, last].map(|port| port.to_be_bytes().to_vec());
        if first == last {
            return loaded.equals(first);
        }
        loaded.compares(Operator::GreatherThanEqual, first).compares(Operator::LessThanEqual, last)
    }

    /// If it is a fragment of a packet.
    #[must_use]
    pub fn is_fragment(self, family: Family) -> Self {
        let rule = self.with_family(family);
        match family {
            Family::Ipv4 => rule
                .add(expression::payload(Header::Network, IPV4_FRAGMENT, size_of::<u16>()))
                .add(expression::mask(IPV4_MORE_OR_OFFSET.to_be_bytes().to_vec()))
                .compares(Operator::NotEqual, vec![0; size_of::<u16>()]),
            Family::Ipv6 => rule.add(expression::has_extension(IPV6_FRAGMENT)).equals(vec![1]),
        }
    }

    /// If it is an echo request of ICMP, or ICMPv6.
    #[must_use]
    pub fn is_echo_request(self, family: Family) -> Self {
        let (protocol, kind) = match family {
            Family::Ipv4 => ICMP,
            Family::Ipv6 => ICMPV6,
        };
        let rule = self.with_family(family).of_protocol(protocol);
        rule.add(expression::payload(Header::Transport, ICMP_TYPE, 1)).equals(vec![kind])
    }

    /// If it opens a TCP connection, from either side.
    #[must_use]
    pub fn opens_tcp(self) -> Self {
        self.of_protocol(Transport::Tcp as u8)
            .add(expression::payload(Header::Transport, TCP_FLAGS, 1))
            .add(expression::mask(vec![SYN_AND_RST]))
            .equals(vec![SYN])
    }

    /// If it belongs to no known connection: it begins one, should belong to one but doesn't, or isn't tracked.
    #[must_use]
    pub fn of_no_connection(self) -> Self {
        self.in_state(INVALID | NEW | UNTRACKED)
    }

    /// If it belongs to a connection in which both ends have sent something, or is an error message about one.
    #[must_use]
    pub fn of_known_connection(self) -> Self {
        self.in_state(ESTABLISHED | RELATED)
    }

    /// If its addresses are never translated: it should belong to a connection but doesn't, or isn't tracked.
    #[must_use]
    pub fn is_never_translated(self) -> Self {
        self.in_state(INVALID | UNTRACKED)
    }

    /// If it is the first packet of a connection. Later ones that have no answer yet are in state "new", too, but the
    /// connection is confirmed then.
    #[must_use]
    pub fn begins_connection(self) -> Self {
        self.in_state(NEW).tracked(Tracked::Status, STATUS_CONFIRMED).equals(vec![0; size_of::<u32>()])
    }

    /// If the destination of its connection was changed, by [`Self::dnat`] or by any other table.
    #[must_use]
    pub fn is_dnat(self) -> Self {
        self.tracked(Tracked::Status, STATUS_DNAT).compares(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    /// If the destination of its connection was not changed.
    #[must_use]
    pub fn is_not_dnat(self) -> Self {
        self.tracked(Tracked::Status, STATUS_DNAT).equals(vec![0; size_of::<u32>()])
    }

    /// If its source has more connections than `max`, with this one. Each packet counts as one: see
    /// [`Self::begins_connection`]. A source for which the set has no room is not counted, and doesn't meet the condition.
    #[must_use]
    pub fn source_has_more_than(self, max: u32, set: &Set) -> Self {
        self.load_key(set).add(expression::update_set(set, expression::more_connections_than(max)))
    }

    /// If its source is faster than that.
    #[must_use]
    pub fn source_is_faster_than(self, rate: Rate, set: &Set) -> Self {
        self.load_key(set).add(expression::update_set(set, expression::faster_than(rate)))
    }

    fn with_family(self, family: Family) -> Self {
        self.add(expression::meta(MetaKey::Nfproto)).equals(vec![family.number()])
    }

    fn address_in(self, net: IpNet, ipv4_offset: u32, ipv6_offset: u32) -> Self {
        let (offset, network, mask) = match net {
            IpNet::V4(net) => (ipv4_offset, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
            IpNet::V6(net) => (ipv6_offset, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        };
        let loaded = self.of_family(net.addr()).add(expression::payload(Header::Network, offset, network.len()));
        let is_whole = net.prefix_len() == net.max_prefix_len();
        let masked = if is_whole { loaded } else { loaded.add(expression::mask(mask)) };
        masked.equals(network)
    }

    fn in_state(self, bits: u32) -> Self {
        self.tracked(Tracked::State, bits).compares(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    fn tracked(self, key: Tracked, bits: u32) -> Self {
        self.add(expression::ct(key)).add(expression::mask(bits.to_ne_bytes().to_vec()))
    }

    /// Loads what a set has as its keys, if the packet is of the set's family.
    fn load_key(self, set: &Set) -> Self {
        self.with_family(set.family).add(expression::payload(
            Header::Network,
            set.family.source_offset(),
            set.key_len(),
        ))
    }

    fn equals(self, value: Vec<u8>) -> Self {
        self.compares(Operator::Equal, value)
    }

    fn compares(self, operator: Operator, value: Vec<u8>) -> Self {
        self.add(expression::compare(operator, value))
    }
}

/// What happens to packets that meet the conditions.
impl NftRule {
    /// Counts the packet for its source, if it is of the set's family and the set has room.
    #[must_use]
    pub fn counts_for_source(self, set: &Set) -> Self {
        self.load_key(set).add(expression::update_set(set, expression::counter_of_element()))
    }

    /// Counts the packets that get so far in the rule.
    #[must_use]
    pub fn count(self) -> Self {
        self.add(expression::counter())
    }

    /// Says in the list of rules what the rule is for.
    #[must_use]
    pub const fn because(mut self, comment: &'static str) -> Self {
        self.comment = Some(comment);
        self
    }

    /// Drops the packet, and tells its sender.
    #[must_use]
    pub fn reject(self, how: Rejection) -> Self {
        self.add(expression::reject(how))
    }

    /// Goes on in another chain of the table.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        let verdict = vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())];
        self.add(expression::verdict(verdict))
    }

    /// Goes on behind the rule that led to this chain (`return` of nft(8)).
    #[must_use]
    pub fn leave(self) -> Self {
        self.add(expression::verdict(vec![VerdictAttribute::Code(Verdict::Return)]))
    }

    /// Ends the chain with its hook; chains of others with the same hook still see the packet.
    #[must_use]
    pub fn accept(self) -> Self {
        self.add(expression::accept_verdict())
    }

    /// Drops the packet.
    #[must_use]
    pub fn discard(self) -> Self {
        self.add(expression::drop_verdict())
    }

    /// Gives its connection the address of the interface by which it leaves.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.add(expression::masquerade())
    }

    /// Like [`Self::masquerade`], with a source port between these two. A port that is between them already stays, if it
    /// can.
    #[must_use]
    pub fn masquerade_with_port(self, first: u16, last: u16) -> Self {
        expression::masquerade_with_port(first, last).into_iter().fold(self, Self::add)
    }

    /// Gives its connection another destination address and port.
    #[must_use]
    pub fn dnat(self, target: SocketAddr) -> Self {
        expression::dnat(target, Family::of(target.ip()).number()).into_iter().fold(self, Self::add)
    }

    /// Lowers the MSS that it announces to what the routes of both directions carry.
    #[must_use]
    pub fn clamp_mss(self) -> Self {
        expression::clamp_mss().into_iter().fold(self, Self::add)
    }
}

impl NftRule {
    fn add(mut self, expression: Expressions) -> Self {
        self.expressions.push(expression);
        self
    }

    pub(super) fn into_parts(self) -> (Vec<Expressions>, Option<&'static str>) {
        (self.expressions, self.comment)
    }
}

fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_LEN, 0);
    bytes
}
