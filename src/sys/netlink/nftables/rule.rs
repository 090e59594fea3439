//! Rules of nftables, in the kernel's own terms (linux/netfilter/nf_tables.h): expressions that load, compare and act.
//! They are the ones that nft(8) makes of its words, so that it can list them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

/// Length of an interface's name in the kernel, with the NULs behind it (IFNAMSIZ).
const INTERFACE_NAME_LEN: usize = 16;

/// RTN_LOCAL of linux/rtnetlink.h, the type of this machine's own addresses.
const LOCAL: u32 = 2;

const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const IPV6_SOURCE: u32 = 8;
const IPV6_DESTINATION: u32 = 24;
const DESTINATION_PORT: u32 = 2;

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

/// Bits of that, of linux/netfilter/nf_conntrack_common.h: packets of no connection, and those that begin one.
const STATE_INVALID_OR_NEW: u32 = 1 | 8;
/// The destination was changed (IPS_DST_NAT).
const STATUS_DIVERTED: u32 = 1 << 5;

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
pub struct Rule(Vec<Expressions>);

impl Rule {
    /// A rule for every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// If it came in by this interface.
    #[must_use]
    pub fn came_by(self, interface: &str) -> Self {
        self.meta(MetaKey::Iifname).equals(interface_name(interface))
    }

    /// If it leaves by this interface.
    #[must_use]
    pub fn leaves_by(self, interface: &str) -> Self {
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
    pub fn to_others(mut self) -> Self {
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
        self.compares(Operator::NotEqual, LOCAL.to_ne_bytes().to_vec())
    }

    /// If it is for this port.
    #[must_use]
    pub fn to_port(self, transport: Transport, port: u16) -> Self {
        self.is(transport)
            .payload(Header::Transport, DESTINATION_PORT, size_of::<u16>())
            .equals(port.to_be_bytes().to_vec())
    }

    /// If it opens a TCP connection, from either side.
    #[must_use]
    pub fn opens_tcp(self) -> Self {
        self.is(Transport::Tcp).payload(Header::Transport, TCP_FLAGS, 1).masked(vec![SYN_AND_RST]).equals(vec![SYN])
    }

    /// If it belongs to no connection yet: it begins one, or would have to belong to one.
    #[must_use]
    pub fn of_no_connection(self) -> Self {
        self.tracked(Tracked::State, STATE_INVALID_OR_NEW).compares(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    /// If [`Self::divert`] has sent its connection elsewhere, by whatever table.
    #[must_use]
    pub fn was_diverted(self) -> Self {
        self.tracked(Tracked::Status, STATUS_DIVERTED).compares(Operator::NotEqual, vec![0; size_of::<u32>()])
    }

    /// If its connection goes where it was sent to.
    #[must_use]
    pub fn was_not_diverted(self) -> Self {
        self.tracked(Tracked::Status, STATUS_DIVERTED).equals(vec![0; size_of::<u32>()])
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

    /// Has its connection go to another address and port.
    #[must_use]
    pub fn divert(mut self, target: SocketAddr) -> Self {
        const TYPE: u16 = 1;
        const FAMILY: u16 = 2;
        const ADDRESS_REGISTER: u16 = 3;
        const PORT_REGISTER: u16 = 5;
        const TO_DESTINATION: u32 = 1;
        let address = match target.ip() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let load = |register, value| {
            Expressions::Immediate(vec![
                Immediate::DestinationRegister(register),
                Immediate::Data(DataAttribute::Value(value)),
            ])
        };
        self.0.push(load(Register::Reg1, address));
        self.0.push(load(Register::Reg2, target.port().to_be_bytes().to_vec()));
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

    /// If it is of the family of an address.
    #[must_use]
    pub fn of_family(self, address: IpAddr) -> Self {
        self.meta(MetaKey::Nfproto).equals(vec![family(address)])
    }

    /// Lowers its announced segment size to what the ways there and back carry.
    #[must_use]
    pub fn clamp_segment_size(mut self) -> Self {
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

    pub(super) fn into_expressions(self) -> Vec<Expressions> {
        self.0
    }

    fn is(self, transport: Transport) -> Self {
        self.meta(MetaKey::L4Proto).equals(vec![transport as u8])
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

    fn tracked(mut self, what: Tracked, bits: u32) -> Self {
        const DESTINATION_REGISTER: u16 = 1;
        const KEY: u16 = 2;
        self.other("ct", [number(DESTINATION_REGISTER, Register::Reg1.into()), number(KEY, what as u32)]);
        self.masked(bits.to_ne_bytes().to_vec())
    }

    fn meta(mut self, key: MetaKey) -> Self {
        self.0.push(Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]));
        self
    }

    fn payload(mut self, header: Header, offset: u32, len: usize) -> Self {
        self.0.push(Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(header as u32),
            Payload::Offset(offset),
            Payload::Len(length(len)),
        ]));
        self
    }

    fn masked(mut self, mask: Vec<u8>) -> Self {
        let zeros = vec![0; mask.len()];
        self.0.push(Expressions::Bitwise(vec![
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
        self.0.push(Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value)),
        ]));
        self
    }

    fn verdict(mut self, verdict: Vec<VerdictAttribute>) -> Self {
        self.0.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]));
        self
    }

    /// An expression that the crate has no type for.
    fn other<const N: usize>(&mut self, name: &str, attributes: [DefaultNla; N]) {
        self.0.push(Expressions::Other { expression_type: name.to_owned(), attributes: attributes.into() });
    }
}

/// NFPROTO_IPV4 and NFPROTO_IPV6 of linux/netfilter.h.
const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
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
