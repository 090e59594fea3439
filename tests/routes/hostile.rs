//! Whatever a neighbour does, vassals keep their network.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tuntap_core::routes::import::Imports;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::{probe, wait};
use crate::neighbour::{Neighbour, open};
use crate::world::{FEED, PASSWORD, Secrets, bird, bird_text, emperor, state, until_established, until_route, vassal};

/// An Emperor with a vassal, without a password.
fn with_vassal(secrets: &Secrets, more: &str) -> (Emperor, Net) {
    let emperor = emperor(secrets).line(format!("tuntap-router-routes = {FEED} {more}")).start();
    let net = emperor.start_attached(&vassal(&emperor, "one", V1));
    (emperor, net)
}

#[test]
fn without_the_password_nobody_connects() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let net = emperor.start_attached(&vassal(&emperor, "one", V1));
    Neighbour::connect(&emperor.netns).expect_err("it doesn't sign");
    let wrong = bird(&emperor.netns, &bird_text(Some("a wrong password"), None));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(state(&emperor.stats()), "idle");
    assert!(probe::is_reachable(&net, EMPEROR));
    drop(wrong);
    let _bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), None));
    until_established(&emperor);
    until_route(&emperor.netns, V1, true);
}

#[test]
fn garbage_ends_only_its_connection() {
    let secrets = Secrets::new();
    let (emperor, net) = with_vassal(&secrets, "");
    let router = emperor.router_pid();
    let good = open();
    let mut wrong_len = good.clone();
    wrong_len[16..18].copy_from_slice(&[0xff, 0xff]);
    for garbage in [vec![0; 4096], vec![0xff; 100], wrong_len, [good.as_slice(), &[0xff; 40]].concat()] {
        let mut neighbour = Neighbour::connect(&emperor.netns).expect("the router listens");
        neighbour.send(&garbage);
        assert!(neighbour.is_closed_within(wait::LONG), "{:02x?}", &garbage[..19]);
        assert!(probe::is_reachable(&net, EMPEROR));
    }
    let _bird = bird(&emperor.netns, &bird_text(None, None));
    until_established(&emperor);
    until_route(&emperor.netns, V1, true);
    assert_eq!(emperor.router_pid(), router);
}

#[test]
fn silent_and_slow_neighbours_end_and_keep_nobody_out() {
    let secrets = Secrets::new();
    let (emperor, net) = with_vassal(&secrets, "hold=3");
    let mut silent = Neighbour::connect(&emperor.netns).expect("the router listens");
    assert!(silent.is_closed_within(wait::LONG), "it says nothing");
    let mut slow = Neighbour::connect(&emperor.netns).expect("the router listens");
    for byte in open() {
        slow.send(&[byte]);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(slow.is_closed_within(wait::LONG), "it doesn't go on");
    let mut established = Neighbour::established(&emperor.netns);
    wait::until_true("a session", wait::LONG, || state(&emperor.stats()) == "established");
    assert!(established.is_closed_within(wait::LONG), "it is silent from then on");
    let _silent = Neighbour::connect(&emperor.netns).expect("the router listens");
    let _bird = bird(&emperor.netns, &bird_text(None, None));
    until_established(&emperor);
    until_route(&emperor.netns, V1, true);
    assert!(probe::is_reachable(&net, EMPEROR));
}

/// A part of a message doesn't keep the router busy.
#[test]
fn part_of_a_message_costs_nothing() {
    let secrets = Secrets::new();
    let (emperor, _net) = with_vassal(&secrets, "");
    let mut neighbour = Neighbour::established(&emperor.netns);
    wait::until_true("a session", wait::LONG, || state(&emperor.stats()) == "established");
    let mut part = vec![0xff; 16];
    part.extend_from_slice(&[0x10, 0x00, 2]);
    part.extend_from_slice(&[0; 1000]);
    neighbour.send(&part);
    thread::sleep(Duration::from_millis(300));
    let pid = emperor.router_pid();
    let before = cpu_ticks(pid);
    thread::sleep(Duration::from_secs(3));
    let spent = cpu_ticks(pid) - before;
    // A busy loop takes 300 hundredths of a second.
    assert!(spent < 60, "{spent} hundredths of a second in 3 s");
}

/// The processor time of a process, in hundredths of a second.
pub fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = text.rsplit_once(')').expect("a name in parentheses");
    rest.split_whitespace().skip(11).take(2).map(|word| word.parse::<u64>().expect("a number")).sum()
}

/// How often the neighbour announces all routes, so that it takes a while.
const ROUNDS: u32 = 4;

/// More routes than a router keeps.
const COUNT: u32 = 160_000;

const WIDE_EMPEROR: Ipv4Addr = Ipv4Addr::new(10, 76, 0, 1);
const WIDE_VASSAL: Ipv4Addr = Ipv4Addr::new(10, 76, 0, 2);

/// Sets a flag when it goes, however it goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Round trips from a vassal to the router's host, in microseconds, in order.
fn round_trips(net: &Net, until: &AtomicBool) -> Vec<u64> {
    let mut all = Vec::new();
    while !until.load(Ordering::Relaxed) {
        let output = net.output(&["ping", "-n", "-c", "50", "-i", "0.002", "-W", "5", &WIDE_EMPEROR.to_string()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        all.extend(
            text.lines()
                .filter_map(|line| {
                    let time = line.split("time=").nth(1)?.split(' ').next()?;
                    // Milliseconds with a point, which may be left out.
                    time.parse::<f64>().ok().map(|millis| Duration::from_secs_f64(millis / 1000.0).as_micros())
                })
                .filter_map(|micros| u64::try_from(micros).ok()),
        );
    }
    all.sort_unstable();
    all
}

#[test]
fn many_routes_delay_no_packets() {
    let secrets = Secrets::new();
    let emperor = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .lines(&["master = true", "emperor = {dir}/vassals", "emperor-freq = 1", "emperor-use-clone = net"])
        .lines(&["tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock", "tuntap-router-address = 10.76.0.1/14"])
        .line(secrets.key_line())
        .line(format!("tuntap-router-routes = {FEED} hold=60"))
        .start();
    let one = VassalIni::new(emperor.uwsgi, Subject::Ours, "one", WIDE_VASSAL, WIDE_EMPEROR);
    let net = emperor.start_attached(&one);
    let router = emperor.router_pid();
    let addresses: Vec<Ipv4Addr> =
        (0..COUNT).map(|number| Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 0).to_bits() + number)).collect();
    let is_over = AtomicBool::new(false);
    let (trips, took) = thread::scope(|scope| {
        let pings = scope.spawn(|| round_trips(&net, &is_over));
        let ends = Ends(&is_over);
        let mut neighbour = Neighbour::established(&emperor.netns);
        let begin = Instant::now();
        (0..ROUNDS).for_each(|_| neighbour.announce(&addresses));
        neighbour.end_of_rib();
        wait::until_true("all routes are read", 3 * wait::LONG, || {
            neighbour.keepalive();
            emperor.stats().0["routes"]["complete"] == true
        });
        let took = begin.elapsed();
        drop(ends);
        (pings.join().expect("no panic"), took)
    });
    let stats = emperor.stats();
    let kept = u32::try_from(Imports::MAX_ROUTES).expect("few");
    assert_eq!(stats.0["routes"]["received"], ROUNDS * COUNT);
    assert_eq!(stats.0["routes"]["routes"], kept);
    assert_eq!(stats.0["routes"]["refused"]["too_many_routes"], ROUNDS * (COUNT - kept));
    assert_eq!(emperor.router_pid(), router);
    let (median, slow, worst) = (trips[trips.len() / 2], trips[trips.len() * 9 / 10], trips[trips.len() - 1]);
    let count = trips.len();
    eprintln!("{took:?}; {count} round trips, median {median} us, 90 % below {slow} us, worst {worst} us");
    // Of packets that waited for all routes, most would take about as long as these.
    assert!(
        Duration::from_micros(slow) < took / 8,
        "{took:?}, {count}: median {median} us, {slow} us, worst {worst} us"
    );
    assert!(probe::is_reachable(&net, WIDE_EMPEROR));
}
