//! An Emperor that executes itself anew.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::emperor::{Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::rules::{add_hosts_own, without_ours};
use crate::world::{
    HOST_IPV4, OUTSIDE_IPV4, OUTSIDE_IPV6, World, client_as_seen, connect, forwarding, ip, ruleset, start, start_in,
    vassal,
};

/// An instance that isn't a vassal, so that it outlives its Emperor's reload.
#[track_caller]
fn bystander(world: &World) -> Emperor {
    let ini = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .lines(&[
            "master = true",
            "unshare = net",
            "processes = 1",
            "socket = 127.0.0.1:3031",
            "uid = 65534",
            "gid = 65534",
        ])
        .line(format!("tuntap-device = uwsgi0 {}", world.socket().display()))
        .lines(&[
            "exec-as-root = ip link set lo up",
            "exec-as-root = ip addr replace 192.168.0.2/24 dev uwsgi0",
            "exec-as-root = ip link set uwsgi0 up",
            "exec-as-root = ip route replace default via 192.168.0.1 dev uwsgi0",
            "exec-as-root = ping -q -c 1 -W 5 192.168.0.1",
        ]);
    let instance = ini.launch();
    instance.log.wait_for("spawned uWSGI worker 1", wait::LONG);
    world.wait_for_stats("it joined", |stats| stats.peer(V1).is_some());
    instance
}

#[track_caller]
pub fn reload(world: &World) {
    let mark = world.log.mark();
    world.signal(Signal::SIGHUP);
    world.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
}

/// Sends bytes all the time and has them sent back, for as long as `work` takes and a little longer; the longest time without
/// one. A vassal that has joined its router again has its address again with its next packet, so that it must be the near
/// end that never waits.
#[track_caller]
fn longest_pause(near: TcpStream, mut far: TcpStream, work: impl FnOnce() + Send) -> Duration {
    const INTERVAL: Duration = Duration::from_millis(10);
    let mut writer = near.try_clone().expect("a copy");
    let mut reader = near;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = [0; 1000];
            while let Ok(count @ 1..) = far.read(&mut bytes) {
                far.write_all(&bytes[..count]).expect("the connection lives");
            }
        });
        let work = scope.spawn(work);
        let ended = AtomicBool::new(false);
        let ended = &ended;
        thread::scope(|scope| {
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    writer.write_all(b"x").expect("the connection lives");
                    thread::sleep(INTERVAL);
                }
                writer.shutdown(Shutdown::Both).expect("the connection lives");
            });
            let mut longest = Duration::ZERO;
            let mut reads_afterwards = 0;
            while reads_afterwards < 20 {
                reads_afterwards += u32::from(work.is_finished());
                let begin = Instant::now();
                let result = reader.read(&mut [0; 1]);
                if !matches!(result, Ok(1)) {
                    ended.store(true, Ordering::Relaxed);
                    panic!("{result:?}");
                }
                longest = longest.max(begin.elapsed());
            }
            ended.store(true, Ordering::Relaxed);
            work.join().expect("no panic");
            longest
        })
    })
}

#[test]
fn stream_lives_through_reloads() {
    let world = start(&[]);
    let instance = bystander(&world);
    let net = Net::of_process(instance.master_pid()).expect("it runs");
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7004));
    let (near, far, client) = connect(&net, target, &world.site.outside4, target);
    assert_eq!(client, ip(HOST_IPV4));
    let longest = longest_pause(near, far, || {
        for _ in 0..2 {
            reload(&world);
            wait::until_true("it joined again", wait::LONG, || world.try_stats().is_ok_and(|it| it.peer(V1).is_some()));
        }
    });
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

/// At no moment is the table missing: packets would leave with the vassals' addresses.
#[test]
fn table_and_settings_stay_through_reloads() {
    let host = crate::common::netns::Netns::new();
    add_hosts_own(&host);
    let others = ruleset(&host);
    let mut world = start_in(host, &[]);
    let before_start = ["0", "0"];
    let state = forwarding(&world.netns);
    for _ in 0..2 {
        thread::scope(|scope| {
            let reload = scope.spawn(|| reload(&world));
            while !reload.is_finished() {
                assert_eq!(without_ours(&ruleset(&world.netns)), others);
                assert_eq!(forwarding(&world.netns), state);
            }
        });
    }
    let net = world.start_vassal(&vassal("v1"));
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7005));
    assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), 7005));
    client_as_seen(&net, target, &world.site.outside6, target);
    // The last image puts back what the first one found.
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!(ruleset(&world.netns), others);
    let after = ["up4", "up6"].map(|name| world.netns.sh(&format!("sysctl -n net.ipv4.conf.{name}.forwarding")));
    assert_eq!(after.map(|value| value.trim().to_owned()), before_start);
}

/// Settings that the new configuration doesn't need any more are put back at once.
#[test]
fn options_that_are_taken_out_have_no_effect_after_a_reload() {
    let world = start(&[]);
    assert!(ruleset(&world.netns).contains("masquerade"));
    let path = world.path("emperor.ini");
    let text = std::fs::read_to_string(&path).expect("own file");
    let without: Vec<_> = text.lines().filter(|line| !line.starts_with("tuntap-router-nat")).collect();
    std::fs::write(&path, without.join("\n")).expect("own file");
    reload(&world);
    // The protection of the host stays.
    let left = ruleset(&world.netns);
    assert!(!left.contains("masquerade") && !left.contains("up4") && left.contains("hook input"), "{left}");
    let state = ["up4", "up6"].map(|name| world.netns.sh(&format!("sysctl -n net.ipv4.conf.{name}.forwarding")));
    assert_eq!(state.map(|value| value.trim().to_owned()), ["0", "0"]);
}

/// A reload can end the instance, too.
#[test]
fn reload_into_a_broken_configuration_leaves_nothing_behind() {
    let host = crate::common::netns::Netns::new();
    let before = ruleset(&host);
    for broken in ["tuntap-router-port = tcp 80 10.9.9.9:80", "such-an-option = does not exist"] {
        let host = crate::common::netns::Netns::new();
        let mut world = start_in(host, &["strict = true"]);
        let path = world.path("emperor.ini");
        let text = std::fs::read_to_string(&path).expect("own file");
        std::fs::write(&path, format!("{text}\n{broken}\n")).expect("own file");
        world.signal(Signal::SIGHUP);
        world.emperor.wait_for_exit();
        assert_eq!(ruleset(&world.netns), before, "{broken}");
        let state = ["up4", "up6"].map(|name| world.netns.sh(&format!("sysctl -n net.ipv4.conf.{name}.forwarding")));
        assert_eq!(state.map(|value| value.trim().to_owned()), ["0", "0"], "{broken}");
    }
}
