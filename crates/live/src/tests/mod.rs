//! Tests of the whole crate through its interface.

mod commits;
mod levels;
mod model;
mod shapes;
mod speed;
mod storage;

use std::io;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tuntap_api::control::{Chain, Change, Changed, Code, Failure, Level, Request, RuleList};
use tuntap_config::{Config, OptionName};
use tuntap_core::policy::counters::{CounterSlot, RuleCounters};

use crate::{Base, Caller, Document, Live, Machine, Now, RulesFile};

pub(crate) const ADMIN: Caller = Caller { uid: 0, pid: 1, level: Level::Admin };
pub(crate) const OPERATOR: Caller = Caller { uid: 1000, pid: 2, level: Level::Operate };
pub(crate) const VIEWER: Caller = Caller { uid: 1001, pid: 3, level: Level::View };

/// The rules of the options.
const OPTIONS: [(OptionName, &str); 4] = [
    (OptionName::Router, "tun0 /run/t.sock"),
    (OptionName::FirewallIn, "allow 10.0.0.0/8 any"),
    (OptionName::FirewallIn, "deny 0.0.0.0/0 any"),
    (OptionName::Route, "any 10.9.0.0/16 192.0.2.1:4000"),
];

pub(crate) const FILE: &str = "
set bad { 192.0.2.1, 198.51.100.0/24 }  # two
set big = /big
chain in
deny @bad any log counter bad
group web owner 1000
chain in
allow any any tcp 80-81 new rate 5/s
allow any any established
chain out
deny any @big
";

/// Reads a rules file on a machine that has one more file and one user.
pub(crate) fn read(text: &str) -> Result<RulesFile, crate::FileError> {
    let files = |path: &str| match path {
        "/big" => Ok("10.1.0.0/16 # first\n10.2.0.1-10.2.0.2, fd00::/64 ; more\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let users = |name: &str| Ok((name == "www-data").then_some(33));
    RulesFile::read(text, &Machine { read: &files, user: &users, group: &users })
}

pub(crate) fn base() -> Base {
    let config = Config::from_options(OPTIONS).expect("good options");
    let (router, grants) = (config.routers[0].clone(), config.compile_grants(Vec::new()));
    Base { config, router, grants, late_shapes: Vec::new() }
}

pub(crate) fn initial(text: &str) -> Document {
    Document::initial(&base().config, &[], &read(text).expect("a good file"))
}

pub(crate) fn counters() -> RuleCounters {
    let words = (0..RuleCounters::words(RuleCounters::SLOTS)).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
    RuleCounters::new(Box::leak(words))
}

pub(crate) fn live(text: &str) -> Live {
    Live::new(base(), initial(text), None, None, counters())
}

pub(crate) fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), unix: 1_700_000_000 + seconds }
}

/// The answer to a request.
pub(crate) fn ask<T: DeserializeOwned>(live: &mut Live, caller: Caller, request: &Request) -> Result<T, Failure> {
    let outcome = live.handle(caller, request, at(100))?;
    Ok(serde_json::from_value(outcome.answer).expect("the answer's type"))
}

pub(crate) fn commit_of(changes: Vec<Change>) -> Request {
    Request::Commit { changes, expected_generation: None, confirm_seconds: None, dry_run: false }
}

pub(crate) fn commit(live: &mut Live, caller: Caller, changes: Vec<Change>) -> Result<Changed, Failure> {
    ask(live, caller, &commit_of(changes))
}

pub(crate) fn add(group: Option<&str>, chain: Chain, rule: &str) -> Change {
    Change::RuleAdd { group: group.map(str::to_owned), chain, rule: rule.to_owned() }
}

/// All rules: number, group, chain, text.
pub(crate) fn rules(live: &mut Live) -> Vec<(u32, String, Chain, String)> {
    let list: RuleList = ask(live, VIEWER, &Request::RulesList { chain: None, group: None }).expect("a list");
    let of_group = |group: tuntap_api::control::GroupEntry| {
        group.rules.into_iter().map(move |rule| (rule.id, group.name.clone(), rule.chain, rule.rule))
    };
    list.groups.into_iter().flat_map(of_group).collect()
}

pub(crate) fn texts(live: &mut Live, group: &str) -> Vec<String> {
    rules(live).into_iter().filter(|(_, of, ..)| of == group).map(|(.., text)| text).collect()
}

pub(crate) fn id_of(live: &mut Live, text: &str) -> u32 {
    rules(live).into_iter().find(|(.., other)| other == text).unwrap_or_else(|| panic!("no rule {text}")).0
}

pub(crate) fn slot_of(live: &Live, id: u32) -> CounterSlot {
    CounterSlot(live.document().rules().find(|rule| rule.id == id).expect("a rule").slot)
}

pub(crate) fn set(name: &str, members: &[&str]) -> Change {
    Change::SetReplace { name: name.to_owned(), members: members.iter().map(|word| (*word).to_owned()).collect() }
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> Code {
    result.expect_err("a failure").code
}
