//! Packets to other routers, as UDP datagrams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tuntap_wire::gso::GsoPacket;
use tuntap_wire::ip::{IPV6_MIN_MTU, Packet};
use tuntap_wire::segment::{BatchBounds, for_each_batch};

use super::Router;
use super::counters::Counters;
use super::notice::Notice;
use super::shell::{BatchError, Fault, Shell};
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;

/// The most packets that leave with one system call: UDP_MAX_SEGMENTS in kernels since 4.18, some of which take more.
const BATCH_PACKETS: usize = 64;

/// The most bytes that leave with one system call, with one IP header and one UDP header: the kernel builds one long datagram,
/// and cuts it when it leaves.
const BATCH_LEN: u16 = u16::MAX;

/// Returns the length of the IP and UDP headers around a packet in bytes.
const fn tunnel_headers_len(target: SocketAddr) -> u16 {
    match target {
        SocketAddr::V4(_) => 20 + 8,
        SocketAddr::V6(_) => 40 + 8,
    }
}

/// What is known of the path to another router.
#[derive(Debug, Clone, Copy)]
struct Path {
    /// The length in bytes of the longest packet that travels in one unfragmented datagram, if the kernel knows it.
    longest: Option<u16>,
    /// When the kernel is asked again.
    ask_at: Instant,
    /// From when on batches are sent.
    batches_at: Instant,
}

/// A cache of the paths to other routers.
#[derive(Debug, Default)]
pub struct Paths {
    by_target: HashMap<SocketAddr, Path>,
    /// Why the kernel has refused batches so far. There are as many reasons as error numbers that the shell reports as such.
    refusals: Vec<Fault>,
}

impl Paths {
    /// How long an answer of the kernel is used, and how long no batch is sent after one was refused. The kernel's answer changes
    /// when an ICMP message comes.
    const LIFETIME: Duration = Duration::from_secs(5);

    /// The maximum number of targets in the cache. Peers can name targets in their rules.
    const MAX: usize = 256;

    /// Returns the length of the longest packet for a target, if the kernel knows it, and whether batches may be sent.
    fn get(
        &mut self,
        target: SocketAddr,
        now: Instant,
        path_mtu: impl FnOnce(SocketAddr) -> Option<u16>,
    ) -> (Option<u16>, bool) {
        let known = self.by_target.get(&target).copied();
        let path = match known {
            Some(path) if now < path.ask_at => path,
            _ => {
                if known.is_none() && self.by_target.len() >= Self::MAX {
                    self.by_target.clear();
                }
                let longest = path_mtu(target).map(|mtu| mtu.saturating_sub(tunnel_headers_len(target)));
                let batches_at = known.map_or(now, |path| path.batches_at);
                let path = Path { longest, ask_at: now + Self::LIFETIME, batches_at };
                self.by_target.insert(target, path);
                path
            }
        };
        (path.longest, now >= path.batches_at)
    }

    /// Sends no batches to a target for a while, because the kernel has refused one. Returns a reason that there was not before.
    fn refused(&mut self, target: SocketAddr, error: BatchError, now: Instant) -> Option<Fault> {
        if let Some(path) = self.by_target.get_mut(&target) {
            path.batches_at = now + Self::LIFETIME;
            if error == BatchError::TooLong {
                path.ask_at = now;
            }
        }
        match error {
            BatchError::Unsupported(fault) if !self.refusals.contains(&fault) => {
                self.refusals.push(fault.clone());
                Some(fault)
            }
            _ => None,
        }
    }
}

/// Returns the length above which a packet is refused as too long. An IPv6 packet that every link has to accept is sent in
/// any case; the kernel may fragment the datagram around it.
fn longest(packet: &Packet<'_>, path: u16) -> u16 {
    if packet.is_v4() { path } else { path.max(IPV6_MIN_MTU) }
}

/// A packet of a peer on its way to another router.
struct Departure<'a, S> {
    shell: &'a mut S,
    counters: &'a mut Counters,
    target: SocketAddr,
    /// The longest packet that may go; `None` if it may be fragmented on the way.
    longest: Option<u16>,
    /// The longest packet that may be in a batch; `None` if batches can't be sent.
    longest_in_batch: Option<u16>,
    /// Why the latest batch was refused.
    refusal: Option<BatchError>,
    result: Result<(), DropReason>,
}

impl<S: Shell> Departure<'_, S> {
    /// Sends packets of `len` bytes, of which the last one may be shorter.
    fn send(&mut self, packets: &[u8], len: usize) {
        if packets.len() <= len || self.longest_in_batch.is_none_or(|longest| len > usize::from(longest)) {
            return self.send_singly(packets, len);
        }
        match self.shell.send_datagrams(self.target, packets, len) {
            Ok(()) => {
                self.count(packets.len().div_ceil(len), packets.len());
                self.counters.totals.gateway_tx_batches += 1;
            }
            Err(BatchError::Failed(_)) => self.result = Err(DropReason::GatewayRefused),
            Err(error) => {
                self.refusal = Some(error);
                self.longest_in_batch = None;
                self.send_singly(packets, len);
            }
        }
    }

    fn send_singly(&mut self, packets: &[u8], len: usize) {
        for bytes in packets.chunks(len) {
            if self.longest.is_some_and(|longest| bytes.len() > usize::from(longest)) {
                self.result = Err(DropReason::TooBig);
                continue;
            }
            match self.shell.send_datagram(self.target, bytes) {
                Ok(()) => self.count(1, bytes.len()),
                Err(_) => self.result = Err(DropReason::GatewayRefused),
            }
        }
    }

    const fn count(&mut self, packets: usize, bytes: usize) {
        self.counters.totals.gateway_tx_packets += packets as u64;
        self.counters.totals.gateway_tx_bytes += bytes as u64;
    }
}

impl Router {
    /// Sends a peer's packet to another router. If it is too long for one datagram and must not be fragmented, its sender
    /// gets an ICMP error with the MTU; else the kernel fragments the datagram. The segments of a GSO packet leave together if
    /// none needs to be fragmented.
    pub(super) fn send_to_gateway(
        &mut self,
        shell: &mut impl Shell,
        id: PeerId,
        target: SocketAddr,
        packet: &GsoPacket<'_>,
    ) -> Result<(), DropReason> {
        if self.settings.gateway.is_none() {
            return Err(DropReason::NoGateway);
        }
        let (path, takes_batches) = self.paths.get(target, self.now, |target| shell.path_mtu(target));
        let longest = path.filter(|_| packet.packet().must_not_fragment()).map(|path| longest(packet.packet(), path));
        let bounds = BatchBounds { packets: BATCH_PACKETS, bytes: usize::from(BATCH_LEN - tunnel_headers_len(target)) };
        let mut departure = Departure {
            shell: &mut *shell,
            counters: &mut self.counters,
            target,
            longest,
            longest_in_batch: path.filter(|_| takes_batches),
            refusal: None,
            result: Ok(()),
        };
        for_each_batch(packet.offload(), packet.packet(), bounds, &mut self.scratch, |packets, len| {
            departure.send(packets, len);
        });
        let Departure { refusal, result, .. } = departure;
        if let Some(fault) = refusal.and_then(|error| self.paths.refused(target, error, self.now)) {
            self.note_fault(shell, None, &Notice::NoBatches { target, fault });
        }
        // All segments of a GSO packet cause one ICMP error.
        if let (Err(DropReason::TooBig), Some(mtu)) = (result, longest) {
            self.too_big_outbound(shell, id, packet.packet(), mtu);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use etherparse::PacketBuilder;
    use tuntap_wire::credentials::PeerCredentials;
    use tuntap_wire::segment::for_each_packet;
    use tuntap_wire::vnet::VNET_HEADER_LEN;

    use super::super::Settings;
    use super::super::shell::WriteError;
    use super::super::testing::{self, TestShell};
    use super::*;
    use crate::policy::Policy;
    use crate::policy::forward::Forwarder;

    #[test]
    fn headers_around_a_packet_count() {
        let mut paths = Paths::default();
        let now = Instant::now();
        for (address, headers_len) in [("127.0.0.1:9", 28), ("[::1]:9", 48)] {
            let target: SocketAddr = address.parse().expect("an address");
            assert_eq!(paths.get(target, now, |_| Some(1500)), (Some(1500 - headers_len), true), "{address}");
        }
    }

    #[test]
    fn answers_of_the_kernel_are_bounded_and_age() {
        let mut paths = Paths::default();
        let now = Instant::now();
        let target = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut ask = |port, later, mtu| paths.get(target(port), now + Duration::from_secs(later), |_| mtu).0;
        assert_eq!(ask(1, 0, Some(128)), Some(100));
        assert_eq!(ask(1, 4, Some(1028)), Some(100));
        assert_eq!(ask(1, 5, Some(1028)), Some(1000));
        assert_eq!(ask(2, 0, None), None);
        (3..1000).for_each(|port| _ = ask(port, 0, Some(1500)));
        assert!(paths.by_target.len() <= Paths::MAX);
    }

    #[test]
    fn ipv6_packets_that_every_link_takes_are_never_too_long() {
        let v6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64], [0xfd; 32].as_slice()].concat();
        let v4 = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        assert_eq!(longest(&Packet::parse(&v6).expect("valid"), 1000), 1280);
        assert_eq!(longest(&Packet::parse(&v6).expect("valid"), 1400), 1400);
        assert_eq!(longest(&Packet::parse(&v4).expect("valid"), 1000), 1000);
    }

    const TARGET: &str = "192.0.2.1:4000";

    /// A router whose peer sends to another router, and the peer.
    fn world(path_mtu: Option<u16>) -> (TestShell, Router, PeerId) {
        let now = Instant::now();
        let mut shell = TestShell { path_mtu, ..TestShell::default() };
        let settings = Settings { gateway: Some("192.0.2.2:4000".parse().expect("valid")), ..Settings::default() };
        let mut router = Router::new(Forwarder::new(Policy::default(), 1), settings, now);
        let credentials = PeerCredentials { pid: 1, uid: 1000, gid: 1000 };
        let id = testing::connect_in_frames(&mut router, &mut shell, credentials, now);
        (shell, router, id)
    }

    /// A super-packet of TCP, in segments of `len` bytes with their headers.
    fn super_packet(len: u16, payload_len: usize, may_fragment: bool) -> Vec<u8> {
        let mut bytes = vec![0; VNET_HEADER_LEN];
        (bytes[0], bytes[1]) = (1, 1);
        for (at, value) in [(4, len - 40), (6, 20), (8, 16)] {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        let payload: Vec<u8> = (0..payload_len).map(|at| u8::try_from(at % 251).expect("below 251")).collect();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 1, 0, 1], 64)
            .tcp(1, 2, 3, 4)
            .ack(5)
            .write(&mut bytes, &payload)
            .expect("valid");
        if may_fragment {
            bytes[VNET_HEADER_LEN + 6] = 0;
        }
        bytes
    }

    fn send((shell, router, id): &mut (TestShell, Router, PeerId), bytes: &[u8]) -> Result<(), DropReason> {
        let packet = GsoPacket::parse(bytes).expect("valid");
        router.send_to_gateway(shell, *id, TARGET.parse().expect("valid"), &packet)
    }

    /// The number of packets of each system call.
    fn calls(shell: &TestShell) -> Vec<usize> {
        shell.to_gateways.iter().map(Vec::len).collect()
    }

    fn singly(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (packet, mut all) = (GsoPacket::parse(bytes).expect("valid"), Vec::new());
        for_each_packet(packet.offload(), packet.packet(), &mut Vec::new(), |bytes| all.push(bytes.to_vec()));
        all
    }

    #[test]
    fn super_packets_leave_in_batches() {
        for (len, payload_len, expected) in [
            (1472, 1432 * 44, vec![44]),
            (1472, 1432 * 45, vec![44, 1]),
            (1472, 1432 + 1, vec![2]),
            (1472, 1432, vec![1]),
            (140, 100 * 130, vec![64, 64, 2]),
        ] {
            let mut world = world(Some(1500));
            let bytes = super_packet(len, payload_len, false);
            assert_eq!(send(&mut world, &bytes), Ok(()));
            assert_eq!(calls(&world.0), expected, "{len}, {payload_len}");
            assert_eq!(world.0.to_gateways.concat(), singly(&bytes), "the same packets in the same order");
            let totals = &world.1.counters().totals;
            let all = singly(&bytes);
            let sent = (all.len() as u64, all.iter().map(Vec::len).sum::<usize>() as u64);
            assert_eq!((totals.gateway_tx_packets, totals.gateway_tx_bytes), sent);
            assert_eq!(totals.gateway_tx_batches, expected.iter().filter(|count| **count > 1).count() as u64);
        }
    }

    #[test]
    fn what_has_to_be_fragmented_leaves_singly_and_what_must_not_be_is_answered() {
        let mut narrow = world(Some(1400));
        let bytes = super_packet(1472, 1432 * 3, true);
        assert_eq!(send(&mut narrow, &bytes), Ok(()));
        assert_eq!((calls(&narrow.0), narrow.0.batches_tried), (vec![1, 1, 1], 0));
        let mut narrow = world(Some(1400));
        assert_eq!(send(&mut narrow, &super_packet(1472, 1432 * 3, false)), Err(DropReason::TooBig));
        assert!(calls(&narrow.0).is_empty());
        let mut unknown = world(None);
        assert_eq!(send(&mut unknown, &bytes), Ok(()));
        assert_eq!((calls(&unknown.0), unknown.0.batches_tried), (vec![1, 1, 1], 0));
    }

    #[test]
    fn refused_batches_leave_singly_and_are_not_tried_again_at_once() {
        let mut world = world(Some(1500));
        let bytes = super_packet(1472, 1432 * 3, false);
        world.0.batch_error = Some(BatchError::Unsupported(Fault("EIO".to_owned())));
        for _ in 0..3 {
            assert_eq!(send(&mut world, &bytes), Ok(()));
        }
        assert_eq!((calls(&world.0), world.0.batches_tried), (vec![1; 9], 1));
        let said =
            |shell: &TestShell| shell.lines.iter().filter(|line| matches!(line, Notice::NoBatches { .. })).count();
        assert_eq!(said(&world.0), 1);
        world.1.advance(Instant::now() + Paths::LIFETIME);
        assert_eq!(send(&mut world, &bytes), Ok(()));
        assert_eq!(
            (world.0.batches_tried, said(&world.0)),
            (2, 1),
            "another path may be there, and nothing new is to be said"
        );
        world.0.batch_error = None;
        world.1.advance(Instant::now() + 2 * Paths::LIFETIME);
        assert_eq!(send(&mut world, &bytes), Ok(()));
        assert_eq!(calls(&world.0).last(), Some(&3));
        let totals = &world.1.counters().totals;
        assert_eq!((totals.gateway_tx_packets, totals.gateway_tx_batches), (15, 1));
    }

    #[test]
    fn path_that_became_narrower_is_asked_for_again() {
        let mut world = world(Some(1500));
        let bytes = super_packet(1472, 1432 * 3, false);
        (world.0.batch_error, world.0.single_error) = (Some(BatchError::TooLong), Some(WriteError::Refused));
        assert_eq!(send(&mut world, &bytes), Err(DropReason::GatewayRefused));
        (world.0.batch_error, world.0.single_error, world.0.path_mtu) = (None, None, Some(1400));
        assert_eq!(send(&mut world, &bytes), Err(DropReason::TooBig));
        let short = super_packet(1372, 1332 * 3, false);
        assert_eq!(send(&mut world, &short), Ok(()));
        assert_eq!(
            world.0.batches_tried, 1,
            "if the kernel contradicts itself, that doesn't cost a call for each packet"
        );
        world.1.advance(Instant::now() + Paths::LIFETIME);
        assert_eq!(send(&mut world, &short), Ok(()));
        assert_eq!(calls(&world.0).last(), Some(&3));
        assert!(!world.0.lines.iter().any(|line| matches!(line, Notice::NoBatches { .. })));
    }

    #[test]
    fn batch_that_finds_no_room_is_one_loss() {
        let mut world = world(Some(1500));
        world.0.batch_error = Some(BatchError::Failed(WriteError::Full));
        assert_eq!(send(&mut world, &super_packet(1472, 1432 * 3, false)), Err(DropReason::GatewayRefused));
        assert!(calls(&world.0).is_empty(), "what found no room isn't sent in another way");
        assert_eq!(world.1.counters().totals.gateway_tx_packets, 0);
    }
}
