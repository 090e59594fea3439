//! The packets of the check of flows.

use std::net::IpAddr;

use super::super::input::Input;
use super::address;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP with these flags.
    Tcp(u8),
    Udp,
    /// An echo request or reply with this identifier.
    Echo {
        reply: bool,
        id: u16,
    },
    /// A protocol without ports.
    Other,
    /// A later fragment of a TCP packet.
    Fragment,
    /// An ICMP error about a packet between these ends, without a quotation if it is cut.
    Error {
        src: IpAddr,
        dst: IpAddr,
        ports: [u16; 2],
        is_tcp: bool,
        is_cut: bool,
    },
}

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ports: [u16; 2],
    pub(super) kind: Kind,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn flags(input: &mut Input<'_>) -> u8 {
    [SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST][input.below(6)]
}

fn ports(input: &mut Input<'_>) -> [u16; 2] {
    [[40_000, 443], [443, 40_000], [40_001, 443], [443, 40_001]][input.below(4)]
}

impl Kind {
    fn read(input: &mut Input<'_>, is_v4: bool) -> Self {
        match input.byte() % 12 {
            0..=3 => Self::Tcp(flags(input)),
            4 | 5 => Self::Udp,
            6 => Self::Echo { reply: false, id: u16::from(input.byte() & 1) },
            7 => Self::Echo { reply: true, id: u16::from(input.byte() & 1) },
            8 => Self::Other,
            9 => Self::Fragment,
            _ => {
                let (src, dst) = (address(input), address(input));
                let flags = input.byte();
                let (is_tcp, is_cut) =
                    (flags & 1 != 0, flags & 0xf0 == 0x10 || src.is_ipv4() != is_v4 || dst.is_ipv4() != is_v4);
                Self::Error { src, dst, ports: ports(input), is_tcp, is_cut }
            }
        }
    }
}

impl Spec {
    /// Reads a packet. `None` if its ends are of two versions.
    pub(super) fn read(input: &mut Input<'_>) -> Option<Self> {
        let (src, dst) = (address(input), address(input));
        let ports = ports(input);
        let kind = Kind::read(input, src.is_ipv4());
        (src.is_ipv4() == dst.is_ipv4()).then_some(Self { src, dst, ports, kind })
    }

    /// Another packet between the same ends: in the same direction, or an answer, which may be an ICMP error.
    pub(super) fn next(&self, is_answer: bool, input: &mut Input<'_>) -> Self {
        let kind = match self.kind {
            Kind::Tcp(_) => Kind::Tcp(flags(input)),
            Kind::Echo { reply, id } => Kind::Echo { reply: reply != is_answer, id },
            kind => kind,
        };
        if !is_answer {
            return Self { kind, ..*self };
        }
        let (src, dst, ports) = (self.dst, self.src, [self.ports[1], self.ports[0]]);
        match self.kind {
            Kind::Tcp(_) | Kind::Udp if input.byte() & 7 == 0 => {
                let is_tcp = self.kind != Kind::Udp;
                let kind = Kind::Error { src: self.src, dst: self.dst, ports: self.ports, is_tcp, is_cut: false };
                Self { src, dst, ports, kind }
            }
            _ => Self { src, dst, ports, kind },
        }
    }

    pub(super) fn protocol(&self) -> u8 {
        match (self.kind, self.src.is_ipv4()) {
            (Kind::Tcp(_) | Kind::Fragment, _) => 6,
            (Kind::Udp, _) => 17,
            (Kind::Other, _) => 47,
            (Kind::Echo { .. } | Kind::Error { .. }, true) => 1,
            (Kind::Echo { .. } | Kind::Error { .. }, false) => 58,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let is_v4 = self.src.is_ipv4();
        let payload = match self.kind {
            Kind::Tcp(flags) => tcp(self.ports, flags),
            Kind::Udp => udp(self.ports),
            Kind::Other | Kind::Fragment => vec![0; 24],
            Kind::Echo { reply, id } => {
                let kind = match (is_v4, reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat()
            }
            Kind::Error { src, dst, ports, is_tcp, is_cut } => {
                let kind = if is_v4 { 3 } else { 1 };
                let mut bytes = vec![kind, 1, 0, 0, 0, 0, 0, 0];
                if !is_cut {
                    let payload = if is_tcp { tcp(ports, ACK) } else { udp(ports) };
                    let quoted = packet(src, dst, if is_tcp { 6 } else { 17 }, false, &payload);
                    bytes.extend(&quoted[..quoted.len() - payload.len() + 8]);
                }
                bytes
            }
        };
        packet(self.src, self.dst, self.protocol(), self.kind == Kind::Fragment, &payload)
    }
}

fn tcp([from, to]: [u16; 2], flags: u8) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn udp([from, to]: [u16; 2]) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend([0, 8, 0, 0]);
    bytes
}

fn packet(src: IpAddr, dst: IpAddr, protocol: u8, is_later: bool, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + payload.len()).expect("short").to_be_bytes();
            let header = [0x45, 0, len[0], len[1], 0, 0, 0, u8::from(is_later), 64, protocol, 0, 0];
            [&header[..], &src.octets(), &dst.octets(), payload].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let extension = [protocol, 0, 0, 8, 0, 0, 0, 1];
            let extension = if is_later { &extension[..] } else { &[] };
            let len = u16::try_from(extension.len() + payload.len()).expect("short").to_be_bytes();
            let next = if is_later { 44 } else { protocol };
            let header = [0x60, 0, 0, 0, len[0], len[1], next, 64];
            [&header[..], &src.octets(), &dst.octets(), extension, payload].concat()
        }
        _ => panic!("{src} and {dst} are of two versions"),
    }
}
