//! What root in the peer's namespace sends by the pair itself: nothing of it reaches the host, or another peer.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use tuntap_offload::maps::{Dropped, End};
use tuntap_offload::pairs::{Hooks, Pair};

use super::world::{GENERATION, HOST, PEER, Peer, VERDICTS, World, at, keys, linux, until};

const UDP: u8 = 17;

/// Python that sends frames by tv0, which `frames` makes. `udp` makes a datagram in a frame, as the programs make them: HINT is the first
/// part of the frame by which they have sent one.
const SEND: &str = "
import struct, sys
from socket import *

def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff

def header(source, target, payload, protocol=17, options=b'', fragment=0, length=None):
    length = length if length is not None else 20 + len(options) + len(payload)
    words = 0x45 + len(options) // 4
    draft = struct.pack('!BBHHHBBH4s4s', words, 0, length, 7, fragment, 64, protocol, 0, inet_aton(source), inet_aton(target)) + options
    return draft[:10] + struct.pack('!H', checksum(draft)) + draft[12:]

def udp(source=SOURCE, target=TARGET, text=b'hello', kind=0x0800, hint=None, **changes):
    datagram = struct.pack('!HHHH', source[1], target[1], 8 + len(text), 0) + text
    return (HINT if hint is None else hint) + struct.pack('!H', kind) + header(source[0], target[0], datagram, **changes) + datagram

def udp_6(source, target, text=b'hello'):
    datagram = struct.pack('!HHHH', SOURCE[1], TARGET[1], 8 + len(text), 0) + text
    addresses = inet_pton(AF_INET6, source) + inet_pton(AF_INET6, target)
    return HINT + struct.pack('!HIHBB', 0x86dd, 6 << 28, len(datagram), 17, 64) + addresses + datagram

PACKET_VNET_HDR, SOL_PACKET = 15, 263
raw = socket(AF_PACKET, SOCK_RAW)
raw.bind(('tv0', 0))

listener = socket(AF_PACKET, SOCK_RAW, htons(3))
listener.bind(('tv0', 0))

def heard(port):
    while True:
        frame = listener.recv(2000)
        if frame[12:14] == bytes([8, 0]) and frame[36:38] == struct.pack('!H', port):
            return frame[:12]

def hint(place, version):
    return struct.pack('=HIIH', 0, place, version, 0)

def parts(hint):
    return struct.unpack('=HIIH', hint)[1:3]

def with_header(frame, flags=0, kind=0, size=0, start=0, offset=0, header_len=0):
    other = socket(AF_PACKET, SOCK_RAW)
    other.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    other.bind(('tv0', 0))
    other.send(struct.pack('=BBHHHH', flags, kind, header_len, size, start, offset) + frame)

def attempt(send):
    try:
        send()
    except OSError as error:
        assert error.errno == 22, error
        raw.send(udp(kind=0x88b5))

for line in sys.stdin:
    exec(line)
    print('done', flush=True)
";

/// A world with a flow that is decided.
struct Decided {
    world: World,
    pair: Pair,
    host: UdpSocket,
    peer: UdpSocket,
    /// A process in the peer's namespace that runs lines of Python.
    python: Child,
}

impl Drop for Decided {
    fn drop(&mut self) {
        let _ = self.python.kill();
        let _ = self.python.wait();
    }
}

impl Decided {
    fn new() -> Self {
        let mut world = World::new(Hooks::of_kernel());
        let pair = world.pair();
        let (peer, host) = (world.peer.namespace.udp(PEER[0]), world.host.udp(HOST[0]));
        let [local, remote] = [&peer, &host].map(|socket| socket.local_addr().expect("an address"));
        peer.connect(remote).expect("a route");
        host.set_nonblocking(true).expect("a socket");
        world.decide(0, &pair, UDP, local, remote);
        let address = |socket: SocketAddr| format!("('{}', {})", socket.ip(), socket.port());
        let script = format!("SOURCE, TARGET = {}, {}\n{SEND}", address(local), address(remote));
        let python = world.peer.namespace.within(|| {
            let mut command = Command::new("python3");
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 starts")
        });
        let mut decided = Self { world, pair, host, peer, python };
        // It listens from here on.
        decided.send("");
        decided.peer.send(b"heard").expect("sent");
        decided.send(&format!("HINT = heard({})", remote.port()));
        until("it arrives", || decided.arrived() == [b"heard"]);
        decided
    }

    /// Runs a line that sends frames by the peer's end of the pair.
    fn send(&mut self, frames: &str) {
        let (input, output) = (self.python.stdin.as_mut(), self.python.stdout.as_mut());
        writeln!(input.expect("a pipe"), "{frames}").expect("it reads");
        let mut answer = [0; 5];
        output.expect("a pipe").read_exact(&mut answer).expect("it has done that");
        assert_eq!(&answer, b"done\n");
    }

    fn dropped(&self) -> Dropped {
        self.world.maps.dropped(self.pair.index()).expect("a map").expect("a pair")
    }

    /// Whatever has arrived at the host's socket since the last call, once that is all.
    fn arrived(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut buffer = [0; 2000];
        while let Ok(len) = self.host.recv(&mut buffer) {
            found.push(buffer[..len].to_vec());
        }
        found
    }
}

#[test]
fn only_what_is_decided_comes_in() {
    let mut decided = Decided::new();
    // What all others differ from.
    decided.send("raw.send(udp())");
    until("it arrives", || decided.arrived() == [b"hello"]);
    assert_eq!(decided.dropped(), Dropped::default());
    for (what, frames, is_spoofed) in [
        ("another source", "raw.send(udp(source=('10.77.0.9', SOURCE[1])))", true),
        ("the host as its source", "raw.send(udp(source=('10.77.0.1', SOURCE[1])))", true),
        ("a source of loopback", "raw.send(udp(source=('127.0.0.1', SOURCE[1])))", true),
        ("another port", "raw.send(udp(source=(SOURCE[0], SOURCE[1] ^ 1)))", false),
        ("another target", "raw.send(udp(target=('10.77.0.9', TARGET[1])))", false),
        ("another target port", "raw.send(udp(target=(TARGET[0], TARGET[1] ^ 1)))", false),
        ("another protocol", "raw.send(udp(protocol=132))", false),
        ("TCP", "raw.send(udp(protocol=6, text=bytes(40)))", false),
        ("a fragment", "raw.send(udp(fragment=0x2000))", false),
        ("a later fragment", "raw.send(udp(fragment=3))", false),
        ("IP options", "raw.send(udp(options=bytes([1, 1, 1, 0])))", false),
        ("bytes behind the packet", "raw.send(udp() + bytes(20))", false),
        ("a packet that is cut", "raw.send(udp(text=bytes(50))[:-20])", false),
        ("a length of nothing", "raw.send(udp(length=0))", false),
        ("ARP", "raw.send(bytes(12) + b'\\x08\\x06' + bytes(46))", false),
        ("IPv6 that is IPv4", "raw.send(udp(kind=0x86dd))", false),
        ("IPv6 with the addresses of IPv4", "raw.send(udp_6('::ffff:' + SOURCE[0], '::ffff:' + TARGET[0]))", false),
        ("an ethertype of nothing", "raw.send(udp(kind=0x88b5))", false),
        ("802.2", "raw.send(udp(kind=60))", false),
        ("a VLAN", "f = udp(); raw.send(f[:12] + bytes([0x81, 0, 0, 5]) + f[12:])", false),
        ("a VLAN in a VLAN", "f = udp(); raw.send(f[:12] + bytes([0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]) + f[12:])", false),
        ("MPLS", "f = udp(); raw.send(f[:12] + bytes([0x88, 0x47, 0, 0, 0x11, 0x40]) + f[14:])", false),
        ("a frame of a header", "raw.send(udp()[:14])", false),
        ("a frame of half a header", "raw.send(udp()[:24])", false),
    ] {
        let before = decided.dropped();
        decided.send(frames);
        let wanted = if is_spoofed {
            Dropped { spoofed: before.spoofed + 1, ..before }
        } else {
            Dropped { undecided: before.undecided + 1, ..before }
        };
        until(what, || decided.dropped() == wanted);
        assert_eq!(decided.arrived(), Vec::<Vec<u8>>::new(), "{what}");
    }
    decided.send("raw.send(udp())");
    until("the right one arrives still", || decided.arrived() == [b"hello"]);
}

/// The hint in a frame says where the record of its flow is. Whatever else stands there, the packet is none of that record's.
#[test]
fn forged_hints_lead_to_no_verdict() {
    let mut decided = Decided::new();
    // Another flow of the peer, which passes as well, and one of another peer.
    const OTHER: [&str; 2] = ["10.77.0.3", "fd00:77::3"];
    let own = [decided.world.peer.namespace.udp(PEER[0]), decided.world.host.udp(HOST[0])];
    let [local, remote] = own.each_ref().map(|socket| socket.local_addr().expect("an address"));
    own[0].connect(remote).expect("a route");
    decided.world.decide(2, &decided.pair, UDP, local, remote);
    let neighbour = Peer::new(OTHER);
    let its_pair = decided.world.pair_of(neighbour.descriptor());
    OTHER.iter().for_each(|address| decided.world.claim(&its_pair, address, true));
    decided.world.decide(4, &its_pair, UDP, at(OTHER[0], 4711), remote);
    own[0].send(b"own").expect("sent");
    decided.send(&format!("OWN = heard({})", remote.port()));
    let mut buffer = [0; 2000];
    assert_eq!(own[1].recv(&mut buffer).expect("it arrives"), 3);
    // Records are taken one after the other: those of the neighbour's flow come next.
    for (what, hint) in [
        ("nothing", "bytes(12)"),
        ("the record of an own other flow", "OWN"),
        ("that place with this version", "hint(parts(OWN)[0], parts(HINT)[1])"),
        ("the way back of the flow", "hint(parts(HINT)[0] + 1, parts(HINT)[1])"),
        ("the record of a neighbour's flow", "hint(parts(OWN)[0] + 2, parts(OWN)[1])"),
        ("a record without a flow", "hint(parts(OWN)[0] + 9, 0)"),
        ("a record without a flow, with a version", "hint(parts(OWN)[0] + 9, parts(HINT)[1])"),
        ("another version", "hint(parts(HINT)[0], parts(HINT)[1] + 1)"),
        ("an earlier version", "hint(parts(HINT)[0], parts(HINT)[1] - 1)"),
        ("a version with more bits", "hint(parts(HINT)[0], parts(HINT)[1] + (1 << 24))"),
        ("all bits of a version", "hint(parts(HINT)[0], 0xffffffff)"),
        ("the first place that there isn't", "hint(64, parts(HINT)[1])"),
        ("a place far off", "hint(0x7fffffff, parts(HINT)[1])"),
        ("the last place", "hint(0xffffffff, parts(HINT)[1])"),
    ] {
        let before = decided.dropped();
        let counted = [0, 2, 4].map(|place| decided.world.by_kernel(place));
        decided.send(&format!("raw.send(udp(hint={hint}))"));
        until(what, || decided.dropped() == Dropped { undecided: before.undecided + 1, ..before });
        assert_eq!(decided.arrived(), Vec::<Vec<u8>>::new(), "{what}");
        assert_eq!([0, 2, 4].map(|place| decided.world.by_kernel(place)), counted, "{what}");
        // The address of the neighbour is none of this peer's, whatever the hint.
        decided.send(&format!(
            "raw.send(udp(source=('{}', 4711), target=('{}', {}), hint={hint}))",
            OTHER[0],
            HOST[0],
            remote.port()
        ));
        until(what, || decided.dropped().spoofed == before.spoofed + 1);
        assert_eq!(decided.world.by_kernel(4), 0, "{what}");
    }
    // In the two bytes at either side there is nothing.
    decided.send("raw.send(udp(hint=bytes([0xfe, 0xff]) + HINT[2:10] + bytes([0xff, 0xff])))");
    until("the right one arrives still", || decided.arrived() == [b"hello"]);
}

/// A record that serves another flow than before lets no packet of the one before pass, and counts none, whatever the hint.
#[test]
fn hint_of_before_is_no_good_for_the_next_flow_of_a_record() {
    let mut decided = Decided::new();
    let end = End::Pair(decided.pair.index());
    let next = decided.world.host.udp(HOST[0]);
    let [local, old, new] =
        [&decided.peer, &decided.host, &next].map(|socket| socket.local_addr().expect("an address"));
    let key = |port| keys(UDP, local, at(HOST[0], port))[0];
    let refused = |decided: &mut Decided, what: &str, packet: &str| {
        let before = decided.dropped();
        decided.send(&format!("raw.send(udp({packet}))"));
        until(what, || decided.dropped().undecided == before.undecided + 1);
        assert_eq!(decided.arrived(), Vec::<Vec<u8>>::new(), "{what}");
    };
    decided.world.verdicts.withdraw(0);
    decided.send("raw.send(udp())");
    until("what is on its way still arrives", || decided.arrived() == [b"hello"]);
    decided.world.verdicts.void_lingering(End::Host);
    refused(&mut decided, "what is on its way may not arrive", "");
    until("it is removed", || !decided.world.verdicts.tidy(1));
    refused(&mut decided, "no flow", "");
    // All other records are taken first, but for that of the way back.
    for port in 1..VERDICTS - 1 {
        let port = u16::try_from(port).expect("a small number");
        decided.world.verdicts.give(usize::from(port) + 1, GENERATION, &key(port), end, End::Host).expect("room");
    }
    decided.world.verdicts.give(0, GENERATION, &key(new.port()), end, End::Host).expect("room");
    let full = decided.world.verdicts.give(99, GENERATION, &key(99), end, End::Host);
    assert_eq!(full, Err(nix::errno::Errno::E2BIG));
    decided.peer.connect(new).expect("a route");
    decided.peer.send(b"heard").expect("sent");
    decided.send(&format!("NEXT = heard({})", new.port()));
    decided.send("assert parts(NEXT) == (parts(HINT)[0], parts(HINT)[1] + 1), (HINT, NEXT)");
    assert_eq!(next.recv(&mut [0; 9]).expect("it arrives"), 5);
    refused(&mut decided, "the old flow with its hint", "");
    refused(&mut decided, "the old flow with the next hint", "hint=NEXT");
    let target = format!("target=(TARGET[0], {})", new.port());
    refused(&mut decided, "the next flow with the hint of before", &target);
    assert_eq!(decided.world.by_kernel(0), 1);
    decided.send(&format!("raw.send(udp(hint=NEXT, {target}))"));
    assert_eq!(next.recv(&mut [0; 9]).expect("it arrives"), 5);
    assert_eq!(decided.world.by_kernel(0), 2);
    // The old flow has a record again.
    decided.world.verdicts.withdraw(1);
    until("it is removed", || !decided.world.verdicts.tidy(1));
    decided.world.verdicts.give(1, GENERATION, &key(old.port()), end, End::Host).expect("room");
    refused(&mut decided, "the old flow with the hint that it had", "");
}

/// A header asks the kernel to write a checksum, or to cut the packet, after it was judged.
#[test]
fn forged_headers_are_dropped() {
    let mut decided = Decided::new();
    let good = "with_header(udp(text=bytes(100)), flags=1, start=34, offset=6)";
    decided.send(good);
    until("a checksum where it belongs", || decided.arrived() == [[0; 100]]);
    for (what, frames) in [
        ("over the ports", "with_header(udp(text=bytes(100)), flags=1, start=34, offset=0)"),
        ("over the length", "with_header(udp(text=bytes(100)), flags=1, start=34, offset=4)"),
        ("from the IP header on", "with_header(udp(text=bytes(100)), flags=1, start=14, offset=10)"),
        ("over the source address", "with_header(udp(text=bytes(100)), flags=1, start=14, offset=12)"),
        ("over the target port", "with_header(udp(text=bytes(100)), flags=1, start=14, offset=22)"),
        ("over the payload", "with_header(udp(text=bytes(100)), flags=1, start=34, offset=30)"),
        // VIRTIO_NET_HDR_GSO_UDP_L4 is 5, VIRTIO_NET_HDR_GSO_TCPV4 is 1, VIRTIO_NET_HDR_GSO_UDP is 3.
        (
            "pieces of a byte",
            "with_header(udp(text=bytes(3000)), flags=1, kind=5, size=1, start=34, offset=6, header_len=42)",
        ),
        (
            "fragments",
            "with_header(udp(text=bytes(3000)), flags=1, kind=3, size=1000, start=34, offset=6, header_len=42)",
        ),
    ] {
        let before = decided.dropped();
        // The kernel may refuse such a header itself.
        decided.send(&format!("attempt(lambda: {frames})"));
        // Fragments may be made before the packet leaves the namespace.
        until(what, || decided.dropped().undecided > before.undecided);
        assert_eq!(decided.arrived(), Vec::<Vec<u8>>::new(), "{what}");
    }
    decided.send(good);
    until("the right one arrives still", || decided.arrived() == [[0; 100]]);
    if linux() < (6, 2) {
        // Earlier kernels have no such packets here.
        return;
    }
    decided.send("with_header(udp(text=bytes(3000)), flags=1, kind=5, size=1000, start=34, offset=6, header_len=42)");
    let mut pieces = Vec::new();
    until("pieces of a fair size arrive", || {
        pieces.extend(decided.arrived());
        pieces.len() == 3
    });
    assert!(pieces.iter().all(|piece| piece.len() == 1000));
    assert_eq!(decided.world.by_kernel(0), 4, "a packet that is cut later counts as one");
}
