//! Which flow a packet belongs to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tuntap_wire::ip::{FlowPorts, Packet, Quoted, Roles, protocol};
use tuntap_wire::rule::Direction;

use crate::kernel_path::KernelKey;

/// The start value of the hash, which also spreads the bits of the seed: the fractional part of the golden ratio.
const START: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bit above the type of an ICMP query that the other end has asked.
const REMOTE_ASKS: u16 = 1 << 8;

/// A flow, seen from the peer at one end. It is the same for both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    /// The upper and the lower half of the addresses. Those of IPv4 fill the lower 32 bits.
    pub(super) local: [u64; 2],
    pub(super) remote: [u64; 2],
    /// The port at the peer's end, or the identifier of an ICMP query.
    pub local_port: u16,
    /// The port at the other end, or the type of an ICMP message, with [`REMOTE_ASKS`].
    pub(super) remote_port: u16,
    /// The number of the protocol.
    pub protocol: u8,
    /// True for IPv4.
    pub is_v4: bool,
}

impl FlowKey {
    /// The flow of a packet from a peer or towards one.
    #[inline]
    pub fn of(packet: &Packet<'_>, ports: FlowPorts, direction: Direction) -> Self {
        let [src, dst] = packet.address_halves();
        Self::from_halves([src, dst], packet.is_v4(), packet.protocol(), ports, direction)
    }

    /// The flow of a packet that an ICMP error quotes.
    pub fn of_quoted(quoted: &Quoted, direction: Direction) -> Self {
        Self::between(quoted.src, quoted.dst, quoted.protocol, quoted.ports, direction)
    }

    fn between(src: IpAddr, dst: IpAddr, protocol: u8, ports: FlowPorts, direction: Direction) -> Self {
        Self::from_halves([halves(src), halves(dst)], src.is_ipv4(), protocol, ports, direction)
    }

    #[inline]
    const fn from_halves(
        [src, dst]: [[u64; 2]; 2],
        is_v4: bool,
        protocol: u8,
        ports: FlowPorts,
        direction: Direction,
    ) -> Self {
        let FlowPorts { first, second, roles } = ports;
        let is_out = matches!(direction, Direction::Out);
        let (local, remote) = if is_out { (src, dst) } else { (dst, src) };
        let (local_port, remote_port) = match (roles, is_out) {
            (Roles::Ports, false) => (second, first),
            (Roles::Asks, false) | (Roles::Answers, true) => (first, second | REMOTE_ASKS),
            _ => (first, second),
        };
        Self { local, remote, local_port, remote_port, protocol, is_v4 }
    }

    /// The port at the other end, or the type of an ICMP message.
    pub fn remote_port(&self) -> u16 {
        let icmp = if self.is_v4 { protocol::ICMP } else { protocol::ICMPV6 };
        if self.protocol == icmp { self.remote_port & !REMOTE_ASKS } else { self.remote_port }
    }

    /// Returns how the kernel recognises the flow's packets in a direction; `None` for protocols that it doesn't pass on. Of ICMP
    /// these are all but echo (RFC 792; RFC 4443, section 4).
    pub(crate) fn kernel_key(&self, direction: Direction) -> Option<KernelKey> {
        let is_out = direction == Direction::Out;
        let [src, dst] = if is_out { [self.local(), self.remote()] } else { [self.remote(), self.local()] };
        let (protocol, is_request) = (self.protocol, is_out != (self.remote_port & REMOTE_ASKS != 0));
        let [src_port, dst_port] = match (protocol, self.is_v4, self.remote_port()) {
            (protocol::TCP | protocol::UDP, _, remote_port) if is_out => [self.local_port, remote_port],
            (protocol::TCP | protocol::UDP, _, remote_port) => [remote_port, self.local_port],
            (protocol::ICMP, true, request @ 8) => [self.local_port, if is_request { request } else { 0 }],
            (protocol::ICMPV6, false, request @ 128) => [self.local_port, if is_request { request } else { 129 }],
            _ => return None,
        };
        Some(KernelKey { src, dst, protocol, src_port, dst_port })
    }

    /// The address at the peer's end.
    pub fn local(&self) -> IpAddr {
        address(self.local, self.is_v4)
    }

    /// The address at the other end.
    pub fn remote(&self) -> IpAddr {
        address(self.remote, self.is_v4)
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, address.to_bits().into()],
        IpAddr::V6(address) => split(address.to_bits()),
    }
}

#[allow(clippy::cast_possible_truncation)] // the lower bits are meant
fn address([high, low]: [u64; 2], is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from_bits(low as u32).into()
    } else {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    }
}

/// Returns the upper and the lower half.
#[allow(clippy::cast_possible_truncation)] // both halves are taken
const fn split(value: u128) -> [u64; 2] {
    [(value >> 64) as u64, value as u64]
}

/// A hash function that nobody can aim at without its seed. Each word of a key is multiplied by the seed before the next word
/// is mixed in, so that a difference in one word can't be made up for in another.
#[derive(Debug, Clone, Copy)]
pub struct Hasher {
    start: u64,
    factor: u64,
}

impl Hasher {
    /// `seed` should be hard to guess.
    pub const fn new(seed: u64) -> Self {
        // This spreads a seed of few bits, as tests have it, over all bits of a word.
        let factor = (seed ^ START).wrapping_mul(START) | 1;
        Self { start: factor.rotate_left(32) ^ START, factor }
    }

    /// Returns the hash of a key.
    #[inline]
    pub fn hash(self, key: &FlowKey) -> u64 {
        let service = u64::from(key.protocol) << 32 | u64::from(key.local_port) << 16 | u64::from(key.remote_port);
        let first = self.mix(self.start, service);
        if key.is_v4 {
            return self.mix(first, key.local[1] << 32 | key.remote[1]);
        }
        let words = [key.local[0], key.local[1], key.remote[0], key.remote[1]];
        words.into_iter().fold(first, |mixed, word| self.mix(mixed, word))
    }

    #[inline]
    fn mix(self, mixed: u64, word: u64) -> u64 {
        let [high, low] = split(u128::from(mixed ^ word) * u128::from(self.factor));
        high ^ low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(local: [u8; 4], remote: [u8; 4], ports: [u16; 2]) -> FlowKey {
        let ports = FlowPorts { first: ports[0], second: ports[1], roles: Roles::Ports };
        FlowKey::between(IpAddr::from(local), IpAddr::from(remote), protocol::TCP, ports, Direction::Out)
    }

    #[test]
    fn both_directions_are_one_flow_and_both_ends_see_two() {
        let (one, other) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3]));
        for roles in [Roles::Ports, Roles::Alike, Roles::Asks] {
            let there = FlowPorts { first: 7, second: 8, roles };
            let back = match roles {
                Roles::Ports => FlowPorts { first: 8, second: 7, roles },
                Roles::Asks => FlowPorts { roles: Roles::Answers, ..there },
                _ => there,
            };
            let out = FlowKey::between(one, other, 6, there, Direction::Out);
            assert_eq!(out, FlowKey::between(other, one, 6, back, Direction::In));
            assert_ne!(out, FlowKey::between(one, other, 6, there, Direction::In));
            assert_eq!((out.local(), out.remote()), (one, other));
        }
        let v6: IpAddr = "2001:db8::7".parse().expect("an address");
        let ends = FlowKey::between(v6, v6, 6, FlowPorts::default(), Direction::In);
        assert_eq!((ends.local(), ends.remote()), (v6, v6));
    }

    #[test]
    fn who_was_asked_may_not_ask_for_that_reason() {
        let (one, other) = (IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3]));
        let asks = FlowPorts { first: 7, second: 8, roles: Roles::Asks };
        let ours = FlowKey::between(one, other, protocol::ICMP, asks, Direction::Out);
        let theirs = FlowKey::between(other, one, protocol::ICMP, asks, Direction::In);
        assert_ne!(ours, theirs);
        assert_eq!((ours.remote_port(), theirs.remote_port()), (8, 8));
    }

    /// The flows differ in two words. The differences would cancel each other out if the words were mixed before the seed.
    #[test]
    fn nobody_can_aim_at_a_place_without_the_seed() {
        for seed in 0..50u64 {
            let hasher = Hasher::new(seed << 32 | 0x5eed);
            let at = |port: u16| {
                let [high, low] = port.to_be_bytes();
                hasher.hash(&key([10, 0, 0, 1], [10, high & 0xf, low, 2], [1, port])) & 0x3ff
            };
            let shared = (1..0x1000).filter(|&port| at(port) == at(0)).count();
            assert!(shared < 0x1000 / 32, "{shared} share a place");
        }
    }

    /// The addresses of vassals, and the ports that a kernel gives, are consecutive.
    #[test]
    fn neighbours_are_spread_over_the_places() {
        for seed in 0..50 {
            let hasher = Hasher::new(seed);
            let spread = |keys: &mut dyn Iterator<Item = FlowKey>| {
                let mut places: Vec<_> = keys.map(|key| hasher.hash(&key) & 0x3ff).collect();
                places.sort_unstable();
                places.dedup();
                places.len()
            };
            let hosts = spread(&mut (0..=255).map(|host| key([10, 0, 0, host], [192, 168, 0, 1], [1, 2])));
            let ports = spread(&mut (0..256).map(|port| key([10, 0, 0, 1], [192, 168, 0, 1], [40000 + port, 443])));
            assert!(hosts > 128 && ports > 128, "{hosts} and {ports} places with the seed {seed}");
        }
    }
}
