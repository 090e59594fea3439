//! Leases of users and groups that don't exist: they never did, are added later, or are removed while an Emperor runs.

use std::fs;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::packet;
use crate::common::processes::run_in_mounts_of;
use crate::common::wait;
use crate::world::{ALICE, BOB, STAFF, assert_echo, assert_not_leased, emperor, lease};

/// The instance sees these accounts beside the machine's own: a file of the test's in the place of the machine's, in the
/// instance's own mount namespace.
fn set_accounts(emperor: &Emperor, file: &str, lines: &[&str]) {
    let own = fs::read_to_string(file).expect("every machine has it");
    let path = emperor.path(&format!("accounts{}", file.replace('/', "-")));
    let is_mounted = path.exists();
    fs::write(&path, format!("{own}{}\n", lines.join("\n"))).expect("own folder");
    if !is_mounted {
        run_in_mounts_of(emperor.master_pid(), &format!("mount --bind {} {file}", path.display()));
    }
}

fn reload(emperor: &Emperor) {
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
    wait::until_true("the router answers", wait::LONG, || emperor.try_stats().is_ok());
}

#[test]
fn user_and_group_that_are_yet_to_come_join() {
    let emperor = emperor().line(lease(V1, "tt-alice")).line(lease(V2, "@tt-staff")).start();
    for line in [
        "tuntap-router-lease = 192.168.0.2 tt-alice: there is no user \"tt-alice\" on this machine",
        "tuntap-router-lease = 192.168.0.3 @tt-staff: there is no group \"tt-staff\" on this machine",
    ] {
        emperor.log.wait_for(line, wait::SHORT);
    }
    // Until then nobody may hold the address.
    let mut alice = ALICE.connect(&emperor);
    assert_not_leased(&emperor, &mut alice, V1);
    assert_not_leased(&emperor, &mut BOB.connect(&emperor), V1);
    set_accounts(&emperor, "/etc/passwd", &[&format!("tt-alice:x:{}:{}::/:/bin/false", ALICE.uid, ALICE.gid)]);
    emperor.log.wait_for("192.168.0.2/32 is leased to uid 30001 from now on", wait::LONG);
    // This holds for a peer that is connected already, and for a new one.
    wait::until_true("it is leased", wait::LONG, || alice.echo(V1, EMPEROR, wait::SHORT));
    assert_not_leased(&emperor, &mut BOB.connect(&emperor), V1);
    set_accounts(&emperor, "/etc/group", &[&format!("tt-staff:x:{STAFF}:")]);
    emperor.log.wait_for(&format!("192.168.0.3/32 is leased to gid {STAFF} from now on"), wait::LONG);
    assert_echo(&mut crate::world::CAROL.connect(&emperor), V2);

    // The next router knows the account, too.
    drop(alice);
    let router = emperor.router_pid();
    crate::common::processes::send(router, Signal::SIGKILL);
    wait::until_true("there is another router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    assert_echo(&mut ALICE.connect(&emperor), V1);
}

#[test]
fn limits_wait_for_their_users_and_groups() {
    let emperor = emperor()
        .line("tuntap-router-shape = both tt-alice 20M/50M".to_owned())
        .line("tuntap-router-shape = out @tt-staff 5M".to_owned())
        .start();
    for line in [
        "tuntap-router-shape = both tt-alice 20M/50M: there is no user \"tt-alice\" on this machine: nobody is limited by it",
        "tuntap-router-shape = out @tt-staff 5M: there is no group \"tt-staff\" on this machine: nobody is limited by it",
    ] {
        emperor.log.wait_for(line, wait::SHORT);
    }
    let generation = || emperor.try_stats().ok().and_then(|stats| stats.0["policy"]["generation"].as_u64());
    assert_eq!(generation(), Some(0));
    set_accounts(&emperor, "/etc/passwd", &[&format!("tt-alice:x:{}:{}::/:/bin/false", ALICE.uid, ALICE.gid)]);
    emperor.log.wait_for(&format!("the limit \"both {} 20M/50M\" holds from now on", ALICE.uid), wait::LONG);
    wait::until_true("the router has the limit", wait::LONG, || generation() == Some(1));
    set_accounts(&emperor, "/etc/group", &[&format!("tt-staff:x:{STAFF}:")]);
    emperor.log.wait_for(&format!("the limit \"out @{STAFF} 5M\" holds from now on"), wait::LONG);
    wait::until_true("the router has the other limit", wait::LONG, || generation() == Some(2));
}

/// `userdel` does this. The next reload must not fail because of it.
#[test]
fn reload_goes_on_without_a_user_that_was_removed() {
    let mut emperor = emperor().line(lease(V1, "tt-alice")).line(lease(V2, BOB.uid)).start();
    set_accounts(&emperor, "/etc/passwd", &[&format!("tt-alice:x:{}:{}::/:/bin/false", ALICE.uid, ALICE.gid)]);
    emperor.log.wait_for("192.168.0.2/32 is leased to uid 30001 from now on", wait::LONG);
    reload(&emperor);
    assert_echo(&mut ALICE.connect(&emperor), V1);
    set_accounts(&emperor, "/etc/passwd", &[]);
    let mark = emperor.log.mark();
    reload(&emperor);
    emperor.log.wait_for_since(mark, "there is no user \"tt-alice\" on this machine", wait::SHORT);
    assert!(emperor.exit_status().is_none());
    assert_not_leased(&emperor, &mut ALICE.connect(&emperor), V1);
    assert_echo(&mut BOB.connect(&emperor), V2);
}

/// uWSGI itself would end because of it.
#[test]
fn reload_goes_on_without_the_user_that_the_socket_is_for() {
    let mut emperor = emperor().line("tuntap-router-lease-default = allow").start();
    set_accounts(&emperor, "/etc/passwd", &["tt-owner:x:30001:30001::/:/bin/false"]);
    let path = emperor.path("emperor.ini");
    let text = fs::read_to_string(&path).expect("own file");
    fs::write(&path, format!("{text}chown-socket = tt-owner\n")).expect("own file");
    reload(&emperor);
    set_accounts(&emperor, "/etc/passwd", &[]);
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "chown-socket: there is no user \"tt-owner\" on this machine", wait::LONG);
    assert!(emperor.exit_status().is_none());
    set_accounts(&emperor, "/etc/passwd", &["tt-owner:x:30001:30001::/:/bin/false"]);
    emperor.log.wait_for_since(mark, "emperor0: it is possible now", wait::LONG);
    wait::until_true("the router answers", wait::LONG, || emperor.try_stats().is_ok());
}

/// An address that is leased to a missing account is assigned to nobody.
#[test]
fn address_of_somebody_who_is_missing_is_closed_to_all() {
    let emperor = emperor().line(lease(V1, "tt-nobody")).line("tuntap-router-lease-default = allow").start();
    let mut bob = BOB.connect(&emperor);
    assert_not_leased(&emperor, &mut bob, V1);
    bob.send_packet(&packet::echo_request(V2, EMPEROR, 1, 84));
    assert_echo(&mut bob, V2);
}
