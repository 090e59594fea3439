//! Peers that want an address which is not theirs.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::packet;
use crate::common::processes::send;
use crate::common::wait;
use crate::common::wire;
use crate::world::{
    ALICE, BOB, ROOT, assert_echo, assert_not_leased, emperor, lease, not_leased, refusals, with_credentials,
};

#[test]
fn nobody_shows_somebody_elses_credentials() {
    let emperor = with_credentials(emperor()).line(lease(V1, ALICE.uid)).start();
    for other in [ALICE, ROOT] {
        assert_eq!(BOB.connect_as(&emperor, other).map(drop), Err(Errno::EPERM), "the kernel asks for CAP_SETUID");
    }
    let mut bob = BOB.connect_as(&emperor, BOB).expect("anybody may show who it is");
    assert_not_leased(&emperor, &mut bob, V1);
    // The bytes alone don't help: the kernel adds the sender's own credentials.
    let mut silent = BOB.connect(&emperor);
    BOB.run(|| silent.send_bytes(wire::CREDENTIALS));
    assert_not_leased(&emperor, &mut silent, V1);
}

/// Credentials that root shows hold for the connection's whole life, so that they can't be changed later.
#[test]
fn credentials_are_shown_once() {
    let emperor = with_credentials(emperor()).line(lease(V1, ALICE.uid)).line(lease(V2, BOB.uid)).start();
    let mut peer = ROOT.connect_as(&emperor, ALICE).expect("root may speak for anybody");
    assert_not_leased(&emperor, &mut peer, V2);
    peer.send_credentials(BOB.uid, BOB.gid);
    assert!(peer.is_closed(wait::SHORT), "no frame begins like this");
}

/// Credentials that the router did not ask for are passed over, and give no lease.
#[test]
fn unasked_credentials_give_no_lease() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).start();
    let mut root = ROOT.connect_as(&emperor, ALICE).expect("root may speak for anybody");
    assert_not_leased(&emperor, &mut root, V1);
}

/// A process that writes to an inherited connection has the leases of the process that made it, no more and no less.
#[test]
fn connection_that_was_passed_on_is_still_its_makers() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).line(lease(V2, BOB.uid)).start();
    let mut alice = ALICE.connect(&emperor);
    let request = |address| packet::echo_request(address, EMPEROR, 1, 84);
    BOB.run(|| alice.send_packet(&request(V2)));
    emperor.wait_for_stats("the packet is dropped", |stats| not_leased(stats) == 1);
    BOB.run(|| alice.send_packet(&request(V1)));
    emperor.wait_for_stats("the peer has its address", |stats| stats.peer(V1).is_some());
}

#[test]
fn router_that_was_restarted_binds_as_strictly() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).start();
    assert_echo(&mut ALICE.connect(&emperor), V1);
    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until_true("the router is respawned", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    // BOB is the first to connect after the crash.
    assert_not_leased(&emperor, &mut BOB.connect(&emperor), V1);
    assert_echo(&mut ALICE.connect(&emperor), V1);
}

#[test]
fn flood_with_addresses_of_others_fills_no_log_and_takes_nothing() {
    let emperor = emperor().line(lease(V1, ALICE.uid)).line(lease(V2, BOB.uid)).start();
    let mark = emperor.log.mark();
    let mut alice = ALICE.connect(&emperor);
    assert_echo(&mut alice, V1);
    let mut bob = BOB.connect(&emperor);
    const PACKETS: u32 = 10_000;
    for host in 0..PACKETS {
        let source = (u32::from(EMPEROR) + 4 + host).into();
        bob.send_packet(&packet::udp(source, EMPEROR, 9, b"mine"));
    }
    emperor.wait_for_stats("all are dropped", |stats| not_leased(stats) == u64::from(PACKETS));
    assert!(refusals(&emperor, mark).len() <= 60, "the log has a limit");
    assert_echo(&mut alice, V1);
    assert_echo(&mut bob, V2);
}
