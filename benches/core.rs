//! What the pure core costs: verdicts, claims, frames, super-packets. `cargo bench` prints times; compare ratios within
//! one run.
#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use ipnet::Ipv4Net;
use tuntap_plugin::policy::forward::{Forwarder, Origin, Policy};
use tuntap_plugin::policy::lease::{Identity, Leases};
use tuntap_plugin::policy::pattern::{Action, Rule, RuleList};
use tuntap_plugin::policy::prefix_map::PrefixSet;
use tuntap_plugin::policy::registry::{PeerId, Registry};
use tuntap_plugin::policy::targets::AllowedTargets;
use tuntap_plugin::wire::frame::{self, FrameKind, Frames};
use tuntap_plugin::wire::ip::Packet;
use tuntap_plugin::wire::segment::{for_each_packet, sum};
use tuntap_plugin::wire::vnet::Offload;

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const FIRST: u32 = 0x0a00_0001;

fn peer(index: u32) -> PeerId {
    PeerId { index, generation: 0 }
}

fn packet(src: Ipv4Addr, payload_len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(src.octets(), HOST.octets(), 64)
        .tcp(1, 2, 3, 4)
        .write(&mut bytes, &vec![7; payload_len])
        .expect("a valid packet");
    bytes
}

fn ip(bytes: &[u8]) -> Packet<'_> {
    Packet::parse(bytes).expect("a valid packet")
}

/// Rules of which only the last one matches.
fn chain(count: u32) -> RuleList<Action> {
    let any = Ipv4Net::default();
    let others = (1..count).map(|index| Rule {
        src: Ipv4Net::new_assert(Ipv4Addr::from_bits(0xac10_0000 + (index << 8)), 24),
        dst: any,
        target: Action::Deny,
    });
    let last = (count > 0).then_some(Rule { src: any, dst: any, target: Action::Allow });
    RuleList::new(others.chain(last))
}

fn forwarder(rules: u32, peers: u32) -> Forwarder {
    let policy = Policy {
        firewall_in: chain(rules),
        firewall_out: chain(rules),
        routes: RuleList::new([]),
        has_gateway: false,
        switch: false,
        leases: Leases::none(),
        device_routes: AllowedTargets::default(),
        gateway_sources: PrefixSet::default(),
        networks: Vec::new(),
    };
    let mut forwarder = Forwarder::new(policy, 0x5eed);
    for index in 0..peers {
        forwarder.add_peer(peer(index), Identity { uid: index, gid: index, groups: Vec::new() });
        forwarder.outward(peer(index), &ip(&packet(Ipv4Addr::from_bits(FIRST + index), 0)));
    }
    forwarder
}

fn verdicts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verdict");
    for rules in [0, 10, 1000] {
        let mut forwarder = forwarder(rules, 16);
        let packets: Vec<_> = (0..16).map(|index| packet(Ipv4Addr::from_bits(FIRST + index), 0)).collect();
        let mut next = 0;
        group.bench_with_input(BenchmarkId::new("out, 16 pairs, rules", rules), &rules, |bencher, _| {
            bencher.iter(|| {
                next = (next + 1) % 16;
                forwarder.outward(peer(next), &ip(black_box(&packets[next as usize])))
            });
        });
        let list = chain(rules);
        group.bench_with_input(BenchmarkId::new("plain walk, rules", rules), &rules, |bencher, _| {
            bencher.iter(|| list.first_match(black_box(HOST), black_box(HOST)));
        });
    }
    group.finish();
}

fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for peers in [10, 10_000] {
        let mut registry = Registry::default();
        for index in 0..peers {
            registry.claim(Ipv4Addr::from_bits(FIRST + index), peer(index));
        }
        let mut next = 0;
        group.bench_with_input(BenchmarkId::new("holder, peers", peers), &peers, |bencher, _| {
            bencher.iter(|| {
                next = (next + 7) % peers;
                registry.holder(black_box(Ipv4Addr::from_bits(FIRST + next)))
            });
        });
        let mut forwarder = forwarder(0, peers);
        let mut inward = packet(HOST, 0);
        group.bench_with_input(BenchmarkId::new("inward verdict, peers", peers), &peers, |bencher, _| {
            bencher.iter(|| {
                next = (next + 7) % peers;
                inward[16..20].copy_from_slice(&(FIRST + next).to_be_bytes());
                forwarder.inward(Origin::Tun, &ip(black_box(&inward)))
            });
        });
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let mut stream = Vec::new();
    for _ in 0..44 {
        assert!(frame::append(&mut stream, FrameKind::Packet, &packet(HOST, 1460)));
    }
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(44));
    group.bench_function("decode 44 packets", |bencher| {
        bencher.iter(|| Frames::new(black_box(&stream)).filter(Result::is_ok).count());
    });
    group.finish();
}

fn super_packets(criterion: &mut Criterion) {
    let bytes = packet(HOST, 64_000);
    let mut header = [0; 10];
    header[0] = 1; // a checksum to complete
    header[1] = 1; // TCP over IPv4
    header[4..6].copy_from_slice(&1448u16.to_ne_bytes());
    header[6..8].copy_from_slice(&20u16.to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    let packet = Packet::parse(&bytes).expect("valid");
    let offload = Offload::parse(header, &packet).expect("valid");
    let mut scratch = Vec::new();
    let mut group = criterion.benchmark_group("super-packet of 64 KB");
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

criterion_group!(benches, verdicts, registry, frames, super_packets);
criterion_main!(benches);
