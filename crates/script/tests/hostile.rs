//! Scripts that do their worst. Each call ends, and the flow is denied.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Flow, policy, runtime};
use tuntap_core::policy::pattern::Action;
use tuntap_script::check;
use tuntap_script::limits::{FAILURE_TTL, MAX_FAILURES};
use tuntap_wire::rule::Direction;

/// What may be said about a call that doesn't end by itself. Memory and time are a race where a script takes much of both.
const TIME: &[&str] = &["it takes too long"];
const MEMORY: &[&str] = &["more memory"];
const EITHER: &[&str] = &["it takes too long", "more memory", "stack overflow"];

/// Bodies of `policy`, with what is said about them.
const HOSTILE: &[(&str, &[&str])] = &[
    // Loops.
    ("while true do end", TIME),
    ("repeat until false", TIME),
    ("for i = 1, math.huge do end", TIME),
    ("local function f() return f() end return f()", EITHER),
    ("local function f() return f() + 1 end return f()", EITHER),
    ("for _ in function() return 1 end do end", TIME),
    // Catching the end of the time.
    ("while true do pcall(function() while true do end end) end", TIME),
    ("pcall(function() while true do end end) return 'allow'", TIME),
    ("local function f() while true do pcall(f) end end f()", EITHER),
    ("xpcall(function() while true do end end, function() while true do end end) return 'allow'", TIME),
    (
        "local t = setmetatable({}, {__index = function(t, k) while true do end end}) pcall(function() return t.x end) return 'allow'",
        TIME,
    ),
    ("error(setmetatable({}, {__tostring = function() while true do end end}))", EITHER),
    // Metamethods.
    ("local t = {} setmetatable(t, {__index = t}) return t.x", &["'__index' chain too long"]),
    ("local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) return t[1]", EITHER),
    ("local t = setmetatable({}, {__concat = function(a, b) return a .. b end}) return t .. t", EITHER),
    (
        "local t = setmetatable({}, {__eq = function(a, b) while true do end end}) return t == setmetatable({}, getmetatable(t))",
        TIME,
    ),
    ("local t = setmetatable({}, {__len = function() while true do end end}) return #t", TIME),
    ("local t = setmetatable({}, {__iter = function() while true do end end}) for _ in t do end", TIME),
    ("return tostring(setmetatable({}, {__tostring = function() while true do end end}))", TIME),
    ("error(setmetatable({}, {__tostring = function() error('x') end}))", &["error in error handling"]),
    ("error(setmetatable({}, {__tostring = function() return 5 end}))", &["5"]),
    // Memory.
    ("local s = 'x' while true do s = s .. s end", EITHER),
    ("local t = {} while true do t[#t + 1] = {} end", EITHER),
    ("local t = {} for i = 1, 1e9 do t[i] = i end", EITHER),
    ("table.create(1e9, 1)", &["table overflow"]),
    ("table.create(2000000, 1)", MEMORY),
    ("local t = table.create(900000, 1) local u = table.create(900000, 1)", EITHER),
    ("while true do state[#state + 1] = string.rep('x', 16000) .. #state end", EITHER),
    // Functions of C, which nothing interrupts.
    ("return string.rep('x', 1e9)", &["a string of more than"]),
    ("return string.rep('', 1e9)", &["a string of more than"]),
    ("return string.rep('x', 0/0) .. ('x'):rep(1e300)", &["a string of more than"]),
    (
        "local s = string.rep('a', 16000) while true do s:find(string.rep('a?', 100) .. string.rep('a', 56)) end",
        &["it takes too long", "too complex"],
    ),
    ("return string.find(string.rep('a', 16000), string.rep('a*', 60) .. 'b')", &["it takes too long", "too complex"]),
    ("local s = string.rep('a', 16000) return s:match('(.-)(.-)(.-)(.-)(.-)b')", TIME),
    ("local s = string.rep('a', 16000) return s:gsub('.-.-.-.-b', '')", TIME),
    ("local s = string.rep('a', 16000) for _ in s:gmatch('.-.-.-.-b') do end", TIME),
    ("local s = string.rep('(', 16000) while true do s:find('%b()') end", TIME),
    ("local s = string.rep('a', 16000) s = s .. s .. s .. s return s:find('b')", &["a string of more than"]),
    ("local s = string.rep('a', 16000) s = s .. s .. s .. s return string.lower(s)", &["a string of more than"]),
    ("local s = string.rep('a', 16000) s = s .. s .. s .. s return string.split(s, 'b')", &["a string of more than"]),
    ("local s = string.rep('a', 16000) s = s .. s return string.format('%q', s)", &["a string of more than"]),
    ("return string.find('a', string.rep('a', 257), 1, true)", &["a string of more than"]),
    (
        "return string.gsub(string.rep('a', 16000), 'a', string.rep('a', 256))",
        &["policy returned 'aaaa", "it takes too long"],
    ),
    ("return string.format('%999999d', 1)", &["invalid"]),
    ("return string.format('%99.99f', 1e308):rep(1e6)", &["a string of more than"]),
    ("return table.concat(table.create(100000, 'x'))", &["more than 4096 elements"]),
    ("return table.concat({}, 'x', 1, 1e9)", &["more than 4096 elements"]),
    ("return table.concat({}, 'x', -1e308, 1e308)", &["more than 4096 elements"]),
    ("return table.concat({}, 'x', 0/0, 5)", &["more than 4096 elements"]),
    ("table.sort(table.create(100000, 1))", &["more than 4096 elements"]),
    (
        "table.sort(setmetatable(table.create(100000, 1), {__len = function() return 1 end}))",
        &["more than 4096 elements"],
    ),
    ("table.sort({3, 2, 1}, function() while true do end end)", TIME),
    (
        "local t = table.create(4000, 1) while true do table.sort(t, function() return true end) end",
        &["it takes too long", "invalid order"],
    ),
    ("table.move({}, 1, 2e9, 1, {})", &["more than 4096 elements"]),
    ("table.move(setmetatable({}, {__index = function() while true do end end}), 1, 5, 1, {}) while true do end", TIME),
    ("return table.unpack({}, 1, 1e6)", &["more than 4096 elements"]),
    (
        "return table.unpack(table.create(500000, 1))",
        &["more than 4096 elements", "too many results", "stack overflow"],
    ),
    (
        "return string.byte(string.rep('x', 16000), 1, -1), string.char(string.byte(string.rep('x', 16000), 1, -1))",
        &["policy returned"],
    ),
    ("local t = table.create(300000, 1) while true do table.insert(t, 1, 1) end", EITHER),
    ("return select(-1e9, 1)", &["select"]),
    // Values that are no verdicts.
    ("return 'maybe'", &["policy returned 'maybe'"]),
    ("return 'ALLOW'", &["policy returned 'ALLOW'"]),
    ("return true", &["policy returned a boolean"]),
    ("return 1", &["policy returned a number"]),
    ("return 0/0", &["policy returned a number"]),
    ("return {}", &["policy returned a table"]),
    ("return function() end", &["policy returned a function"]),
    (
        "return setmetatable({}, {__eq = function() return true end, __tostring = function() return 'allow' end})",
        &["policy returned a table"],
    ),
    ("return 'allow', 'long'", &["'long' as time to live"]),
    ("return 'allow', -1", &["as time to live"]),
    ("return 'allow', 0/0", &["as time to live"]),
    ("return 'allow', {}", &["as time to live"]),
    ("return 'allow', 5, {}", &["a table as note"]),
    // What isn't there, or can't be changed.
    ("return io.open('/etc/passwd')", &["nil"]),
    ("return os.execute('true')", &["nil"]),
    ("return os.time()", &["nil"]),
    ("return require('x')", &["nil"]),
    ("return loadstring('return 1')()", &["nil"]),
    ("return load('return 1')()", &["nil"]),
    ("return dofile('/etc/passwd')", &["nil"]),
    ("return debug.info(1, 's')", &["nil"]),
    ("return ffi.cdef('')", &["nil"]),
    ("return getfenv(0)", &["nil"]),
    ("return setfenv(1, {})", &["nil"]),
    ("return newproxy(true)", &["nil"]),
    ("return collectgarbage('stop')", &["nil"]),
    ("return coroutine.wrap(function() while true do end end)()", &["nil"]),
    ("return buffer.create(1e9)", &["nil"]),
    ("return utf8.len('x')", &["nil"]),
    ("print('x')", &["nil"]),
    ("string.find = nil", &["readonly"]),
    ("string.rep = function() end", &["readonly"]),
    ("getmetatable('').__index = {}", &["locked", "nil", "readonly", "attempt to index"]),
    ("getmetatable(set('customers')).__index = {}", &["readonly", "attempt to"]),
    ("setmetatable(_G, {__index = function() end})", &["readonly"]),
    ("_G.policy = nil rawset(_G, 'x', 1)", &["readonly"]),
    ("set('customers').number = 5", &["readonly"]),
    ("set('customers').has({number = 1e300}, '10.0.0.1')", &["that is not a set"]),
    ("set('customers').has({number = 77}, '10.0.0.1')", &["that is not a set"]),
    ("set('customers').has(nil, '10.0.0.1')", &["nil"]),
    ("error(nil)", &["nil"]),
    ("error()", &["nil"]),
    ("error('\\27[2J\\n\\r' .. string.rep('x', 5000))", &["\\u{1b}[2J\\n\\r"]),
];

/// Far more than a call may take, on any machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns true if this may be said about that script. What takes much memory may meet the limits before its end: it depends on
/// the machine, and on what else it does.
fn is_said(text: &str, body: &str, texts: &[&str]) -> bool {
    let has_any = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    has_any(texts) || has_any(EITHER) && ["string.rep(", "table.create("].iter().any(|taker| body.contains(taker))
}

#[test]
fn worst_scripts_end_and_deny_their_flow() {
    let mut wrong = Vec::new();
    for (body, texts) in HOSTILE {
        let mut runtime = runtime(&format!("function policy(flow) if flow.dst_port == 1 then {body} end end"));
        let flow = Flow { policy: policy(), ..Flow::to("192.0.2.1", 1) };
        let start = Instant::now();
        let action = flow.action(&mut runtime);
        let took = start.elapsed();
        let status = runtime.status();
        let text = status.last_failure.unwrap_or_default();
        if action != Action::Deny || status.failures != 1 || !is_said(&text, body, texts) {
            wrong.push(format!("{body}\n    {action:?}, {} failures: {text}", status.failures));
        }
        if took > TIMEOUT || text.chars().any(char::is_control) || text.chars().count() > 301 {
            wrong.push(format!("{body}\n    {took:?}: {text}"));
        }
        let other = Flow { policy: policy(), peer: 2, uid: 1001, ..Flow::default() };
        if other.ask(&mut runtime).is_some() {
            wrong.push(format!("{body}\n    another flow: {:?}", runtime.status().last_failure));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Nothing interrupts a program without calls and loops: the length of its text bounds it. It may use up its memory before.
#[test]
fn longest_program_without_a_step_ends() {
    for (doublings, step) in [(2, "t=s..1 "), (5, "t=s..1 "), (8, "t=s..1 "), (5, "t=s<r ")] {
        let mut body = String::from("local s = string.rep('x', 16000) ");
        body.push_str(&"s = s .. s ".repeat(doublings));
        body.push_str("local r = s .. 'y' s = s .. 'x' ");
        while body.len() < 65_000 {
            body.push_str(step);
        }
        let mut runtime = runtime(&format!("local t function policy(flow) {body} end"));
        let start = Instant::now();
        let action = Flow::default().action(&mut runtime);
        assert!(start.elapsed() < TIMEOUT, "{doublings} {step}");
        assert_eq!(action, Action::Deny, "{doublings} {step}");
    }
}

fn failing(condition: &str, failure: &str) -> String {
    format!("function policy(flow) if {condition} then {failure} end return 'reject' end")
}

fn good() -> tuntap_script::Compiled {
    check("function policy(flow) return 'allow' end", "good").expect("a good script")
}

#[test]
fn script_before_comes_back_after_failures_in_a_row() {
    let mut runtime = runtime("function policy(flow) return 'allow' end");
    let digest = runtime.status().digest;
    let bad = check(&failing("flow.dst_port < 100", "error('no')"), "bad").expect("it loads");
    runtime.load(Some(&bad), Some("/etc/bad.luau")).expect("it loads");
    assert_ne!(runtime.status().digest, digest);
    let (failing, other) = (Flow::to("192.0.2.1", 1), Flow::to("192.0.2.1", 443));
    for _ in 0..MAX_FAILURES - 1 {
        assert_eq!(failing.action(&mut runtime), Action::Deny);
    }
    assert_eq!(other.action(&mut runtime), Action::Reject, "one that doesn't fail");
    for _ in 0..MAX_FAILURES - 1 {
        let verdict = failing.ask(&mut runtime).expect("a verdict");
        assert_eq!((verdict.action, verdict.ttl), (Action::Deny, Some(FAILURE_TTL)));
    }
    assert_eq!(other.action(&mut runtime), Action::Reject, "the script is still the same");
    assert!(runtime.take_lines().is_empty());
    for _ in 0..MAX_FAILURES {
        assert_eq!(failing.action(&mut runtime), Action::Deny);
    }
    assert_eq!([failing.action(&mut runtime), other.action(&mut runtime)], [Action::Allow; 2]);
    let status = runtime.status();
    assert_eq!((status.digest, status.reverts, status.file), (digest, 1, None));
    assert_eq!(status.failures, u64::from(3 * MAX_FAILURES - 2));
    assert_eq!(status.last_failure.as_deref(), Some("bad:1: no"));
    let lines = runtime.take_lines();
    let expected = "the script has failed 8 times in a row: the one before it is in use again: bad:1: no";
    assert_eq!(lines, [expected]);
}

/// Else who is kept out by a script could bring back the one before, and empty what it has stored about others.
#[test]
fn one_who_makes_a_script_fail_undoes_it_for_nobody() {
    let failing = failing("flow.dst_port < 100", "error('no')");
    let source = format!("state.n = 0 {failing}").replace("return 'reject'", "state.n += 1 return 'reject', state.n");
    for has_previous in [true, false] {
        let mut runtime = runtime(if has_previous { "function policy(flow) return 'allow' end" } else { &source });
        if has_previous {
            runtime.load(Some(&check(&source, "bad").expect("it loads")), None).expect("it loads");
        }
        let others = Flow { uid: 1001, ..Flow::to("192.0.2.1", 443) };
        assert_eq!(others.action(&mut runtime), Action::Reject);
        let attack = Flow::to("192.0.2.1", 1);
        for _ in 0..3 * MAX_FAILURES {
            assert_eq!(attack.action(&mut runtime), Action::Deny);
        }
        let verdict = others.ask(&mut runtime).expect("a verdict");
        assert_eq!((verdict.action, verdict.ttl), (Action::Reject, Some(Duration::from_secs(2))), "as before");
        assert_eq!(runtime.status().reverts, 0);
        let lines = runtime.take_lines();
        assert!(lines.len() == 1 && lines[0].contains("for uid 1000 alone"), "told once: {lines:?}");
        // It fails for others, too.
        for uid in [1000, 1001] {
            for _ in 0..MAX_FAILURES / 2 {
                assert_eq!(Flow { uid, ..attack.clone() }.action(&mut runtime), Action::Deny);
            }
        }
        assert_eq!(runtime.status().reverts, u64::from(has_previous));
    }
}

#[test]
fn script_that_has_none_before_it_starts_anew() {
    let source =
        "state.n = 0 function policy(flow) state.n += 1 if state.n > 3 then error('worn out') end return 'reject' end";
    let mut runtime = runtime(source);
    let flow = Flow::default();
    for round in 0..3 {
        for _ in 0..3 {
            assert_eq!(flow.action(&mut runtime), Action::Reject);
        }
        for _ in 0..MAX_FAILURES {
            assert_eq!(flow.action(&mut runtime), Action::Deny);
        }
        let lines = runtime.take_lines();
        assert_eq!(lines.len(), usize::from(round == 0), "it is told once: {lines:?}");
    }
    assert_eq!((runtime.status().reverts, runtime.status().is_loaded), (0, true));
}

#[test]
fn full_memory_is_emptied() {
    let mut runtime =
        runtime("function policy(flow) state[#state + 1] = table.create(1000, #state) return 'reject' end");
    let flow = Flow::default();
    let mut actions = Vec::new();
    let mut failures = BTreeSet::new();
    for _ in 0..3000 {
        actions.push(flow.action(&mut runtime));
        let status = runtime.status();
        assert!(status.memory <= tuntap_script::limits::MAX_MEMORY as u64);
        failures.extend(status.last_failure);
    }
    let status = runtime.status();
    assert!(status.failures >= 2, "{status:?}");
    // A call that meets a collection of garbage may also take too long, on a slow machine.
    assert!(failures.contains("it needs more memory than a script may have"), "{failures:?}");
    let denied = actions.iter().filter(|action| **action == Action::Deny).count();
    assert_eq!(denied as u64, status.failures);
    assert!(denied < 30, "{denied}");
}

#[test]
fn peer_whose_flows_take_too_long_is_not_asked_about_for_a_while() {
    let mut runtime = runtime(&failing("flow.dst_port == 1", "while true do end"));
    runtime.load(Some(&good()), None).expect("it loads");
    let bad = check(&failing("flow.dst_port == 1", "while true do end"), "bad").expect("it loads");
    runtime.load(Some(&bad), None).expect("it loads");
    let slow = Flow::to("192.0.2.1", 1);
    let fast = Flow::to("192.0.2.1", 2);
    assert_eq!(slow.action(&mut runtime), Action::Deny);
    assert_eq!(fast.action(&mut runtime), Action::Deny, "the same peer");
    let again = Flow { peer: 2, ..fast.clone() };
    assert_eq!(again.action(&mut runtime), Action::Deny, "another connection of the same user");
    let towards = Flow { direction: Direction::In, ..fast.clone() };
    assert_eq!(towards.action(&mut runtime), Action::Reject, "others' packets towards it");
    let other = Flow { peer: 3, uid: 1001, ..fast.clone() };
    assert_eq!(other.action(&mut runtime), Action::Reject, "another one");
    let start = Instant::now();
    while fast.action(&mut runtime) != Action::Reject {
        assert!(start.elapsed() < TIMEOUT, "it rests for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Each of these takes the time of a call, and they are as many as it takes.
    for peer in 0..MAX_FAILURES {
        assert_eq!(Flow { uid: 2000 + peer, ..slow.clone() }.action(&mut runtime), Action::Deny);
    }
    assert_eq!(Flow { peer: 100, ..slow }.action(&mut runtime), Action::Allow, "the script before is back");
}

#[test]
fn what_scripts_get_is_not_shared_between_machines() {
    let mut runtime =
        runtime("function policy(flow) shared = (shared or 0) + 1 return if shared == 1 then nil else 'deny' end");
    assert_eq!(Flow::default().ask(&mut runtime), None);
    let mut next = common::runtime("function policy(flow) return if shared == nil then nil else 'deny' end");
    assert_eq!(Flow::default().ask(&mut next), None);
}
