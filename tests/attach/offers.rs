//! Offers that the router refuses: the peer goes on in frames, and the router keeps no descriptor of them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use nix::libc;
use nix::unistd::pipe;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::probe::is_reachable;
use crate::common::processes::{assert_descriptors, descriptors};
use crate::common::raw_peer::RawPeer;
use crate::common::{packet, wait, wire};
use crate::handed::Handed;
use crate::hello::{Answer, HELLO, answer, hello, hello_of_version, hello_with_merged_header, offer};
use crate::tun::{self, ATTACHABLE, MERGED_HEADER_LEN};
use crate::world::{emperor, start_attached, stream_reason};

const NO_DEVICE: &str = "is no TUN device of ours";
const NO_DESCRIPTOR: &str = "its hello brought no descriptor";
const OTHER_VERSION: &str = "its hello is of another version";

/// The kernel may receive what is written to such a device in another context: a flag of one queue need not be that of
/// another.
#[test]
fn devices_that_hide_what_they_cost_are_refused() {
    let scene = Scene::new();
    for (name, flags, reason) in [
        ("napi", libc::IFF_NAPI, "IFF_NAPI"),
        ("queues", libc::IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE"),
        ("both", libc::IFF_NAPI | libc::IFF_MULTI_QUEUE, "IFF_NAPI"),
    ] {
        let netns = Netns::new();
        let device = tun::make(&netns, name, ATTACHABLE | flags);
        scene.assert_refused(name, &hello(), &[device.as_fd()], reason);
    }
    let netns = Netns::new();
    let first = tun::make(&netns, "hidden", ATTACHABLE | libc::IFF_NAPI | libc::IFF_MULTI_QUEUE);
    let _second = tun::make(&netns, "hidden", ATTACHABLE | libc::IFF_MULTI_QUEUE);
    scene.assert_refused("another queue without IFF_NAPI", &hello(), &[first.as_fd()], "its device has IFF_");
}

/// A router with an attached vassal at V1 that must not notice anything.
struct Scene {
    emperor: Emperor,
    honest: Net,
    router: i32,
    descriptors: usize,
}

impl Scene {
    #[track_caller]
    fn new() -> Self {
        let emperor = emperor().start();
        let honest = start_attached(&emperor, "v1", V1);
        let router = emperor.router_pid();
        let descriptors = descriptors(router).len();
        Self { emperor, honest, router, descriptors }
    }

    /// A peer at V2 makes its offer, is refused, and goes on in frames.
    #[track_caller]
    fn assert_refused(&self, what: &str, payload: &[u8], offered: &[BorrowedFd<'_>], reason: &str) {
        let mut peer = self.emperor.connect();
        offer(&mut peer, payload, offered);
        assert_eq!(answer(&mut peer), Answer::Refused, "{what}");
        self.assert_streams(what, &mut peer, reason);
        self.assert_unharmed(what, peer);
    }

    #[track_caller]
    fn assert_streams(&self, what: &str, peer: &mut RawPeer, reason: &str) {
        assert!(peer.echo(V2, EMPEROR, wait::SHORT), "{what}: frames are served");
        let told = stream_reason(&self.emperor.stats(), V2);
        assert!(told.as_str().is_some_and(|told| told.contains(reason)), "{what}: {told}");
    }

    /// The peer's connection is the only descriptor that the router holds of it.
    #[track_caller]
    fn assert_unharmed(&self, what: &str, peer: RawPeer) {
        assert_descriptors(self.router, self.descriptors + 1, what);
        drop(peer);
        self.assert_clean(what);
    }

    #[track_caller]
    fn assert_clean(&self, what: &str) {
        self.emperor.wait_for_stats("the peer has left", |stats| stats.peers().len() == 1);
        assert_descriptors(self.router, self.descriptors, what);
        assert!(is_reachable(&self.honest, EMPEROR), "{what}: the honest vassal is served");
        assert_eq!(self.emperor.router_pid(), self.router, "{what}: the router lives");
    }
}

#[test]
fn hellos_with_too_few_or_too_many_descriptors() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    for count in [0, 2, 3, 200] {
        let offered = vec![good.as_fd(); count];
        scene.assert_refused(&format!("{count} descriptors"), &hello(), &offered, NO_DESCRIPTOR);
    }
}

#[test]
fn descriptors_that_are_no_devices() {
    let scene = Scene::new();
    let opened = |path: &str| OwnedFd::from(File::open(path).expect("every machine has it"));
    let (read_end, write_end) = pipe().expect("a pipe");
    let (socket, _other) = UnixStream::pair().expect("a pair");
    let offers = [
        ("a regular file", opened("/etc/passwd")),
        ("a directory", opened("/")),
        ("/dev/zero", opened("/dev/zero")),
        ("a pipe's end to read", read_end),
        ("a pipe's end to write", write_end),
        ("a socket", socket.into()),
        ("the control device without interface", tun::control().into()),
    ];
    for (what, offered) in offers {
        scene.assert_refused(what, &hello(), &[offered.as_fd()], NO_DEVICE);
    }
}

#[test]
fn devices_of_another_layout() {
    let scene = Scene::new();
    let netns = Netns::new();
    let merged = tun::make(&netns, "merged", ATTACHABLE);
    tun::set_header_len(&merged, MERGED_HEADER_LEN);
    let offers = [
        ("a TAP", tun::make(&netns, "tap", libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR), NO_DEVICE),
        ("a header of 12 bytes", merged, NO_DEVICE),
        ("no header", tun::make(&netns, "bare", libc::IFF_TUN | libc::IFF_NO_PI), "no header before packets"),
    ];
    for (what, offered, reason) in offers {
        scene.assert_refused(what, &hello(), &[offered.as_fd()], reason);
    }
    let deleted = tun::make(&netns, "deleted", ATTACHABLE);
    netns.sh("ip link del deleted");
    scene.assert_refused("a deleted device", &hello(), &[deleted.as_fd()], NO_DEVICE);
}

#[test]
fn hellos_of_other_versions() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    for version in [0, 2, 255] {
        scene.assert_refused("another version", &hello_of_version(version), &[good.as_fd()], OTHER_VERSION);
    }
    scene.assert_refused("another header", &hello_with_merged_header(), &[good.as_fd()], OTHER_VERSION);
    scene.assert_refused("a short payload", &hello()[..7], &[good.as_fd()], OTHER_VERSION);
    scene.assert_refused("a long payload", &[&hello()[..], &[0]].concat(), &[good.as_fd()], OTHER_VERSION);
}

#[test]
fn hello_behind_another_frame_is_ignored() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    let mut peer = scene.emperor.peer(V2);
    offer(&mut peer, &hello(), &[good.as_fd()]);
    assert_eq!(peer.next_frame(Duration::from_millis(300)), None, "there is no answer");
    scene.assert_streams("a late hello", &mut peer, "it said no hello");
    assert_eq!(scene.emperor.stats().drops_of(V2, "unknown_frame"), 1);
    scene.assert_unharmed("a late hello", peer);
}

#[test]
fn second_hello_is_ignored() {
    let scene = Scene::new();
    let handed = Handed::attach(&scene.emperor, V2);
    let Handed { mut peer, device, netns } = handed;
    let other = tun::make(&netns, "other", ATTACHABLE);
    for descriptor in [device.as_fd(), other.as_fd()] {
        offer(&mut peer, &hello(), &[descriptor]);
    }
    assert_eq!(peer.next_frame(Duration::from_millis(300)), None, "there is no answer");
    assert!(is_reachable(&netns, EMPEROR), "it is attached as before");
    let stats = scene.emperor.stats();
    assert_eq!(stats.drops_of(V2, "unknown_frame"), 2);
    assert!(stream_reason(&stats, V2).is_null());
    assert_descriptors(scene.router, scene.descriptors + 2, "the connection and the first device");
    drop(peer);
    scene.assert_clean("a second hello");
}

/// A second offer is not answered.
#[test]
fn second_hello_after_a_refusal_is_ignored() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    let mut peer = scene.emperor.connect();
    offer(&mut peer, &hello(), &[]);
    assert_eq!(answer(&mut peer), Answer::Refused);
    offer(&mut peer, &hello(), &[good.as_fd()]);
    assert_eq!(peer.next_frame(Duration::from_millis(300)), None, "there is no answer");
    scene.assert_streams("a second hello", &mut peer, NO_DESCRIPTOR);
    scene.assert_unharmed("a second hello", peer);
}

/// The first frame may come in pieces, and its descriptor with any of them.
#[test]
fn hello_in_pieces_is_taken() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    let frame = wire::frame(HELLO, &hello());
    for (first, rest) in [(1, 11), (4, 8), (11, 1)] {
        let mut peer = scene.emperor.connect();
        peer.send_with_descriptors(&frame[..first], &[good.as_fd()]);
        sleep(Duration::from_millis(50));
        peer.send_bytes(&frame[first..first + rest]);
        assert_eq!(answer(&mut peer), Answer::Attached, "cut after {first} bytes");
        drop(peer);
        scene.assert_clean("a hello in pieces");
    }
}

/// What a device says before its hello may arrive together with the hello and its descriptor, if the router was busy.
#[test]
fn hello_behind_a_question_is_taken() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    let mut peer = scene.emperor.connect();
    let question = wire::frame(wire::ASK, &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    let greeting = [question, wire::frame(HELLO, &hello())].concat();
    peer.send_with_descriptors(&greeting, &[good.as_fd()]);
    let frame = peer.next_frame(wait::SHORT).expect("an answer to the question");
    assert_eq!(frame.modifier2, wire::CONFIGURATION);
    assert_eq!(answer(&mut peer), Answer::Attached);
    drop(peer);
    scene.assert_clean("a hello behind a question");
}

/// Descriptors come beside the first bytes of a stream that has no hello, and beside the bytes that follow.
#[test]
fn descriptors_without_a_hello_are_closed() {
    let scene = Scene::new();
    let netns = Netns::new();
    let good = tun::make(&netns, "uwsgi0", ATTACHABLE);
    let frame = wire::frame(wire::PACKET, &packet::udp(V2, Ipv4Addr::new(203, 0, 113, 1), 9, b"x"));
    let mut peer = scene.emperor.connect();
    for byte in &frame[..10] {
        peer.send_with_descriptors(&[*byte], &[good.as_fd()]);
    }
    peer.send_bytes(&frame[10..]);
    scene.assert_streams("no hello", &mut peer, "it said no hello");
    scene.assert_unharmed("no hello", peer);
    // A peer that hangs up before the frame is whole.
    let mut peer = scene.emperor.connect();
    peer.send_with_descriptors(&frame[..1], &[good.as_fd()]);
    drop(peer);
    scene.assert_clean("half a frame");
}

/// A router that took its own device would get its own packets back for ever.
#[test]
fn routers_own_device_is_refused() {
    let scene = Scene::new();
    // The router's own device has the lowest number, because it was there before any peer's.
    let own = std::fs::read_dir(format!("/proc/{}/fd", scene.router))
        .expect("the router runs")
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.ends_with("net/tun")))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .min()
        .expect("the router has a device");
    let own = tun::stolen(scene.router, own);
    scene.assert_refused("the router's own device", &hello(), &[own.as_fd()], "the router's own device");
}

#[test]
fn routers_device_name_in_another_namespace_is_taken() {
    let scene = Scene::new();
    let handed = Handed::attach_as(&scene.emperor, V2, "emperor0", ATTACHABLE);
    assert_eq!(handed.pings_answered(5), 5);
    drop(handed);
    scene.assert_clean("a device of the same name");
}
