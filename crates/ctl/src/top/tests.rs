//! The screen in memory: what keys do, and what is drawn at any size.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tuntap_api::control::{Chain, FlowEntry, FlowList, GroupEntry, RuleEntry, RuleList};
use tuntap_api::{DropCounts, PeerStats, ShapeStats, Shaped, Snapshot, TrunkStats};

use super::app::{App, Effect, KEYS};
use super::feed::Update;
use super::grid::Sorting;
use super::sample::Sample;
use super::view::View;
use super::{Choice, screen};

const SOCKET: &str = "/run/emperor0.control";

/// What a terminal would act upon, or show elsewhere.
const HOSTILE: &str = "x\u{1b}[2J\r\n\u{9b}\u{202e}y";

fn choice(view: View) -> Choice {
    Choice { view, pid: None, filter: String::new(), sortings: View::ALL.map(View::usual_sorting) }
}

fn drops(packets: u64) -> DropCounts {
    [("firewall".into(), packets), ("not_ip".into(), 0)].into_iter().collect()
}

/// Peer `number` has sent `number` KB in each second, and got twice as much.
fn peer(number: u64, second: u64) -> PeerStats {
    let rate =
        ShapeStats { rate: 1_000_000, ceil: 2_000_000, sent_bytes: number * 1000 * second, ..ShapeStats::default() };
    PeerStats {
        pid: 4000 + i32::try_from(number).expect("few"),
        uid: 20_000,
        addresses: vec![format!("10.137.0.{number}").parse().expect("an address")],
        rx: number * 1000 * second,
        tx: number * 2000 * second,
        drops: drops(number * second),
        attached: true,
        shape: Shaped { out: Some(rate), inn: None },
        ..PeerStats::default()
    }
}

fn flow(pid: i32, port: u16, bytes: u64) -> FlowEntry {
    FlowEntry {
        peer: pid,
        uid: 20_000,
        local: "10.137.0.2".parse().expect("an address"),
        local_port: port,
        remote: "192.0.2.1".parse().expect("an address"),
        remote_port: 443,
        protocol: 6,
        state: HOSTILE.to_owned(),
        verdict_out: Some("allow".to_owned()),
        verdict_in: None,
        rule_out: Some(1),
        rule_in: None,
        limit_out: None,
        limit_in: None,
        path_out: None,
        path_in: None,
        generation: 1,
        idle: 0,
        age: 9,
        packets_out: 1,
        bytes_out: bytes,
        packets_in: 0,
        bytes_in: 0,
    }
}

fn sample(start: Instant, second: u64, pid: i32) -> Sample {
    let trunk = TrunkStats { router: "ab".into(), name: HOSTILE.into(), state: "open".into(), ..TrunkStats::default() };
    let snapshot = Snapshot {
        device: format!("emperor0{HOSTILE}"),
        plugin_version: "0.1.0".to_owned(),
        pid,
        uptime: second,
        peers: (1..=30).map(|number| peer(number, second)).collect(),
        trunks: vec![trunk],
        drops: drops(7 * second),
        ..Snapshot::default()
    };
    let rule =
        |id, rule: &str| RuleEntry { id, chain: Chain::Out, rule: rule.to_owned(), packets: id.into(), bytes: 0 };
    let rules = vec![rule(12, "deny any 192.0.2.0/24"), rule(13, "allow"), rule(0, "reject")];
    let groups = vec![GroupEntry { name: HOSTILE.to_owned(), owner: None, rules }];
    Sample {
        taken: start + Duration::from_secs(second),
        snapshot,
        flows: Some(FlowList { flows: vec![flow(4002, 1, 1000 * second), flow(4003, 2, second)], matching: 2000 }),
        rules: Some(RuleList { generation: 1, groups }),
    }
}

struct World {
    app: App,
    start: Instant,
    second: u64,
    pid: i32,
}

impl World {
    /// Two seconds of a router.
    fn new(view: View) -> Self {
        let mut world =
            Self { app: App::new(choice(view), Duration::from_secs(1)), start: Instant::now(), second: 0, pid: 9 };
        world.pass();
        world.pass();
        world
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.second)
    }

    /// A second passes, and the router answers.
    fn pass(&mut self) {
        self.second += 1;
        self.hear(SOCKET, Ok(sample(self.start, self.second, self.pid)));
    }

    fn hear(&mut self, socket: &str, result: Result<Sample, String>) {
        let now = self.now();
        self.app.hear(Update { socket: socket.to_owned(), result }, now);
    }

    fn press(&mut self, codes: impl IntoIterator<Item = KeyCode>) {
        for code in codes {
            assert_eq!(self.app.key(KeyEvent::new(code, KeyModifiers::NONE)), Effect::None, "{code:?}");
        }
    }

    fn type_in(&mut self, text: &str) {
        self.press(text.chars().map(KeyCode::Char));
    }

    fn lines(&mut self, width: u16, height: u16) -> Vec<String> {
        let now = self.now();
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
        terminal.draw(|frame| screen::draw(frame, &mut self.app, now)).expect("memory");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[track_caller]
    fn assert_shows(&mut self, wanted: &[&str]) {
        let screen = self.lines(80, 24).join("\n");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in wanted {
            assert!(words(&screen).contains(&words(wanted)), "{wanted:?} is missing in\n{screen}");
        }
    }
}

#[test]
fn peers_are_shown_by_rate() {
    let lines = World::new(View::Peers).lines(80, 24);
    assert!(
        lines[0].starts_with("emperor0x\\u{1b}[2J\\u{d}\\u{a}\\u{9b}\\u{202e}y  up 0:00:02  pid 9  plugin"),
        "{lines:#?}"
    );
    assert_eq!(lines[1], "out 3.7M bit/s  in 7.4M bit/s  drops 7/s  30 peers  0 flows");
    assert_eq!(lines[2], " 1 peers  2 flows  3 drops  4 routers  5 trunks  6 shaper");
    assert_eq!(lines[3], "ADDRESS      bit/s▼  OUT bit/s  IN bit/s  DROPS/s   PID    UID  OUT pkt/s");
    assert_eq!(lines[4], "10.137.0.30    720k       240k      480k       30  4030  20000          0");
    assert_eq!(lines[21], "10.137.0.13    312k       104k      208k       13  4013  20000          0");
    assert_eq!(lines[22], "sorted by bit/s");
    assert!(lines[23].starts_with("q quit  h help"), "{lines:#?}");
}

#[test]
fn nothing_hostile_reaches_the_screen() {
    for view in View::ALL {
        let mut world = World::new(view);
        world.hear("/run/x\u{1b}.control", Err("router\\u{1b}".to_owned()));
        world.type_in("/");
        world.press([KeyCode::Char('\u{9b}'), KeyCode::Char('\u{202e}')]);
        for lines in [world.lines(200, 24), world.lines(80, 24)] {
            let text = lines.concat();
            let bad = |char: char| char.is_control() || char == '\u{202e}';
            assert!(!text.contains(bad), "{}: {text:?}", view.name());
        }
    }
}

/// No size ends the command, and no line has more than there is room for: what doesn't fit is cut by the screen's buffer.
#[test]
fn any_size_is_drawn() {
    const WIDTHS: [u16; 9] = [0, 1, 5, 10, 20, 40, 60, 80, 200];
    for view in View::ALL {
        let mut world = World::new(view);
        for (width, height) in
            WIDTHS.into_iter().flat_map(|width| (0..=14).chain([24, 60]).map(move |height| (width, height)))
        {
            let lines = world.lines(width, height);
            let has_keys = lines.last().is_some_and(|line| line.starts_with(&"q quit"[..6.min(width as usize)]));
            assert!(height < 4 || width < 7 || has_keys, "{width}x{height}: {lines:#?}");
            let has_chosen_view = lines.iter().any(|line| line.contains(view.name()));
            assert!(height < 5 || width < 35 || has_chosen_view, "{width}x{height}: {lines:#?}");
        }
        world.type_in("h");
        world.lines(20, 5);
    }
}

#[test]
fn narrow_screens_keep_what_identifies_and_rates() {
    let lines = World::new(View::Peers).lines(40, 10);
    assert_eq!(lines[1], " 1 peers  2  3  4  5  6");
    assert_eq!(lines[2], "ADDRESS      bit/s▼  OUT bit/s  DROPS/s");
    assert_eq!(lines[3], "10.137.0.30    720k       240k       30");
    let wide = World::new(View::Peers).lines(200, 24);
    assert!(wide[3].ends_with("TRANSPORT  QUEUED      TOTAL  DROPS"), "{}", wide[3]);
}

#[test]
fn views_have_what_they_are_for() {
    World::new(View::Flows).assert_shows(&[
        "without 1,998 flows that were not used lately",
        "tcp    10.137.0.2:1  192.0.2.1:443  8.0k       8.0k         0",
        "allow 1",
    ]);
    World::new(View::Drops).assert_shows(&["reason  firewall", "rule    12 out: deny any 192.0.2.0/24"]);
    World::new(View::Trunks).assert_shows(&["ab      x\\u{1b}[2J\\u{d}\\u{a}\\u{9b}\\u{202e…  open"]);
    World::new(View::Shaper).assert_shows(&["10.137.0.30 (pid 4030)  out         1M/2M         240k       0.0"]);
    World::new(View::Routers).assert_shows(&["answers     30       3.7M      7.4M        7"]);
    let drops = World::new(View::Drops).lines(80, 24).join("\n");
    assert!(!drops.contains("not_ip") && !drops.contains("reject") && !drops.contains("13 out"), "{drops}");
}

#[test]
fn chosen_peer_has_its_flows_drops_and_limits() {
    let mut world = World::new(View::Peers);
    world.type_in("/4002");
    world.press([KeyCode::Enter, KeyCode::Enter]);
    assert_eq!((world.app.choice.view, world.app.choice.pid), (View::Flows, Some(4002)));
    let wanted = world.app.focus().wanted;
    assert_eq!((wanted.view, wanted.pid), (View::Flows, Some(4002)));
    let flows = world.lines(80, 24).join("\n");
    assert!(flows.contains("10.137.0.2:1") && !flows.contains("10.137.0.2:2"), "{flows}");
    world.assert_shows(&["of pid 4002 (a: all)"]);
    world.type_in("3");
    world.assert_shows(&["reason  firewall              2"]);
    world.type_in("1/4002");
    world.press([KeyCode::Enter, KeyCode::Char('l')]);
    assert_eq!(world.app.choice.view, View::Shaper);
    assert_eq!(world.app.grid().rows.len(), 1);
    world.type_in("a");
    assert_eq!(world.app.grid().rows.len(), 30);
}

#[test]
fn chosen_row_stays_on_its_peer() {
    let mut world = World::new(View::Peers);
    world.press([KeyCode::Down, KeyCode::Down, KeyCode::Char('r')]);
    let grid = world.app.grid();
    let cursor = world.app.cursor(&grid);
    assert_eq!((grid.rows[cursor].key.as_str(), cursor), ("4028/0", 27));
    // It is on the screen, wherever it has gone.
    world.assert_shows(&["10.137.0.28"]);
    world.press([KeyCode::End, KeyCode::PageUp, KeyCode::Home, KeyCode::Up]);
    assert_eq!(world.app.cursor(&grid), 0);
    world.press([KeyCode::PageDown]);
    assert_eq!(world.app.cursor(&grid), 18);
    world.type_in("/no such row");
    world.press([KeyCode::Down, KeyCode::Enter]);
    world.assert_shows(&["no row has the text of the filter in it"]);
    world.press([KeyCode::Down, KeyCode::Enter, KeyCode::End, KeyCode::Esc]);
    assert_eq!(world.app.grid().rows.len(), 30);
}

#[test]
fn rows_are_sorted_by_any_column() {
    let mut world = World::new(View::Peers);
    let first = |world: &World| world.app.grid().rows[0].key.clone();
    assert_eq!(first(&world), "4030/0");
    world.type_in("r");
    assert_eq!(first(&world), "4001/0");
    world.type_in("S");
    assert_eq!(world.app.choice.sorting(), Sorting { column: 0, is_reversed: true });
    world.type_in("S");
    assert_eq!(world.app.choice.sorting().column, View::Peers.columns().len() - 1);
    world.type_in("s");
    assert_eq!(world.app.choice.sorting().column, 0);
    world.assert_shows(&["ADDRESS▲", "sorted by ADDRESS, reversed"]);
}

#[test]
fn pause_keeps_what_is_shown() {
    let mut world = World::new(View::Peers);
    let before = world.lines(80, 20);
    world.type_in("p");
    world.hear(SOCKET, Err("it is gone".to_owned()));
    world.pass();
    world.assert_shows(&["PAUSED"]);
    assert_eq!(world.lines(80, 20)[..19], [&before[..18], &["PAUSED  sorted by bit/s".to_owned()]].concat());
    world.type_in(" ");
    world.assert_shows(&["up 0:00:03"]);
}

#[test]
fn router_that_dies_is_told_and_the_next_one_is_followed() {
    let mut world = World::new(View::Peers);
    world.hear(SOCKET, Err("it closed the connection".to_owned()));
    world.second += 3;
    world.assert_shows(&["no answer for 3 s: it closed the connection", "10.137.0.30        720k"]);
    // The next one counts from 0 on.
    world.pid = 10;
    world.second = 0;
    world.start += Duration::from_secs(5);
    world.pass();
    world.assert_shows(&["pid 10", "out - bit/s", "10.137.0.1 - - - -", "sorted by"]);
    world.pass();
    world.assert_shows(&["10.137.0.30        720k"]);
}

#[test]
fn silent_router_is_told() {
    let mut world = World::new(View::Peers);
    world.second += 3;
    world.assert_shows(&["sorted by"]);
    world.second += 1;
    world.assert_shows(&["no answer for 4 s"]);
}

#[test]
fn routers_are_chosen() {
    let mut world = World::new(View::Peers);
    let other = |world: &World| Sample {
        snapshot: Snapshot { device: "guests".into(), ..Snapshot::default() },
        ..sample(world.start, 2, 7)
    };
    let answer = other(&world);
    world.hear("/run/guests.control", Ok(answer));
    world.app.choice.pid = Some(4002);
    world.assert_shows(&["emperor0", "2 routers (n: next)"]);
    world.type_in("n");
    world.assert_shows(&["guests", "no vassal is connected"]);
    assert_eq!(world.app.focus().socket.as_deref(), Some("/run/guests.control"));
    assert_eq!(world.app.choice.pid, None, "processes of another router are other ones");
    world.type_in("4");
    world.press([KeyCode::Home, KeyCode::Enter]);
    assert_eq!((world.app.focus().socket.as_deref(), world.app.choice.view), (Some(SOCKET), View::Peers));
}

#[test]
fn help_has_all_keys_on_the_usual_screen() {
    let mut world = World::new(View::Peers);
    world.type_in("h");
    world.assert_shows(&KEYS.map(|(keys, _)| keys));
    world.press([KeyCode::Esc]);
    world.assert_shows(&["10.137.0.30"]);
}

#[test]
fn filter_is_typed_changed_and_given_up() {
    let mut world = World::new(View::Peers);
    world.type_in("/10.137.0.1q");
    world.assert_shows(&["filter: 10.137.0.1q_", "no row has the text"]);
    world.press([KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!(world.app.grid().rows.len(), 11);
    world.type_in("/9");
    world.press([KeyCode::Esc]);
    assert_eq!(world.app.choice.filter, "10.137.0.1");
    let quit = world.app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert_eq!(quit, Effect::Quit);
    world.type_in("/");
    world.type_in(&"x".repeat(1000));
    assert_eq!(world.app.filter().chars().count(), 100);
}
