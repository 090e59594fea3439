//! Reloads, deaths and stops: of vassals, of the router, of the Emperor.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::netns::Net;
use crate::common::probe::{is_reachable, pings_answered};
use crate::common::processes::{self, descriptors, freeze, is_alive, send};
use crate::common::uwsgi::Subject;
use crate::common::wait;
use crate::pairs::{Pair, Router, cases};

cases!(reloaded_vassal_keeps_its_network also reloaded_vassal_keeps_its_network_on_the_other_uwsgi, Pair: c_c c_ours ours_c ours_ours);
// The C plugin loses its network in any reload, so this option makes no difference to it.
cases!(reloads_work_with_close_on_exec2, Pair: ours_ours);
cases!(reloads_work_with_close_on_exec, Pair: ours_ours);
cases!(vassal_loses_no_packet_while_it_reloads, Pair: c_ours ours_ours);
// C vassals lose their network in any reload, as the case above shows.
cases!(emperor_reloads_all_vassals, Pair: c_ours ours_ours);
// The C router fails, whichever plugin its vassals have.
cases!(reloaded_emperor_serves_again, Pair: c_c ours_c ours_ours);
cases!(vassals_come_back_after_the_router_was_killed, Pair: c_c c_ours ours_c ours_ours);
cases!(killed_vassal_frees_its_address_and_comes_back, Pair: c_c c_ours ours_c ours_ours);
cases!(workers_do_not_hold_the_tunnel, Pair: c_c c_ours ours_c ours_ours);
cases!(dead_worker_costs_nothing, Pair: c_c c_ours ours_c ours_ours);
cases!(vassals_of_a_killed_emperor_take_their_addresses_back, Pair: c_c c_ours ours_c ours_ours);
cases!(clean_stop_leaves_nothing, Router: c ours);
cases!(killed_master_leaves_nothing, Pair: c_c c_ours ours_c ours_ours);
cases!(removed_vassal_leaves_its_address, Pair: c_c c_ours ours_c ours_ours);

/// Waits until the Emperor reaches a vassal, whose namespace may be a new one.
#[track_caller]
fn wait_until_reachable(emperor: &Emperor) {
    wait::until_true("the vassal is reachable", wait::LONG, || is_reachable(&emperor.netns, V1));
}

fn reloaded_vassal_keeps_its_network(pair: Pair) {
    let emperor = pair.emperor().start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1));
    let pid = emperor.vassal_pid("v1");
    let rounds = if pair.vassal == Subject::Ours { 3 } else { 1 };
    for round in 1..=rounds {
        let mark = emperor.log.mark();
        emperor.touch("v1");
        emperor.wait_until_ready(mark, "v1");
        if pair.vassal == Subject::Ours {
            assert_eq!(pings_answered(&net, EMPEROR, 5, &[]), 5, "after reload {round}");
            assert_eq!(pings_answered(&emperor.netns, V1, 5, &[]), 5, "after reload {round}");
        } else {
            // A reload closes the C vassal's descriptors, and the unprivileged vassal cannot make a new device.
            wait::until_true("the C vassal has no device any more", wait::SHORT, || !net.has_device("uwsgi0"));
        }
    }
    assert_eq!(emperor.vassal_pid("v1"), pid, "it was a reload, not a new start");
}

/// The option takes close-on-exec off all descriptors.
fn reloads_work_with_close_on_exec2(pair: Pair) {
    reloads_work_with(pair, "close-on-exec2 = true");
}

/// The option sets close-on-exec on sockets.
fn reloads_work_with_close_on_exec(pair: Pair) {
    reloads_work_with(pair, "close-on-exec = true");
}

fn reloads_work_with(pair: Pair, option: &str) {
    let emperor = pair.emperor().line(option).start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1).line(option));
    for _ in 0..2 {
        let mark = emperor.log.mark();
        emperor.touch("v1");
        emperor.wait_until_ready(mark, "v1");
        assert_eq!(pings_answered(&net, EMPEROR, 5, &[]), 5, "after the vassal's reload");
    }
    for _ in 0..2 {
        let mark = emperor.log.mark();
        emperor.signal(Signal::SIGHUP);
        emperor.wait_until_ready(mark, "v1");
        assert_eq!(pings_answered(&emperor.netns, V1, 5, &[]), 5, "after the Emperor's reload");
    }
}

fn vassal_loses_no_packet_while_it_reloads(pair: Pair) {
    let emperor = pair.emperor().start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1));
    let mark = emperor.log.mark();
    thread::scope(|scope| {
        let out = scope.spawn(|| pings_answered(&net, EMPEROR, 60, &[]));
        let back = scope.spawn(|| pings_answered(&emperor.netns, V1, 60, &[]));
        thread::sleep(Duration::from_millis(300));
        emperor.touch("v1");
        emperor.wait_until_ready(mark, "v1");
        assert_eq!(out.join().expect("no panic"), 60, "from the vassal");
        assert_eq!(back.join().expect("no panic"), 60, "to the vassal");
    });
}

fn emperor_reloads_all_vassals(pair: Pair) {
    let emperor = pair.emperor().start();
    let nets = [("v1", V1), ("v2", V2)].map(|(name, address)| emperor.start_vassal(&pair.vassal(name, address)));
    let mark = emperor.log.mark();
    send(emperor.emperor_pid(), Signal::SIGHUP);
    for (name, net) in ["v1", "v2"].iter().zip(&nets) {
        emperor.wait_until_ready(mark, name);
        assert_eq!(pings_answered(net, EMPEROR, 5, &[]), 5, "{name} after its reload");
    }
}

fn reloaded_emperor_serves_again(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    let master = emperor.master_pid();
    // To uWSGI's master both are a reload, a graceful and a brutal one.
    let signals = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGHUP];
    let rounds = if pair.router == Subject::Ours { 3 } else { 1 };
    for signal in signals.into_iter().take(rounds) {
        let mark = emperor.log.mark();
        emperor.signal(signal);
        emperor.log.wait_for_since(mark, "tuntap router 1", wait::LONG);
        if pair.router == Subject::Ours {
            emperor.wait_until_ready(mark, "v1");
            assert_eq!(pings_answered(&emperor.netns, V1, 5, &[]), 5, "after {signal}");
        } else {
            // The new image's router starts with descriptors that were closed behind its back, dies of it, and is
            // started again each second.
            wait::until_true("the C router dies again and again", wait::LONG, || {
                emperor.log.since(mark).matches("epoll_ctl(): Invalid argument").count() >= 3
            });
        }
    }
    assert!(is_alive(master), "a reload keeps the process");
}

/// Between two of ours nothing is lost but time. A C vassal ends with its connection, and ours can't come back to a C
/// router without the privileges that it had at its start; the Emperor starts both anew.
fn vassals_come_back_after_the_router_was_killed(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    let router = emperor.router_pid();
    let vassal = emperor.vassal_pid("v1");
    send(router, Signal::SIGKILL);
    emperor.log.wait_for("respawned uWSGI tuntap router 1", wait::LONG);
    wait_until_reachable(&emperor);
    assert_ne!(emperor.router_pid(), router);
    let stays = pair.router == Subject::Ours && pair.vassal == Subject::Ours;
    assert_eq!(emperor.vassal_pid("v1") == vassal, stays);
}

fn killed_vassal_frees_its_address_and_comes_back(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    let vassal = emperor.vassal_pid("v1").expect("the vassal runs");
    send(vassal, Signal::SIGKILL);
    emperor.wait_for_stats("the address is free", |stats| stats.peer(V1).is_none());
    wait_until_reachable(&emperor);
    assert_ne!(emperor.vassal_pid("v1"), Some(vassal));
}

/// With a descriptor of the tunnel a worker could write to the router, and keep a dead vassal's address.
fn workers_do_not_hold_the_tunnel(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    let vassal = emperor.vassal_pid("v1").expect("the vassal runs");
    let worker = wait::until("the vassal has its worker", wait::SHORT, || {
        emperor.family().children_of(vassal).first().map(|worker| worker.pid)
    });
    let holds_device = descriptors(worker).iter().any(|target| target.ends_with("/dev/net/tun"));
    // A stopped worker can't end with its master.
    freeze(worker);
    send(vassal, Signal::SIGKILL);
    wait::until_true("the vassal's master is gone", wait::SHORT, || !is_alive(vassal));
    if pair.vassal == Subject::Ours {
        assert!(!holds_device, "{:?}", descriptors(worker));
        emperor.wait_for_stats("the peer ended with the master", |stats| stats.peer(V1).is_none());
    } else {
        assert!(holds_device);
        assert!(emperor.stats().peer(V1).is_some(), "the worker holds the C vassal's connection");
    }
    assert!(is_alive(worker));
}

fn dead_worker_costs_nothing(pair: Pair) {
    let emperor = pair.emperor().start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1));
    let vassal = emperor.vassal_pid("v1").expect("the vassal runs");
    let worker = wait::until("the vassal has its worker", wait::SHORT, || {
        emperor.family().children_of(vassal).first().map(|worker| worker.pid)
    });
    send(worker, Signal::SIGSEGV);
    emperor.log.wait_for("Respawned uWSGI worker 1", wait::LONG);
    assert_eq!(pings_answered(&net, EMPEROR, 5, &[]), 5);
    assert_eq!(emperor.vassal_pid("v1"), Some(vassal));
}

fn vassals_of_a_killed_emperor_take_their_addresses_back(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    let first = emperor.vassal_pid("v1").expect("the vassal runs");
    send(emperor.emperor_pid(), Signal::SIGKILL);
    wait::until_true("the orphaned vassal ends", wait::LONG, || !is_alive(first));
    let net = wait::until("the new Emperor's vassal is connected", wait::LONG, || {
        let net = Net::of_process(emperor.vassal_pid("v1")?).ok()?;
        is_reachable(&net, EMPEROR).then_some(net)
    });
    assert_eq!(pings_answered(&net, EMPEROR, 5, &[]), 5);
}

fn clean_stop_leaves_nothing(router: Router) {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut emperor = router.emperor().start();
        let mut peer = emperor.peer(V1);
        emperor.signal(signal);
        emperor.wait_for_exit();
        assert!(peer.is_closed(wait::SHORT));
        wait::until_true("all processes are gone", wait::SHORT, || emperor.family().members().is_empty());
        wait::until_true("its device is gone", wait::LONG, || !emperor.netns.has_device("emperor0"));
    }
}

fn killed_master_leaves_nothing(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    emperor.signal(Signal::SIGKILL);
    wait::until_true("all processes are gone", wait::LONG, || emperor.family().members().is_empty());
    // The kernel closes the queues of the device one by one.
    wait::until_true("its device is gone", wait::LONG, || !emperor.netns.has_device("emperor0"));
}

fn removed_vassal_leaves_its_address(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.start_vassal(&pair.vassal("v1", V1));
    let vassal = emperor.vassal_pid("v1").expect("the vassal runs");
    std::fs::remove_file(emperor.path("vassals/v1.ini")).expect("own folder");
    wait::until_true("the vassal ends", wait::LONG, || !is_alive(vassal));
    emperor.wait_for_stats("its address is free", |stats| stats.peer(V1).is_none());
    assert!(processes::is_alive(emperor.router_pid()));
    assert!(emperor.peer(V1).echo(V1, EMPEROR, Duration::from_secs(1)), "somebody else may have it");
}
