//! Packets, honest and other ones.

use std::net::IpAddr;

use proptest::prelude::*;
use tuntap_wire::gso::GsoPacket;
use tuntap_wire::segment::for_each_packet;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::setup::{ADDRESSES, address};

/// Where a packet says that it comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// The sender's usual address.
    Usual,
    /// One of [`ADDRESSES`].
    Any(usize),
    /// What comes by the router's device is from one peer to another one, by their places among the addresses that are held.
    Peers(usize, usize),
}

/// What is in a packet.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    Udp(u16),
    Tcp,
    Ping,
    /// An ICMP error about a packet to the sender.
    Error,
    /// An ICMP error about a packet to this one of [`ADDRESSES`].
    ErrorAboutOthers(usize),
    FirstFragment,
    LaterFragment,
    /// IP in IP.
    Tunnel,
    /// Without its last bytes.
    Cut(usize),
    /// With bytes behind its end.
    Longer,
    /// One byte of its header is another one.
    Changed(usize, u8),
}

/// A packet.
#[derive(Debug, Clone, Copy)]
pub struct PacketSpec {
    pub source: Source,
    /// Of [`ADDRESSES`].
    pub destination: usize,
    pub shape: Shape,
    /// Bytes of payload.
    pub len: usize,
    pub dont_fragment: bool,
}

/// What stands before a packet on a device.
#[derive(Debug, Clone, Copy)]
pub enum Header {
    Plain,
    Tcp(u16),
    Udp(u16),
    /// Fields that don't count are set.
    Odd,
    Broken(u8),
}

const UDP: u8 = 17;
const TCP: u8 = 6;

/// A packet that a verdict of the kernel is for.
pub fn of_key(key: &tuntap_core::kernel_path::KernelKey) -> Vec<u8> {
    let builder = match (key.src, key.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => etherparse::PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (src, dst) => {
            let octets = |address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            etherparse::PacketBuilder::ipv6(octets(src), octets(dst), 64)
        }
    };
    let mut bytes = Vec::new();
    let result = match key.protocol {
        TCP => builder.tcp(key.src_port, key.dst_port, 1, 1).write(&mut bytes, &[]),
        UDP => builder.udp(key.src_port, key.dst_port).write(&mut bytes, &[]),
        _ => builder.icmpv4_echo_request(key.src_port, 1).write(&mut bytes, &[]),
    };
    result.expect("a packet");
    bytes
}

pub fn packet(longest: usize) -> impl Strategy<Value = PacketSpec> {
    let any_address = 0..ADDRESSES.len();
    let peers = (0..64_usize, 0..64_usize).prop_map(|(from, to)| Source::Peers(from, to));
    let source = prop_oneof![3 => Just(Source::Usual), 1 => any_address.clone().prop_map(Source::Any), 1 => peers];
    let shape = prop_oneof![
        10 => prop_oneof![Just(9_u16), Just(999), Just(53)].prop_map(Shape::Udp),
        5 => Just(Shape::Tcp),
        2 => Just(Shape::Ping),
        1 => Just(Shape::Error),
        1 => any_address.clone().prop_map(Shape::ErrorAboutOthers),
        1 => Just(Shape::FirstFragment),
        1 => Just(Shape::LaterFragment),
        1 => Just(Shape::Tunnel),
        1 => (1..40_usize).prop_map(Shape::Cut),
        1 => Just(Shape::Longer),
        2 => (0..40_usize, any::<u8>()).prop_map(|(at, value)| Shape::Changed(at, value))
    ];
    let len = prop_oneof![6 => 0..100_usize, 3 => 1000..1500_usize, 1 => 8100..8250_usize, 1 => 8000..=longest];
    let destination = prop_oneof![3 => 0..17_usize, 2 => any_address];
    (source, destination, shape, len, any::<bool>()).prop_map(
        move |(source, destination, shape, len, dont_fragment)| PacketSpec {
            source,
            destination,
            shape,
            len: len.min(longest),
            dont_fragment,
        },
    )
}

pub fn header() -> impl Strategy<Value = Header> {
    prop_oneof![
        6 => Just(Header::Plain),
        3 => prop_oneof![Just(1400_u16), Just(100), Just(7), Just(0)].prop_map(Header::Tcp),
        2 => prop_oneof![Just(1400_u16), Just(100)].prop_map(Header::Udp),
        1 => Just(Header::Odd),
        1 => any::<u8>().prop_map(Header::Broken)
    ]
}

impl PacketSpec {
    /// A packet of UDP.
    pub const fn plain(source: Source, destination: usize) -> Self {
        Self { source, destination, shape: Shape::Udp(9), len: 40, dont_fragment: false }
    }

    pub fn destination(&self) -> IpAddr {
        address(ADDRESSES[self.destination].0)
    }

    /// The packet's bytes. `usual` are the sender's usual addresses; `number` makes it another packet than all others.
    pub fn bytes(&self, usual: [IpAddr; 2], number: u64) -> Vec<u8> {
        let dst = self.destination();
        let src = match self.source {
            Source::Usual => usual[usize::from(dst.is_ipv6())],
            Source::Any(index) | Source::Peers(index, _) => {
                let same = ADDRESSES.iter().map(|(text, _)| address(text)).filter(|it| it.is_ipv4() == dst.is_ipv4());
                let same: Vec<_> = same.collect();
                same[index % same.len()]
            }
        };
        self.between(src, dst, number)
    }

    /// As [`Self::bytes`], with both ends.
    pub fn between(&self, src: IpAddr, dst: IpAddr, number: u64) -> Vec<u8> {
        let ports = |dst: u16| [&[0x30, 0x39], &dst.to_be_bytes()[..]].concat();
        let (protocol, mut payload) = match self.shape {
            Shape::Udp(port) => (UDP, [ports(port), vec![0; 4]].concat()),
            Shape::Tcp => (TCP, [ports(80), vec![0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]].concat()),
            Shape::Ping if dst.is_ipv4() => (1, vec![8, 0, 0, 0, 0, 1, 0, 1]),
            Shape::Ping => (58, vec![128, 0, 0, 0, 0, 1, 0, 1]),
            Shape::Error => error(dst, src),
            Shape::ErrorAboutOthers(index) => error(dst, address(ADDRESSES[index].0)),
            Shape::Tunnel => (4, vec![0x45; 20]),
            _ => (UDP, [ports(9), vec![0; 4]].concat()),
        };
        payload.resize(payload.len() + self.len.min(u16::MAX as usize - 128), 0x5a);
        payload.extend(number.to_le_bytes());
        if protocol == UDP {
            let len = u16::try_from(payload.len()).expect("short enough");
            payload[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let mut bytes = ip(src, dst, protocol, &payload);
        if bytes[0] >> 4 == 4 {
            match self.shape {
                Shape::FirstFragment => bytes[6] = 0x20,
                Shape::LaterFragment => bytes[7] = 4,
                _ if self.dont_fragment => bytes[6] = 0x40,
                _ => {}
            }
        }
        match self.shape {
            Shape::Cut(count) => bytes.truncate(bytes.len().saturating_sub(count).max(1)),
            Shape::Longer => bytes.extend([0xee; 7]),
            Shape::Changed(at, value) => {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            _ => {}
        }
        bytes
    }
}

/// Protocol and payload of an error about a packet to `receiver`.
fn error(dst: IpAddr, receiver: IpAddr) -> (u8, Vec<u8>) {
    let receiver = if receiver.is_ipv4() == dst.is_ipv4() { receiver } else { dst };
    let quoted = ip(dst, receiver, UDP, &[0x30, 0x39, 0, 9, 0, 8, 0, 0]);
    let (protocol, kind) = if dst.is_ipv4() { (1, 3) } else { (58, 1) };
    (protocol, [&[kind, 1, 0, 0, 0, 0, 0, 0], &quoted[..]].concat())
}

fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [high, low] = u16::try_from(20 + payload.len()).expect("short enough").to_be_bytes();
            [&[0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0], &src.octets()[..], &dst.octets()[..]].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [high, low] = u16::try_from(payload.len()).expect("short enough").to_be_bytes();
            [&[0x60, 0, 0, 0, high, low, protocol, 64], &src.octets()[..], &dst.octets()[..]].concat()
        }
        _ => unreachable!("both ends are of one version"),
    };
    bytes.extend_from_slice(payload);
    bytes
}

impl Header {
    /// Header and packet, as they are read from a device.
    pub fn before(self, packet: &[u8]) -> Vec<u8> {
        let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let mut header = [0; VNET_HEADER_LEN];
        let mut gso = |kind: u8, size: u16, checksum_at: u16| {
            (header[0], header[1]) = (1, kind);
            let start: u16 = if is_v4 { 20 } else { 40 };
            for (at, value) in [(4, size), (6, start), (8, checksum_at)] {
                header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            }
        };
        match self {
            Self::Plain => {}
            Self::Tcp(size) => gso(if is_v4 { 1 } else { 4 }, size, 16),
            Self::Udp(size) => gso(5, size, 6),
            Self::Odd => header[2] = 77,
            Self::Broken(value) => header[1] = value,
        }
        [&header[..], packet].concat()
    }
}

/// A packet that went into the router, and what may come out of it.
#[derive(Debug, Clone)]
pub struct Expected {
    /// As it was.
    pub bytes: Vec<u8>,
    /// What it is cut into, or itself without what stands behind its end.
    pub pieces: Vec<Vec<u8>>,
    /// Its ends; `None` if it is no packet.
    pub ends: Option<(IpAddr, IpAddr)>,
}

impl Expected {
    /// Of what was in a frame or a datagram.
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(bytes, GsoPacket::finished(bytes).ok())
    }

    /// Of what was read from a device.
    pub fn of_device(received: &[u8]) -> Self {
        Self::new(received.get(VNET_HEADER_LEN..).unwrap_or_default(), GsoPacket::parse(received).ok())
    }

    fn new(bytes: &[u8], packet: Option<GsoPacket<'_>>) -> Self {
        let mut pieces = Vec::new();
        if let Some(packet) = &packet {
            let mut scratch = Vec::new();
            for_each_packet(packet.offload(), packet.packet(), &mut scratch, |piece| pieces.push(piece.to_vec()));
        }
        let ends = packet.map(|packet| (packet.packet().src(), packet.packet().dst()));
        Self { bytes: bytes.to_vec(), pieces, ends }
    }
}
