//! Rules of nftables, in the kernel's own terms (linux/netfilter/nf_tables.h): expressions that load, compare and act.
//! They are the ones that nft(8) makes of its words, so that it can list them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use super::set::{Family, Set};

/// Length of an interface's name in the kernel, with the NULs behind it (IFNAMSIZ).
const INTERFACE_NAME_LEN: usize = 16;

/// RTN_LOCAL of linux/rtnetlink.h, the type of this machine's own addresses.
const LOCAL: u32 = 2;

pub(super) const IPV4_SOURCE: u32 = 12;
pub(super) const IPV4_DESTINATION: u32 = 16;
pub(super) const IPV6_SOURCE: u32 = 8;
pub(super) const IPV6_DESTINATION: u32 = 24;
const DESTINATION_PORT: u32 = 2;

/// Where an IPv4 header says whether more fragments follow, and at which place this one belongs (RFC 791); and the number of
/// IPv6's extension header for that (RFC 8200).
const IPV4_FRAGMENT: u32 = 6;
const IPV4_MORE_OR_OFFSET: u16 = 0x3fff;
const IPV6_FRAGMENT: u8 = 44;

/// ICMP and ICMPv6, and the type of their echo requests (RFC 792, RFC 4443): the first byte of the message.
const ICMP: (u8, u8) = (1, 8);
const ICMPV6: (u8, u8) = (58, 128);
const ICMP_TYPE: u32 = 0;

const TCP_FLAGS: u32 = 13;
const SYN: u8 = 0x02;
const SYN_AND_RST: u8 = 0x06;
const TCP_OPTION_MSS: u8 = 2;
/// Behind kind and length.
const MSS_OFFSET: u32 = 2;
const MSS_LEN: u32 = 2;

/// A part of a packet that [`Rule`] can look at (`enum nft_payload_bases`).
#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// What connection tracking knows of a packet's connection (`enum nft_ct_keys`).
#[derive(Clone, Copy)]
enum Tracked {
    State = 0,
    Status = 2,
}

/// Bits of the state (`enum ip_conntrack_info` of linux/netfilter/nf_conntrack_common.h, as NF_CT_STATE_BIT makes them).
const INVALID: u32 = 1;
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;
const UNTRACKED: u32 = 1 << 6;
/// Bits of the status (`enum ip_conntrack_status` there): more than one packet has been let through.
const STATUS_CONFIRMED: u32 = 1 << 3;
/// The destination was changed (IPS_DST_NAT).
const STATUS_DNAT: u32 = 1 << 5;

/// How much a source may send: so much in a second, and so much at once after it was quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// What is counted.
    pub unit: Unit,
    /// In a second.
    pub per_second: u32,
    /// At once.
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

/// One rule: conditions in order, then what happens to packets that meet them all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    expressions: Vec<Expressions>,
    comment: Option<&'static str>,
}

impl Rule {
    /// A rule for every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// If it came in by this interface.
    #[must_use]
    pub fn iif(self, interface: &str) -> Self {
        self.meta(MetaKey::Iifname).equals(interface_name(interface))
    }

    /// If it leaves by this interface.
    #[must_use]
    pub fn oif(self, interface: &str) -> Self {
        self.meta(MetaKey::Oifname).equals(interface_name(interface))
    }

    /// If its source is in a network.
    #[must_use]
    pub fn from(self, net: IpNet) -> Self {
        self.address_in(net, IPV4_SOURCE, IPV6_SOURCE)
    }

    /// If its destination is in a network.
    #[must_use]
    pub fn to(self, net: IpNet) -> Self {
        self.address_in(net, IPV4_DESTINATION, IPV6_DESTINATION)
    }

    /// If its destination is none of this machine's own addresses.
    #[must_use]
    pub fn to_others(self) -> Self {
        self.destination_type(Operator::NotEqual)
    }

    /// If its destination is one of this machine's own addresses.
    #[must_use]
    pub fn to_this_host(self) -> Self {
        self.destination_type(Operator::Equal)
    }

    fn destination_type(mut self, operator: Operator) -> Self {
        const DESTINATION_REGISTER: u16 = 1;
        const RESULT: u16 = 2;
        const FLAGS: u16 = 3;
        const ADDRESS_TYPE: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        self.other(
            "fib",
            [
                number(DESTINATION_REGISTER, Register::Reg1.into()),
                number(RESULT, ADDRESS_TYPE),
                number(FLAGS, OF_DESTINATION),
            ],
        );
        self.compares(operator, LOCAL.to_ne_bytes().to_vec())
    }

    /// If it is of this protocol (IANA, "Protocol Numbers"), behind all extension headers.
    #[must_use]
    pub fn of_protocol(self, protocol: u8) -> Self {
        self.meta(MetaKey::L4Proto).equals(vec![protocol])
    }

    /// If it is for this port.
    #[must_use]
    pub fn to_port(self, transport: Transport, port: u16) -> Self {
        self.of_protocol(transport as u8).to_ports(port, port)
    }

    /// If it is for one of these ports of its protocol, which has ports where those of TCP are.
    #[must_use]
    pub fn to_ports(self, first: u16, last: u16) -> Self {
        let loaded = self.payload(Header::Transport, DESTINATION_PORT, size_of::<u16>());
        let [first, last] = [first, last].map(|port| port.to_be_bytes().to_vec());
        if first == last {
            return loaded.equals(first);
        }
        loaded.compares(Operator::GreatherThanEqual, first).compares(Operator::LessThanEqual, last)
    }

    /// If it is a part of a packet that is still to be put together.
    #[must_use]
    pub fn is_fragment(self, family: Family) -> Self {
        let rule = self.meta(MetaKey::Nfproto).equals(vec![family.number()]);
        match family {
            Family::Ipv4 => rule
                .payload(Header::Network, IPV4_FRAGMENT, size_of::<u16>())
                .masked(IPV4_MORE_OR_OFFSET.to_be_bytes().to_vec())
                .compares(Operator::NotEqual, vec![0; size_of::<u16>()]),
            Family::Ipv6 => rule.has_extension(IPV6_FRAGMENT),
        }
    }

    fn has_extension(mut self, header: u8) -> Self {
        const DESTINATION_REGISTER: u16 = 1;
        const TYPE: u16 = 2;
        const OFFSET: u16 = 3;
        const LEN: u16 = 4;
        const FLAGS: u16 = 5;
        const IS_PRESENT: u32 = 1;
        self.other(
            "exthdr",
            [
                number(DESTINATION_REGISTER, Register::Reg1.into()),
                DefaultNla::new(TYPE, vec![header]),
                number(OFFSET, 0),
                number(LEN, 1),
                number(FLAGS, IS_PRESENT),
            ],
        );
        self.equals(vec![1])
    }

    /// If it asks for an echo.
    #[must_use]
    pub fn is_echo_request(self, family: Family) -> Self {
        let (protocol, kind) = match family {
            Family::Ipv4 => ICMP,
            Family::Ipv6 => ICMPV6,
        };
        self.meta(MetaKey::Nfproto)
            .equals(vec![family.number()])
            .of_protocol(protocol)
            .payload(Header::Transport, ICMP_TYPE, 1)
            .equals(vec![kind])
    }

    /// If it opens a TCP connection, from either side.
    #[must_use]
    pub fn opens_tcp(self) -> Self {
        self.of_protocol(Transport::Tcp as u8)
            .payload(Header::Transport, TCP_FLAGS, 1)
            .masked(vec![SYN_AND_RST])
            .equals(vec![SYN])
    }

    /// If it belongs to no connection yet: it begins one, would have to belong to one, or nobody looks whether it does.
    #[must_use]
    pub fn of_no_connection(self) -> Self {
        self.in_state(INVALID | NEW | UNTRACKED)
    }

    /// If it belongs to a connection that both ends have agreed to, or is an error message about one.
    #[must_use]
    pub fn of_known_connection(self) -> Self {
        self.in_state(ESTABLISHED | RELATED)
    }

    /// If its addresses are never translated: it fits no connection, or was taken out of connection tracking.
    #[must_use]
    pub fn is_never_translated(self) -> Self {
        self.in_state(INVALID | UNTRACKED)
    }

    /// If it is the first packet of a connection: later ones without an answer are "new" as well, but confirmed.
    #[must_use]
    pub fn begins_connection(self) -> Self {
        self.in_state(NEW).tracked(Tracked::Status, STATUS_CONFIRMED).equals(vec![0; size_of::<u32>()])
    }

    /// If [`Self::dnat`] has sent its connection elsewhere, by whatever table.
    #[must_use]
    pub fn is_dnat(self) -> Self {
        self.tracked(Tracked::Status, STATUS_DNAT).compares(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    /// If its connection goes where it was sent to.
    #[must_use]
    pub fn is_not_dnat(self) -> Self {
        self.tracked(Tracked::Status, STATUS_DNAT).equals(vec![0; size_of::<u32>()])
    }

    /// If its source has more connections than `max`, with this one. Each packet counts as one: see
    /// [`Self::begins_connection`]. Without room in the set nobody else's rule changes, and a source that isn't in it
    /// passes.
    #[must_use]
    pub fn source_has_more_than(self, max: u32, set: &Set) -> Self {
        const COUNT: u16 = 1;
        const FLAGS: u16 = 2;
        const OVER: u32 = 1;
        self.updates(set, "connlimit", vec![number(COUNT, max), number(FLAGS, OVER)])
    }

    /// If its source is faster than that.
    #[must_use]
    pub fn source_is_faster_than(self, rate: Rate, set: &Set) -> Self {
        const RATE: u16 = 1;
        const UNIT: u16 = 2;
        const BURST: u16 = 3;
        const TYPE: u16 = 4;
        const FLAGS: u16 = 5;
        const SECOND: u64 = 1;
        const OVER: u32 = 1;
        let attributes = vec![
            long_number(RATE, rate.per_second.into()),
            long_number(UNIT, SECOND),
            number(BURST, rate.burst),
            number(TYPE, rate.unit as u32),
            number(FLAGS, OVER),
        ];
        self.updates(set, "limit", attributes)
    }

    /// Counts it for its source, if that is of the set's family and there is room for it.
    #[must_use]
    pub fn counts_for_source(self, set: &Set) -> Self {
        self.updates(set, "counter", Vec::new())
    }

    /// Puts an address into a set, with an expression of its own, which then decides.
    fn updates(self, set: &Set, name: &str, attributes: Vec<DefaultNla>) -> Self {
        const SET_NAME: u16 = 1;
        const OPERATION: u16 = 3;
        const KEY_REGISTER: u16 = 4;
        const EXPRESSION: u16 = 7;
        const ADD: u32 = 0;
        const UPDATE: u32 = 1;
        let family = set.family;
        let mut rule = self.meta(MetaKey::Nfproto).equals(vec![family.number()]).payload(
            Header::Network,
            family.source_offset(),
            set.key_len(),
        );
        let expression = [
            ExpressionAttribute::Name(name.to_owned()),
            ExpressionAttribute::Data(Expressions::Other { expression_type: name.to_owned(), attributes }),
        ];
        let mut bytes = vec![0; expression.as_slice().buffer_len()];
        expression.as_slice().emit(&mut bytes);
        let mut set_name = set.name.as_bytes().to_vec();
        set_name.push(0);
        rule.other(
            "dynset",
            [
                DefaultNla::new(SET_NAME, set_name),
                number(OPERATION, if set.timeout.is_some() { UPDATE } else { ADD }),
                number(KEY_REGISTER, Register::Reg1.into()),
                DefaultNla::new(EXPRESSION | NLA_F_NESTED, bytes),
            ],
        );
        rule
    }

    /// Counts packets that come so far.
    #[must_use]
    pub fn count(mut self) -> Self {
        self.other("counter", []);
        self
    }

    /// Says in the list of rules what it is for.
    #[must_use]
    pub const fn because(mut self, comment: &'static str) -> Self {
        self.comment = Some(comment);
        self
    }

    /// Goes no further, and its sender is told so: of TCP by a reset, else by ICMP's "port unreachable".
    #[must_use]
    pub fn reject(mut self, with_reset: bool) -> Self {
        const TYPE: u16 = 1;
        const CODE: u16 = 2;
        const RESET: u32 = 1;
        const UNREACHABLE: u32 = 2;
        const PORT: u8 = 1;
        if with_reset {
            self.other("reject", [number(TYPE, RESET)]);
        } else {
            self.other("reject", [number(TYPE, UNREACHABLE), DefaultNla::new(CODE, vec![PORT])]);
        }
        self
    }

    /// Goes on in another chain of the table.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())])
    }

    /// Goes on behind the rule that led to this chain.
    #[must_use]
    pub fn leave(self) -> Self {
        self.verdict(vec![VerdictAttribute::Code(Verdict::Return)])
    }

    /// Has passed all rules of this place; those of others follow.
    #[must_use]
    pub fn accept(self) -> Self {
        /// NF_ACCEPT of linux/netfilter.h.
        const ACCEPT: u32 = 1;
        self.verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))])
    }

    /// Goes no further.
    #[must_use]
    pub fn discard(self) -> Self {
        /// NF_DROP of linux/netfilter.h.
        const DROP: u32 = 0;
        self.verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))])
    }

    /// Gives its connection the address of the interface by which it leaves.
    #[must_use]
    pub fn masquerade(mut self) -> Self {
        self.other("masq", []);
        self
    }

    /// Like [`Self::masquerade`], with a source port between these two. One that is between them already stays, if it can.
    #[must_use]
    pub fn masquerade_with_port(mut self, first: u16, last: u16) -> Self {
        // NFTA_MASQ_FLAGS, -REG_PROTO_MIN and -MAX of linux/netfilter/nf_tables.h.
        const FLAGS: u16 = 1;
        const FIRST_REGISTER: u16 = 2;
        const LAST_REGISTER: u16 = 3;
        // NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h: without it the kernel ignores the ports.
        const BETWEEN: u32 = 2;
        self.load(Register::Reg1, first.to_be_bytes().to_vec());
        self.load(Register::Reg2, last.to_be_bytes().to_vec());
        self.other(
            "masq",
            [
                number(FLAGS, BETWEEN),
                number(FIRST_REGISTER, Register::Reg1.into()),
                number(LAST_REGISTER, Register::Reg2.into()),
            ],
        );
        self
    }

    /// Has its connection go to another address and port.
    #[must_use]
    pub fn dnat(mut self, target: SocketAddr) -> Self {
        const TYPE: u16 = 1;
        const FAMILY: u16 = 2;
        const ADDRESS_REGISTER: u16 = 3;
        const PORT_REGISTER: u16 = 5;
        const TO_DESTINATION: u32 = 1;
        let address = match target.ip() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        self.load(Register::Reg1, address);
        self.load(Register::Reg2, target.port().to_be_bytes().to_vec());
        self.other(
            "nat",
            [
                number(TYPE, TO_DESTINATION),
                number(FAMILY, family(target.ip()).into()),
                number(ADDRESS_REGISTER, Register::Reg1.into()),
                number(PORT_REGISTER, Register::Reg2.into()),
            ],
        );
        self
    }

    fn load(&mut self, register: Register, value: Vec<u8>) {
        self.expressions.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(register),
            Immediate::Data(DataAttribute::Value(value)),
        ]));
    }

    /// If it is of the family of an address.
    #[must_use]
    pub fn of_family(self, address: IpAddr) -> Self {
        self.meta(MetaKey::Nfproto).equals(vec![family(address)])
    }

    /// Lowers its announced segment size to what the ways there and back carry.
    #[must_use]
    pub fn clamp_mss(mut self) -> Self {
        let register = u32::from(Register::Reg1);
        {
            const DESTINATION_REGISTER: u16 = 1;
            const KEY: u16 = 2;
            const SEGMENT_SIZE: u32 = 3;
            self.other("rt", [number(DESTINATION_REGISTER, register), number(KEY, SEGMENT_SIZE)]);
        }
        {
            const SOURCE_REGISTER: u16 = 1;
            const DESTINATION_REGISTER: u16 = 2;
            const OPERATION: u16 = 3;
            const LEN: u16 = 4;
            const SIZE: u16 = 5;
            const TO_NETWORK: u32 = 1;
            self.other(
                "byteorder",
                [
                    number(SOURCE_REGISTER, register),
                    number(DESTINATION_REGISTER, register),
                    number(OPERATION, TO_NETWORK),
                    number(LEN, MSS_LEN),
                    number(SIZE, MSS_LEN),
                ],
            );
        }
        {
            const TYPE: u16 = 2;
            const OFFSET: u16 = 3;
            const LEN: u16 = 4;
            const OPERATION: u16 = 6;
            const SOURCE_REGISTER: u16 = 7;
            const TCP_OPTION: u32 = 1;
            self.other(
                "exthdr",
                [
                    number(SOURCE_REGISTER, register),
                    DefaultNla::new(TYPE, vec![TCP_OPTION_MSS]),
                    number(OFFSET, MSS_OFFSET),
                    number(LEN, MSS_LEN),
                    number(OPERATION, TCP_OPTION),
                ],
            );
        }
        self
    }

    pub(super) fn into_parts(self) -> (Vec<Expressions>, Option<&'static str>) {
        (self.expressions, self.comment)
    }

    fn address_in(self, net: IpNet, ipv4_offset: u32, ipv6_offset: u32) -> Self {
        let (offset, network, mask) = match net {
            IpNet::V4(net) => (ipv4_offset, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
            IpNet::V6(net) => (ipv6_offset, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        };
        let loaded = self.of_family(net.addr()).payload(Header::Network, offset, network.len());
        let masked = if net.prefix_len() == net.max_prefix_len() { loaded } else { loaded.masked(mask) };
        masked.equals(network)
    }

    fn in_state(self, bits: u32) -> Self {
        self.tracked(Tracked::State, bits).compares(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    fn tracked(mut self, what: Tracked, bits: u32) -> Self {
        const DESTINATION_REGISTER: u16 = 1;
        const KEY: u16 = 2;
        self.other("ct", [number(DESTINATION_REGISTER, Register::Reg1.into()), number(KEY, what as u32)]);
        self.masked(bits.to_ne_bytes().to_vec())
    }

    fn meta(mut self, key: MetaKey) -> Self {
        self.expressions.push(Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]));
        self
    }

    fn payload(mut self, header: Header, offset: u32, len: usize) -> Self {
        self.expressions.push(Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(header as u32),
            Payload::Offset(offset),
            Payload::Len(length(len)),
        ]));
        self
    }

    fn masked(mut self, mask: Vec<u8>) -> Self {
        let zeros = vec![0; mask.len()];
        self.expressions.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(length(mask.len())),
            Bitwise::Mask(DataAttribute::Value(mask)),
            Bitwise::Xor(DataAttribute::Value(zeros)),
        ]));
        self
    }

    fn equals(self, value: Vec<u8>) -> Self {
        self.compares(Operator::Equal, value)
    }

    fn compares(mut self, operator: Operator, value: Vec<u8>) -> Self {
        self.expressions.push(Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value)),
        ]));
        self
    }

    fn verdict(mut self, verdict: Vec<VerdictAttribute>) -> Self {
        self.expressions.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]));
        self
    }

    /// An expression that the crate has no type for.
    fn other<const N: usize>(&mut self, name: &str, attributes: [DefaultNla; N]) {
        self.expressions.push(Expressions::Other { expression_type: name.to_owned(), attributes: attributes.into() });
    }
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => Family::Ipv4.number(),
        IpAddr::V6(_) => Family::Ipv6.number(),
    }
}

fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_LEN, 0);
    bytes
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// nf_tables' numbers are big-endian, other than most of netlink's.
fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn long_number(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
