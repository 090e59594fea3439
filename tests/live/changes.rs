//! Rules and sets that change under running traffic.

use tuntap_api::control::{Chain, Change, Changed, Code, Level, Log, Place, Request, SetList, Status};

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::link::Connection;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::world::{Control, V1_6, V2_6, add, commit, emperor, vassal};

#[test]
fn rule_applies_from_the_answer_on_and_until_it_is_deleted() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    assert!(is_reachable(&emperor.netns, V1));
    let id = control.add(Chain::In, "deny any 192.168.0.2 icmp");
    assert!(is_cut_off(&emperor.netns, V1));
    assert!(is_reachable(&emperor.netns, V1_6), "the rule is for the other version");
    assert!(control.rule(id).packets >= 1);
    control.commit(&[Change::RuleDelete { id }]);
    assert!(is_reachable(&emperor.netns, V1));
    drop(net);
}

/// A rule that is inserted decides before the one that it was put before.
#[test]
fn order_of_rules_is_that_of_the_list() {
    let emperor = emperor()
        .lines(&["tuntap-router-firewall-in = deny any 192.168.0.2", "tuntap-router-firewall-in = allow"])
        .start();
    let net = emperor.start_vassal(&vassal("v1", V1, V1_6).without_ping());
    // The vassal claims its address by what it sends.
    assert!(is_cut_off(&net, EMPEROR));
    let mut control = Control::open(&emperor);
    assert!(is_cut_off(&emperor.netns, V1));
    let last = control.add(Chain::In, "deny any any icmp");
    assert!(is_cut_off(&emperor.netns, V1));
    let before = Change::RuleInsert { at: Place::Before(last), rule: "allow any 192.168.0.2 icmp".to_owned() };
    control.commit(&[before]);
    assert!(is_reachable(&emperor.netns, V1), "it stands before the live rule and those of the options");
    let ids: Vec<u32> = control.rules().iter().map(|rule| rule.id).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}

#[test]
fn sets_change_what_rules_match() {
    let emperor = emperor().start();
    let _first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let _second = emperor.start_attached(&vassal("v2", V2, V2_6));
    let mut control = Control::open(&emperor);
    let members = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let name = || "closed".to_owned();
    control.commit(&[
        Change::SetReplace { name: name(), members: members(&["192.168.0.2", "fd00:77::3"]) },
        add(Chain::In, "deny any @closed"),
    ]);
    assert!(is_cut_off(&emperor.netns, V1) && is_cut_off(&emperor.netns, V2_6));
    assert!(is_reachable(&emperor.netns, V2) && is_reachable(&emperor.netns, V1_6));
    control.commit(&[
        Change::SetAdd { name: name(), members: members(&["192.168.0.3/32"]) },
        Change::SetRemove { name: name(), members: members(&["192.168.0.2"]) },
    ]);
    assert!(is_cut_off(&emperor.netns, V2));
    assert!(is_reachable(&emperor.netns, V1));
    let list: SetList = control.ask(&Request::SetsList { name: Some(name()) });
    assert_eq!((list.sets[0].members, list.sets[0].rules.len()), (2, 1));
    let failure = control.try_ask::<Changed>(&commit(&[Change::SetDelete { name: name() }])).expect_err("in use");
    assert_eq!(failure.code, Code::Conflict, "{failure:?}");
}

/// All changes of a commit are made, or none.
#[test]
fn commit_with_a_wrong_rule_changes_nothing() {
    let emperor = emperor().start();
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let before = control.rules();
    let wrong = commit(&[add(Chain::In, "deny any any icmp"), add(Chain::In, "deny any nowhere")]);
    let failure = control.try_ask::<Changed>(&wrong).expect_err("no address");
    assert_eq!(failure.code, Code::Invalid);
    assert!(failure.message.contains("nowhere"), "{failure:?}");
    assert_eq!(control.rules(), before);
    assert!(is_reachable(&emperor.netns, V1));
}

#[test]
fn second_of_two_admins_sees_that_he_is_late() {
    let emperor = emperor().start();
    let (mut one, mut other) = (Control::open(&emperor), Control::open(&emperor));
    let seen = [&mut one, &mut other].map(|control| control.ask::<Status>(&Request::Status {}).generation);
    assert_eq!(seen[0], seen[1]);
    let change = |rule: &str, generation| Request::Commit {
        changes: vec![add(Chain::Out, rule)],
        expected_generation: Some(generation),
        confirm_seconds: None,
        dry_run: false,
    };
    let made: Changed = one.ask(&change("deny any 192.0.2.1", seen[0]));
    let late = other.try_ask::<Changed>(&change("deny any 192.0.2.2", seen[1])).expect_err("somebody was faster");
    assert_eq!(late.code, Code::Generation, "{late:?}");
    let again: Changed = other.ask(&change("deny any 192.0.2.2", made.generation));
    assert!(again.generation > made.generation);
    let log: Log = other.ask(&Request::Log { limit: None });
    let made: Vec<bool> = log.entries.iter().map(|entry| entry.generation.is_some()).collect();
    assert_eq!(made, [true, false, true], "{log:?}");
    assert!(log.entries.iter().all(|entry| entry.uid == 0 && entry.time > 1_700_000_000));
}

/// Rules, sets, counters, the log and numbers that were used go over to the next router.
#[test]
fn live_policy_outlives_its_router() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    control.commit(&[
        Change::SetReplace { name: "closed".to_owned(), members: vec!["192.168.0.2".to_owned()] },
        add(Chain::In, "deny any @closed icmp"),
        add(Chain::In, "allow any 192.168.0.2 tcp"),
    ]);
    let gone = control.add(Chain::Out, "deny any 192.0.2.1");
    control.commit(&[Change::RuleDelete { id: gone }]);
    Connection::open(&emperor.netns, &net, V1).assert_passes();
    assert!(is_cut_off(&emperor.netns, V1));
    let before = control.rules();
    let status: Status = control.ask(&Request::Status {});
    assert!(before.iter().all(|rule| rule.packets > 0), "{before:?}");
    emperor.kill_router();
    let mut control = Control::open(&emperor);
    assert!(is_cut_off(&emperor.netns, V1));
    let after = control.rules();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.id, &before.rule), (after.id, &after.rule));
        assert!(after.packets >= before.packets, "{before:?} {after:?}");
    }
    assert_eq!(after.len(), before.len());
    let now: Status = control.ask(&Request::Status {});
    assert_eq!((now.generation, now.level, now.is_changed), (status.generation, Level::Admin, true));
    assert!(control.add(Chain::Out, "deny any 192.0.2.1") > gone, "no number is used twice");
    let log: Log = control.ask(&Request::Log { limit: None });
    assert_eq!(log.entries.len(), 4);
}

/// A group that is replaced leaves the others alone, and rules that stay keep their numbers and counters.
#[test]
fn group_is_replaced_without_the_others() {
    let emperor = emperor().start();
    let _net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    let replace =
        |group: &str, text: &str| Change::GroupReplace { group: group.to_owned(), text: text.to_owned(), owner: None };
    control.commit(&[
        replace("web", "chain in\nallow any 192.168.0.2 icmp\ndeny any 192.168.0.2 tcp 80\n"),
        replace("mail", "chain in\ndeny any 192.168.0.2 tcp 25\n"),
    ]);
    assert!(is_reachable(&emperor.netns, V1));
    let before = control.rules();
    assert!(before[0].packets > 0, "{before:?}");
    control.commit(&[replace("web", "chain in\ndeny any 192.168.0.2 tcp 81\nallow any 192.168.0.2 icmp\n")]);
    let after = control.rules();
    let by_text = |rules: &[tuntap_api::control::RuleEntry], text: &str| {
        rules.iter().find(|rule| rule.rule.contains(text)).cloned().unwrap_or_else(|| panic!("{text}: {rules:?}"))
    };
    let (icmp, mail) = (by_text(&after, "icmp"), by_text(&after, "tcp 25"));
    assert_eq!((icmp.id, mail.id), (by_text(&before, "icmp").id, by_text(&before, "tcp 25").id));
    assert!(icmp.packets >= before[0].packets);
    assert!(by_text(&after, "tcp 81").id > mail.id, "a new rule has a new number");
}
