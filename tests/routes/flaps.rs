//! Peers that come and go without end.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::packet;
use crate::common::series::Series;
use crate::common::wait;
use crate::hostile::cpu_ticks;
use crate::neighbour::Neighbour;
use crate::world::{FEED, Secrets, emperor, state, vassal};

/// What one vassal does reaches the daemons and kernels of all hosts, so it has a rate.
#[test]
fn claim_that_comes_and_goes_is_told_seldom() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(format!("tuntap-router-routes = {FEED}")).start();
    let mut neighbour = Neighbour::established(&emperor.netns);
    neighbour.end_of_rib();
    wait::until_true("a session", wait::LONG, || state(&emperor.stats()) == "established");
    let claim = || {
        let mut raw = emperor.connect();
        raw.send_packet(&packet::udp(V1, EMPEROR, 9, b"a claim"));
        raw
    };
    let announced = |name: &str| emperor.stats().0["routes"]["session"][name].as_u64().expect("a number");
    let start = Instant::now();
    let mut cycles = 0;
    while start.elapsed() < Duration::from_secs(3) || announced("announced") == 0 {
        drop(claim());
        cycles += 1;
        neighbour.keepalive();
    }
    // Eight at once, and one in each second.
    let most = 8 + start.elapsed().as_secs() + 1;
    let count = announced("announced");
    assert!(count <= most && announced("withdrawn") <= count, "{cycles} cycles, {count} announcements");
    assert!(cycles > 2 * most, "it came and went {cycles} times");
    // One that stays is told in the end.
    let _stays = claim();
    wait::until_true("it is told", wait::LONG, || {
        neighbour.keepalive();
        announced("announced") > announced("withdrawn") && emperor.stats().0["routes"]["claims"] == 1
    });
}

/// A neighbour takes a vassal's address by newer and newer claims, and other addresses, and forges claims of the router itself, a thousand times a
/// second. Another vassal
/// notices nothing, and the daemon and the log hear little of it.
#[test]
fn holders_elsewhere_that_come_and_go_cost_others_little() {
    const TIME: Duration = Duration::from_secs(10);
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(format!("tuntap-router-routes = {FEED}")).start();
    let mut neighbour = Neighbour::established(&emperor.netns);
    neighbour.end_of_rib();
    wait::until_true("a session", wait::LONG, || state(&emperor.stats()) == "established");
    let [one, two] =
        [("one", V1), ("two", V2)].map(|(name, address)| emperor.start_attached(&vassal(&emperor, name, address)));
    let number =
        |pointer: &str| emperor.stats().0.pointer(pointer).and_then(serde_json::Value::as_u64).expect("a number");
    let (router, told) = (emperor.router_pid(), number("/routes/session/announced"));
    let lines = || emperor.log.text().matches("[tuntap-router]").count();
    let (lines_before, ticks_before) = (lines(), cpu_ticks(router));
    let own = emperor.stats().0["elsewhere"]["router"].as_str().and_then(|id| u64::from_str_radix(id, 16).ok());
    let own = own.and_then(RouterId::new).expect("the router's id");
    let stranger = RouterId::new(77).expect("not 0");
    let robbed = Series::start(&one, EMPEROR);
    let pings = Series::start(&two, EMPEROR);
    let start = Instant::now();
    let mut flaps = 0_u32;
    while start.elapsed() < TIME {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
        let since = ClaimTime(u64::try_from(now).expect("small") + 5);
        let other = Ipv4Addr::from_bits(V1.to_bits() + 50 + flaps % 100);
        // The last one is said to come from the router itself.
        let (address, router) = [(V1, stranger), (other, stranger), (V2, own)][usize::from(flaps.to_be_bytes()[3]) % 3];
        neighbour.flap(address, Holding { router, since });
        neighbour.keepalive();
        flaps += 1;
        sleep((start + Duration::from_millis(1) * flaps).saturating_duration_since(Instant::now()));
    }
    let pings = pings.end();
    let (ticks, lines) = (cpu_ticks(router) - ticks_before, lines() - lines_before);
    let told = number("/routes/session/announced") - told;
    let seconds = start.elapsed().as_secs() + 1;
    eprintln!("{flaps} flaps, {told} announcements, {lines} lines, {ticks} hundredths of a second; {pings:?}");
    assert!(pings.answered > 100 && pings.longest_loss <= 1, "{pings:?}");
    assert!(number("/elsewhere/lost") > 100, "it was robbed");
    // Eight at once, and one in each second.
    assert!(told <= 8 + seconds + 1, "{told} announcements in {seconds} s");
    assert!(lines < 200, "{lines} lines");
    // Half of the time; a busy loop takes twice as much.
    assert!(ticks < 50 * seconds, "{ticks} hundredths in {seconds} s");
    neighbour.keepalive();
    robbed.wait_until_answered("it has its address again");
    assert_eq!((emperor.router_pid(), state(&emperor.stats())), (router, "established"));
}
