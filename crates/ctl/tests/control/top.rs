//! `top` in a real terminal, and in a pipe.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use serde_json::{Value, json};
use tuntap_api::control::{Chain, FlowList, GroupEntry, RuleEntry, RuleList};
use tuntap_api::{PeerStats, Snapshot, TrunkStats};

use crate::looking::{flow, status};
use crate::router::{Router, command, ok, text};
use crate::screen::{PATIENCE, Screen};

/// What a terminal would act upon.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\r\n\u{202e}";

/// A router of 30 peers whose counters grow. Peer n sends n KB a second, about.
#[derive(Default)]
struct Life {
    is_dead: AtomicBool,
    pid: AtomicU64,
}

fn router(life: &Arc<Life>) -> Router {
    let (life, start) = (Arc::clone(life), Instant::now());
    Router::new(move |request| {
        if life.is_dead.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let millis = u64::try_from(start.elapsed().as_millis()).expect("short");
        let pid = 100 + life.pid.load(Ordering::Relaxed);
        match request["verb"].as_str().expect("a verb") {
            "status" => ok(request, &json!(status())),
            "statistics" => ok(request, &json!(statistics(pid, millis))),
            "flows-list" => ok(request, &json!(FlowList { flows: vec![flow()], matching: 1 })),
            "rules-list" => {
                let rule = RuleEntry {
                    id: 12,
                    chain: Chain::Out,
                    rule: format!("deny any 192.0.2.0/24{HOSTILE}"),
                    packets: 7,
                    bytes: 0,
                };
                let groups = vec![GroupEntry { name: HOSTILE.to_owned(), owner: None, rules: vec![rule] }];
                ok(request, &json!(RuleList { generation: 1, groups }))
            }
            other => panic!("{other}"),
        }
    })
}

fn statistics(pid: u64, millis: u64) -> Snapshot {
    let peer = |number: u64| PeerStats {
        pid: i32::try_from(4000 + number).expect("small"),
        uid: 20_000,
        addresses: vec![format!("10.137.0.{number}").parse().expect("an address")],
        rx: number * millis,
        stream_reason: Some(HOSTILE.to_owned()),
        ..PeerStats::default()
    };
    Snapshot {
        pid: i32::try_from(pid).expect("small"),
        device: "emperor0".to_owned(),
        uptime: millis / 1000,
        plugin_version: HOSTILE.to_owned(),
        peers: (1..=30).map(peer).collect(),
        trunks: vec![TrunkStats { name: HOSTILE.to_owned(), ..TrunkStats::default() }],
        drops: [("firewall".into(), millis)].into_iter().collect(),
        ..Snapshot::default()
    }
}

fn program() -> String {
    command().get_program().to_str().expect("UTF-8").to_owned()
}

fn screen(width: u16, height: u16, router: &Router, arguments: &str) -> Screen {
    Screen::new(width, height, &router.socket, &format!("{} top {arguments}", program()))
}

/// Peer 30 has the most traffic, and a rate as soon as there were two answers.
fn has_rates(screen: &str) -> bool {
    let first = screen.lines().find(|line| line.starts_with("10.137.0."));
    first.is_some_and(|line| {
        line.starts_with("10.137.0.30 ") && line.split_whitespace().nth(1).is_some_and(|it| it.ends_with('k'))
    })
}

#[test]
fn peers_are_seen_on_terminals_of_all_sizes() {
    let router = router(&Arc::default());
    let screen = screen(80, 24, &router, "--delay 0.2");
    // What is drawn comes in parts.
    let lines = screen.wait_until("the whole screen", |screen| has_rates(screen) && screen.contains("\nq quit"));
    assert_eq!(lines.len(), 24, "{lines:#?}");
    assert!(lines[0].starts_with("emperor0  up 0:"), "{lines:#?}");
    assert!(lines[1].contains("30 peers"), "{lines:#?}");
    assert_eq!(lines[2], " 1 peers  2 flows  3 drops  4 routers  5 trunks  6 shaper");
    assert!(lines[3].starts_with("ADDRESS      bit/s▼  OUT bit/s  IN bit/s  DROPS/s   PID    UID"), "{lines:#?}");
    assert!(lines[23].starts_with("q quit"), "{lines:#?}");

    screen.resize(40, 10);
    let lines = screen.wait(" 1 peers  2  3  4  5  6");
    assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:#?}");
    screen.resize(160, 40);
    screen
        .wait_until("all columns and peers", |screen| screen.contains("TRANSPORT") && screen.contains("\n10.137.0.1 "));
    screen.resize(12, 3);
    screen.wait_until("a very small screen", |screen| screen.lines().count() <= 3);
    screen.resize(80, 24);
    screen.wait_until("rates", has_rates);

    screen.press(&["q"]);
    let lines = screen.wait("it ended with 0");
    assert!(!lines.join("\n").contains("emperor0"), "the screen from before is back: {lines:#?}");
    screen.wait(" icanon");
}

#[test]
fn keys_show_flows_drops_filters_and_a_pause() {
    let router = router(&Arc::default());
    let screen = screen(80, 24, &router, "--delay 0.2");
    screen.wait_until("rates", has_rates);
    screen.press(&["/", "4", "0", "0", "7"]);
    screen.wait("filter: 4007_");
    screen.press(&["Enter"]);
    screen.wait_until("one peer", |screen| screen.matches("10.137.0.").count() == 1 && screen.contains("Esc: none"));
    screen.press(&["Enter"]);
    screen.wait("of pid 4007 (a: all)");
    screen.wait_until("its flows are asked for", |_| {
        router.requests().iter().any(|it| it["verb"] == "flows-list" && it["filter"]["peer"] == 4007)
    });
    screen.press(&["a", "2"]);
    screen.wait_until("flows", |screen| screen.contains("\nPROTO  LOCAL") && screen.contains("10.137.0.2:43210"));
    screen.press(&["3"]);
    let wanted = ["rule    12 out: deny any 192.0.2.0/24x\\u{1b}[2J", "reason  firewall", "DROPS/s▼"];
    screen.wait_until("drops", |screen| wanted.iter().all(|wanted| screen.contains(wanted)));
    screen.press(&["p"]);
    screen.wait("PAUSED  sorted by DROPS/s");
    let before = screen.lines();
    router.requests();
    let asked = Cell::new(0);
    screen.wait_until("more answers", |_| asked.replace(asked.get() + router.requests().len()) > 4);
    assert_eq!(screen.lines(), before);
    screen.press(&["p", "4"]);
    screen.wait("answers");
    screen.press(&["5"]);
    screen.wait("ROUTER▼");
    screen.press(&["?"]);
    screen.wait("sort the other way round");
    screen.press(&["C-c"]);
    screen.wait("it ended with 0");
}

#[test]
fn router_may_die_and_come_back() {
    let life = Arc::new(Life::default());
    let router = router(&life);
    let screen = screen(80, 24, &router, "--delay 0.2");
    screen.wait_until("rates", has_rates);
    life.is_dead.store(true, Ordering::Relaxed);
    let lines = screen.wait("s: the router closed the connection").join("\n");
    assert!(lines.contains("no answer for ") && lines.contains("10.137.0.30"), "{lines}");
    life.pid.store(1, Ordering::Relaxed);
    life.is_dead.store(false, Ordering::Relaxed);
    let is_next = |screen: &str| screen.contains("pid 101") && has_rates(screen) && !screen.contains("no answer");
    screen.wait_until("the next router", is_next);
    screen.press(&["q"]);
    screen.wait("it ended with 0");
}

#[test]
fn terminal_is_given_back_whatever_ends_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let router = router(&Arc::default());
        let screen = screen(80, 24, &router, "");
        screen.wait("emperor0");
        signal::kill(screen.child(), signal).expect("it runs");
        screen.wait("it ended with 0");
        screen.wait(" icanon");
    }
}

/// A process of another session gets no signal when the terminal is closed.
#[test]
fn closed_terminal_ends_it() {
    let router = router(&Arc::default());
    let screen = Screen::new(80, 24, &router.socket, &format!("setsid -w {} top", program()));
    screen.wait("emperor0");
    let stat = format!("/proc/{}/stat", screen.child());
    drop(screen);
    let is_over = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let start = Instant::now();
    while !is_over() {
        assert!(start.elapsed() < PATIENCE, "it goes on without a terminal");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nothing_is_shown_where_there_is_no_router_or_no_keyboard() {
    let nowhere = Screen::new(80, 24, Path::new("/nowhere/x.control"), &format!("{} top", program()));
    let lines = nowhere.wait("it ended with 4").join(" ");
    assert!(lines.contains("/nowhere/x.control: can't connect"), "{lines}");
    let router = router(&Arc::default());
    let screen = screen(80, 24, &router, "</dev/null");
    let lines = screen.wait("it ended with 5").join(" ");
    assert!(lines.contains("standard input is no terminal"), "{lines}");
}

#[test]
fn dumb_terminal_gets_lines() {
    let router = router(&Arc::default());
    let line = format!("TERM=dumb {} top --delay 0.1 --view drops | cat -A | head -5", program());
    let screen = Screen::new(80, 24, &router.socket, &line);
    let lines = screen.wait("it ended with 0").join("\n");
    assert!(lines.contains("reason  firewall") && !lines.contains("^["), "{lines}");
}

/// The README's picture is of this screen: `demo/picture` makes it anew.
#[test]
fn picture_has_the_present_titles() {
    let picture = include_str!("../../../../docs/top.svg");
    for wanted in [
        " 1 peers ",
        "  6 shaper",
        "ADDRESS",
        "bit/s▼  OUT bit/s  IN bit/s  DROPS/s  ",
        "sorted by bit/s",
        "q quit  h help",
    ] {
        assert!(picture.contains(wanted.trim()), "{wanted}");
    }
}

/// What a pipe gets, of a router whose counters stand still.
fn report(arguments: &[&str]) -> String {
    let life = Arc::new(Life::default());
    router(&life).shows(&[&["top", "--delay", "0.1"], arguments].concat())
}

#[test]
fn pipe_gets_one_report_as_text() {
    for arguments in [&[][..], &["--once"], &["-n", "1"]] {
        let shown = report(arguments);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("emperor0  up 0:00:00  pid 100  plugin x\\u{1b}[2J"), "{shown}");
        assert!(
            lines[1].starts_with("out ")
                && lines[1].contains("bit/s  drops ")
                && lines[1].ends_with("30 peers  0 flows"),
            "{shown}"
        );
        assert!(
            lines[2].starts_with("ADDRESS      bit/s  OUT bit/s  IN bit/s") && lines[2].ends_with("  DROPS"),
            "{shown}"
        );
        assert!(has_rates(&shown), "{shown}");
        assert_eq!(lines.len(), 33, "{shown}");
        assert!(!shown.contains(|char: char| char.is_control() && char != '\n'), "{shown:?}");
    }
}

#[test]
fn reports_are_chosen() {
    let shown = report(&["-n", "3", "--filter", "10.137.0.7", "--sort", "pid"]);
    assert_eq!(shown.matches("\n\nemperor0").count(), 2, "{shown}");
    assert_eq!(shown.matches("\n10.137.0.").count(), 3, "{shown}");
    let shown = report(&["--sort", "addr", "--reverse"]);
    assert!(shown.lines().nth(3).is_some_and(|line| line.starts_with("10.137.0.9 ")), "{shown}");
    assert!(report(&["--view", "flows"]).contains("\ntcp    10.137.0.2:43210  [fd00::1]:443"));
    assert!(report(&["--peer", "4242"]).contains("\ntcp    10.137.0.2:43210"));
    assert!(report(&["--view", "drops"]).contains("deny any 192.0.2.0/24x\\u{1b}[2J"));
    assert!(report(&["--view", "drops", "--peer", "4007"]).ends_with("\nnothing was dropped\n"));
    assert!(report(&["--view", "shaper"]).ends_with("nothing is limited (tuntap-router-shape)\n"));
    assert!(report(&["--view", "routers"]).starts_with("DEVICE    STATE    PEERS"));
    assert!(report(&["--view", "trunks"]).contains("x\\u{1b}[2J\\u{9b}31m\\u{d}\\u{a}\\u{202e}"));
    assert!(report(&["--filter", "nobody"]).ends_with("\nno row has the text of the filter in it\n"));
}

#[test]
fn wrong_arguments_are_refused() {
    let router = router(&Arc::default());
    for (arguments, wanted) in [
        (&["--sort", "speed"][..], "there are ADDRESS, bit/s, OUT bit/s"),
        (&["--sort", ""], "is no column"),
        (&["--delay", "0"], "expected 0.1 to 3600 seconds"),
        (&["--delay", "NaN"], "expected 0.1 to 3600 seconds"),
        (&["--view", "speed"], "possible values: peers, flows, drops, routers, trunks, shaper"),
        (&["--once", "-n", "2"], "cannot be used with"),
        (&["--json"], "cannot be used with 'top'"),
    ] {
        let error = router.fails(2, &[&["top"], arguments].concat());
        assert!(error.contains(wanted), "{arguments:?}: {error}");
    }
    assert!(router.requests().is_empty());
}

#[test]
fn reports_say_what_is_wrong_with_a_router() {
    let refused = Router::refusing(json!({ "code": "denied", "message": "uid 7 may not look" }));
    assert!(refused.fails(4, &["top", "--once"]).contains("the router refuses: uid 7 may not look"));
    let old = Router::refusing(json!({ "code": "invalid", "message": "unknown variant `statistics`" }));
    assert!(old.fails(4, &["top"]).contains("the router is older than this command"));

    // It dies after the first look, and another one answers the third.
    let (asked, start) = (AtomicU64::new(0), Instant::now());
    let dying = Router::new(move |request: &Value| match asked.fetch_add(1, Ordering::Relaxed) {
        1 => Vec::new(),
        _ => ok(request, &json!(statistics(7, u64::try_from(start.elapsed().as_millis()).expect("short")))),
    });
    let output = dying.run(&["top", "-n", "2", "--delay", "0.1"]);
    let shown = text(&output.stdout);
    let reports: Vec<&str> = shown.split("\n\n").collect();
    assert!(reports[0].contains("the router closed the connection"), "{shown}");
    assert!(!reports[1].contains("the router closed") && has_rates(reports[1]), "{shown}");
    assert_eq!(output.status.code(), Some(0));
}
