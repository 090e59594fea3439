//! What the next router gets, and what a reload ends.

use tuntap_api::control::{Log, Saved};

use super::*;
use crate::Stored;

/// Another router begins with what this one has stored.
pub(super) fn handed_over(live: &Live) -> Live {
    let json = serde_json::to_vec(&live.stored()).expect("it can be written");
    let stored = Stored::read(&json).expect("it can be read");
    assert_eq!(stored, live.stored());
    Live::new(live.base.clone(), live.initial.clone(), None, Some(stored), live.counters)
}

fn wait(live: &mut Live, changes: Vec<Change>, seconds: u32) {
    let request =
        Request::Commit { changes, expected_generation: None, confirm_seconds: Some(seconds), dry_run: false };
    live.handle(ADMIN, &request, at(100)).expect("done");
}

#[test]
fn next_router_goes_on() {
    let mut live = live(FILE);
    let kept = id_of(&mut live, "allow established");
    live.counters.count(slot_of(&live, kept), 3);
    for text in ["one", "two"] {
        live.set_script(ADMIN, Some(text.to_owned()), Some("digest"), at(0)).expect("done");
    }
    assert_eq!(live.script().previous.as_deref(), Some("one"));
    wait(&mut live, vec![Change::GroupDelete { group: "web".to_owned() }], 60);
    let mut next = handed_over(&live);
    assert_eq!(next.document(), live.document());
    assert_eq!((next.deadline(), next.script()), (Some(Duration::from_secs(160)), live.script()));
    assert!(next.policy().has_script && next.policy().generation == 3);
    assert!(next.expire(at(159)).is_none());
    let expired = next.expire(at(1_000)).expect("too late");
    assert!(expired.policy.has_script && expired.policy.generation == 4);
    assert_eq!(next.counters.get(slot_of(&next, kept)).packets, 1);
    let log: Log = ask(&mut next, VIEWER, &Request::Log { limit: None }).expect("a log");
    assert_eq!(log.entries.len(), 4);
}

#[test]
fn counters_begin_at_zero_unless_something_was_stored() {
    let live = live(FILE);
    let slot = CounterSlot(live.document().rules().next().expect("a rule").slot);
    live.counters.count(slot, 3);
    assert_eq!(handed_over(&live).counters.get(slot).packets, 1);
    let anew = Live::new(live.base.clone(), live.initial.clone(), None, None, live.counters);
    assert_eq!(anew.counters.get(slot).packets, 0);
}

#[test]
fn what_was_stored_for_other_options_is_not_used() {
    let mut live = live(FILE);
    commit(&mut live, ADMIN, vec![add(None, Chain::In, "deny")]).expect("done");
    let mut base = base();
    base.config.firewall_in.truncate(1);
    let file = read(FILE).expect("good");
    let initial = Document::initial(&base.config, &[], &file);
    let anew = Live::new(base, initial.clone(), None, Some(live.stored()), live.counters);
    assert_eq!(*anew.document(), initial);
}

#[test]
fn unknown_versions_and_garbage_are_sentences() {
    let json = serde_json::to_string(&live(FILE).stored()).expect("it can be written");
    let newer = json.replacen("\"version\":1", "\"version\":2", 1);
    let error = Stored::read(newer.as_bytes()).expect_err("newer");
    assert_eq!(error, "the live policy of the router before has version 2, not 1: it is not used");
    for wrong in ["", "{}", "[]", "{\"version\":1}", &json[..json.len() / 2], &json.replace("deny @bad", "dney @bad")] {
        assert!(Stored::read(wrong.as_bytes()).expect_err(wrong).contains("can't be read"), "{wrong}");
    }
}

#[test]
fn reload_says_what_is_lost() {
    let lost = |live: &Live, text: &str| live.stored().lost_at_reload(&initial(text));
    let mut live = live(FILE);
    assert!(lost(&live, FILE).is_empty() && lost(&live, "").is_empty(), "nothing was changed live");
    let more = Change::SetAdd { name: "bad".to_owned(), members: vec!["10.0.0.7".to_owned()] };
    let changes = vec![add(None, Chain::Out, "deny 10.0.0.9 any"), set("new", &["10.0.0.1"]), more];
    commit(&mut live, ADMIN, changes).expect("done");
    assert_eq!(
        lost(&live, FILE),
        [
            "the group live loses 1 rule that came while the router ran: chain out: deny 10.0.0.9 any",
            "the set bad is again as the rules file says: 1 members go that came while the router ran, 0 come back",
            "the set new is lost: it was made while the router ran, and not saved"
        ]
    );
    let saved: Saved = ask(&mut live, VIEWER, &Request::Save {}).expect("a text");
    assert_eq!(lost(&live, &saved.text), ["the rules file has all changes that were made while the router ran"]);
    wait(&mut live, vec![Change::GroupDelete { group: "live".to_owned() }], 60);
    assert_eq!(
        lost(&live, &saved.text),
        [
            "the commit of uid 0, which was not confirmed yet, is dropped",
            "the rules file has all changes that were made while the router ran"
        ]
    );
}

/// With other rules in the options there is nothing to go on with.
#[test]
fn image_without_a_rules_file_has_the_rules_of_before() {
    let mut live = live(FILE);
    commit(&mut live, ADMIN, vec![add(None, Chain::Out, "deny 10.0.0.9 any")]).expect("done");
    let kept = live.document().clone();
    wait(&mut live, vec![Change::GroupDelete { group: "web".to_owned() }], 60);
    let stored = live.stored();
    let file = stored.rules_for(&initial("")).expect("the same options");
    assert!(Document::initial(&base().config, &[], &file).says_the_same(&kept), "without what waits");
    assert!(stored.dropped_commit().is_some_and(|line| line.contains("uid 0")));
    let mut config = base().config;
    config.firewall_in.truncate(1);
    assert_eq!(stored.rules_for(&Document::initial(&config, &[], &RulesFile::default())), None);
}

#[test]
fn reload_says_that_deleted_rules_are_back() {
    let mut live = live(FILE);
    commit(&mut live, ADMIN, vec![Change::GroupDelete { group: "web".to_owned() }]).expect("done");
    assert_eq!(
        live.stored().lost_at_reload(&initial(FILE)),
        ["rules or sets that were changed while the router ran are again as options and rules file say"]
    );
}
