//! Work grows with what there is to do, and no faster. Times are compared with those of the same machine.

use tuntap_sys::process::thread_time_nanos;

use super::*;
use crate::limits::MAX_CHANGES;
use crate::{compile, read_members};

const ATTEMPTS: usize = 3;

/// Returns the processor time of `work`, in nanoseconds: what else the machine does has no part in it.
fn time_of<T>(work: impl FnOnce() -> T) -> u64 {
    let start = thread_time_nanos();
    std::hint::black_box(work());
    thread_time_nanos() - start
}

fn shortest<T>(mut work: impl FnMut() -> T) -> u64 {
    (0..3).map(|_| time_of(&mut work)).min().unwrap_or_default()
}

/// Checks that ten times the work takes less than forty times the time. Quadratic work takes a hundred times as long. What
/// others do to the caches may disturb an attempt.
fn grows(what: &str, mut work: impl FnMut(u32) -> u64) {
    let mut attempts = Vec::new();
    for _ in 0..ATTEMPTS {
        let (small, large) = (work(1), work(10));
        if large < small * 40 {
            return;
        }
        attempts.push((small, large));
    }
    panic!("{what}: nanoseconds of once and of ten times the work: {attempts:?}");
}

fn chain_of(rules: u32) -> String {
    let rule =
        |number: u32| format!("deny 10.{}.{}.0/24 any tcp {}\n", number >> 8 & 255, number & 255, number % 60_000 + 1);
    format!("chain in\n{}", (0..rules).map(rule).collect::<String>())
}

fn addresses(count: u32) -> Vec<String> {
    (0..count)
        .map(|number| format!("{}/32", std::net::Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1) | 1)))
        .collect()
}

#[test]
fn files_and_documents() {
    grows("reading", |times| {
        let text = chain_of(times * 1_000);
        shortest(|| read(&text))
    });
    grows("compiling", |times| {
        let document = initial(&chain_of(times * 1_000));
        let base = base();
        shortest(|| compile(&base, &document))
    });
    grows("reading members", |times| {
        let text = addresses(times * 10_000).join("\n");
        shortest(|| read_members(&text).expect("good"))
    });
}

#[test]
fn commits_of_many_changes() {
    grows("inserting and deleting", |times| {
        let mut live = live(&chain_of(times * 1_000));
        let ids: Vec<u32> = live.document().rules().map(|rule| rule.id).take((times * 1_000) as usize).collect();
        let insert = |id: &u32| Change::RuleInsert {
            at: tuntap_api::control::Place::Before(*id),
            rule: "allow 10.0.0.1 any".to_owned(),
        };
        let half = ids.len() / 2;
        let deletions = ids[half..].iter().map(|id| Change::RuleDelete { id: *id });
        let changes: Vec<_> = ids[..half].iter().map(insert).chain(deletions).collect();
        time_of(|| commit(&mut live, ADMIN, changes).expect("done"))
    });
    grows("members one by one", |times| {
        let members = addresses(times * 10_000 - 1);
        let mut live = live("set s {}\nchain in\ndeny @s any\n");
        let add = |member: String| Change::SetAdd { name: "s".to_owned(), members: vec![member] };
        let changes: Vec<_> = members.into_iter().map(add).collect();
        assert!(changes.len() <= MAX_CHANGES);
        time_of(|| commit(&mut live, ADMIN, changes).expect("done"))
    });
    grows("replacing everything", |times| {
        let mut live = live(&chain_of(times * 1_000));
        let text = chain_of(times * 1_000 + 1).replace("10.0.", "11.0.");
        time_of(|| commit(&mut live, ADMIN, vec![Change::FileReplace { text }]).expect("done"))
    });
}

#[test]
fn too_many_changes_are_refused() {
    let mut live = live("");
    let changes = vec![Change::RuleDelete { id: 1 }; MAX_CHANGES + 1];
    assert_eq!(code(commit(&mut live, ADMIN, changes)), Code::TooMuch);
    let rules = vec![add(None, Chain::In, "deny"); crate::limits::MAX_RULES + 1];
    assert_eq!(code(commit(&mut live, ADMIN, rules)), Code::TooMuch);
    let long = add(None, Chain::In, &"x".repeat(crate::limits::MAX_LINE_LEN + 1));
    let failure = commit(&mut live, ADMIN, vec![long]).expect_err("long");
    assert!(failure.code == Code::Invalid && failure.message.len() < 200, "{}", failure.message);
    let name = add(Some(&"x".repeat(100_000)), Chain::In, "deny");
    let failure = commit(&mut live, ADMIN, vec![name]).expect_err("long");
    assert!(failure.code == Code::Invalid && failure.message.len() <= crate::limits::MAX_MESSAGE);
}
