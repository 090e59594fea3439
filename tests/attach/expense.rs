//! Vassals whose namespaces make packets expensive to receive. The router's thread pays for that, so such vassals lose
//! their attached device, however they hide the cost, and nobody else notices. Honest vassals are never taken for one
//! of them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::probe::pings_answered;
use crate::common::processes;
use crate::common::wait;
use crate::handed::{DEVICE, Handed};
use crate::world::{emperor, is_attached, start_attached, stream_reason, total};

/// A packet to an expensive vassal passes a chain of this many rules, several times.
const CHAIN_RULES: usize = 1_000;
const EXPENSIVE: usize = 100;

/// How long each transfer is measured.
const TRANSFER: Duration = Duration::from_millis(2500);

/// A measurement is repeated up to this often.
const ROUNDS: usize = 4;

/// The router's words for a device that is no longer attached.
const DETACHED: &str = "goes back to frames";

/// The next router's words about the peer that the last one was writing to when it hung.
const HUNG: &str = "the router before this one hung while it wrote a packet to its device";

/// Each of these tests needs the whole machine, so they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a thread work until this is dropped.
struct Busy<'scope> {
    is_over: &'scope AtomicBool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn nft(emperor: &Emperor, net: &Net, rules: &str) {
    let file = emperor.path("rules.nft");
    std::fs::write(&file, rules).expect("own folder");
    net.sh(&format!("nft -f {}", file.display()));
}

/// Makes only some packets expensive: those whose number has one of these residues of the modulus.
fn hide_rules(emperor: &Emperor, net: &Net, modulus: usize, residues: &[usize]) {
    let long: String =
        (0..CHAIN_RULES).map(|index| format!("ip saddr 10.9.{}.{} drop\n", index >> 8, index & 255)).collect();
    let jumps = "jump long\n".repeat(EXPENSIVE * 1_000 / CHAIN_RULES);
    let pick = match modulus {
        1 => "jump expensive".to_owned(),
        _ => {
            let map: Vec<String> = residues.iter().map(|residue| format!("{residue} : jump expensive")).collect();
            format!("numgen inc mod {modulus} vmap {{ {} }}", map.join(", "))
        }
    };
    nft(
        emperor,
        net,
        &format!(
            "table ip t {{\nchain long {{\n{long}}}\nchain expensive {{\n{jumps}}}\n\
             chain c {{ type filter hook prerouting priority -400;\n{pick}\n}}\n}}\n"
        ),
    );
}

/// Makes one echo request take at least two seconds on any machine, which is twice what the master waits for: six hundred million rules,
/// for each of seven chains jumps to the next one ten times.
fn make_endless(emperor: &Emperor, net: &Net) {
    const DEPTH: usize = 7;
    let chain = |depth: usize| {
        let rules =
            if depth == DEPTH { "ip ttl 77 drop\n".repeat(60) } else { format!("jump c{}\n", depth + 1).repeat(10) };
        format!("chain c{depth} {{\n{rules}}}\n")
    };
    let chains: String = (0..=DEPTH).rev().map(chain).collect();
    let hook = "chain c { type filter hook prerouting priority -400;\nicmp type echo-request jump c0\n}\n";
    nft(emperor, net, &format!("table ip t {{\n{chains}{hook}}}\n"));
}

/// Sends small packets from the Emperor's side until told to stop.
fn flood(emperor: &Emperor, to: Ipv4Addr, is_over: &AtomicBool) {
    let socket = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 0))).expect("the Emperor has its address");
    socket.set_nonblocking(true).expect("a socket can be made non-blocking");
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..30 {
            let _ = socket.send_to(&[0x5a; 100], (to, 9));
        }
        sleep(Duration::from_millis(1));
    }
}

/// The bytes that pass from one namespace to a server in another one during [`TRANSFER`].
#[track_caller]
fn transfer(server: &Net, address: Ipv4Addr, client: &Net, time: Duration) -> u64 {
    let listener = server.run(|| TcpListener::bind((address, 0))).expect("a port is free");
    let to = listener.local_addr().expect("a listener has an address");
    let mut sender = client.run(|| TcpStream::connect_timeout(&to, wait::LONG)).expect("TCP connects");
    let (mut receiver, _) = listener.accept().expect("it was connected");
    receiver.set_read_timeout(Some(wait::SHORT)).expect("not zero");
    sender.set_write_timeout(Some(wait::SHORT)).expect("not zero");
    let received = AtomicU64::new(0);
    let end = Instant::now() + time;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = receiver.read(&mut buffer) {
                received.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let bytes = vec![7; 1 << 16];
        while Instant::now() < end && sender.write_all(&bytes).is_ok() {}
        let counted = received.load(Ordering::Relaxed);
        drop(sender);
        counted
    })
}

/// The service that an honest vassal gets: bytes during [`TRANSFER`], and the round trip of its pings in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Service {
    bytes: u64,
    ping: f64,
}

#[track_caller]
fn service(emperor: &Emperor, honest: &Net) -> Service {
    let bytes = transfer(honest, V1, &emperor.netns, TRANSFER);
    let output = honest.output(&["ping", "-q", "-n", "-i", "0.02", "-c", "50", "-W", "5", &EMPEROR.to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    let times: Vec<f64> = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))
        .map(|times| times.split('/').filter_map(|time| time.parse().ok()).collect())
        .unwrap_or_default();
    let [_, ping, ..] = times[..] else { panic!("no answers: {text}") };
    Service { bytes, ping }
}

/// Floods an attacker whose rules are for these residues of a modulus, beside an honest vassal. The attacker counts
/// packets from a known start: its device's own counters say how many it has got before.
#[track_caller]
fn assert_hiding_is_in_vain(modulus: usize, residues: impl Fn(usize) -> Vec<usize>) {
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let attacker = Handed::attach(&emperor, V2);
    let mut what = String::new();
    // Other work may take the machine for a while. A vassal that is starved is starved in each round.
    let is_served = (0..ROUNDS).any(|_| {
        attacker.netns.sh("nft flush ruleset");
        // The same packets without the rules.
        let usual = flooded(&emperor, || service(&emperor, &honest));
        let residues = residues(packets_before(&emperor));
        what = format!("{} of the residues of {modulus}", residues.len());
        hide_rules(&emperor, &attacker.netns, modulus, &residues);
        let attacked = flooded(&emperor, || service(&emperor, &honest));
        eprintln!("{what}: {usual:?}, attacked {attacked:?}");
        attacked.bytes * 2 >= usual.bytes && attacked.ping < (2.0 * usual.ping).max(5.0)
    });
    assert!(is_served, "{what}: the honest vassal is served as well as usual");
    flooded(&emperor, || {
        let is_told = || lines(&emperor).iter().any(|line| line.contains(&format!("peer {V2} ")));
        wait::until_true(&format!("{what}: the attacker is named"), wait::LONG, is_told);
    });
    // Time that a hypervisor takes in the middle of a write counts as the packet's, so on a busy machine an honest vassal may be
    // limited for a moment. It never loses its device.
    let is_blamed = |line: &String| line.contains(&format!("peer {V1} ")) && line.contains(DETACHED);
    let blames: Vec<String> = lines(&emperor).into_iter().filter(is_blamed).collect();
    assert!(blames.is_empty(), "{what}: {blames:?}");
    assert!(is_attached(&emperor.stats(), V1));
}

/// The number of packets that the attacker's device has got, once no more are on their way.
#[track_caller]
fn packets_before(emperor: &Emperor) -> usize {
    let received = || emperor.stats().of_peer(V2, "tx_packets");
    let mut before = received();
    wait::until_true("the flood has passed", wait::LONG, || {
        sleep(Duration::from_millis(100));
        std::mem::replace(&mut before, received()) == before
    });
    usize::try_from(before).expect("a few")
}

/// Runs `work` while small packets flood the attacker.
#[track_caller]
fn flooded<T>(emperor: &Emperor, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _busy = Busy { is_over: &is_over };
        scope.spawn(|| flood(emperor, V2, &is_over));
        work()
    })
}

/// The router's log lines about peers that cost too much.
fn lines(emperor: &Emperor) -> Vec<String> {
    let log = emperor.log.text();
    let is_one = |line: &&str| line.contains(DETACHED) || line.contains("is limited, some packets");
    log.lines().filter(is_one).map(str::to_owned).collect()
}

/// The residue of the packet that comes `further` packets after the next one.
fn residue_of(packets: usize, further: usize, modulus: usize) -> usize {
    // The first packet that the rules see has residue 0. A meter that looks at each packet whose number is a multiple of the
    // modulus would look at this one.
    (further + modulus - (packets + 1) % modulus) % modulus
}

fn all_but(residue: usize, modulus: usize) -> Vec<usize> {
    (0..modulus).filter(|other| *other != residue).collect()
}

#[test]
fn rules_for_every_packet_are_noticed() {
    let _alone = alone();
    assert_hiding_is_in_vain(1, |_| vec![0]);
}

/// Leaves out the residue that a meter would see if it looked at one packet of each `modulus`.
#[test]
fn rules_for_all_but_one_of_some_packets_are_noticed() {
    let _alone = alone();
    for modulus in [2, 3, 8, 64] {
        assert_hiding_is_in_vain(modulus, |packets| all_but(residue_of(packets, 0, modulus), modulus));
    }
}

#[test]
fn rules_for_one_of_many_packets_are_noticed() {
    let _alone = alone();
    for (modulus, further) in [(8, 3), (17, 16), (61, 30), (64, 1), (64, 63)] {
        assert_hiding_is_in_vain(modulus, |packets| vec![residue_of(packets, further, modulus)]);
    }
}

/// Behind a veth pair the kernel receives packets in another context, but still in the router's thread.
#[test]
fn rules_in_a_namespace_behind_are_noticed() {
    let _alone = alone();
    let emperor = emperor().start();
    let _honest = start_attached(&emperor, "v1", V1);
    let attacker = Handed::attach(&emperor, V2);
    let behind = Netns::new();
    attacker.netns.join("10.8.0.1/24", &behind, "10.8.0.2/24");
    let forward = "chain d { type nat hook prerouting priority dstnat; ip protocol udp dnat to 10.8.0.2;}";
    nft(&emperor, &attacker.netns, &format!("table ip n {{\n{forward}\n}}\n"));
    hide_rules(&emperor, &behind, 64, &[9]);
    flooded(&emperor, || emperor.log.wait_for(DETACHED, wait::LONG));
    assert!(is_attached(&emperor.stats(), V1));
}

/// A real vassal, with uWSGI's own device.
#[test]
fn vassal_comes_back_when_its_rules_are_gone() {
    let emperor = emperor().start();
    let _honest = start_attached(&emperor, "v1", V1);
    let vassal = start_attached(&emperor, "v2", V2);
    hide_rules(&emperor, &vassal, 8, &all_but(0, 8));
    flood_until_detached(&emperor);
    let reason = stream_reason(&emperor.stats(), V2);
    assert!(reason.as_str().is_some_and(|reason| reason.contains("too much time")), "{reason}");
    assert_eq!(pings_answered(&vassal, EMPEROR, 5, &[]), 5, "frames are served");
    vassal.sh("nft flush ruleset");
    wait::until_true("it is attached again", wait::LONG * 3, || is_attached(&emperor.stats(), V2));
    emperor.log.wait_for("is attached again", wait::SHORT);
    assert_eq!(total(&emperor.stats(), "attached_again"), 1);
    assert!(transfer(&emperor.netns, EMPEROR, &vassal, Duration::from_secs(1)) > 1_000_000, "out");
    assert!(transfer(&vassal, V2, &emperor.netns, Duration::from_secs(1)) > 1_000_000, "in");
    // A namespace that has cost too much before is judged sooner, and a busy machine may make it look dear once more.
    wait::until_true("it is attached in the end", wait::LONG * 3, || is_attached(&emperor.stats(), V2));
}

/// A peer that was refused because of another device of its namespace is attached again later, too. Each relapse
/// doubles the time.
#[test]
fn relapse_takes_longer() {
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let mut attacker = Handed::attach(&emperor, V2);
    hide_rules(&emperor, &attacker.netns, 1, &[0]);
    flood_until_detached(&emperor);
    emperor.log.wait_for("goes back to frames for 20 s", wait::SHORT);
    wait::until_true("it is attached again", wait::LONG * 3, || {
        // A peer is not attached while it has frames to read, as the end of the flood may be.
        while attacker.peer.next_read(Duration::from_millis(1)).is_some() {}
        total(&emperor.stats(), "attached_again") == 1
    });
    flood_until_detached(&emperor);
    emperor.log.wait_for("goes back to frames for 40 s", wait::SHORT);
    // The router still keeps a descriptor of the device. That does no harm when the peer or the device goes away.
    attacker.netns.sh(&format!("ip link del {DEVICE}"));
    drop(attacker);
    emperor.wait_for_stats("the peer has left", |stats| stats.peers().len() == 1);
    assert_eq!(pings_answered(&honest, EMPEROR, 5, &[]), 5);
}

#[track_caller]
fn flood_until_detached(emperor: &Emperor) {
    let before = total(&emperor.stats(), "detached");
    flooded(emperor, || {
        wait::until_true("it is detached", wait::LONG, || total(&emperor.stats(), "detached") > before);
    });
}

/// Bulk traffic in both directions, and from vassal to vassal, for some seconds.
#[track_caller]
fn assert_honest_stay_attached(what: &str, emperor: &Emperor, vassals: &[(Ipv4Addr, Net)]) {
    let time = Duration::from_secs(4);
    thread::scope(|scope| {
        for (index, (address, net)) in vassals.iter().enumerate() {
            scope.spawn(move || transfer(net, *address, &emperor.netns, time));
            if index == 0 {
                scope.spawn(move || transfer(&emperor.netns, EMPEROR, net, time));
            }
        }
    });
    let stats = emperor.stats_eventually();
    let log = emperor.log.text();
    assert_eq!(total(&stats, "detached"), 0, "{what}: {log}");
    assert!(!log.contains(DETACHED), "{what}: {log}");
    assert!(vassals.iter().all(|(address, _)| is_attached(&stats, *address)), "{what}: {}", stats.0);
    assert!(vassals.iter().all(|(address, _)| stats.of_peer(*address, "tx") > 1_000_000), "{what}: {}", stats.0);
}

fn two_vassals(emperor: &Emperor) -> Vec<(Ipv4Addr, Net)> {
    vec![(V1, start_attached(emperor, "v1", V1)), (V2, start_attached(emperor, "v2", V2))]
}

#[test]
fn busy_processors_detach_nobody() {
    let _alone = alone();
    let emperor = emperor().start();
    let vassals = two_vassals(&emperor);
    let is_over = AtomicBool::new(false);
    let processors = thread::available_parallelism().expect("the kernel tells").get();
    thread::scope(|scope| {
        let _busy = Busy { is_over: &is_over };
        for _ in 0..processors {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        assert_honest_stay_attached("a hog on each processor", &emperor, &vassals);
    });
}

#[test]
fn half_a_processor_detaches_nobody() {
    let _alone = alone();
    let emperor = emperor().start();
    let vassals = two_vassals(&emperor);
    let router = emperor.router_pid();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _busy = Busy { is_over: &is_over };
        match Cgroup::with_half_a_processor(router) {
            Some(_group) => assert_honest_stay_attached("half a processor", &emperor, &vassals),
            // Without a cgroup that limits CPU time, the router is stopped for half of the time.
            None => {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
                            processes::send(router, signal);
                            sleep(Duration::from_millis(50));
                        }
                    }
                });
                assert_honest_stay_attached("stopped half of the time", &emperor, &vassals);
            }
        }
    });
}

/// A cgroup with limited CPU time, of either version (Documentation/scheduler/sched-bwc.rst). It is removed on drop.
#[derive(Debug)]
struct Cgroup {
    root: &'static str,
    folder: String,
}

impl Cgroup {
    fn with_half_a_processor(pid: i32) -> Option<Self> {
        [("/sys/fs/cgroup", "cpu.max", "50000 100000"), ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "50000")]
            .into_iter()
            .find_map(|(root, file, value)| {
                let folder = format!("{root}/tuntap-{}", std::process::id());
                std::fs::create_dir(&folder).ok()?;
                let group = Self { root, folder };
                // Without the controller this file doesn't exist.
                std::fs::metadata(format!("{}/{file}", group.folder)).ok()?;
                std::fs::write(format!("{}/{file}", group.folder), value).ok()?;
                std::fs::write(format!("{}/cgroup.procs", group.folder), pid.to_string()).ok()?;
                Some(group)
            })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let members = std::fs::read_to_string(format!("{}/cgroup.procs", self.folder)).unwrap_or_default();
        for member in members.lines() {
            let _ = std::fs::write(format!("{}/cgroup.procs", self.root), member);
        }
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// Super-packets of 64 KiB to many, each of which wakes its receiver.
#[test]
fn many_busy_receivers_are_not_detached() {
    let _alone = alone();
    let emperor = emperor().line("tuntap-router-switch = true").start();
    let receivers: Vec<(Ipv4Addr, Handed)> = (0..20)
        .map(|number| Ipv4Addr::new(192, 168, 0, 100 + number))
        .map(|address| (address, Handed::attach(&emperor, address)))
        .collect();
    thread::scope(|scope| {
        for (address, handed) in &receivers {
            let (emperor, address) = (&emperor, *address);
            scope.spawn(move || transfer(&handed.netns, address, &emperor.netns, Duration::from_secs(4)));
        }
    });
    let stats = emperor.stats_eventually();
    assert_eq!(total(&stats, "detached"), 0, "{}", emperor.log.text());
    for (address, _) in &receivers {
        assert!(is_attached(&stats, *address), "{}", stats.0);
        assert!(stats.of_peer(*address, "tx") > 1_000_000, "{}", stats.0);
    }
}

/// The router is ended while it hangs in a write to a vassal. The next ones don't write there, or all vassals would be without
/// a router for as long as somebody sends packets to that one.
#[test]
fn router_that_hung_in_a_write_is_the_only_one() {
    let _alone = alone();
    let emperor = emperor().line("tuntap-router-harakiri = 1").start();
    let honest = start_attached(&emperor, "v1", V1);
    let expensive = start_attached(&emperor, "v2", V2);
    let router = emperor.router_pid();
    make_endless(&emperor, &expensive);
    pings_answered(&emperor.netns, V2, 1, &["-W", "1"]);
    let line =
        format!("[tuntap-router] emperor0: peer {V2} (pid {}, uid 0)", emperor.vassal_pid("v2").expect("it runs"));
    emperor.log.wait_for(HUNG, wait::LONG);
    let text = emperor.log.text();
    assert!(text.lines().any(|it| it.contains(HUNG) && it.starts_with(&line)), "{}", emperor.log.tail());
    emperor.wait_for_stats("the honest vassal is attached, the other one waits", |stats| {
        is_attached(stats, V1)
            && stats.peer(V2).is_some()
            && stream_reason(stats, V2).as_str().is_some_and(|reason| reason.contains("a short while ago"))
    });
    let second = emperor.router_pid();
    assert_ne!(second, router);
    pings_answered(&emperor.netns, V2, 1, &["-W", "1"]);
    assert_eq!(pings_answered(&honest, EMPEROR, 3, &[]), 3);
    assert_eq!(emperor.router_pid(), second);
    assert!(is_attached(&emperor.stats(), V1));
}
