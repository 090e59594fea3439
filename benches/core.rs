//! The cost of verdicts, claims, frames and GSO packets in the pure crates. `cargo bench` prints times; only ratios
//! within one run can be compared.
#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use ipnet::IpNet;
use tuntap_core::policy::Policy;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::grant::Identity;
use tuntap_core::policy::pattern::{Action, AnyMatchKey, PolicyRule, PolicyRules};
use tuntap_core::policy::registry::{PeerId, Registry};
use tuntap_core::policy::script::NoScript;
use tuntap_core::policy::shape::Limit;
use tuntap_core::policy::verdict::{InboundVerdict, OutboundVerdict, PacketSource};
use tuntap_core::shaper::{Item, LeafLimits, Shaper};
use tuntap_wire::frame::{self, FrameKind, Frames};
use tuntap_wire::holding::ClaimTime;
use tuntap_wire::ip::Packet;
use tuntap_wire::segment::{for_each_packet, sum};
use tuntap_wire::selector::{AddressPattern, Ports, Protocol, Selector, Service};
use tuntap_wire::vnet::Offload;

const TCP: u8 = 6;

/// The addresses of one version of IP.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    /// Outside of the peers' network.
    host: IpAddr,
    /// The first peer's address; the others follow.
    first: IpAddr,
}

const V4: Version = Version {
    name: "IPv4",
    host: IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1)),
    first: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
};

const V6: Version = Version {
    name: "IPv6",
    host: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 1, 0, 0, 0, 0, 1)),
    first: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1)),
};

/// The address that is `count` addresses further on.
fn plus(address: IpAddr, count: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() + count).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() + u128::from(count)).into(),
    }
}

fn peer(index: u32) -> PeerId {
    PeerId { index, generation: 0 }
}

fn packet(src: IpAddr, dst: IpAddr, payload_len: usize) -> Vec<u8> {
    packet_from(src, 1, dst, payload_len)
}

fn packet_from(src: IpAddr, port: u16, dst: IpAddr, payload_len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{src} and {dst} are of two versions"),
    };
    builder.tcp(port, 2, 3, 4).write(&mut bytes, &vec![7; payload_len]).expect("a valid packet");
    bytes
}

fn ip(bytes: &[u8]) -> Packet<'_> {
    Packet::parse(bytes).expect("a valid packet")
}

/// What the chain rules look at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LookAt {
    Addresses,
    Ports,
}

/// A chain with `count` rules for each version, of which only the last one matches.
fn chain(count: u32, look_at: LookAt) -> PolicyRules<Action> {
    let rule = |src, service, target| {
        let selector = Selector::new(src, AddressPattern::Any, service).expect("one version");
        PolicyRule { selector, target }
    };
    let others = (1..count).flat_map(move |index| {
        let nets = [
            IpNet::new_assert(Ipv4Addr::from_bits(0xac10_0000 + (index << 8)).into(), 24),
            IpNet::new_assert(Ipv6Addr::from_bits(0xfd01 << 112 | u128::from(index) << 64).into(), 64),
        ];
        let service = (look_at == LookAt::Ports)
            .then(|| Service { protocol: Protocol::Number(TCP), ports: Ports::new(1000, 2000) });
        nets.map(|net| rule(AddressPattern::Net(net), service, Action::Deny))
    });
    let last = (count > 0).then(|| rule(AddressPattern::Any, None, Action::Allow));
    PolicyRules::chain(others.chain(last))
}

fn forwarder(rules: u32, look_at: LookAt, peers: u32, version: Version) -> Forwarder {
    let policy =
        Policy { firewall_in: chain(rules, look_at), firewall_out: chain(rules, look_at), ..Policy::default() };
    let mut forwarder = Forwarder::new(policy, 0x5eed);
    for index in 0..peers {
        forwarder.add_peer(peer(index), Identity { uid: index, gid: index, groups: Vec::new() });
        outbound(&mut forwarder, peer(index), &packet(plus(version.first, index), version.host, 0));
    }
    forwarder
}

/// The verdict on a packet from a peer.
fn outbound(forwarder: &mut Forwarder, id: PeerId, bytes: &[u8]) -> OutboundVerdict {
    forwarder.outbound(id, &ip(bytes), &mut NoScript)
}

/// The verdict on a packet towards a peer.
fn inbound(forwarder: &mut Forwarder, bytes: &[u8]) -> InboundVerdict {
    forwarder.inbound(PacketSource::Tun, &ip(bytes), &mut NoScript)
}

/// Verdicts on packets of known flows, of which there are few or many, and on first packets.
fn flows(criterion: &mut Criterion) {
    const FLOWS: u32 = 100_000;
    let mut group = criterion.benchmark_group("flows");
    for (peers, rules) in [(10, 10), (10, 1000), (10_000, 10), (10_000, 1000)] {
        let at = |flow: u32| {
            let port = u16::try_from(1000 + flow / peers).expect("a port");
            packet_from(plus(V4.first, flow % peers), port, V4.host, 0)
        };
        let mut forwarder = forwarder(rules, LookAt::Ports, peers, V4);
        let mut next = 0;
        let few: Vec<_> = (0..10).map(at).collect();
        let name = |what| BenchmarkId::new(format!("{what}, {peers} peers"), format!("{rules} rules"));
        group.bench_function(name("10 flows of 10"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % 10;
                outbound(&mut forwarder, peer(next), black_box(&few[next as usize]))
            });
        });
        let many: Vec<_> = (0..FLOWS).map(at).collect();
        for (packet, flow) in many.iter().zip(0..) {
            outbound(&mut forwarder, peer(flow % peers), packet);
        }
        group.bench_function(name("10 flows of 100,000"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % 10;
                outbound(&mut forwarder, peer(next), black_box(&few[next as usize]))
            });
        });
        group.bench_function(name("100,000 flows"), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % FLOWS;
                outbound(&mut forwarder, peer(next % peers), black_box(&many[next as usize]))
            });
        });
        let back: Vec<_> = (0..10).map(|index| packet(V4.host, plus(V4.first, index), 0)).collect();
        group.bench_function(name("in, 10 flows"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % 10;
                inbound(&mut forwarder, black_box(&back[next as usize]))
            });
        });
        let mut bytes = packet_from(V4.first, 1, V4.host, 0);
        let mut port = 0u32;
        group.bench_function(name("first packets"), |bencher| {
            bencher.iter(|| {
                port = port.wrapping_add(1);
                // Destination and source port.
                bytes[16..20].copy_from_slice(&(0xc0a8_0000 + (port >> 16)).to_be_bytes());
                bytes[20..22].copy_from_slice(&port.to_be_bytes()[2..]);
                outbound(&mut forwarder, peer(0), black_box(&bytes))
            });
        });
    }
    group.finish();
}

fn verdicts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verdict");
    for version in [V4, V6] {
        for (rules, look_at) in
            [(0, LookAt::Addresses), (10, LookAt::Addresses), (1000, LookAt::Addresses), (1000, LookAt::Ports)]
        {
            let what = if look_at == LookAt::Ports { "rules with ports" } else { "rules" };
            let mut forwarder = forwarder(rules, look_at, 16, version);
            let packets: Vec<_> = (0..16).map(|index| packet(plus(version.first, index), version.host, 0)).collect();
            let mut next = 0;
            let name = format!("out, {}, 16 pairs, {what}", version.name);
            group.bench_with_input(BenchmarkId::new(name, rules), &rules, |bencher, _| {
                bencher.iter(|| {
                    next = (next + 1) % 16;
                    outbound(&mut forwarder, peer(next), black_box(&packets[next as usize]))
                });
            });
            let list = chain(rules, look_at);
            let flow = AnyMatchKey::of(&ip(&packets[0]));
            group.bench_with_input(
                BenchmarkId::new(format!("plain walk, {}, {what}", version.name), rules),
                &rules,
                |bencher, _| {
                    bencher.iter(|| match black_box(flow) {
                        AnyMatchKey::V4(flow) => list.v4.first_match(&flow),
                        AnyMatchKey::V6(flow) => list.v6.first_match(&flow),
                    });
                },
            );
        }
    }
    group.finish();
}

fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for version in [V4, V6] {
        for peers in [10, 10_000] {
            let mut registry = Registry::default();
            for index in 0..peers {
                registry.claim(plus(version.first, index), peer(index), ClaimTime(1));
            }
            let mut next = 0;
            let name = |what| BenchmarkId::new(format!("{what}, {}, peers", version.name), peers);
            group.bench_with_input(name("holder"), &peers, |bencher, _| {
                bencher.iter(|| {
                    next = (next + 7) % peers;
                    registry.holder(black_box(plus(version.first, next)))
                });
            });
            let mut forwarder = forwarder(0, LookAt::Addresses, peers, version);
            let packets: Vec<_> = (0..peers).map(|index| packet(version.host, plus(version.first, index), 0)).collect();
            group.bench_with_input(name("inbound verdict"), &peers, |bencher, _| {
                bencher.iter(|| {
                    next = (next + 7) % peers;
                    inbound(&mut forwarder, black_box(&packets[next as usize]))
                });
            });
        }
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let mut stream = Vec::new();
    for _ in 0..44 {
        assert!(frame::append(&mut stream, FrameKind::Packet, &packet(V4.first, V4.host, 1460)));
    }
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(44));
    group.bench_function("decode 44 packets", |bencher| {
        bencher.iter(|| Frames::new(black_box(&stream)).filter(Result::is_ok).count());
    });
    group.finish();
}

fn gso_packets(criterion: &mut Criterion) {
    let bytes = packet(V4.first, V4.host, 64_000);
    let mut header = [0; 10];
    header[0] = 1; // a checksum to complete
    header[1] = 1; // TCP over IPv4
    header[4..6].copy_from_slice(&1448u16.to_ne_bytes());
    header[6..8].copy_from_slice(&20u16.to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    let packet = Packet::parse(&bytes).expect("valid");
    let offload = Offload::parse(header, &packet).expect("valid");
    let mut scratch = Vec::new();
    let mut group = criterion.benchmark_group("GSO packet of 64 KB");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("check its header", |bencher| {
        bencher.iter(|| Offload::parse(black_box(header), black_box(&packet)));
    });
    group.bench_function("cut it, with checksums", |bencher| {
        bencher.iter(|| {
            let mut count = 0;
            for_each_packet(&offload, &packet, &mut scratch, |packet| count += black_box(packet).len());
            count
        });
    });
    group.bench_function("sum it", |bencher| bencher.iter(|| sum(0, black_box(&bytes))));
    let mut v6 = Vec::new();
    PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 64).tcp(1, 2, 3, 4).write(&mut v6, &[7; 64_000]).expect("valid");
    header[1] = 4; // TCP over IPv6
    header[6..8].copy_from_slice(&40u16.to_ne_bytes());
    let packet = Packet::parse(&v6).expect("valid");
    let offload = Offload::parse(header, &packet).expect("valid");
    group.bench_function("check the header of IPv6", |bencher| {
        bencher.iter(|| Offload::parse(black_box(header), black_box(&packet)));
    });
    group.bench_function("cut IPv6, with checksums", |bencher| {
        bencher.iter(|| {
            let mut count = 0;
            for_each_packet(&offload, &packet, &mut scratch, |packet| count += black_box(packet).len());
            count
        });
    });
    group.finish();
}

/// A packet pushed and one popped, with so many leaves in which one waits. The time never stands still, so that limits let it pass.
fn shaper(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a packet that waits for its rate");
    for leaves in [1_u32, 1000] {
        let mut shaper = Shaper::new();
        shaper.set_uplink(Some(Limit::new(100_000_000_000)));
        let own = Limit { ceil: Some(100_000_000_000), ..Limit::new(1_000_000) };
        let ids: Vec<_> = (0..leaves)
            .map(|leaf| LeafLimits { own: Some(own), user: Some((leaf / 10, Limit::new(50_000_000_000))) })
            .map(|limits| shaper.open(limits))
            .collect();
        let item = |leaf| Item { bytes: Vec::new(), cost: 1514, segments: 1, flow: 7, target: leaf };
        let lose = &mut |_, _, _| panic!("no queue is full, and none is slow");
        // The others keep one packet waiting each.
        for (leaf, id) in ids.iter().enumerate().skip(1) {
            shaper.push(*id, item(leaf), 0, lose);
        }
        let (mut now, mut next) = (0, 0);
        group.bench_function(BenchmarkId::from_parameter(leaves), |bencher| {
            bencher.iter(|| {
                shaper.push(ids[next], item(next), now, lose);
                now += 1000;
                let (_, item) = black_box(shaper.pop(now, lose)).expect("its time has come");
                next = item.target;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, verdicts, flows, registry, frames, gso_packets, shaper);
criterion_main!(benches);
