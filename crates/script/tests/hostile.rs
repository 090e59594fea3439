//! Scripts that do their worst. Each call ends, and the flow is denied.

mod common;

use std::time::{Duration, Instant};

use common::{Flow, policy, runtime};
use tuntap_core::policy::pattern::Action;

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
    ("error(setmetatable({}, {__tostring = function() error('x') end}))", &["table", "x"]),
    ("error(setmetatable({}, {__tostring = function() return 5 end}))", &["table", "__tostring"]),
    // Memory.
    ("local s = 'x' while true do s = s .. s end", EITHER),
    ("local t = {} while true do t[#t + 1] = {} end", EITHER),
    ("local t = {} for i = 1, 1e9 do t[i] = i end", EITHER),
    ("table.create(1e9, 1)", &["more memory", "size out of range"]),
    ("table.create(900000, 1) table.create(900000, 1)", MEMORY),
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
    ("return string.gsub(string.rep('a', 16000), 'a', string.rep('a', 256))", &["policy returned 'aaaa"]),
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
    ("set('customers').has({number = 1e300}, '10.0.0.1')", &["number", "not a set", "integer"]),
    ("set('customers').has({number = 77}, '10.0.0.1')", &["that is not a set"]),
    ("set('customers').has(nil, '10.0.0.1')", &["nil"]),
    ("error(nil)", &["nil"]),
    ("error()", &["nil"]),
    ("error('\\27[2J\\n\\r' .. string.rep('x', 5000))", &["\\u{1b}[2J\\n\\r"]),
];

/// Far more than a call may take, on any machine.
const PATIENCE: Duration = Duration::from_secs(20);

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
        if action != Action::Deny || status.failures != 1 || !texts.iter().any(|part| text.contains(part)) {
            wrong.push(format!("{body}\n    {action:?}, {} failures: {text}", status.failures));
        }
        if took > PATIENCE || text.chars().any(char::is_control) || text.chars().count() > 301 {
            wrong.push(format!("{body}\n    {took:?}: {text}"));
        }
        let other = Flow { policy: policy(), peer: 2, ..Flow::default() };
        if other.ask(&mut runtime).is_some() {
            wrong.push(format!("{body}\n    another flow: {:?}", runtime.status().last_failure));
        }
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{took:?} {text} <- {body}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
