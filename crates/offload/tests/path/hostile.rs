//! What root in the peer's namespace sends by the pair itself: nothing of it reaches the host, or another peer.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use tuntap_offload::maps::Dropped;
use tuntap_offload::pairs::{Hooks, Pair};

use super::world::{HOST, PEER, World, until};

const UDP: u8 = 17;

/// Python that sends frames by tv0, which `frames` makes. `udp` makes a datagram in a frame, as the programs make them.
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

def udp(source=SOURCE, target=TARGET, text=b'hello', kind=0x0800, **changes):
    datagram = struct.pack('!HHHH', source[1], target[1], 8 + len(text), 0) + text
    return bytes(12) + struct.pack('!H', kind) + header(source[0], target[0], datagram, **changes) + datagram

def udp_6(source, target, text=b'hello'):
    datagram = struct.pack('!HHHH', SOURCE[1], TARGET[1], 8 + len(text), 0) + text
    addresses = inet_pton(AF_INET6, source) + inet_pton(AF_INET6, target)
    return bytes(12) + struct.pack('!HIHBB', 0x86dd, 6 << 28, len(datagram), 17, 64) + addresses + datagram

PACKET_VNET_HDR, SOL_PACKET = 15, 263
raw = socket(AF_PACKET, SOCK_RAW)
raw.bind(('tv0', 0))

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
        let mut world = World::new(Hooks::Tcx);
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
        Self { world, pair, host, python }
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
    decided.send("with_header(udp(text=bytes(3000)), flags=1, kind=5, size=1000, start=34, offset=6, header_len=42)");
    let mut pieces = Vec::new();
    until("pieces of a fair size arrive", || {
        pieces.extend(decided.arrived());
        pieces.len() == 3
    });
    assert!(pieces.iter().all(|piece| piece.len() == 1000));
    assert_eq!(decided.world.by_kernel(0), 3, "a packet that is cut later counts as one");
}
