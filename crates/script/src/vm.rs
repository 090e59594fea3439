//! A virtual machine with one script in it.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use mlua::{
    Either, Function, Lua, LuaOptions, LuaString, StdLib, Table, Value, VmState,
    chunk::{ChunkMode, Compiler},
};
use tuntap_core::policy::Policy;
use tuntap_core::policy::pattern::Action;
use tuntap_core::policy::registry::PeerId;
use tuntap_core::policy::script::{ScriptQuery, ScriptVerdict};
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::ip::protocol;
use tuntap_wire::rule::Direction;

use super::error::{ErrorKind, ScriptError, printable};
use super::guard::Guard;
use super::host::{CallError, Surroundings};
use super::limits::{MAX_ADDRESSES, MAX_ITEMS, MAX_MEMORY, MAX_NOTE, MAX_PATTERN, MAX_PEERS, MAX_TEXT, TTL_BOUNDS};

/// What the compiler does to scripts: no more than constant folding, so that the text says what is run.
const OPTIMIZATION: u8 = 1;

/// Lines in messages, but no names of local variables.
const DEBUG: u8 = 1;

/// Names of protocols, as in rules.
const PROTOCOLS: [(u8, &str); 10] = [
    (protocol::ICMP, "icmp"),
    (protocol::ICMPV6, "icmpv6"),
    (protocol::TCP, "tcp"),
    (protocol::UDP, "udp"),
    (protocol::SCTP, "sctp"),
    (protocol::DCCP, "dccp"),
    (protocol::UDPLITE, "udplite"),
    (47, "gre"),
    (50, "esp"),
    (protocol::AUTHENTICATION, "ah"),
];

/// A virtual machine with one script in it, for the thread that made it.
pub struct Vm {
    lua: Lua,
    guard: Rc<Guard>,
    surroundings: Rc<Surroundings>,
    /// Calls the script's `policy`.
    decide: Function,
    peers: Peers,
}

impl fmt::Debug for Vm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Vm").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// The peers whose tables were made for earlier flows.
#[derive(Debug, Default)]
struct Peers(HashMap<PeerId, KnownPeer>);

/// A peer as a script sees it.
#[derive(Debug)]
struct KnownPeer {
    credentials: PeerCredentials,
    addresses: Vec<IpAddr>,
    /// The same addresses.
    texts: Vec<LuaString>,
    table: Table,
}

impl Peers {
    /// Returns the peer of a flow.
    fn get(&mut self, lua: &Lua, around: &Surroundings, query: &ScriptQuery<'_>) -> mlua::Result<&KnownPeer> {
        let addresses = &query.addresses[..query.addresses.len().min(MAX_ADDRESSES)];
        let is_same = |known: &KnownPeer| known.credentials == query.credentials && known.addresses == addresses;
        if !self.0.get(&query.peer).is_some_and(is_same) {
            if self.0.len() >= MAX_PEERS {
                self.0.clear();
            }
            let name = around.host.users.get(&query.credentials.uid).map(String::as_str);
            self.0.insert(query.peer, KnownPeer::new(lua, query.credentials, addresses, name)?);
        }
        Ok(&self.0[&query.peer])
    }
}

impl KnownPeer {
    fn new(lua: &Lua, credentials: PeerCredentials, addresses: &[IpAddr], name: Option<&str>) -> mlua::Result<Self> {
        let texts = addresses.iter().map(|address| lua.create_string(address.to_string()));
        let texts = texts.collect::<mlua::Result<Vec<_>>>()?;
        let list = lua.create_sequence_from(&texts)?;
        list.set_readonly(true);
        let table = lua.create_table_with_capacity(0, 5)?;
        table.raw_set("addresses", list)?;
        table.raw_set("uid", credentials.uid)?;
        table.raw_set("gid", credentials.gid)?;
        table.raw_set("pid", credentials.pid)?;
        table.raw_set("name", name)?;
        table.set_readonly(true);
        Ok(Self { credentials, addresses: addresses.to_vec(), texts, table })
    }

    /// Returns the text of an address: what is there already if it is one of the peer's own.
    fn text<'a>(&'a self, address: IpAddr, room: &'a mut Text) -> Either<&'a LuaString, &'a str> {
        let own = self.addresses.iter().position(|own| *own == address);
        if let Some(text) = own.and_then(|index| self.texts.get(index)) {
            return Either::Left(text);
        }
        // An address fits into it.
        let _ = write!(room, "{address}");
        Either::Right(room.as_str())
    }
}

/// What a script has said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None` if it has no opinion.
    pub verdict: Option<ScriptVerdict>,
    /// Its note on that.
    pub note: Option<String>,
}

/// Compiles a source text.
pub fn compile(source: &[u8]) -> Result<Vec<u8>, mlua::Error> {
    Compiler::new().set_optimization_level(OPTIMIZATION).set_debug_level(DEBUG).compile(source)
}

impl Vm {
    /// Makes a virtual machine, and runs a script's text in it, from the bytecode of [`compile`]. The script must define
    /// `policy`.
    pub fn new(bytecode: &[u8], name: &str, guard: Guard, surroundings: Surroundings) -> Result<Self, ScriptError> {
        let (guard, surroundings) = (Rc::new(guard), Rc::new(surroundings));
        // A panic of ours is none of the script's business: its `pcall` doesn't catch it.
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH | StdLib::BIT, options)
            .map_err(|error| ScriptError::from(&error))?;
        lua.set_memory_limit(MAX_MEMORY).map_err(|error| ScriptError::from(&error))?;
        let asked = Rc::clone(&guard);
        lua.set_interrupt(move |_| {
            if asked.is_over() { Err(mlua::Error::runtime("it takes too long")) } else { Ok(VmState::Continue) }
        });
        let decide = guarded(&guard, || {
            let decider: Function = prelude(&lua, &surroundings)?;
            lua.sandbox(true)?;
            lua.globals().set("state", lua.create_table()?)?;
            lua.load(bytecode).set_mode(ChunkMode::Binary).set_name(format!("={name}")).exec()?;
            match lua.globals().get("policy")? {
                Value::Function(policy) => decider.call::<Function>(policy).map(Some),
                _ => Ok(None),
            }
        })?;
        let decide =
            decide.ok_or_else(|| ScriptError::new(ErrorKind::Value, "the script defines no function policy(flow)"))?;
        Ok(Self { lua, guard, surroundings, decide, peers: Peers::default() })
    }

    /// Runs the script's `selftest`, if it has one. Fails unless it returns true or nothing.
    pub fn self_test(&self) -> Result<(), ScriptError> {
        let result = guarded(&self.guard, || match self.lua.globals().get("selftest")? {
            Value::Nil => Ok(None),
            Value::Function(test) => test.call::<Value>(()).map(Some),
            other => Err(mlua::Error::runtime(format!("selftest is a {}, expected a function", other.type_name()))),
        });
        match result {
            Ok(None | Some(Value::Nil | Value::Boolean(true))) => Ok(()),
            Ok(Some(other)) => {
                let text = match other {
                    Value::Boolean(_) => "selftest returned false".to_owned(),
                    other => format!("selftest returned a {}, expected true or false", other.type_name()),
                };
                Err(ScriptError::new(ErrorKind::SelfTest, &text))
            }
            Err(error) if error.kind == ErrorKind::Error => {
                Err(ScriptError::new(ErrorKind::SelfTest, &format!("selftest: {}", error.text)))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the script about a flow.
    pub fn decide(&mut self, query: &ScriptQuery<'_>) -> Result<Answer, ScriptError> {
        self.surroundings.use_policy(query.policy);
        guarded(&self.guard, || {
            let peer = self.peers.get(&self.lua, &self.surroundings, query)?;
            let (mut src, mut dst) = (Text::default(), Text::default());
            let (code, ttl, note, class) = self.decide.call::<Said>((
                query.direction == Direction::Out,
                peer.text(query.src, &mut src),
                peer.text(query.dst, &mut dst),
                query.protocol,
                query.src_port,
                query.dst_port,
                &peer.table,
            ))?;
            let class = class.map(|class| number_of(query.policy, &text(&class))).transpose()?;
            Ok(answer(code, ttl, note.as_ref(), class))
        })
    }

    /// Returns the bytes of memory that it uses.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Returns what the script shares with the router.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }
}

/// Runs what may run a script, within the limits of a call.
fn guarded<T>(guard: &Guard, run: impl FnOnce() -> mlua::Result<T>) -> Result<T, ScriptError> {
    guard.begin();
    let result = run();
    if guard.end() {
        return Err(ScriptError::new(ErrorKind::Time, "it takes too long"));
    }
    result.map_err(|error| ScriptError::from(&error))
}

/// Runs the prelude, and returns the function that it returns.
fn prelude(lua: &Lua, surroundings: &Rc<Surroundings>) -> mlua::Result<Function> {
    static BYTECODE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let bytecode = BYTECODE
        .get_or_init(|| compile(include_bytes!("prelude.luau")).ok())
        .as_ref()
        .ok_or_else(|| mlua::Error::runtime("the prelude can't be compiled"))?;
    let limits = lua.create_table()?;
    limits.raw_set("text", MAX_TEXT)?;
    limits.raw_set("pattern", MAX_PATTERN)?;
    limits.raw_set("items", MAX_ITEMS)?;
    let native = functions(lua, surroundings)?;
    lua.load(bytecode.as_slice()).set_mode(ChunkMode::Binary).set_name("=prelude").call((native, limits))
}

/// Makes the functions of the router that the prelude wraps. Where something is wrong they return nil and a text, of which the
/// prelude makes an error: errors of native functions are slow.
fn functions(lua: &Lua, surroundings: &Rc<Surroundings>) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    let shared = || Rc::clone(surroundings);
    let around = shared();
    let set_number = move |_: &Lua, name: LuaString| Ok(or_text(around.set(&text(&name))));
    native.raw_set("set_number", lua.create_function(set_number)?)?;
    let around = shared();
    let set_has =
        move |_: &Lua, (number, address): (f64, LuaString)| Ok(or_text(around.set_has(number, &text(&address))));
    native.raw_set("set_has", lua.create_function(set_has)?)?;
    let around = shared();
    let counter = move |_: &Lua, name: LuaString| {
        let (count, wrong) = or_text(around.counter(&text(&name)));
        Ok((count.map(|count| count.packets), count.map(|count| count.bytes), wrong))
    };
    native.raw_set("counter", lua.create_function(counter)?)?;
    let around = shared();
    native.raw_set("now", lua.create_function(move |_, ()| Ok(around.host.clock.now().as_secs_f64()))?)?;
    let around = shared();
    let clock = move |_: &Lua, ()| {
        let time = around.local_time().map_err(|error| mlua::Error::runtime(error.to_string()))?;
        Ok((time.year, time.month, time.day, time.hour, time.minute, time.second, time.weekday + 1))
    };
    native.raw_set("clock", lua.create_function(clock)?)?;
    let around = shared();
    let log = move |_: &Lua, line: LuaString| {
        around.log(&text(&line));
        Ok(())
    };
    native.raw_set("log", lua.create_function(log)?)?;
    native.raw_set("protocols", protocol_names(lua)?)?;
    Ok(native)
}

/// Returns the name of each protocol, which is its number if it has none.
fn protocol_names(lua: &Lua) -> mlua::Result<Table> {
    let names = lua.create_table()?;
    for number in u8::MIN..=u8::MAX {
        let name = PROTOCOLS.iter().find(|(known, _)| *known == number);
        names.raw_set(number, name.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned()))?;
    }
    Ok(names)
}

/// Returns a result, or what is wrong.
fn or_text<T>(result: Result<T, CallError>) -> (Option<T>, Option<String>) {
    result.map_or_else(|error| (None, Some(error.to_string())), |value| (Some(value), None))
}

/// Returns the start of a text that a script gave, long enough for any use.
fn text(text: &LuaString) -> String {
    let bytes = text.as_bytes();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_PATTERN)]).into_owned()
}

/// Returns the number of a class. A flow must not escape from its limit because somebody has misspelt the name, so an unknown
/// one is an error of the script.
fn number_of(policy: &Policy, name: &str) -> mlua::Result<u16> {
    policy.shapes.class(name).ok_or_else(|| {
        let name = printable(name, MAX_NOTE);
        mlua::Error::runtime(format!("policy returned '{name}' as class, and there is no limit for class:{name}"))
    })
}

/// What the prelude answers: verdict, time to live, note and class.
type Said = (u8, Option<f64>, Option<LuaString>, Option<LuaString>);

/// Returns what the prelude's answer means.
fn answer(code: u8, ttl: Option<f64>, note: Option<&LuaString>, class: Option<u16>) -> Answer {
    let action = match code {
        0 => return Answer::default(),
        1 => Action::Allow,
        2 => Action::Deny,
        _ => Action::Reject,
    };
    let [least, most] = TTL_BOUNDS;
    let ttl = ttl.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(most).clamp(least, most));
    let note = note.map(|note| printable(&text(note), MAX_NOTE));
    Answer { verdict: Some(ScriptVerdict { action, ttl, class }), note }
}

/// The text of an address, without allocation.
#[derive(Debug)]
struct Text {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }
}

impl Text {
    /// The longest text of an IPv6 address has 45 characters (INET6_ADDRSTRLEN of netinet/in.h, less its end).
    const MAX: usize = 45;

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
