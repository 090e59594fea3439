//! Commands that change nothing.

use std::fmt::Write;

use serde_json::{Value, json};
use tuntap_api::control::{
    Chain, Checked, Code, Difference, Dropped, Event, Failure, FlowEntry, FlowList, GroupEntry, HolderElsewhere,
    Holders, Level, Log, LogEntry, Pending, Routes, RuleEntry, RuleList, ScriptStatus, SetEntry, SetList, Status, Step,
    Tested,
};
use tuntap_api::{PeerStats, Snapshot};

use crate::router::{Router, command, line, ok, text};

/// Shows for people what `wanted` has, and for programs the router's answer.
#[track_caller]
fn assert_shows(result: &impl serde::Serialize, arguments: &[&str], request: &Value, wanted: &str) {
    let router = Router::with(result);
    assert_eq!(router.shows(arguments), wanted);
    assert_eq!(router.requests(), std::slice::from_ref(request));
    assert_eq!(router.shows(&[arguments, &["--json"]].concat()), format!("{}\n", json!(result)));
}

pub fn status() -> Status {
    Status {
        device: "emperor0".to_owned(),
        generation: 7,
        pending: Some(Pending { generation: 7, uid: 1000, seconds_left: 25 }),
        is_changed: true,
        rules_file: Some("/etc/uwsgi/rules".to_owned()),
        script: ScriptStatus { is_loaded: true, ..ScriptStatus::default() },
        level: Level::Operate,
        rules: 1200,
        flows: 42,
        max_flows: 65_536,
    }
}

#[test]
fn status_of_the_live_policy() {
    let wanted = "\
device      emperor0
generation  7, changed since options and rules file were read
pending     generation 7 by uid 1000 is undone in 25 s, unless it is confirmed
rules       1,200
rules file  /etc/uwsgi/rules
flows       42 of at most 65,536
script      loaded by a command
you may     view and operate
";
    assert_shows(&status(), &["status"], &json!({ "verb": "status" }), wanted);
}

#[test]
fn statistics_are_followed_by_the_live_policy() {
    let router = Router::with(&status());
    let statistics = router.folder().join("stats");
    let listener = std::os::unix::net::UnixListener::bind(&statistics).expect("a socket");
    let document = include_str!("../../../api/tests/statistics.json");
    let serving = std::thread::spawn(move || {
        let mut client = listener.accept().expect("a client").0;
        std::io::Write::write_all(&mut client, document.as_bytes()).expect("the client reads");
    });
    let shown = router.shows(&["status", statistics.to_str().expect("UTF-8")]);
    serving.join().expect("the statistics");
    let (overview, live) = shown.split_once("\nlive policy\n").expect("both parts");
    assert_eq!(overview, include_str!("../overview.txt"));
    assert!(live.starts_with("  generation  7, changed"), "{live}");
}

#[test]
fn rules_are_listed_by_group() {
    let rule = |id, chain, rule: &str, packets, bytes| RuleEntry { id, chain, rule: rule.to_owned(), packets, bytes };
    let group = |name: &str, owner, rules| GroupEntry { name: name.to_owned(), owner, rules };
    let list = RuleList {
        generation: 7,
        groups: vec![
            group("live", None, vec![]),
            group(
                "web",
                Some(1000),
                vec![rule(12, Chain::In, "allow @customers any tcp 80-443 new", 1_234_567, 1 << 30)],
            ),
            group("ini", None, vec![rule(3, Chain::Out, "deny", 0, 0), rule(4, Chain::Route, "allow", 1, 40)]),
        ],
    };
    let wanted = "\
generation 7
ID  CHAIN  RULE                                   PACKETS    BYTES
group live: no rules
group web, owner uid 1000
12  in     allow @customers any tcp 80-443 new  1,234,567  1.0 GiB
group ini
 3  out    deny                                         0      0 B
 4  route  allow                                        1     40 B
";
    let request = json!({ "verb": "rules-list" });
    assert_shows(&list, &["rules", "list"], &request, wanted);
    let request = json!({ "verb": "rules-list", "chain": "out", "group": "web" });
    assert_shows(&list, &["rules", "list", "--chain", "out", "--group", "web"], &request, wanted);

    let router = Router::with(&list);
    let narrow = command()
        .args(["rules", "list", "--control", router.socket.to_str().expect("UTF-8")])
        .env("COLUMNS", "50")
        .output()
        .expect("the command starts");
    let narrow = text(&narrow.stdout);
    assert!(narrow.contains("\n12  in     allow @customers a…  1,234,567  1.0 GiB\n"), "{narrow}");
    assert!(narrow.lines().all(|line| line.chars().count() <= 50), "{narrow}");
}

#[test]
fn rules_file_is_checked_and_compared() {
    let warning = |message: &str, line| Failure { code: Code::Invalid, message: message.to_owned(), line };
    let never = "the rule never matches";
    let warnings = vec![warning(never, Some(3)), warning(&format!("line 3: {never}"), Some(3)), warning(never, None)];
    let checked = Checked { rules: 2, groups: 1, sets: 0, warnings };
    let router = Router::with(&checked);
    let file = router.file("rules", "chain in\ndeny\nallow\n");
    let wanted = format!(
        "{file}:3: warning: {never}\n{file}:3: warning: {never}\n{file}: warning: {never}\n\
         {file}: 2 rules in 1 group, 0 sets\n"
    );
    assert_eq!(router.shows(&["rules", "check", &file]), wanted);
    assert_eq!(router.requests(), [json!({ "verb": "rules-check", "text": "chain in\ndeny\nallow\n" })]);

    let lines = [" chain in", "-deny", "+allow\u{1b}[2J"].map(str::to_owned).into();
    let router = Router::with(&Difference { lines, added: 1, deleted: 1, kept: 0 });
    let file = router.file("rules", "chain in\nallow\n");
    let wanted = " chain in\n-deny\n+allow\\u{1b}[2J\n1 rule added, 1 deleted, 0 kept\n";
    assert_eq!(router.shows(&["rules", "diff", &file]), wanted);
    assert_eq!(router.requests(), [json!({ "verb": "rules-diff", "text": "chain in\nallow\n" })]);
}

#[test]
fn wrong_line_of_a_file_is_named_as_compilers_do() {
    let router = Router::refusing(json!({ "code": "invalid", "message": "\"alow\" is no action", "line": 2 }));
    let file = router.file("rules", "chain in\nalow\n");
    for arguments in
        [["rules", "check"], ["rules", "diff"], ["rules", "replace"], ["script", "check"], ["script", "load"]]
    {
        let error = router.fails(1, &[arguments[0], arguments[1], &file]);
        assert_eq!(error, format!("{file}:2: \"alow\" is no action\n"), "{arguments:?}");
    }
    let error = router.fails(1, &["rules", "check", &file, "--json"]);
    let wanted = json!({ "error": { "code": "invalid", "message": "\"alow\" is no action", "line": 2 } });
    assert_eq!(error, format!("{wanted}\n"));
    let refusing = Router::refusing(json!({ "code": "denied", "message": "this needs more" }));
    assert_eq!(refusing.fails(1, &["script", "load", &file]), "uwsgi-tuntap: the router refuses: this needs more\n");
    let error = router.fails(5, &["rules", "check", "/nowhere/rules"]);
    assert!(error.starts_with("uwsgi-tuntap: /nowhere/rules: No such file"), "{error}");
}

#[test]
fn sets_are_listed_and_shown() {
    let set = |name: &str, members, rules, file: Option<&str>| SetEntry {
        name: name.to_owned(),
        members,
        file: file.map(str::to_owned),
        rules,
        list: None,
    };
    let list = SetList { sets: vec![set("bad", 100_000, vec![3, 12], Some("/etc/bad")), set("new", 0, vec![], None)] };
    let wanted = "\
NAME  MEMBERS  RULES  FILE
bad   100,000  3, 12  /etc/bad
new         0  -      -
";
    assert_shows(&list, &["set", "list"], &json!({ "verb": "sets-list" }), wanted);
    let members = Some(["10.0.0.0/8", "fd00::1"].map(str::to_owned).into());
    let list = SetList { sets: vec![SetEntry { list: members, ..set("bad", 2, vec![], None) }] };
    assert_shows(
        &list,
        &["set", "show", "bad"],
        &json!({ "verb": "sets-list", "name": "bad" }),
        "10.0.0.0/8\nfd00::1\n",
    );
}

pub fn flow() -> FlowEntry {
    FlowEntry {
        peer: 4242,
        uid: 1000,
        local: "10.137.0.2".parse().expect("an address"),
        local_port: 43210,
        remote: "fd00::1".parse().expect("an address"),
        remote_port: 443,
        protocol: 6,
        state: "established".to_owned(),
        verdict_out: Some("allow".to_owned()),
        verdict_in: None,
        rule_out: Some(12),
        rule_in: None,
        limit_out: None,
        limit_in: None,
        generation: 7,
        idle: 3,
        age: 60,
        packets_out: 10,
        bytes_out: 1536,
        packets_in: 0,
        bytes_in: 0,
        path_out: None,
        path_in: None,
    }
}

#[test]
fn flows_are_listed() {
    let both = FlowEntry { verdict_in: Some("deny".to_owned()), rule_in: Some(3), ..flow() };
    let same = FlowEntry { verdict_in: flow().verdict_out, rule_in: Some(13), ..flow() };
    let none = FlowEntry { verdict_out: None, rule_out: None, ..flow() };
    let flows = vec![flow(), FlowEntry { peer: 0, protocol: 58, ..both }, same, none];
    let list = FlowList { flows, matching: 1004 };
    let wanted = "\
PEER  PROTO   LOCAL             REMOTE         VERDICT                      OUT   IN  IDLE     STATE
4242  tcp     10.137.0.2:43210  [fd00::1]:443  allow 12                 1.5 KiB  0 B  0:00:03  established
   -  icmpv6  10.137.0.2:43210  [fd00::1]:443  out allow 12, in deny 3  1.5 KiB  0 B  0:00:03  established
4242  tcp     10.137.0.2:43210  [fd00::1]:443  allow 12/13              1.5 KiB  0 B  0:00:03  established
4242  tcp     10.137.0.2:43210  [fd00::1]:443  -                        1.5 KiB  0 B  0:00:03  established
and 1,000 more (--limit)
";
    let request = json!({ "verb": "flows-list", "filter": {}, "order": "recent", "limit": 100 });
    assert_shows(&list, &["flows"], &request, wanted);
    assert_shows(&list, &["flows", "list"], &request, wanted);
    let filter = json!({
        "peer": 4242, "uid": 1000, "address": "10.0.0.0/8", "protocol": "tcp", "port": 443, "rule": 12, "verdict": "deny",
    });
    let request = json!({ "verb": "flows-list", "filter": filter, "order": "top", "limit": 2 });
    let mut arguments = vec!["flows", "top", "--limit", "2", "--peer", "4242", "--uid", "1000", "--port", "443"];
    arguments.extend(["--address", "10.0.0.0/8", "--protocol", "tcp", "--rule", "12", "--verdict", "deny"]);
    assert_shows(&list, &arguments, &request, wanted);
}

#[test]
fn flows_tell_what_passes_in_the_kernel() {
    let path = |word: &str| Some(word.to_owned());
    let both = FlowEntry { path_out: path("kernel"), path_in: path("kernel"), ..flow() };
    let out = FlowEntry { path_out: path("kernel"), path_in: path("it has had few packets"), ..flow() };
    let inward = FlowEntry { path_out: path("a limit holds its packets back"), path_in: path("kernel"), ..flow() };
    let none = FlowEntry { path_out: path("the path in the kernel is off"), ..flow() };
    let shown = Router::with(&FlowList { flows: vec![both, out, inward, none], matching: 4 }).shows(&["flows"]);
    let wanted =
        ["allow 12, in the kernel ", "allow 12, in the kernel (out) ", "allow 12, in the kernel (in) ", "allow 12  "];
    for (line, wanted) in shown.lines().skip(1).zip(wanted) {
        assert!(line.contains(wanted), "{line}");
    }
}

#[test]
fn flows_tell_what_limits_them() {
    let limit = |word: &str| Some(word.to_owned());
    let both = FlowEntry { limit_out: limit("class:bulk"), limit_in: limit("any"), ..flow() };
    let same = FlowEntry { limit_out: limit("@7"), limit_in: limit("@7"), ..flow() };
    let one = FlowEntry { limit_in: limit("a\u{1b}[2J"), ..flow() };
    let shown = Router::with(&FlowList { flows: vec![both, same, one], matching: 3 }).shows(&["flows"]);
    for part in
        ["allow 12, limited by class:bulk out, any in  ", "allow 12, limited by @7  ", "limited by a\\u{1b}[2J  "]
    {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn peers_tell_what_their_limits_have_done() {
    let golden = Snapshot::from_json(include_bytes!("../../../api/tests/statistics.json")).expect("statistics");
    let shown = Router::with(&golden.peers).shows(&["peers"]);
    let lines: Vec<_> = shown.lines().filter(|line| line.contains("bit/s")).collect();
    assert_eq!(
        lines,
        [
            "  out 20Mbit/s, up to 50Mbit/s: 12 packets wait (17.5 KiB), delay 3.1 ms; sent 1.1 MiB, 33.7 KiB of it borrowed; \
             14 drops (4 full, 10 late), 3 marks, held 99 times",
            "  in 5Mbit/s: nothing waits, delay 0.2 ms; sent 7.2 MiB; 1 drop (0 full, 1 late), held 7 times",
        ]
    );
}

#[test]
fn peers_are_listed_by_their_traffic() {
    let peer = |pid, rx| PeerStats { pid, rx, uid: 1000, attached: true, ..PeerStats::default() };
    let peers = [peer(1, 5), peer(2, 2048)];
    let wanted = "\
PID   UID  ADDRESS     FROM IT  TO IT  DROPS  QUEUED  TRANSPORT
  2  1000  no address  2.0 KiB    0 B      0     0 B  attached
";
    let all = format!("{wanted}  1  1000  no address      5 B    0 B      0     0 B  attached\n2 peers\n");
    assert_shows(&peers, &["peers"], &json!({ "verb": "peers" }), &all);
    assert_eq!(Router::with(&peers).shows(&["peers", "--limit", "1"]), format!("{wanted}1 of 2 peers\n"));
}

#[test]
fn way_of_a_packet_is_told_and_the_verdict_is_the_exit_code() {
    let step = |stage: &str, result: &str, rule, note: Option<&str>| Step {
        stage: stage.to_owned(),
        result: result.to_owned(),
        rule,
        note: note.map(str::to_owned),
    };
    let steps = vec![
        step("claim", "pass", None, Some("peer 4242 holds 10.0.0.2")),
        step("chain-out", "deny", Some(12), Some("deny any @bad")),
    ];
    let denied = Tested { verdict: "deny".to_owned(), to: None, reason: Some("firewall".to_owned()), steps };
    let router = Router::with(&denied);
    let mut arguments = vec!["test", "out", "10.0.0.2", "fd00::1", "tcp", "443", "--sport", "1024", "--peer", "4242"];
    arguments.extend(["--state", "established"]);
    let output = router.run(&arguments);
    let wanted = "\
STEP  STAGE      RESULT  BECAUSE OF
   1  claim      pass    peer 4242 holds 10.0.0.2
   2  chain-out  deny    rule 12: deny any @bad
verdict: deny, counted as firewall
";
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), (wanted, Some(3)));
    let packet = json!({
        "direction": "out", "src": "10.0.0.2", "dst": "fd00::1", "protocol": "tcp", "src_port": 1024, "dst_port": 443,
        "peer": 4242, "state": "established",
    });
    assert_eq!(router.requests(), [json!({ "verb": "test", "packet": packet })]);
    let output = router.run(&["test", "in", "10.0.0.2", "10.0.0.3", "--json"]);
    assert_eq!((text(&output.stdout), output.status.code()), (format!("{}\n", json!(denied)), Some(3)));

    let allowed = Tested { verdict: "allow".to_owned(), to: Some("tun".to_owned()), reason: None, steps: vec![] };
    let router = Router::with(&allowed);
    let shown = router.shows(&["test", "in", "10.0.0.2", "10.0.0.3"]);
    assert!(shown.ends_with("verdict: allow, to tun\n"), "{shown}");
    let packet = json!({ "direction": "in", "src": "10.0.0.2", "dst": "10.0.0.3" });
    assert_eq!(router.requests(), [json!({ "verb": "test", "packet": packet })]);
}

#[test]
fn script_is_shown() {
    let status = ScriptStatus {
        is_loaded: true,
        digest: Some("ab".repeat(32)),
        file: Some("/etc/uwsgi/policy.luau".to_owned()),
        calls: 1234,
        failures: 2,
        last_failure: Some("policy:3: \nno".to_owned()),
        reverts: 1,
        memory: 2048,
        slowest: 1_500_000,
    };
    let wanted = format!(
        "\
script        loaded from /etc/uwsgi/policy.luau
SHA-256       {}
calls         1,234
failures      2
reverts       1
memory        2.0 KiB
slowest call  1,500 µs
last failure  policy:3: \\u{{a}}no
",
        "ab".repeat(32)
    );
    assert_shows(&status, &["script", "status"], &json!({ "verb": "script-status" }), &wanted);
    let router = Router::with(&ScriptStatus::default());
    let file = router.file("policy.luau", "return 1");
    assert!(router.shows(&["script", "check", &file]).starts_with("script        none\n"));
    assert_eq!(router.requests(), [json!({ "verb": "script-check", "text": "return 1" })]);
}

#[test]
fn log_tells_who_and_when() {
    let entry = |generation, error: Option<&str>| LogEntry {
        time: 1_795_680_883,
        uid: 1000,
        pid: 4242,
        action: "commit: rule-add in".to_owned(),
        generation,
        error: error.map(str::to_owned),
    };
    let log = Log { entries: vec![entry(Some(8), None), entry(None, Some("not the owner of web"))] };
    let wanted = "\
TIME                  UID   PID  GENERATION  ACTION
2026-11-26 08:14:43  1000  4242           8  commit: rule-add in
2026-11-26 08:14:43  1000  4242           -  commit: rule-add in (refused: not the owner of web)
";
    assert_shows(&log, &["log", "--limit", "2"], &json!({ "verb": "log", "limit": 2 }), wanted);
}

fn dropped() -> Dropped {
    Dropped {
        time: 1_795_680_883,
        millis: 7,
        peer: Some(4242),
        uid: Some(1000),
        direction: tuntap_api::control::Direction::Out,
        src: "10.0.0.2".parse().expect("an address"),
        src_port: Some(1024),
        dst: "fd00::1".parse().expect("an address"),
        dst_port: Some(53),
        protocol: 17,
        len: 60,
        reason: "firewall".to_owned(),
        rule: Some(12),
    }
}

#[test]
fn drops_are_watched_until_the_router_goes() {
    let bare = Dropped { peer: None, uid: None, src_port: None, dst_port: None, rule: None, ..dropped() };
    let events = [
        json!(Event::Drop(dropped())),
        json!(Event::Drop(bare)),
        json!(Event::LeftOut { count: 5 }),
        json!({ "type": "restart", "why": "\u{9b}2J" }),
    ];
    let sent = events.clone();
    let router = Router::new(move |request| {
        let mut answer = ok(request, &json!({}));
        sent.iter().for_each(|event| answer.extend(line(&json!({ "id": request["id"], "event": event }))));
        // A part of a line, after which the router is gone.
        answer.extend(b"{");
        answer
    });
    let output = router.run(&["watch", "--port", "53"]);
    let wanted = "\
08:14:43.007  out  udp 10.0.0.2:1024 -> [fd00::1]:53, 60 B: firewall, rule 12, peer 4242, uid 1000
08:14:43.007  out  udp 10.0.0.2 -> fd00::1, 60 B: firewall
(5 drops left out)
(an event that this version doesn't know: {\"type\":\"restart\",\"why\":\"\\u{9b}2J\"})
";
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), (wanted, Some(4)));
    assert!(text(&output.stderr).contains("in the middle of its answer"));
    assert_eq!(router.requests(), [json!({ "verb": "watch", "filter": { "port": 53 } })]);
    let wanted = events.iter().fold(String::new(), |mut lines, event| {
        writeln!(lines, "{event}").expect("a string");
        lines
    });
    assert_eq!(text(&router.run(&["watch", "--json"]).stdout), wanted);
}

#[test]
fn options_have_a_form_for_programs() {
    let output = command().args(["options", "--json"]).output().expect("the command starts");
    let options: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(options.iter().any(|option| option["name"] == "tuntap-router"));
}

/// script(1) has a terminal, which tells its size.
#[test]
fn tables_fit_the_terminal() {
    let router = Router::with(&FlowList { flows: vec![flow()], matching: 1 });
    for (columns, last) in [(200, "established"), (85, "0:00:03"), (60, "0 B")] {
        let program = command().get_program().to_str().expect("UTF-8").to_owned();
        let line = format!("stty rows 24 cols {columns}; {program} flows");
        let mut script = std::process::Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env("UWSGI_TUNTAP_CONTROL", &router.socket).env_remove("COLUMNS").stdin(std::process::Stdio::null());
        let output = script.output().expect("script");
        let shown = text(&output.stdout);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= columns), "{columns}: {shown}");
        assert!(shown.trim_end().ends_with(last), "{columns}: {shown}");
    }
}

#[test]
fn routes_are_shown_with_holders() {
    let golden = Snapshot::from_json(include_bytes!("../../../api/tests/statistics.json")).expect("statistics");
    let held = |address: &str| address.parse().expect("an address");
    let elsewhere =
        HolderElsewhere { router: "00000000000000ab".into(), since: 1_700_000_000_123, source: "routes".into() };
    let answer = Routes {
        routes: golden.routes,
        elsewhere: golden.elsewhere,
        holders: vec![
            Holders { address: held("10.0.0.2"), here: Some(1_600_000_000_000), elsewhere: None },
            Holders { address: held("fd00::3"), here: None, elsewhere: Some(elsewhere) },
            Holders { address: held("10.0.0.4"), here: None, elsewhere: None },
        ],
    };
    let wanted = "\
router            0123456789abcdef
listens on        127.0.0.1:979 (AS 64513, signed)
session           established for 77 s
routing daemon    10.99.0.1 (AS 64512), hold time 9 s
families          ipv4, ipv6
told it           31 announced, 32 withdrawn
last end          it has closed the connection
vassals           36 claims, 37 changes and 38 B wait
it told           39 routes of other hosts
refused           43 not for a single address
refused           44 outside the router's networks
refused           45 without a holder
refused           46 for lack of room
refused           47 too many for one address
refused           48 malformed
connections       34 refused as second ones, 35 from other addresses
held elsewhere    20,000 addresses, says routes
held elsewhere    3 addresses, says trunk 1
claims here       21 refused, 22 lost
clocks            23 were told with a time far ahead of this host's

ADDRESS   HELD BY           SINCE                     SAYS
10.0.0.2  a vassal here     2020-09-13T12:26:40Z
fd00::3   00000000000000ab  2023-11-14T22:13:20.123Z  routes
10.0.0.4  nobody
";
    let request = json!({ "verb": "routes", "addresses": ["10.0.0.2", "fd00::3", "10.0.0.4"] });
    assert_shows(&answer, &["routes", "10.0.0.2", "fd00::3", "10.0.0.4"], &request, wanted);
    let shown = Router::with(&Routes::default()).shows(&["routes"]);
    assert_eq!(shown.matches("tuntap-router-routes").count(), 2, "{shown}");
}
