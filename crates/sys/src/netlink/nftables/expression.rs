//! Expressions of nftables rules in the kernel's form (linux/netfilter/nf_tables.h). Those that load something load it into
//! the first register, and those that compare or change something take it from there.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use super::rule::{Rate, Rejection};
use super::set::Set;

/// RTN_LOCAL of linux/rtnetlink.h, the type of this machine's own addresses.
const LOCAL: u32 = 2;

/// Where a part of a packet is (`enum nft_payload_bases`).
#[derive(Clone, Copy)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

/// What connection tracking knows of a packet's connection (`enum nft_ct_keys`).
#[derive(Clone, Copy)]
pub(super) enum Tracked {
    State = 0,
    Status = 2,
}

/// Loads a property of the packet that is not in the packet itself.
pub(super) fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

/// Loads a part of the packet.
pub(super) fn payload(header: Header, offset: u32, len: usize) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(header as u32),
        Payload::Offset(offset),
        Payload::Len(length(len)),
    ])
}

/// Loads something that connection tracking knows.
pub(super) fn ct(key: Tracked) -> Expressions {
    const DESTINATION_REGISTER: u16 = 1;
    const KEY: u16 = 2;
    other("ct", vec![first_register(DESTINATION_REGISTER), number(KEY, key as u32)])
}

/// Loads the type of the destination address.
pub(super) fn destination_type() -> Expressions {
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 2;
    fib(ADDRESS_TYPE, OF_DESTINATION)
}

/// Loads the number of the interface by which the packet has come in, or 0 if the kernel's way to its source is another one.
pub(super) fn way_back() -> Expressions {
    const INTERFACE: u32 = 1;
    const OF_SOURCE: u32 = 1;
    const BY_INTERFACE: u32 = 8;
    fib(INTERFACE, OF_SOURCE | BY_INTERFACE)
}

/// Loads what the kernel's routes say of an address.
fn fib(result: u32, flags: u32) -> Expressions {
    const DESTINATION_REGISTER: u16 = 1;
    const RESULT: u16 = 2;
    const FLAGS: u16 = 3;
    other("fib", vec![first_register(DESTINATION_REGISTER), number(RESULT, result), number(FLAGS, flags)])
}

/// The value that [`destination_type`] loads for this machine's own addresses.
pub(super) fn local_type() -> Vec<u8> {
    LOCAL.to_ne_bytes().to_vec()
}

/// Loads 1 if the packet has this extension header of IPv6, else 0.
pub(super) fn has_extension(header: u8) -> Expressions {
    const DESTINATION_REGISTER: u16 = 1;
    const TYPE: u16 = 2;
    const OFFSET: u16 = 3;
    const LEN: u16 = 4;
    const FLAGS: u16 = 5;
    const IS_PRESENT: u32 = 1;
    let attributes = vec![
        first_register(DESTINATION_REGISTER),
        DefaultNla::new(TYPE, vec![header]),
        number(OFFSET, 0),
        number(LEN, 1),
        number(FLAGS, IS_PRESENT),
    ];
    other("exthdr", attributes)
}

/// Keeps the bits of a mask of what was loaded.
pub(super) fn mask(mask: Vec<u8>) -> Expressions {
    let zeros = vec![0; mask.len()];
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(length(mask.len())),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(zeros)),
    ])
}

/// Ends the rule for packets that don't compare so.
pub(super) fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// Puts what was loaded into a set, with an expression of its own for each element, which then decides.
pub(super) fn update_set(set: &Set, (name, attributes): (&'static str, Vec<DefaultNla>)) -> Expressions {
    const SET_NAME: u16 = 1;
    const OPERATION: u16 = 3;
    const KEY_REGISTER: u16 = 4;
    const EXPRESSION: u16 = 7;
    const ADD: u32 = 0;
    const UPDATE: u32 = 1;
    let expression = [ExpressionAttribute::Name(name.to_owned()), ExpressionAttribute::Data(other(name, attributes))];
    let mut bytes = vec![0; expression.as_slice().buffer_len()];
    expression.as_slice().emit(&mut bytes);
    let attributes = vec![
        DefaultNla::new(SET_NAME, [set.name.as_bytes(), &[0]].concat()),
        number(OPERATION, if set.timeout.is_some() { UPDATE } else { ADD }),
        first_register(KEY_REGISTER),
        DefaultNla::new(EXPRESSION | NLA_F_NESTED, bytes),
    ];
    other("dynset", attributes)
}

/// For [`update_set`]: true for more connections than these.
pub(super) fn more_connections_than(max: u32) -> (&'static str, Vec<DefaultNla>) {
    const COUNT: u16 = 1;
    const FLAGS: u16 = 2;
    const OVER: u32 = 1;
    ("connlimit", vec![number(COUNT, max), number(FLAGS, OVER)])
}

/// For [`update_set`]: true for what is faster than this rate.
pub(super) fn faster_than(rate: Rate) -> (&'static str, Vec<DefaultNla>) {
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
    ("limit", attributes)
}

/// For [`update_set`]: counts.
pub(super) const fn counter_of_element() -> (&'static str, Vec<DefaultNla>) {
    ("counter", Vec::new())
}

/// Counts packets.
pub(super) fn counter() -> Expressions {
    other("counter", Vec::new())
}

/// Decides.
pub(super) fn verdict(verdict: Vec<VerdictAttribute>) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(verdict)),
    ])
}

/// NF_DROP of linux/netfilter.h.
pub(super) fn drop_verdict() -> Expressions {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(0))])
}

/// NF_ACCEPT of linux/netfilter.h.
pub(super) fn accept_verdict() -> Expressions {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(1))])
}

/// Drops the packet and tells its sender.
pub(super) fn reject(how: Rejection) -> Expressions {
    const TYPE: u16 = 1;
    const CODE: u16 = 2;
    const UNREACHABLE: u32 = 2;
    const RESET: u32 = 1;
    const PORT: u8 = 1;
    let attributes = match how {
        Rejection::TcpReset => vec![number(TYPE, RESET)],
        Rejection::PortUnreachable => vec![number(TYPE, UNREACHABLE), DefaultNla::new(CODE, vec![PORT])],
    };
    other("reject", attributes)
}

/// Changes the source to the address of the interface by which the packet leaves.
pub(super) fn masquerade() -> Expressions {
    other("masq", Vec::new())
}

/// Like [`masquerade`], with a source port between these two.
pub(super) fn masquerade_with_port(first: u16, last: u16) -> [Expressions; 3] {
    // NFTA_MASQ_FLAGS, -REG_PROTO_MIN and -MAX of linux/netfilter/nf_tables.h.
    const FLAGS: u16 = 1;
    const FIRST_REGISTER: u16 = 2;
    const LAST_REGISTER: u16 = 3;
    // NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h: without it the kernel ignores the ports.
    const BETWEEN: u32 = 2;
    let attributes = vec![
        number(FLAGS, BETWEEN),
        number(FIRST_REGISTER, Register::Reg1.into()),
        number(LAST_REGISTER, Register::Reg2.into()),
    ];
    [
        constant(Register::Reg1, first.to_be_bytes().to_vec()),
        constant(Register::Reg2, last.to_be_bytes().to_vec()),
        other("masq", attributes),
    ]
}

/// Changes the destination. `family` is the address family as nf_tables numbers it.
pub(super) fn dnat(target: SocketAddr, family: u8) -> [Expressions; 3] {
    const TYPE: u16 = 1;
    const FAMILY: u16 = 2;
    const ADDRESS_REGISTER: u16 = 3;
    const PORT_REGISTER: u16 = 5;
    const TO_DESTINATION: u32 = 1;
    let address = match target.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let attributes = vec![
        number(TYPE, TO_DESTINATION),
        number(FAMILY, family.into()),
        number(ADDRESS_REGISTER, Register::Reg1.into()),
        number(PORT_REGISTER, Register::Reg2.into()),
    ];
    [
        constant(Register::Reg1, address),
        constant(Register::Reg2, target.port().to_be_bytes().to_vec()),
        other("nat", attributes),
    ]
}

/// The MSS in a TCP header: the kind of the option, and where its value is, behind kind and length.
const TCP_OPTION_MSS: u8 = 2;
const MSS_OFFSET: u32 = 2;
const MSS_LEN: u32 = 2;

/// Lowers the MSS to what the routes of both directions carry.
pub(super) fn clamp_mss() -> [Expressions; 3] {
    [load_route_mss(), to_network_order(MSS_LEN), write_mss()]
}

fn load_route_mss() -> Expressions {
    const DESTINATION_REGISTER: u16 = 1;
    const KEY: u16 = 2;
    const MSS: u32 = 3;
    other("rt", vec![first_register(DESTINATION_REGISTER), number(KEY, MSS)])
}

fn to_network_order(len: u32) -> Expressions {
    const SOURCE_REGISTER: u16 = 1;
    const DESTINATION_REGISTER: u16 = 2;
    const OPERATION: u16 = 3;
    const LEN: u16 = 4;
    const SIZE: u16 = 5;
    const TO_NETWORK: u32 = 1;
    let attributes = vec![
        first_register(SOURCE_REGISTER),
        first_register(DESTINATION_REGISTER),
        number(OPERATION, TO_NETWORK),
        number(LEN, len),
        number(SIZE, len),
    ];
    other("byteorder", attributes)
}

fn write_mss() -> Expressions {
    const TYPE: u16 = 2;
    const OFFSET: u16 = 3;
    const LEN: u16 = 4;
    const OPERATION: u16 = 6;
    const SOURCE_REGISTER: u16 = 7;
    const TCP_OPTION: u32 = 1;
    let attributes = vec![
        first_register(SOURCE_REGISTER),
        DefaultNla::new(TYPE, vec![TCP_OPTION_MSS]),
        number(OFFSET, MSS_OFFSET),
        number(LEN, MSS_LEN),
        number(OPERATION, TCP_OPTION),
    ];
    other("exthdr", attributes)
}

/// Loads a constant.
fn constant(register: Register, value: Vec<u8>) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(register), Immediate::Data(DataAttribute::Value(value))])
}

/// An expression that the crate has no type for.
fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn first_register(kind: u16) -> DefaultNla {
    number(kind, Register::Reg1.into())
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// nf_tables' numbers are big-endian, unlike most of netlink's.
fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn long_number(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
