//! Descriptors that come at the wrong time, too many at once, or of a kind that none of the checks would expect.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::common::emperor::{EMPEROR, Emperor};
use crate::common::netns::Netns;
use crate::common::packet;
use crate::common::probe::pings_answered;
use crate::common::processes::descriptors;
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::common::wire;
use crate::handed::{DEVICE, Handed};
use crate::hello::{Answer, HELLO, answer, hello, offer};
use crate::tun::{self, ATTACHABLE};
use crate::watch::{A1, MANY_LINES, Watch};

/// The most that the kernel takes in one message: SCM_MAX_FD of net/scm.h.
const MOST: usize = 253;

#[test]
fn hundreds_in_each_message() {
    let mut watch = Watch::start();
    watch.endure("hundreds of descriptors", |watch| {
        let emperor = &watch.emperor;
        let stranger = File::open("/dev/null").expect("every machine has it");
        let many = vec![stranger.as_fd(); MOST];
        let frame = wire::frame(wire::PACKET, &packet::udp(A1, EMPEROR, 9, b"with descriptors"));
        for _ in 0..20 {
            let mut peer = emperor.connect();
            // Before the first frame is whole, with the rest of it, with a hello that is too late, and with a packet.
            peer.send_with_descriptors(&frame[..3], &many);
            peer.send_with_descriptors(&frame[3..], &many);
            offer(&mut peer, &hello(), &many);
            peer.send_with_descriptors(&frame, &many);
            assert!(peer.echo(A1, EMPEROR, wait::SHORT));
            let mut peer = emperor.connect();
            offer(&mut peer, &hello(), &many);
            assert_eq!(answer(&mut peer), Answer::Refused);
        }
    });
}

#[test]
fn hundreds_beside_credentials() {
    let mut watch = Watch::start_with_credentials();
    watch.endure("descriptors beside credentials", |watch| {
        let emperor = &watch.emperor;
        let stranger = File::open("/dev/null").expect("every machine has it");
        for count in [1, 2, MOST] {
            for start in [wire::CREDENTIALS, b"uwsgi-tunnel"] {
                let mut peer = emperor.connect();
                peer.send_with_descriptors(start, &vec![stranger.as_fd(); count]);
                assert!(peer.is_closed(wait::SHORT), "{count} descriptors: nobody who means well sends them there");
            }
        }
    });
}

/// A peer with half of a hello occupies one descriptor in the router, and no peer more than one.
#[test]
fn one_for_each_half_of_a_hello() {
    const PEERS: usize = 300;
    let mut watch = Watch::start();
    watch.endure("half hellos", |watch| {
        let emperor = &watch.emperor;
        let netns = Netns::new();
        let device = tun::make(&netns, DEVICE, ATTACHABLE);
        let frame = wire::frame(HELLO, &hello());
        let mut peers: Vec<RawPeer> = (0..PEERS).map(|_| emperor.connect()).collect();
        for peer in &mut peers {
            for byte in &frame[..frame.len() - 1] {
                peer.send_with_descriptors(&[*byte], &[device.as_fd()]);
            }
        }
        emperor.wait_for_stats("all are read", |stats| {
            stats.peers().iter().filter(|peer| peer["rx"] == frame.len() - 1).count() == PEERS
        });
        let open = descriptors(watch.router()).len();
        assert!(open < 2 * PEERS + 100, "{open} descriptors for {PEERS} peers");
    });
}

#[test]
fn kinds_that_are_no_devices() {
    let mut watch = Watch::start();
    watch.endure("strange descriptors", |watch| {
        let emperor = &watch.emperor;
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
        let event = EventFd::new().expect("an eventfd");
        epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 0)).expect("it can be watched");
        let path = |path: &str| {
            OwnedFd::from(OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).expect("a path"))
        };
        let listener = UnixListener::bind(emperor.path("other.sock")).expect("own folder");
        let client = UnixStream::connect(emperor.socket()).expect("the router listens");
        std::fs::remove_file(emperor.path("other.sock")).expect("own file");
        let kinds = [
            ("an epoll", epoll.0),
            ("an eventfd", event.as_fd().try_clone_to_owned().expect("a copy")),
            ("the control device's path", path("/dev/net/tun")),
            ("a listening socket", listener.into()),
            ("a connection to the router", client.into()),
            ("the random device", File::open("/dev/urandom").expect("every machine has it").into()),
            ("a process", File::open("/proc/self/mem").expect("one's own").into()),
            ("a namespace", File::open("/proc/self/ns/net").expect("one's own").into()),
        ];
        for (what, kind) in kinds {
            let mut peer = emperor.connect();
            offer(&mut peer, &hello(), &[kind.as_fd()]);
            assert_eq!(answer(&mut peer), Answer::Refused, "{what}");
            assert!(peer.echo(A1, EMPEROR, wait::SHORT), "{what}: frames are served");
            drop(peer);
            emperor.wait_for_stats("its address is free", |stats| stats.peer(A1).is_none());
        }
    });
}

/// A peer sends its own connection, which would keep itself alive.
#[test]
fn connection_that_is_handed_over_by_itself() {
    let mut watch = Watch::start();
    watch.endure("a connection inside of itself", |watch| {
        let emperor = &watch.emperor;
        for _ in 0..50 {
            let stream = UnixStream::connect(emperor.socket()).expect("the router listens");
            let own = [stream.as_raw_fd()];
            let frame = wire::frame(HELLO, &hello());
            for bytes in [&frame[..5], &frame[5..]] {
                let rights = [ControlMessage::ScmRights(&own)];
                sendmsg::<()>(stream.as_raw_fd(), &[std::io::IoSlice::new(bytes)], &rights, MsgFlags::empty(), None)
                    .expect("a connection can be sent");
            }
            assert_eq!(answer(&mut RawPeer::over(stream)), Answer::Refused);
        }
    });
}

/// The router may read such a device but not write it, or the other way round.
#[test]
fn devices_for_one_direction() {
    let mut watch = Watch::start();
    watch.endure("a device for reading only", |watch| {
        let emperor = &watch.emperor;
        let (mut peer, _device, netns) = half_device(emperor, OpenOptions::new().read(true));
        let before = emperor.stats().drops("tun_refused");
        assert_eq!(pings_answered(&netns, EMPEROR, 3, &["-W", "1"]), 0);
        emperor.wait_for_stats("its packets are refused", |stats| stats.drops("tun_refused") >= before + 3);
        assert!(!peer.is_closed(Duration::from_millis(100)));
    });
    watch.endure("a device for writing only", |watch| {
        let emperor = &watch.emperor;
        let (mut peer, _device, netns) = half_device(emperor, OpenOptions::new().write(true));
        assert_eq!(pings_answered(&netns, EMPEROR, 1, &["-W", "1"]), 0);
        assert!(peer.is_closed(wait::SHORT), "it ends with the first packet that can't be read");
    });
}

fn half_device(emperor: &Emperor, access: &OpenOptions) -> (RawPeer, File, Netns) {
    let netns = Netns::new();
    let device = tun::make_for(access, &netns, DEVICE, ATTACHABLE);
    netns.sh(&format!("ip addr add {A1}/24 dev {DEVICE}"));
    netns.sh(&format!("ip link set {DEVICE} up"));
    let mut peer = emperor.connect();
    offer(&mut peer, &hello(), &[device.as_fd()]);
    assert_eq!(answer(&mut peer), Answer::Attached);
    (peer, device, netns)
}

/// Offers come again and again, on one connection and each on a new one.
#[test]
fn hellos_without_end() {
    let mut watch = Watch::start().allowing_lines(MANY_LINES);
    watch.endure("repeated hellos", |watch| {
        let emperor = &watch.emperor;
        let Handed { mut peer, device, netns } = Handed::attach(emperor, A1);
        let before = emperor.stats().drops_of(A1, "unknown_frame");
        for _ in 0..2000 {
            offer(&mut peer, &hello(), &[device.as_fd()]);
        }
        emperor.wait_for_stats("they are passed over", |stats| stats.drops_of(A1, "unknown_frame") == before + 2000);
        assert_eq!(pings_answered(&netns, EMPEROR, 3, &[]), 3, "it is attached as before");
    });
    watch.endure("hellos on new connections", |watch| {
        let emperor = &watch.emperor;
        let netns = Netns::new();
        let device = tun::make(&netns, DEVICE, ATTACHABLE);
        let descriptor: [BorrowedFd<'_>; 1] = [device.as_fd()];
        for round in 0..500 {
            let mut peer = emperor.connect();
            offer(&mut peer, &hello(), &descriptor);
            if round % 2 == 0 {
                assert_eq!(answer(&mut peer), Answer::Attached);
            }
        }
    });
}
