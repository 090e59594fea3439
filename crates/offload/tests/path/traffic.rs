//! What plainly passes, and what ends that.

use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use tuntap_offload::maps::{Dropped, End, Key};
use tuntap_offload::pairs::{Hooks, Pair};

use super::world::{GENERATION, HOST, PEER, Peer, World, at, keys};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A socket of the peer and one of the host, connected with each other.
fn udp_pair(world: &World, family: usize) -> [UdpSocket; 2] {
    let sockets = [world.peer.namespace.udp(PEER[family]), world.host.udp(HOST[family])];
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().expect("an address"));
    sockets[0].connect(addresses[1]).expect("a route");
    sockets[1].connect(addresses[0]).expect("a route");
    sockets
}

/// Sends a datagram, and waits for it at the other end.
fn pass(from: &UdpSocket, to: &UdpSocket, text: &[u8]) {
    from.send(text).expect("sent");
    let mut buffer = [0; 2000];
    let len = to.recv(&mut buffer).expect("it arrives");
    assert_eq!(&buffer[..len], text);
}

fn decide_udp(world: &mut World, place: usize, pair: &Pair, [local, remote]: &[UdpSocket; 2]) {
    let address = |socket: &UdpSocket| socket.local_addr().expect("an address");
    world.decide(place, pair, UDP, address(local), address(remote));
}

fn datagrams_pass_in_the_kernel(hooks: Hooks) {
    let mut world = World::new(hooks);
    let pair = world.pair();
    for family in [0, 1] {
        let [peer, host] = udp_pair(&world, family);
        pass(&peer, &host, b"first");
        pass(&host, &peer, b"answer");
        let place = family * 2;
        decide_udp(
            &mut world,
            place,
            &pair,
            &[peer.try_clone().expect("a socket"), host.try_clone().expect("a socket")],
        );
        let before = world.by_router();
        assert!(before >= 2);
        for text in [&b"decided"[..], &[7; 1400]] {
            pass(&peer, &host, text);
            pass(&host, &peer, text);
        }
        assert_eq!(world.by_router(), before, "the router has seen none of them");
        let headers = if family == 0 { 28 } else { 48 };
        for place in [place, place + 1] {
            let passed = world.verdicts.passed(place).expect("it was given");
            assert_eq!((passed.packets, passed.bytes), (2, 7 + 1400 + 2 * headers), "{place}");
        }
    }
    assert_eq!(world.maps.dropped(pair.index()), Ok(Some(Dropped::default())));
    world.pairs.remove([pair]).expect("removed");
    // The verdicts are there, but nothing takes packets any more. That is so after a filter was removed, too.
    let [peer, host] = udp_pair(&world, 0);
    pass(&peer, &host, b"by the router");
}

#[test]
fn datagrams_pass_in_the_kernel_by_the_better_hooks() {
    datagrams_pass_in_the_kernel(Hooks::of_kernel());
}

#[test]
fn datagrams_pass_in_the_kernel_by_clsact() {
    datagrams_pass_in_the_kernel(Hooks::Clsact);
}

#[test]
fn stream_passes_in_the_kernel_but_for_its_begin_and_end() {
    const LEN: usize = 64 << 20;
    for family in [0, 1] {
        let mut world = World::new(Hooks::of_kernel());
        let pair = world.pair();
        let listener = world.host.listen(HOST[family]);
        let peer = world.peer.namespace.connect(listener.local_addr().expect("an address"));
        let (host, _) = listener.accept().expect("a connection");
        let (local, remote) = (peer.local_addr().expect("an address"), peer.peer_addr().expect("an address"));
        world.decide(0, &pair, TCP, local, remote);
        let before = world.by_router();
        for (from, to) in [(&peer, &host), (&host, &peer)] {
            let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
            let sender = std::thread::spawn(move || from.write_all(&vec![0x5a; LEN]).expect("sent"));
            let mut rest = LEN;
            let mut buffer = vec![0; 1 << 20];
            while rest > 0 {
                let len = to.read(&mut buffer).expect("received");
                assert!(len > 0 && buffer[..len].iter().all(|byte| *byte == 0x5a), "{rest} are missing");
                rest -= len;
            }
            sender.join().expect("no panic");
        }
        assert_eq!(world.by_router(), before, "the router has seen nothing of it");
        assert!(world.verdicts.passed(0).expect("it was given").bytes > LEN as u64);
        drop((peer, host));
        super::world::until("the end passes the router", || world.by_router() > before);
    }
}

#[test]
fn echo_messages_pass_in_the_kernel() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    for (family, protocol, request, reply) in [(0, 1, 8, 0), (1, 58, 128, 129)] {
        let identifier = 4711;
        let [peer, host]: [IpAddr; 2] =
            [PEER[family], HOST[family]].map(|address| address.parse().expect("an address"));
        let end = End::Pair(pair.index());
        for (place, source, destination, kind, from, to) in
            [(0, peer, host, request, end, End::Host), (1, host, peer, reply, End::Host, end)]
        {
            let key = Key { source, destination, source_port: identifier, destination_port: kind, protocol };
            world.verdicts.give(place, GENERATION, &key, from, to).expect("room");
        }
        let ping = |world: &World, id: u16| {
            let status = world.peer.namespace.within(|| {
                let (id, target) = (id.to_string(), HOST[family]);
                Command::new("ping").args(["-q", "-c", "3", "-i", "0.01", "-W", "5", "-e", &id, target]).output()
            });
            let output = status.expect("ping of iputils starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        };
        let before = world.by_router();
        ping(&world, identifier);
        assert_eq!((world.by_router(), world.by_kernel(0), world.by_kernel(1)), (before, 3, 3));
        ping(&world, identifier + 1);
        assert!(world.by_router() > before, "another flow");
        assert_eq!(world.by_kernel(0), 3);
    }
}

#[test]
fn fragments_and_options_pass_the_router() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    decide_udp(&mut world, 0, &pair, &sockets);
    let [peer, host] = sockets;
    let before = world.by_router();
    // Longer than the MTU, and so in fragments.
    peer.send(&[1; 1900]).expect("sent");
    let mut buffer = [0; 2000];
    assert_eq!(host.recv(&mut buffer).expect("it arrives"), 1900);
    assert_eq!((world.by_router(), world.by_kernel(0)), (before + 2, 0));
    // IPOPT_NOP twice, and the end of the options (ip(7), IP_OPTIONS).
    let [local, remote] = [&peer, &host].map(|socket| socket.local_addr().expect("an address"));
    drop(peer);
    let (source, target) =
        (format!("('{}', {})", local.ip(), local.port()), format!("('{}', {})", remote.ip(), remote.port()));
    let script = |options: &str| {
        format!(
            "from socket import *\ns = socket(AF_INET, SOCK_DGRAM)\ns.bind({source})\n{options}\ns.sendto(b'hello', {target})"
        )
    };
    world.peer.namespace.python(&script("s.setsockopt(IPPROTO_IP, IP_OPTIONS, bytes([1, 1, 0, 0]))"));
    assert_eq!(host.recv(&mut buffer).expect("it arrives"), 5);
    assert_eq!((world.by_router(), world.by_kernel(0)), (before + 3, 0));
    world.peer.namespace.python(&script(""));
    assert_eq!(host.recv(&mut buffer).expect("it arrives"), 5);
    assert_eq!((world.by_router(), world.by_kernel(0)), (before + 3, 1), "without options");
}

/// As a tunnel in UDP leaves the checksum of an inner packet to the device. The host's end would drop it.
#[test]
fn packet_with_a_checksum_elsewhere_passes_the_router() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    decide_udp(&mut world, 0, &pair, &sockets);
    let [peer, host] = sockets;
    let [local, remote] = [&peer, &host].map(|socket| socket.local_addr().expect("an address"));
    let send = |world: &World, offset: u16| {
        world.peer.namespace.python(&format!(
            "import struct
from socket import *
datagram = struct.pack('!HHHH', {}, {}, 108, 0) + bytes(100)
draft = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 128, 7, 0, 64, 17, 0, inet_aton('{}'), inet_aton('{}'))
total = sum(struct.unpack('!10H', draft))
total = (total & 0xffff) + (total >> 16)
packet = draft[:10] + struct.pack('!H', ~((total & 0xffff) + (total >> 16)) & 0xffff) + draft[12:] + datagram
raw = socket(AF_PACKET, SOCK_RAW, 0)
raw.setsockopt(263, 15, 1)
raw.bind(('uwsgi0', 0x0800))
raw.send(struct.pack('=BBHHHH', 1, 0, 0, 0, 20, {offset}) + packet)",
            local.port(),
            remote.port(),
            local.ip(),
            remote.ip(),
        ));
        let mut buffer = [0; 2000];
        assert_eq!(host.recv(&mut buffer).expect("it arrives"), 100);
    };
    let before = world.by_router();
    send(&world, 6);
    assert_eq!((world.by_router(), world.by_kernel(0)), (before, 1), "where it belongs");
    send(&world, 60);
    assert_eq!((world.by_router(), world.by_kernel(0)), (before + 1, 1), "in the payload");
    assert_eq!(world.maps.dropped(pair.index()), Ok(Some(Dropped::default())));
}

/// A look can't know when within the time since the one before a packet has passed.
#[test]
fn flow_is_idle_since_a_look_has_seen_its_last_packet() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    decide_udp(&mut world, 0, &pair, &sockets);
    let [peer, host] = sockets;
    let idle = |world: &mut World| world.verdicts.passed(0).expect("it was given").idle;
    let first = idle(&mut world);
    super::world::until("time goes by", || idle(&mut world) > first);
    pass(&peer, &host, b"seen at once");
    assert_eq!(idle(&mut world), Duration::ZERO);
    super::world::until("time goes by", || idle(&mut world) >= Duration::from_millis(20));
    world.verdicts.withdraw(0);
    let again = Instant::now();
    decide_udp(&mut world, 0, &pair, &[peer, host]);
    assert!(idle(&mut world) <= again.elapsed(), "it was given again");
}

/// Everything that makes a verdict void, each of which takes effect before the next packet.
#[test]
fn void_verdict_lets_nothing_pass() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    let address = |socket: &UdpSocket| socket.local_addr().expect("an address");
    let [out, _] = keys(UDP, address(&sockets[0]), address(&sockets[1]));
    let end = End::Pair(pair.index());
    for round in 0..20 {
        decide_udp(&mut world, 0, &pair, &sockets);
        let (before, [peer, host]) = (world.by_router(), &sockets);
        pass(peer, host, b"decided");
        assert_eq!((world.by_router(), world.by_kernel(0)), (before, 1), "round {round}");
        match round % 4 {
            0 => world.verdicts.void(0),
            1 => world.verdicts.set_generation(GENERATION + 1),
            2 => assert_eq!(world.verdicts.withdraw(0).packets, 1),
            _ => {
                // The kernel has another opinion of the generation than the verdict.
                world.verdicts.give(0, GENERATION + 7, &out, end, End::Host).expect("room");
            }
        }
        let kernel = world.by_kernel(0);
        pass(peer, host, b"by the router");
        assert_eq!((world.by_router(), world.by_kernel(0)), (before + 1, kernel), "round {round}");
        world.verdicts.withdraw(0);
        world.verdicts.set_generation(GENERATION);
    }
}

#[test]
fn verdicts_of_an_earlier_process_are_void() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    decide_udp(&mut world, 0, &pair, &sockets);
    let [peer, host] = sockets;
    pass(&peer, &host, b"decided");
    world.verdicts = tuntap_offload::verdicts::Verdicts::new(world.maps).expect("memory");
    // The next process begins with the same generation.
    world.verdicts.set_generation(GENERATION);
    let before = world.by_router();
    pass(&peer, &host, b"by the router");
    assert_eq!(world.by_router(), before + 1);
}

#[test]
fn peer_without_the_claim_sends_nothing_into_the_host() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    decide_udp(&mut world, 0, &pair, &sockets);
    let [peer, host] = sockets;
    pass(&peer, &host, b"claimed");
    world.claim(&pair, PEER[0], false);
    peer.send(b"spoofed").expect("sent");
    super::world::until("it is dropped", || {
        world.maps.dropped(pair.index()) == Ok(Some(Dropped { spoofed: 1, undecided: 0 }))
    });
    world.claim(&pair, PEER[0], true);
    // Nothing has arrived before this.
    pass(&peer, &host, b"claimed again");
}

/// As it is done to have the router see a packet of the flow now and then.
#[test]
fn verdict_that_is_taken_back_and_given_again_loses_no_packet() {
    let mut world = World::new(Hooks::of_kernel());
    let pair = world.pair();
    let sockets = udp_pair(&world, 0);
    let before = world.by_router();
    let mut counted = 0;
    for round in 0..50 {
        decide_udp(&mut world, 0, &pair, &sockets);
        let [peer, host] = &sockets;
        let passes = world.by_router();
        pass(peer, host, b"decided");
        assert_eq!(world.by_router(), passes, "round {round}");
        // It is taken back while packets are on their way, some of which may be counted only later.
        (0..10).for_each(|_| assert_eq!(peer.send(b"flood").expect("sent"), 5));
        counted += world.verdicts.withdraw(0).packets;
        pass_after(peer, host, b"by the router");
        world.verdicts.tidy(8);
    }
    counted += world.verdicts.withdraw(0).packets;
    assert_eq!(world.by_router() - before, 50);
    assert_eq!(counted, 50 * 11);
    super::world::until("they are removed", || !world.verdicts.tidy(8));
    assert_eq!(world.verdicts.passed(0), None);
}

/// Sends a datagram, and waits for it and all before it.
fn pass_after(from: &UdpSocket, to: &UdpSocket, text: &[u8]) {
    from.send(text).expect("sent");
    let mut buffer = [0; 2000];
    let mut others = 0;
    loop {
        let len = to.recv(&mut buffer).expect("it arrives");
        if &buffer[..len] == text {
            return assert_eq!(others, 10, "none is lost");
        }
        others += 1;
    }
}

#[test]
fn peers_reach_each_other_in_the_kernel() {
    const OTHER: [&str; 2] = ["10.77.0.3", "fd00:77::3"];
    let mut world = World::new(Hooks::of_kernel());
    let first = world.pair();
    let other = Peer::new(OTHER);
    let second = world.pair_of(other.descriptor());
    OTHER.iter().for_each(|address| world.claim(&second, address, true));
    for family in [0, 1] {
        let sockets = [world.peer.namespace.udp(PEER[family]), other.namespace.udp(OTHER[family])];
        let [here, there] = sockets.each_ref().map(|socket| socket.local_addr().expect("an address"));
        sockets[0].connect(there).expect("a route");
        sockets[1].connect(here).expect("a route");
        let ends = [&first, &second].map(|pair| End::Pair(pair.index()));
        let [to, back] = keys(UDP, here, there);
        world.verdicts.give(0, GENERATION, &to, ends[0], ends[1]).expect("room");
        world.verdicts.give(1, GENERATION, &back, ends[1], ends[0]).expect("room");
        let before = world.by_router();
        pass(&sockets[0], &sockets[1], b"hello");
        pass(&sockets[1], &sockets[0], b"neighbour");
        assert_eq!((world.by_router(), world.by_kernel(0), world.by_kernel(1)), (before, 1, 1));
    }
    // A verdict is for packets of one pair alone, also if the peer claims the address of the sender.
    let sockets = [other.namespace.udp(OTHER[0]), world.host.udp(HOST[0])];
    let [local, remote] = sockets.each_ref().map(|socket| socket.local_addr().expect("an address"));
    world.decide(2, &first, UDP, local, remote);
    sockets[0].connect(at(HOST[0], remote.port())).expect("a route");
    sockets[0].send(b"by another pair").expect("sent");
    assert_eq!(world.by_kernel(2), 0);
    world.pairs.remove([first, second]).expect("removed");
}
