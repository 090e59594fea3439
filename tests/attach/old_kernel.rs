//! Kernels before Linux 6.4, whose TUN devices have no RWF_NOWAIT: devices are attached all the same, and who makes the router wait
//! goes back to frames.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::handed::{DEVICE, Handed};
use crate::hello::{Answer, answer, hello, offer};
use crate::tun::{self, ATTACHABLE};
use crate::world::{assert_calm, start_attached, stream_reason, total};

const V3: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 4);

/// A router that believes to be on such a kernel, with an honest attached vassal at V1.
#[track_caller]
fn scene() -> (Emperor, Net) {
    let ini = EmperorIni::new(Uwsgi::Distribution, Subject::Faulty);
    let emperor = ini.line("env = UWSGI_TUNTAP_TUN=blocking").start();
    let honest = start_attached(&emperor, "v1", V1);
    (emperor, honest)
}

fn clear_nonblock(handed: &Handed) {
    fcntl(&handed.device, FcntlArg::F_SETFL(OFlag::O_RDWR)).expect("flags can be changed");
}

#[test]
fn attached_peer_that_clears_nonblock_goes_to_frames() {
    let (emperor, honest) = scene();
    assert_calm(&emperor, &honest);
    let handed = Handed::attach(&emperor, V2);
    let other = Handed::attach(&emperor, V3);
    clear_nonblock(&handed);
    // The router answers the first ping, and waits for another packet.
    handed.pings_answered(1);
    emperor.wait_for_stats("the peer is back to frames", |stats| {
        stream_reason(stats, V2).as_str().is_some_and(|reason| reason.contains("cleared O_NONBLOCK"))
    });
    emperor.log.wait_for("goes back to frames: it has cleared O_NONBLOCK", wait::SHORT);
    assert_eq!(total(&emperor.stats(), "detached"), 1);
    assert_calm(&emperor, &honest);
    assert_eq!(other.pings_answered(5), 5, "root's peers in other namespaces are others");

    // Its namespace is not attached again soon, with whatever device.
    let Handed { peer, device, netns } = handed;
    drop(peer);
    emperor.wait_for_stats("it has left", |stats| stats.peer(V2).is_none());
    fcntl(&device, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).expect("flags can be changed");
    let next = tun::make(&netns, "next", ATTACHABLE);
    for descriptor in [device.as_fd(), next.as_fd()] {
        let mut again = netns.run(|| emperor.connect());
        offer(&mut again, &hello(), &[descriptor]);
        assert_eq!(answer(&mut again), Answer::Refused);
    }
    assert_calm(&emperor, &honest);
}

#[test]
fn descriptor_without_nonblock_is_refused() {
    let (emperor, honest) = scene();
    let netns = Netns::new();
    let device = tun::make(&netns, DEVICE, ATTACHABLE);
    fcntl(&device, FcntlArg::F_SETFL(OFlag::O_RDWR)).expect("flags can be changed");
    let mut peer = netns.run(|| emperor.connect());
    offer(&mut peer, &hello(), &[device.as_fd()]);
    assert_eq!(answer(&mut peer), Answer::Refused);
    assert!(peer.echo(V2, EMPEROR, wait::SHORT), "frames are served");
    let reason = stream_reason(&emperor.stats(), V2);
    assert!(reason.as_str().is_some_and(|reason| reason.contains("without O_NONBLOCK")), "{reason}");
    assert_calm(&emperor, &honest);
}
