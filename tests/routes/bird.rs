//! Claims become routes, and stay as long as their vassals.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tuntap_api::control::{MAX_ADDRESSES, Request, Routes};

use crate::common::control::Control;
use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::netns::Netns;
use crate::common::uwsgi::Subject;
use crate::common::{probe, processes, wait};
use crate::world::{PASSWORD, Secrets, bird, bird_text, emperor, has_route, until_established, until_route, vassal};

#[test]
fn vassal_is_a_route_while_it_lives() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), None));
    until_established(&emperor);
    emperor.start_attached(&vassal(&emperor, "one", V1));
    until_route(&emperor.netns, V1, true);
    let all = bird.ask(&format!("show route for {V1} all"));
    let stats = emperor.stats();
    let id = stats.0["elsewhere"]["router"].as_str().expect("the router has an id").to_owned();
    let (high, low) = id.split_at(8);
    let [high, low] = [high, low].map(|half| u32::from_str_radix(half, 16).expect("hexadecimal digits"));
    assert!(all.contains(&format!("(64513, 1, {high}) (64513, 2, {low}) (64513, 3, ")), "{id}\n{all}");
    let med = all.lines().find_map(|line| line.trim().strip_prefix("BGP.med: ")).expect("the claim's time");
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(age.abs_diff(med.parse().expect("seconds")) < 600, "{all}");
    assert!(emperor.log.text().contains(&format!("other hosts know it as {id}")), "the log has the id");
    assert_eq!(stats.0["routes"]["signed"], true);
    assert_eq!(stats.0["routes"]["session"]["survives"], true);
    assert_eq!(stats.0["routes"]["claims"], 1);

    processes::send(emperor.vassal_pid("one").expect("it runs"), Signal::SIGKILL);
    std::fs::remove_file(emperor.path("vassals/one.ini")).expect("it is there");
    until_route(&emperor.netns, V1, false);
    wait::until_true("BIRD has none either", wait::SHORT, || bird.routes("tuntap") == 0);
}

/// The longest run of a router that counts as a short one, and some more.
const SHORT_RUN: Duration = Duration::from_secs(6);

/// A route that nobody else makes.
const MARK: &str = "198.51.100.7";

/// What the kernel tells of routes.
struct Monitor<'a> {
    netns: &'a Netns,
    child: Child,
}

impl<'a> Monitor<'a> {
    fn start(netns: &'a Netns) -> Self {
        let start = || Command::new("ip").args(["monitor", "route"]).stdout(Stdio::piped()).spawn();
        Self { netns, child: netns.run(start).expect("ip can be started") }
    }

    /// All that it has told.
    fn end(mut self) -> String {
        self.netns.sh(&format!("ip route add blackhole {MARK}"));
        let mut text = String::new();
        let mut lines = BufReader::new(self.child.stdout.take().expect("a pipe"));
        while !text.contains(MARK) && lines.read_line(&mut text).is_ok_and(|len| len > 0) {}
        text
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        // One that has ended can't be killed, and that is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel tells of each route that goes, so that none that is gone for a moment is overlooked.
#[test]
fn killed_router_loses_no_route() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), None));
    until_established(&emperor);
    let net = emperor.start_attached(&vassal(&emperor, "one", V1));
    emperor.start_attached(&vassal(&emperor, "two", V2));
    until_route(&emperor.netns, V1, true);
    until_route(&emperor.netns, V2, true);
    let monitor = Monitor::start(&emperor.netns);
    for _ in 0..4 {
        emperor.kill_router();
        until_established(&emperor);
        assert!(has_route(&emperor.netns, V1) && has_route(&emperor.netns, V2));
        assert!(probe::is_reachable(&net, EMPEROR));
        // Routers that end soon after their start, several times in a row, give up what they were left.
        std::thread::sleep(SHORT_RUN);
    }
    let since = bird.ask("show protocols all tuntap");
    assert!(since.contains("Established"), "{since}");
    assert!(emperor.log.text().matches("of the router before this one").count() >= 4, "each has taken over");
    let text = monitor.end();
    assert!(text.contains(MARK), "it has watched to the end: {text}");
    assert!(!text.contains("Deleted 192.168.0."), "{text}");
}

#[test]
fn claim_of_a_vassal_that_died_with_its_router_goes() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), None));
    until_established(&emperor);
    emperor.start_attached(&vassal(&emperor, "one", V1));
    emperor.start_attached(&vassal(&emperor, "two", V2));
    until_route(&emperor.netns, V2, true);
    let (router, two) = (emperor.router_pid(), emperor.vassal_pid("two").expect("it runs"));
    std::fs::remove_file(emperor.path("vassals/two.ini")).expect("it is there");
    // The router can't notice that the vassal dies.
    processes::send(router, Signal::SIGSTOP);
    processes::send(two, Signal::SIGKILL);
    wait::until_true("the vassal is gone", wait::LONG, || !processes::is_alive(two));
    processes::send(router, Signal::SIGKILL);
    until_route(&emperor.netns, V2, false);
    assert!(has_route(&emperor.netns, V1));
    assert_eq!(bird.routes("tuntap"), 1);
}

#[test]
fn bird_is_killed_and_started_again() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let text = bird_text(Some(PASSWORD), None);
    let mut bird = bird(&emperor.netns, &text);
    until_established(&emperor);
    let net = emperor.start_attached(&vassal(&emperor, "one", V1));
    until_route(&emperor.netns, V1, true);
    for _ in 0..2 {
        bird.kill();
        bird.start_again();
        until_established(&emperor);
        wait::until_true("BIRD has the route again", wait::LONG, || bird.routes("tuntap") == 1);
        assert!(has_route(&emperor.netns, V1));
    }
    assert!(probe::is_reachable(&net, EMPEROR));
}

#[test]
fn reload_keeps_id_and_listener() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let _bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), None));
    until_established(&emperor);
    let id = |emperor: &crate::common::emperor::Emperor| emperor.stats_eventually().0["elsewhere"]["router"].clone();
    let (before, router) = (id(&emperor), emperor.router_pid());
    // As an instance that has dropped its privileges finds them.
    std::fs::remove_file(secrets.path("password")).expect("it is there");
    std::fs::remove_file(secrets.path("key")).expect("it is there");
    std::fs::create_dir(secrets.path("key")).expect("own folder");
    emperor.signal(Signal::SIGHUP);
    wait::until("another router", wait::LONG, || emperor.try_stats().ok().filter(|stats| stats.router_pid() != router));
    until_established(&emperor);
    assert_eq!(id(&emperor), before);
    emperor.start_attached(&vassal(&emperor, "one", V1));
    until_route(&emperor.netns, V1, true);
}

#[test]
fn control_socket_and_doctor_tell_how_it_stands() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line(secrets.routes_line()).start();
    let examine = || {
        let file = emperor.path("emperor.ini").to_string_lossy().into_owned();
        let plugins = emperor.in_dir(&emperor.uwsgi.mounted_plugins(Subject::Ours));
        let arguments = ["--plugins-dir", &plugins, "--plugin", "tuntap", "--tuntap-doctor", &file];
        emperor.beside().arguments(arguments).output().text()
    };
    let text = examine();
    assert!(text.contains("WRONG") && text.contains("the routing daemon has no session with the router"), "{text}");
    let bird = bird(&emperor.netns, &bird_text(Some(PASSWORD), None));
    until_established(&emperor);
    emperor.start_attached(&vassal(&emperor, "one", V1));
    wait::until_true("BIRD has the route", wait::LONG, || bird.routes("tuntap") == 1);
    let text = examine();
    assert!(text.contains("a session with the routing daemon 10.99.0.1: 1 of its vassals' addresses"), "{text}");
    let addresses = [V1, V2].map(Into::into).to_vec();
    let told: Routes = Control::open(&emperor).ask(&Request::Routes { addresses });
    assert_eq!(told.routes.expect("a session").state.as_ref(), "established");
    assert!(told.holders[0].here.is_some() && told.holders[0].elsewhere.is_none(), "{:?}", told.holders);
    assert!(told.holders[1].here.is_none() && told.holders[1].elsewhere.is_none(), "{:?}", told.holders);
    let many = Request::Routes { addresses: vec![V1.into(); MAX_ADDRESSES + 1] };
    let failure = Control::open(&emperor).try_ask::<Routes>(&many).expect_err("too many");
    assert!(failure.message.contains("256 addresses at most"), "{failure:?}");
}
