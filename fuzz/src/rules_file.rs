//! Rules files, and the requests that carry their text.
//!
//! Input: the text of a rules file. What is not UTF-8 is skipped.

use std::io;
use std::time::Duration;

use tuntap_api::control::{Change, Changed, Level, Request, Saved};
use tuntap_config::{Config, OptionName};
use tuntap_core::policy::counters::RuleCounters;
use tuntap_live::{Base, Caller, Document, Live, Machine, Now, RulesFile, Stored, in_one_text, write};

const ADMIN: Caller = Caller { uid: 0, pid: 1, level: Level::Admin };

const NOW: Now = Now { monotonic: Duration::from_secs(1), unix: 1 };

/// Reads the text as a file, writes it, and has a router use it.
pub fn check(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let config =
        Config::from_options([(OptionName::Router, "tun0 /s"), (OptionName::FirewallIn, "deny 10.0.0.0/8 any")])
            .expect("good options");
    let file = match read(text) {
        Ok(file) => file,
        Err(line) => {
            let lines = u32::try_from(text.lines().count()).expect("few");
            assert!((1..=lines).contains(&line), "line {line} of {lines}");
            return;
        }
    };
    let document = Document::initial(&config, &[], &file);
    check_numbers(&document);
    let whole = in_one_text(text, &machine()).expect("it was read before");
    let mut written = vec![whole];
    // A file's members are not those that stood in braces behind its name.
    if document.sets.values().all(|set| set.file().is_none()) {
        written.push(write(&document));
    }
    for text in written {
        let again = Document::initial(&config, &[], &read(&text).expect("it was written"));
        assert!(again.says_the_same(&document), "{text}");
    }
    // The router has no interface that leads to the internet.
    if file.check_for(&config.routers[0]).is_ok() {
        check_router(&config, text, &document);
    }
}

/// Reads a file. The error is the number of the line.
fn read(text: &str) -> Result<RulesFile, u32> {
    RulesFile::read(text, &machine()).map_err(|error| error.line)
}

/// A machine with two files, one user and one group.
fn machine() -> Machine<'static> {
    let read = &|path: &str| match path {
        "/good" => Ok("10.1.0.0/16, fd00::/8\n10.2.0.1-10.2.0.9 ; a range\n".to_owned()),
        "/wrong" => Ok("10.1.0.0/8\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let account = &|name: &str| Ok((name == "www-data").then_some(33));
    Machine { read, user: account, group: account }
}

/// No two rules share a number or counters.
fn check_numbers(document: &Document) {
    let mut ids: Vec<u32> = document.rules().map(|rule| rule.id).collect();
    let mut slots: Vec<u32> = document.slots().collect();
    for numbers in [&mut ids, &mut slots] {
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }
    assert!(ids.iter().all(|id| *id < document.next_id));
}

/// A router without rules takes the text, gives the same back, hands it over, and goes back to nothing.
fn check_router(config: &Config, text: &str, expected: &Document) {
    let (router, grants) = (config.routers[0].clone(), config.compile_grants(Vec::new()));
    let nothing = Document::initial(config, &[], &RulesFile::default());
    let base = Base { config: config.clone(), router, grants, late_shapes: Vec::new() };
    let counters = RuleCounters::default();
    let mut live = Live::new(base.clone(), nothing.clone(), None, None, counters);
    let text = in_one_text(text, &machine()).expect("it was read before");
    let changes = vec![Change::FileReplace { text }];
    let commit = Request::Commit { changes, expected_generation: Some(0), confirm_seconds: Some(1), dry_run: false };
    let outcome = live.handle(ADMIN, &commit, NOW).unwrap_or_else(|failure| panic!("{failure:?}"));
    let changed: Changed = serde_json::from_value(outcome.answer).expect("the answer's type");
    assert!(live.document().says_the_same(expected));
    check_numbers(live.document());
    let rules: usize = expected.own_groups().map(|group| group.rules.len()).sum();
    assert_eq!(changed.rules.len(), rules);
    let saved = live.handle(ADMIN, &Request::Save {}, NOW).expect("a text").answer;
    let saved: Saved = serde_json::from_value(saved).expect("the answer's type");
    assert_eq!(saved.text, write(expected));

    let stored = serde_json::to_vec(&live.stored()).expect("it can be written");
    let stored = Stored::read(&stored).expect("it was written");
    let mut next = Live::new(base, nothing.clone(), None, Some(stored), counters);
    assert_eq!(next.document(), live.document());
    let late = Now { monotonic: Duration::from_secs(2), unix: 2 };
    let is_pending = next.deadline().is_some();
    assert_eq!(next.expire(late).is_some(), is_pending);
    assert!(next.document().says_the_same(&nothing));
}
