use std::time::Duration;

use etherparse::PacketBuilder;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::holding::ClaimTime;
use tuntap_wire::selector::Selector;
use tuntap_wire::trunk::{Frames, Kind, Message};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::super::Settings;
use super::super::testing::{self, TestShell};
use super::*;
use crate::policy::Policy;
use crate::policy::forward::Forwarder;
use crate::policy::guard::{Gateways, GuardPolicy};
use crate::policy::pattern::{Action, PolicyRules, RuleId, RuleSpec};
use crate::policy::registry::PeerId;
use crate::policy::script::NoScript;
use crate::policy::verdict::{Outbound, PacketSource};
use crate::trunk::{Refusal, SILENCE_LIMIT};

/// A host with its router: vassals and the router have addresses 10.77.`number`.x.
struct Host {
    number: u8,
    router: Router,
    shell: TestShell,
}

fn router_id(number: u8) -> RouterId {
    RouterId::new(number.into()).expect("not 0")
}

const fn address(host: u8, last: u8) -> [u8; 4] {
    [10, 77, host, last]
}

/// A packet as a device gives it: behind its header.
fn packet(src: [u8; 4], dst: [u8; 4], ports: [u16; 2], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    PacketBuilder::ipv4(src, dst, 64).udp(ports[0], ports[1]).write(&mut bytes, &vec![0; len]).expect("a valid packet");
    bytes
}

struct World {
    hosts: Vec<Host>,
    now: Instant,
}

impl World {
    /// Hosts 1 to `count` that all know each other, and whose trunks are all open.
    fn new(count: u8, relay: bool, policy: impl Fn() -> Policy) -> Self {
        let now = Instant::now();
        let hosts = (1..=count).map(|number| {
            let neighbours = (1..=count).filter(|other| *other != number).map(|other| Neighbour {
                router: router_id(other),
                networks: vec!["10.77.0.0/16".parse().expect("a network")],
                relay,
            });
            let own = IpAddr::from(address(number, 1));
            let trunks =
                TrunkSettings { neighbours: neighbours.collect(), name: format!("r{number}"), addresses: vec![own] };
            let settings = Settings { router: Some(router_id(number)), trunks, ..Settings::default() };
            let policy = policy();
            let guard =
                GuardPolicy { own: vec![ipnet::IpNet::new(own, 24).expect("a length")], ..policy.guard.clone() };
            let router = Router::new(Forwarder::new(Policy { guard, switch: true, ..policy }, 1), settings, now);
            let mut host = Host { number, router, shell: TestShell::default() };
            host.router.set_clock(&mut host.shell, ClaimTime(1_000_000));
            host
        });
        Self { hosts: hosts.collect(), now }
    }

    fn connect(&mut self, one: u8, other: u8) {
        for (own, other) in [(one, other), (other, one)] {
            let now = self.now;
            let host = self.host(own);
            assert!(host.router.trunk_connected(&mut host.shell, router_id(other), now));
        }
        self.settle();
    }

    fn host(&mut self, number: u8) -> &mut Host {
        &mut self.hosts[usize::from(number) - 1]
    }

    /// Everything that is on its way arrives.
    fn settle(&mut self) {
        let now = self.now;
        for _ in 0..100 {
            let mut messages = Vec::new();
            for host in &mut self.hosts {
                let changes = host.router.take_claim_changes();
                host.router.tell_trunks(&changes);
                host.router.poll(&mut host.shell, now);
                let trunks = host.router.trunks().expect("there are some");
                let sent = host.shell.to_trunks.drain(..);
                messages.extend(sent.map(|(trunk, bytes)| (host.number, trunks.view(trunk).router, bytes)));
            }
            if messages.is_empty() {
                return;
            }
            for (from, to, bytes) in messages {
                let to = self.host(u8::try_from(to.number()).expect("small"));
                let id = to.router.trunks().and_then(|trunks| trunks.find(router_id(from))).expect("a neighbour");
                to.router.trunk_message(&mut to.shell, id, &bytes, now);
            }
        }
        panic!("it never becomes quiet");
    }

    /// A peer of a host that has claimed the address with this end, with a device.
    fn peer(&mut self, host: u8, last: u8) -> PeerId {
        let now = self.now;
        let Host { router, shell, .. } = self.host(host);
        let credentials = PeerCredentials { pid: last.into(), uid: 1000 + u32::from(last), gid: 1000 };
        let id = testing::connect_in_frames(router, shell, credentials, now);
        router.device_packet(shell, id, &packet(address(host, last), [192, 0, 2, 1], [1, 1], 0), None);
        shell.to_tun.clear();
        self.settle();
        id
    }

    fn send(&mut self, host: u8, peer: PeerId, bytes: &[u8]) {
        let Host { router, shell, .. } = self.host(host);
        router.device_packet(shell, peer, bytes, None);
        self.settle();
    }

    /// The packets that peers of a host have got in frames or by their devices.
    fn received(&mut self, host: u8) -> u64 {
        let Host { router, .. } = self.host(host);
        router.peers().map(|peer| peer.traffic().tx_packets).sum()
    }

    fn drops(&mut self, host: u8, reason: DropReason) -> u64 {
        self.host(host).router.counters().drops.get(reason)
    }
}

fn open() -> Policy {
    Policy::default()
}

#[test]
fn vassals_of_two_hosts_reach_each_other() {
    let mut world = World::new(2, false, open);
    let (a, b) = (world.peer(1, 2), world.peer(2, 2));
    let to_b = packet(address(1, 2), address(2, 2), [5, 53], 100);
    // Nobody has told of it yet, so the host is asked.
    world.send(1, a, &to_b);
    assert_eq!((world.host(1).shell.to_tun.len(), world.received(2)), (1, 0));
    world.connect(1, 2);
    // The verdict of before is not used any more, for a known flow neither.
    for count in 1..4 {
        world.send(1, a, &to_b);
        assert_eq!((world.host(1).shell.to_tun.len(), world.received(2)), (1, count));
        world.send(2, b, &packet(address(2, 2), address(1, 2), [53, 5], 100));
        assert_eq!(world.received(1), count);
    }
    let host = world.host(1);
    let (number, flow) = host.router.flows().find(|(_, flow)| flow.key().remote_port() == 53).expect("a flow");
    assert_eq!((flow.trunk(), flow.out().packets, flow.inbound().packets), (Some(TrunkId(0)), 4, 3), "{number}");
    let totals = &host.router.counters().totals;
    assert_eq!((totals.trunk_tx_packets, totals.trunk_tx_bytes, totals.trunk_rx_packets), (3, 3 * 128, 3));
    // Once the other one has gone, its packets go to the host again.
    let (now, Host { router, shell, .. }) = (world.now, world.host(2));
    router.connection_ended(shell, b, None, now);
    world.settle();
    world.send(1, a, &to_b);
    assert_eq!(world.host(1).shell.to_tun.len(), 2);
}

#[test]
fn way_over_a_trunk_is_explained() {
    let mut world = World::new(2, false, open);
    let (a, _) = (world.peer(1, 2), world.peer(2, 2));
    world.connect(1, 2);
    let bytes = packet(address(1, 2), address(2, 2), [5, 53], 0);
    let packet = tuntap_wire::ip::Packet::parse(&bytes[VNET_HEADER_LEN..]).expect("valid");
    for from in
        [crate::policy::explain::ProbeSource::Peer(a), crate::policy::explain::ProbeSource::Outside(PacketSource::Tun)]
    {
        let probe = crate::policy::explain::Probe { from, packet: &packet, state: None };
        assert_eq!(world.host(1).router.explain(&probe, &mut NoScript).to, Outbound::Trunk(TrunkId(0)));
    }
}

#[test]
fn hosts_reach_vassals_elsewhere_and_get_answers() {
    let mut world = World::new(2, false, open);
    let b = world.peer(2, 2);
    world.connect(1, 2);
    let now = world.now;
    let Host { router, shell, .. } = world.host(1);
    router.tun_packet(shell, &packet(address(1, 1), address(2, 2), [5, 53], 10), now, now);
    world.settle();
    assert_eq!(world.received(2), 1);
    world.send(2, b, &packet(address(2, 2), address(1, 1), [53, 5], 10));
    let host = world.host(1);
    assert_eq!((host.shell.to_tun.len(), host.router.counters().totals.tun_tx_packets), (1, 1));
    // Its own addresses are the host's, whoever else claims to have them.
    world.host(2).shell.to_tun.clear();
    world.send(2, b, &packet(address(2, 2), address(2, 1), [53, 5], 10));
    assert_eq!(world.host(2).shell.to_tun.len(), 1);
    // And nothing else of the host is reached over a trunk.
    world.send(2, b, &packet(address(2, 2), [192, 0, 2, 9], [53, 5], 10));
    assert_eq!(world.host(1).shell.to_tun.len(), 1);
}

#[test]
fn packets_with_somebody_elses_source_are_refused_counted_and_told_once() {
    let mut world = World::new(3, false, open);
    let (a, b) = (world.peer(1, 2), world.peer(2, 2));
    let _ = (a, b, world.peer(3, 2));
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        world.connect(one, other);
    }
    let now = world.now;
    let host = world.host(1);
    host.shell.lines.clear();
    let from_2 = host.router.trunks().and_then(|trunks| trunks.find(router_id(2))).expect("a neighbour");
    // Of a vassal of host 3, of one of this host, and of this host itself.
    for source in [address(3, 2), address(1, 2), address(1, 1)] {
        let bytes = packet(source, address(1, 2), [5, 53], 0);
        let mut message = tuntap_wire::trunk::packet_header(bytes.len(), 1).expect("short").to_vec();
        message.extend_from_slice(&bytes);
        for _ in 0..5 {
            host.router.trunk_message(&mut host.shell, from_2, &message, now);
        }
    }
    let trunks = host.router.trunks().expect("there are some");
    assert_eq!(trunks.statistics(from_2).refused(Refusal::SpoofedSource), 15);
    assert_eq!(host.shell.lines.len(), 1, "{:?}", host.shell.lines);
    assert_eq!((world.received(1), world.drops(1, DropReason::SpoofedSource)), (0, 15));
}

#[test]
fn rejection_goes_back_to_the_sender() {
    let policy = || {
        let reject = RuleSpec::new(RuleId(7), Selector::ALL, Action::Reject);
        Policy { firewall_in: PolicyRules::of([reject]), ..Policy::default() }
    };
    let mut world = World::new(2, false, policy);
    let (a, _) = (world.peer(1, 2), world.peer(2, 2));
    world.connect(1, 2);
    // The sender lets answers in.
    let policy = std::sync::Arc::new(Policy { switch: true, ..Policy::default() });
    let host = world.host(1);
    host.router.set_policy(&mut host.shell, policy);
    world.send(1, a, &packet(address(1, 2), address(2, 2), [5, 53], 10));
    assert_eq!((world.received(2), world.received(1)), (0, 1), "an ICMP error");
    assert_eq!(world.host(2).router.counters().totals.rejections, 1);
}

#[test]
fn neighbours_packets_go_on_only_with_relay() {
    for relay in [false, true] {
        let mut world = World::new(3, relay, open);
        let (a, c) = (world.peer(1, 2), world.peer(3, 2));
        world.connect(1, 2);
        world.connect(2, 3);
        world.send(1, a, &packet(address(1, 2), address(3, 2), [5, 53], 10));
        world.send(3, c, &packet(address(3, 2), address(1, 2), [53, 5], 10));
        assert_eq!((world.received(3), world.received(1)), (u64::from(relay), u64::from(relay)));
    }
}

#[test]
fn next_router_goes_on_with_open_trunks() {
    let mut world = World::new(2, false, open);
    let (_, b) = (world.peer(1, 2), world.peer(2, 2));
    world.connect(1, 2);
    let version = world.host(1).shell.stored_trunks.last().expect("it is stored").1;
    // Another router begins without the peer, whose address the neighbour has to forget.
    let fresh = World::new(2, false, open).hosts.swap_remove(0);
    *world.host(1) = fresh;
    let now = world.now;
    let host = world.host(1);
    assert!(host.router.trunk_resumed(&mut host.shell, router_id(2), version, now));
    world.settle();
    assert!(world.host(2).router.elsewhere().holder(address(1, 2).into()).is_none());
    let a = world.peer(1, 3);
    world.send(1, a, &packet(address(1, 3), address(2, 2), [5, 53], 10));
    world.send(2, b, &packet(address(2, 2), address(1, 3), [53, 5], 10));
    assert_eq!((world.received(2), world.received(1)), (1, 1));
    let opened = world.host(2).shell.lines.iter().filter(|line| line.to_string().contains("is open")).count();
    assert_eq!(opened, 1, "the neighbour's trunk went on");
}

#[test]
fn silent_neighbour_is_forgotten() {
    let mut world = World::new(2, false, open);
    let a = world.peer(1, 2);
    let _ = world.peer(2, 2);
    world.connect(1, 2);
    world.now += SILENCE_LIMIT + Duration::from_millis(1);
    let now = world.now;
    let host = world.host(1);
    assert!(host.router.poll_timeout().is_some_and(|due| due <= now));
    host.router.poll(&mut host.shell, now);
    assert!(host.shell.trunks.is_empty() && host.router.elsewhere().is_empty());
    host.router.device_packet(&mut host.shell, a, &packet(address(1, 2), address(2, 2), [5, 53], 0), None);
    assert_eq!(host.shell.to_tun.len(), 1);
}

#[test]
fn super_packets_stay_whole() {
    let mut world = World::new(2, false, open);
    let a = world.peer(1, 2);
    let _ = world.peer(2, 2);
    world.connect(1, 2);
    let mut bytes = vec![0; VNET_HEADER_LEN];
    PacketBuilder::ipv4(address(1, 2), address(2, 2), 64)
        .tcp(5, 53, 1, 1000)
        .write(&mut bytes, &vec![0; 60_000])
        .expect("a valid packet");
    // VIRTIO_NET_HDR_F_NEEDS_CSUM and VIRTIO_NET_HDR_GSO_TCPV4 (linux/virtio_net.h).
    bytes[0] = 1;
    bytes[1] = 1;
    bytes[2..4].copy_from_slice(&40_u16.to_ne_bytes());
    bytes[4..6].copy_from_slice(&1460_u16.to_ne_bytes());
    bytes[6..8].copy_from_slice(&20_u16.to_ne_bytes());
    bytes[8..10].copy_from_slice(&16_u16.to_ne_bytes());
    let host = world.host(1);
    host.router.device_packet(&mut host.shell, a, &bytes, None);
    let packets: Vec<_> = host.shell.to_trunks.iter().flat_map(|(_, message)| Frames::new(message)).collect();
    let [Ok(frame)] = packets[..] else { panic!("{packets:?}") };
    assert_eq!((frame.kind, frame.payload), (Kind::Packet, &bytes[..]));
    assert!(matches!(Message::decode(frame), Ok(Message::Packet { .. })));
}

/// A neighbour that comes and goes without end leaves lines in the log for others.
#[test]
fn lines_about_one_neighbour_leave_the_others_theirs() {
    let mut world = World::new(3, false, open);
    (0..200).for_each(|_| world.connect(1, 2));
    world.host(1).shell.lines.clear();
    world.connect(1, 3);
    let opened = |notice: &Notice| matches!(notice, Notice::Trunk(trunk::Notice::Opened { router, .. }) if *router == router_id(3));
    assert_eq!(world.host(1).shell.lines.iter().filter(|notice| opened(notice)).count(), 1);
}

/// What vassals of this host may not reach, those of others may not either: a gateway of this host, and flows of others by ICMP
/// errors about them.
#[test]
fn guard_stops_packets_of_neighbours() {
    let policy = || {
        let gateways = Gateways::new(["0.0.0.0:4000".parse().expect("an address")], [], &[], &[], []);
        Policy { guard: GuardPolicy { is_strict: true, gateways, ..GuardPolicy::default() }, ..open() }
    };
    let mut world = World::new(2, false, policy);
    let (_, _) = (world.peer(1, 2), world.peer(2, 2));
    world.connect(1, 2);
    let error_about = |receiver| {
        let inner = packet(address(1, 2), receiver, [53, 5], 8).split_off(VNET_HEADER_LEN);
        let mut bytes = vec![0; VNET_HEADER_LEN];
        // Destination unreachable, fragmentation needed (RFC 792).
        let builder = PacketBuilder::ipv4(address(2, 2), address(1, 2), 64).icmpv4_raw(3, 4, [0, 0, 2, 0]);
        builder.write(&mut bytes, &inner).expect("a valid packet");
        bytes
    };
    let mut encapsulated = packet(address(2, 2), address(1, 1), [5, 53], 8);
    encapsulated[VNET_HEADER_LEN + 9] = 4;
    let cases = [
        (packet(address(2, 2), address(1, 1), [5, 4000], 0), Some(DropReason::ToGateway)),
        (encapsulated, Some(DropReason::ToGateway)),
        (packet(address(2, 2), address(1, 1), [5, 53], 0), None),
        (error_about([192, 0, 2, 9]), Some(DropReason::ForeignError)),
        (error_about(address(2, 2)), None),
    ];
    for (bytes, stopped) in cases {
        let now = world.now;
        let host = world.host(1);
        let from_2 = host.router.trunks().and_then(|trunks| trunks.find(router_id(2))).expect("a neighbour");
        let mut message = tuntap_wire::trunk::packet_header(bytes.len(), 1).expect("short").to_vec();
        message.extend_from_slice(&bytes);
        let counted = |router: &Router| stopped.map_or(0, |reason| router.counters().drops.get(reason));
        let (before, to_tun) = (counted(&host.router), host.shell.to_tun.len());
        let delivered = host.router.peers().map(|peer| peer.traffic().tx_packets).sum::<u64>();
        host.router.trunk_message(&mut host.shell, from_2, &message, now);
        let came = host.shell.to_tun.len() - to_tun
            + usize::try_from(host.router.peers().map(|peer| peer.traffic().tx_packets).sum::<u64>() - delivered)
                .expect("few");
        assert_eq!(came, usize::from(stopped.is_none()), "{stopped:?}");
        assert_eq!(counted(&host.router) - before, u64::from(stopped.is_some()), "{stopped:?}");
    }
}
