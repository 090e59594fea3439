//! What scripts can see and say.

mod common;

use std::rc::Rc;
use std::time::Duration;

use common::{Flow, TestClock, counters, host, ip, policy, runtime, runtime_at};
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::CounterSlot;
use tuntap_core::policy::pattern::Action;
use tuntap_script::{ErrorKind, Host, Runtime, Watchdog, check};
use tuntap_wire::rule::Direction;

#[test]
fn verdicts_with_time_to_live_and_note() {
    let verdict = |result: &str| {
        let mut runtime = runtime(&format!("function policy(flow) return {result} end"));
        let verdict = Flow::default().ask(&mut runtime);
        assert_eq!(runtime.status().failures, 0, "{:?}", runtime.status());
        verdict.map(|verdict| (verdict.action, verdict.ttl))
    };
    assert_eq!(verdict("nil"), None);
    assert_eq!(verdict(""), None);
    assert_eq!(verdict("'allow'"), Some((Action::Allow, None)));
    assert_eq!(verdict("'deny', 10"), Some((Action::Deny, Some(Duration::from_secs(10)))));
    assert_eq!(verdict("'reject', 2.5, 'why'"), Some((Action::Reject, Some(Duration::from_millis(2500)))));
    assert_eq!(verdict("'deny', nil, 'why'"), Some((Action::Deny, None)));
    assert_eq!(verdict("'deny', 0"), Some((Action::Deny, Some(Duration::from_secs(1)))));
    let year = Some((Action::Deny, Some(Duration::from_secs(365 * 86400))));
    assert_eq!(verdict("'deny', 1e300"), year);
    assert_eq!(verdict("'deny', math.huge"), year);
}

#[test]
fn flow_is_seen_whole() {
    let source = r#"
        function policy(flow)
            local peer = flow.peer
            local text = table.concat({
                flow.direction, flow.src, flow.dst, flow.protocol, flow.protocol_number, tostring(flow.src_port),
                tostring(flow.dst_port), peer.uid, peer.gid, peer.pid, tostring(peer.name),
                table.concat(peer.addresses, "+"),
            }, " ")
            return "deny", 5, text
        end"#;
    let runtime = runtime(source);
    let note = |flow: &Flow| runtime.dry_run(&flow.query()).expect("a script").expect("a verdict").note;
    let flow = Flow::default();
    let text = "out 10.0.0.2 192.0.2.1 tcp 6 40000 443 1000 100 4321 alice 10.0.0.2";
    assert_eq!(note(&flow).as_deref(), Some(text));
    let flow = Flow {
        direction: Direction::In,
        src: ip("ffff:eeee:dddd:cccc:bbbb:aaaa:9999:8888"),
        dst: ip("::ffff:255.255.255.255"),
        protocol: 99,
        src_port: None,
        dst_port: None,
        uid: 7,
        addresses: vec![ip("10.0.0.2"), ip("fd00::2")],
        ..flow
    };
    let text = "in ffff:eeee:dddd:cccc:bbbb:aaaa:9999:8888 ::ffff:255.255.255.255 99 99 nil nil 7 100 4321 nil 10.0.0.2+fd00::2";
    assert_eq!(note(&flow).as_deref(), Some(text));
}

#[test]
fn peer_is_seen_anew_when_it_has_changed() {
    let source =
        "function policy(flow) return if #flow.peer.addresses == 2 and flow.peer.uid == 8 then 'deny' else nil end";
    let mut runtime = runtime(source);
    let one = Flow::default();
    let two = Flow { addresses: vec![ip("10.0.0.2"), ip("10.0.0.3")], uid: 8, ..Flow::default() };
    for _ in 0..3 {
        assert_eq!(one.action(&mut runtime), Action::Allow);
        assert_eq!(two.action(&mut runtime), Action::Deny);
    }
}

#[test]
fn peers_cannot_be_changed_by_scripts() {
    for change in ["flow.peer.uid = 0", "flow.peer.addresses[1] = '10.0.0.9'", "rawset(flow.peer, 'uid', 0)"] {
        let mut runtime = runtime(&format!("function policy(flow) {change} return 'allow' end"));
        assert_eq!(Flow::default().action(&mut runtime), Action::Deny, "{change}");
    }
}

#[test]
fn sets_follow_the_policy() {
    let source = "local customers = set('customers')
        function policy(flow) return if customers:has(flow.dst) and set('customers'):has(flow.dst) then 'allow' else 'deny' end";
    let mut runtime = runtime(source);
    let mut flow = Flow { policy: policy(), ..Flow::default() };
    assert_eq!(flow.action(&mut runtime), Action::Allow);
    flow.dst = ip("fd00:1::5");
    assert_eq!(flow.action(&mut runtime), Action::Allow);
    flow.dst = ip("192.0.3.1");
    assert_eq!(flow.action(&mut runtime), Action::Deny);
    assert_eq!(runtime.status().failures, 0);
    let networks = ["192.0.3.0/24".parse::<ipnet::IpNet>().expect("a network")];
    flow.policy = Policy {
        generation: 2,
        sets: vec![("customers".to_owned(), std::sync::Arc::new(networks.into_iter().collect()))],
        ..policy()
    };
    assert_eq!(flow.action(&mut runtime), Action::Allow);
    flow.policy = Policy { generation: 3, ..Policy::default() };
    assert_eq!(flow.action(&mut runtime), Action::Deny);
    assert_eq!(runtime.status().last_failure.as_deref(), Some("test:2: there is no set 'customers'"));
}

#[test]
fn names_that_are_not_there_are_errors() {
    for (call, text) in [
        ("set('nobody'):has('10.0.0.1')", "test:1: there is no set 'nobody'"),
        ("counter('nobody')", "test:1: there is no counter 'nobody'"),
        ("set('customers'):has('10.0.0')", "test:1: '10.0.0' is not an address"),
        ("set('customers'):has(10)", "test:1: set:has takes an address as a string"),
        ("set(7)", "test:1: set takes a name"),
        (
            "for i = 1, 300 do pcall(set, 's' .. i) end set('more')",
            "test:1: a script may name 256 sets and 256 counters",
        ),
    ] {
        let mut runtime = runtime(&format!("function policy(flow) {call} return 'allow' end"));
        let flow = Flow { policy: policy(), ..Flow::default() };
        assert_eq!(flow.action(&mut runtime), Action::Deny, "{call}");
        assert_eq!(runtime.status().last_failure.as_deref(), Some(text), "{call}");
    }
}

#[test]
fn counters_are_read() {
    let counters = counters();
    let watchdog = Watchdog::start().expect("a thread");
    let mut runtime = Runtime::new(Host { counters, ..Host::default() }, Some(watchdog));
    let source = "function policy(flow)
            local packets, bytes = counter('web')
            return if packets == 2 and bytes == 150 then 'reject' else nil
        end";
    runtime.load(Some(&check(source, "test").expect("a script")), None).expect("it loads");
    let flow = Flow { policy: policy(), ..Flow::default() };
    assert_eq!(flow.action(&mut runtime), Action::Allow);
    counters.count(CounterSlot(1), 100);
    counters.count(CounterSlot(1), 50);
    assert_eq!(flow.action(&mut runtime), Action::Reject);
}

#[test]
fn time_is_told() {
    let clock = Rc::new(TestClock::default());
    clock.now.set(Duration::from_millis(1_500_250));
    let source = "function policy(flow)
            local t = clock()
            return 'deny', 1, `{now()} {t.year}-{t.month}-{t.day} {t.hour}:{t.min}:{t.sec} {t.wday}`
        end";
    let runtime = runtime_at(source, &clock);
    let tried = runtime.dry_run(&Flow::default().query()).expect("a script").expect("a verdict");
    assert_eq!(tried.note.as_deref(), Some("1500.25 2025-6-2 12:0:0 2"));
}

#[test]
fn state_is_kept_between_calls_until_another_script_is_loaded() {
    let source = "function policy(flow) state.n = (state.n or 0) + 1 return if state.n > 2 then 'deny' else nil end";
    let mut runtime = runtime(source);
    let flow = Flow::default();
    assert_eq!([(); 3].map(|()| flow.action(&mut runtime)), [Action::Allow, Action::Allow, Action::Deny]);
    let tried = runtime.dry_run(&flow.query()).expect("a script").expect("no failure");
    assert_eq!(tried.verdict, None, "a try has a state of its own");
    assert_eq!(runtime.status().calls, 3, "and is not counted");
    runtime.load(Some(&check(source, "test").expect("a script")), Some("/etc/x.luau")).expect("it loads");
    assert_eq!(flow.action(&mut runtime), Action::Allow);
    let status = runtime.status();
    assert_eq!((status.calls, status.file.as_deref(), status.is_loaded), (1, Some("/etc/x.luau"), true));
    assert!(status.memory > 0 && status.slowest > 0);
    runtime.load(None, None).expect("none is always possible");
    assert_eq!(flow.ask(&mut runtime), None);
    assert!(!runtime.is_loaded() && !runtime.status().is_loaded && runtime.dry_run(&flow.query()).is_none());
}

#[test]
fn log_lines_are_escaped_and_limited() {
    let mut runtime = runtime("function policy(flow) for i = 1, 100 do log('a\\nb' .. i) end return nil end");
    assert_eq!(Flow::default().ask(&mut runtime), None);
    let lines = runtime.take_lines();
    assert_eq!((lines.len(), lines[0].as_str()), (10, "script: a\\nb1"));
    assert!(runtime.take_lines().is_empty());
}

#[test]
fn scripts_that_are_no_good_are_refused_before_they_are_used() {
    let big = format!("function policy() end -- {}", "x".repeat(70_000));
    for (source, kind, text) in [
        ("", ErrorKind::Value, "the script defines no function policy(flow)"),
        ("policy = 5", ErrorKind::Value, "the script defines no function policy(flow)"),
        ("function policy(", ErrorKind::Syntax, "test:1:"),
        ("local x = = 5", ErrorKind::Syntax, "test:1:"),
        ("error('no')", ErrorKind::Error, "test:1: no"),
        ("error({})", ErrorKind::Error, "table: 0x"),
        ("while true do end", ErrorKind::Time, "it takes too long"),
        ("t = table.create(2000000, 1)", ErrorKind::Memory, "more memory"),
        ("function policy() end function selftest() return false end", ErrorKind::SelfTest, "selftest returned false"),
        ("function policy() end function selftest() return 5 end", ErrorKind::SelfTest, "returned a"),
        ("function policy() end function selftest() error('no') end", ErrorKind::SelfTest, "selftest: test:1: no"),
        ("function policy() end function selftest() while true do end end", ErrorKind::Time, "it takes too long"),
        ("function policy() end selftest = 7", ErrorKind::SelfTest, "selftest is a"),
        ("function policy() end\0", ErrorKind::Syntax, "zero byte"),
        ("\0Luau bytecode", ErrorKind::Syntax, "zero byte"),
        ("\u{7}\u{3}", ErrorKind::Syntax, "test:1:"),
        (&big, ErrorKind::Syntax, "at most 65536"),
    ] {
        let error = check(source, "test").expect_err(source);
        assert_eq!(error.kind, kind, "{source}: {error}");
        assert!(error.text.contains(text), "{source}: {error}");
    }
}

#[test]
fn scripts_that_test_themselves_are_taken() {
    let source = "local customers = set('customers')
        function policy(flow) counter('web') return if customers:has(flow.dst) then 'allow' else 'deny' end
        function selftest()
            assert(policy({ dst = '10.0.0.1' }) == 'deny')
            return true
        end";
    let compiled = check(source, "test").expect("a good script");
    assert_eq!((compiled.sets, compiled.counters), (vec!["customers".to_owned()], vec!["web".to_owned()]));
    check("function policy() end function selftest() end", "test").expect("nothing is true enough");
}

#[test]
fn script_that_cannot_be_loaded_changes_nothing() {
    let clock = Rc::new(TestClock::default());
    let mut runtime = runtime_at("function policy(flow) return 'reject' end", &clock);
    let compiled = check("if now() < 1e9 + 1748865600 then error('not yet') end function policy(flow) end", "other");
    assert!(compiled.is_err());
    let source = "if clock().year == 2025 then error('not this year') end function policy(flow) end";
    // The check has the system's time, the runtime that of the test.
    let compiled = check(source, "other").expect("it is another year");
    let error = runtime.load(Some(&compiled), None).expect_err("it is 2025 there");
    assert_eq!(error.text, "other:1: not this year");
    assert_eq!(Flow::default().action(&mut runtime), Action::Reject);
}

#[test]
fn runtime_without_watchdog_works() {
    let mut runtime = Runtime::new(host(&Rc::default()), None);
    let source = "function policy(flow) if flow.dst_port == 1 then while true do end end return 'reject' end";
    runtime.load(Some(&check(source, "test").expect("a script")), None).expect("it loads");
    assert_eq!(Flow::to("192.0.2.1", 2).action(&mut runtime), Action::Reject);
    assert_eq!(Flow::to("192.0.2.1", 1).action(&mut runtime), Action::Deny);
    assert_eq!(runtime.status().last_failure.as_deref(), Some("it takes too long"));
}

/// A clock that is broken when it is asked.
#[derive(Debug)]
struct BrokenClock;

impl tuntap_script::Clock for BrokenClock {
    fn now(&self) -> Duration {
        panic!("the clock is broken")
    }

    fn local(&self, _seconds: i64) -> Option<tuntap_sys::process::LocalTime> {
        None
    }
}

#[test]
fn panics_pass_through_scripts() {
    for source in [
        "function policy(flow) if flow.dst_port == 443 then now() end return 'reject' end",
        "function policy(flow) if flow.dst_port == 443 then pcall(now) end return 'reject' end",
        "function policy(flow) if flow.dst_port == 443 then xpcall(now, function() end) end return 'reject' end",
    ] {
        let mut runtime = Runtime::new(Host { clock: Rc::new(BrokenClock), ..Host::default() }, None);
        runtime.load(Some(&check(source, "test").expect("a script")), None).expect("it loads");
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Flow::default().ask(&mut runtime)));
        let panic = panic.expect_err(source);
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the clock is broken"));
        assert_eq!(Flow::to("192.0.2.1", 1).action(&mut runtime), Action::Reject, "it could go on");
    }
}

#[test]
fn script_puts_flows_into_classes() {
    let flow = Flow { policy: common::policy_with_class("bulk"), ..Flow::default() };
    let bulk = flow.policy.shapes.class("bulk");
    let said = |text: &str| {
        let mut runtime = runtime(&format!("function policy(flow) return {text} end"));
        let verdict = flow.ask(&mut runtime);
        (verdict.map(|verdict| (verdict.action, verdict.class)), runtime.status().last_failure.unwrap_or_default())
    };
    for (text, expected) in [
        ("'allow', 60, 'a note', 'bulk'", Some((Action::Allow, bulk))),
        ("'allow', nil, nil, 'bulk'", Some((Action::Allow, bulk))),
        ("'allow', nil, nil, nil", Some((Action::Allow, None))),
        ("nil, nil, nil, nil", None),
    ] {
        assert_eq!(said(text), (expected, String::new()), "{text}");
    }
    for (text, part) in [
        ("'allow', nil, nil, 'bulc'", "policy returned 'bulc' as class, and there is no limit for class:bulc"),
        ("'allow', nil, nil, ''", "no limit for class:"),
        ("'allow', nil, nil, 7", "policy returned a number as class, expected its name"),
        ("'deny', nil, nil, 'bulk'", "policy returned 'bulk' as class, which only flows with the verdict 'allow' have"),
        ("nil, nil, nil, 'bulk'", "which only flows with the verdict 'allow' have"),
    ] {
        let (verdict, failure) = said(text);
        assert_eq!(verdict, Some((Action::Deny, None)), "{text}: it fails closed");
        assert!(failure.contains(part), "{text}: {failure}");
    }
}
