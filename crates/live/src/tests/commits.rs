//! Commits: what they change, when they go back, and what stays.

use std::net::IpAddr;

use tuntap_api::control::{Checked, Difference, Log, Place, SetList, Status};
use tuntap_core::policy::pattern::{Action, AnyMatchKey, MatchContext, MatchKey, Service, SetId};
use tuntap_core::policy::set::AddressSet;
use tuntap_core::policy::{Policy, pattern::RuleId};

use super::*;

/// Sets of a policy, and rates that are never reached.
struct Sets<'a>(&'a Policy);

impl MatchContext for Sets<'_> {
    fn set(&self, set: SetId) -> Option<&AddressSet> {
        self.0.sets.get(usize::from(set.0)).map(|(_, set)| set.as_ref())
    }

    fn is_within_rate(&mut self, _rule: RuleId, _rate: std::num::NonZeroU32, _source: IpAddr) -> bool {
        true
    }
}

fn decide(policy: &Policy, chain: Chain, src: &str) -> Option<(u32, Action)> {
    let service = Service { protocol: 17, port: Some(53) };
    let key = match src.parse().expect("an address") {
        IpAddr::V4(src) => AnyMatchKey::V4(MatchKey { src: src.to_bits(), dst: 1, service }),
        IpAddr::V6(src) => AnyMatchKey::V6(MatchKey { src: src.to_bits(), dst: 1, service }),
    };
    let rules = if chain == Chain::In { &policy.firewall_in } else { &policy.firewall_out };
    rules.find(&key, None, &mut Sets(policy)).map(|found| (found.rule.0, found.target))
}

#[test]
fn groups_are_evaluated_in_their_order() {
    let mut live = live(FILE);
    assert_eq!(decide(&live.policy(), Chain::In, "192.0.2.1").map(|found| found.1), Some(Action::Deny));
    assert_eq!(decide(&live.policy(), Chain::In, "10.0.0.1").map(|found| found.1), Some(Action::Allow));
    commit(&mut live, ADMIN, vec![add(None, Chain::In, "allow 192.0.2.1 any")]).expect("done");
    let id = id_of(&mut live, "allow 192.0.2.1 any");
    assert_eq!(decide(&live.policy(), Chain::In, "192.0.2.1"), Some((id, Action::Allow)));
    let groups: Vec<_> = live.document().groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(groups, ["live", "file", "web", "ini"]);
    assert_eq!(
        texts(&mut live, "ini"),
        ["allow 10.0.0.0/8 any", "deny 0.0.0.0/0 any", "any 10.9.0.0/16 192.0.2.1:4000"]
    );
}

/// Live rules about IPv6 must not open the rest of it.
#[test]
fn chain_of_the_options_about_ipv4_still_denies_ipv6() {
    let mut live = live("");
    let denied = Some((u32::MAX, Action::Deny));
    assert_eq!(decide(&live.policy(), Chain::In, "fd00::1"), denied);
    assert_eq!(decide(&live.policy(), Chain::Out, "fd00::1"), None, "no rules");
    let changes = vec![add(None, Chain::In, "allow fd00::1 any"), add(None, Chain::Out, "deny 10.0.0.1 any")];
    commit(&mut live, ADMIN, changes).expect("done");
    assert_eq!(decide(&live.policy(), Chain::In, "fd00::1").map(|found| found.1), Some(Action::Allow));
    assert_eq!(decide(&live.policy(), Chain::In, "fd00::2"), denied);
    assert_eq!(decide(&live.policy(), Chain::Out, "fd00::1"), None, "a rule added in a hurry");
    commit(&mut live, ADMIN, vec![add(Some("g"), Chain::Out, "deny 10.0.0.2 any")]).expect("done");
    assert_eq!(decide(&live.policy(), Chain::Out, "fd00::1"), denied, "as for options");
    commit(&mut live, ADMIN, vec![add(None, Chain::Out, "deny fd00::9 any")]).expect("done");
    assert_eq!(decide(&live.policy(), Chain::Out, "fd00::1"), denied, "not let in in a hurry, either");
    commit(&mut live, ADMIN, vec![add(Some("g"), Chain::Out, "deny fd00::8 any")]).expect("done");
    assert_eq!(decide(&live.policy(), Chain::Out, "fd00::1"), None, "written for both");
}

#[test]
fn policy_without_a_file_is_that_of_the_options() {
    let base = base();
    let plain = base.config.policy(&base.router, base.grants.clone(), Vec::new());
    let live = Live::new(base, initial(""), None, None, counters());
    for chain in [Chain::In, Chain::Out] {
        for src in ["10.0.0.1", "11.0.0.1", "fd00::1"] {
            let verdict = |policy: &Policy| decide(policy, chain, src).map(|found| found.1);
            assert_eq!(verdict(&live.policy()), verdict(&plain), "{chain:?} {src}");
        }
    }
    assert_eq!(format!("{:?}", live.policy().device_routes), format!("{:?}", plain.device_routes));
    assert_eq!(format!("{:?}", live.policy().guard), format!("{:?}", plain.guard));
}

#[test]
fn one_rule_at_a_time() {
    let mut live = live(FILE);
    let first = id_of(&mut live, "allow any any tcp 80-81 new rate 5/s");
    let second = id_of(&mut live, "allow established");
    let insert = |at, rule: &str| Change::RuleInsert { at, rule: rule.to_owned() };
    let changes = vec![
        insert(Place::Before(first), "deny 10.0.0.1 any"),
        insert(Place::After(first), "deny 10.0.0.2 any"),
        insert(Place::After(first), "deny 10.0.0.3 any"),
        Change::RuleDelete { id: second },
        Change::RuleReplace { id: first, rule: "allow any any tcp 80-81 new log".to_owned() },
        add(Some("web"), Chain::Out, "deny"),
    ];
    let changed = commit(&mut live, OPERATOR, changes).expect("done");
    assert_eq!((changed.generation, changed.difference.added, changed.difference.deleted), (1, 4, 1));
    assert_eq!(
        texts(&mut live, "web"),
        [
            "deny 10.0.0.1 any",
            "allow any any tcp 80-81 new log",
            "deny 10.0.0.3 any",
            "deny 10.0.0.2 any",
            "deny any @big",
            "deny"
        ]
    );
    assert_eq!(id_of(&mut live, "allow any any tcp 80-81 new log"), first);
    assert_eq!(changed.rules.len(), 4);
    assert!(changed.rules.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn commit_is_whole_or_not_at_all() {
    let mut live = live(FILE);
    let before = live.document().clone();
    let good = add(None, Chain::In, "deny");
    for (bad, expected) in [
        (Change::RuleDelete { id: 999 }, Code::NotFound),
        (add(None, Chain::In, "deny @nobody any"), Code::NotFound),
        (add(None, Chain::In, "dney"), Code::Invalid),
        (add(Some("9"), Chain::In, "deny"), Code::Invalid),
        (add(Some("ini"), Chain::In, "deny"), Code::Denied),
        (Change::GroupDelete { group: "ini".to_owned() }, Code::Denied),
        (Change::GroupDelete { group: "nobody".to_owned() }, Code::NotFound),
        (Change::GroupReplace { group: "web".to_owned(), text: "deny".to_owned(), owner: None }, Code::Invalid),
        (Change::SetDelete { name: "bad".to_owned() }, Code::Conflict),
        (Change::SetAdd { name: "none".to_owned(), members: Vec::new() }, Code::NotFound),
        (Change::SetRemove { name: "bad".to_owned(), members: vec!["10.0.0.1".to_owned()] }, Code::NotFound),
        (set("bad", &["10.0.0.1/8"]), Code::Invalid),
        (Change::FileReplace { text: "set x = /unknown\n".to_owned() }, Code::Invalid),
        (Change::FileReplace { text: "group g owner root\n".to_owned() }, Code::Invalid),
    ] {
        let result = commit(&mut live, ADMIN, vec![good.clone(), bad.clone()]);
        let failure = result.expect_err("bad");
        assert_eq!(failure.code, expected, "{bad:?}: {failure:?}");
        // Whether each set is there is known at the end only.
        let is_of_all = failure.message.starts_with("the set bad ") || failure.message.contains("which the rule");
        assert!(is_of_all || failure.message.starts_with("change 2 of 2: "), "{}", failure.message);
        assert_eq!(*live.document(), before, "{bad:?}");
    }
    let ini = id_of(&mut live, "deny 0.0.0.0/0 any");
    assert_eq!(code(commit(&mut live, ADMIN, vec![Change::RuleDelete { id: ini }])), Code::Denied);
    assert_eq!(code(commit(&mut live, ADMIN, Vec::new())), Code::Invalid);
}

#[test]
fn dry_run_and_what_changes_nothing_change_nothing() {
    let mut live = live(FILE);
    let changes = vec![add(None, Chain::In, "deny")];
    let request = Request::Commit { changes, expected_generation: Some(0), confirm_seconds: Some(5), dry_run: true };
    let changed: Changed = ask(&mut live, ADMIN, &request).expect("done");
    assert_eq!((changed.generation, changed.difference.added, changed.confirm_within), (0, 1, None));
    let again = Change::SetAdd { name: "bad".to_owned(), members: vec!["192.0.2.1".to_owned()] };
    let same = commit(&mut live, ADMIN, vec![again, set("bad", &["198.51.100.0/24", "192.0.2.1"])]).expect("done");
    assert_eq!((same.generation, same.difference), (0, Difference { kept: 4, ..Difference::default() }));
    assert_eq!(live.revision(), 0);
    let log: Log = ask(&mut live, VIEWER, &Request::Log { limit: None }).expect("a log");
    assert_eq!(log.entries, []);
}

#[test]
fn set_changes_reach_the_policy() {
    let mut live = live(FILE);
    let changes = vec![
        Change::SetAdd {
            name: "bad".to_owned(),
            members: vec!["172.16.0.0-172.16.0.9".to_owned(), "fd00::7".to_owned()],
        },
        Change::SetRemove { name: "bad".to_owned(), members: vec!["192.0.2.1".to_owned()] },
    ];
    let changed = commit(&mut live, OPERATOR, changes).expect("done");
    assert_eq!(
        changed.difference.lines,
        [" set bad {", "-    192.0.2.1", "+    172.16.0.0/29", "+    172.16.0.8/31", "+    fd00::7", " }"]
    );
    let deny = Some(Action::Deny);
    let verdict = |live: &Live, src| decide(&live.policy(), Chain::In, src).map(|found| found.1);
    assert_eq!((verdict(&live, "172.16.0.9"), verdict(&live, "fd00::7")), (deny, deny));
    let sets: SetList = ask(&mut live, VIEWER, &Request::SetsList { name: Some("bad".to_owned()) }).expect("a set");
    let members = sets.sets[0].list.clone().expect("members");
    assert_eq!(members, ["172.16.0.0/29", "172.16.0.8/31", "198.51.100.0/24", "fd00::7"]);
    assert_eq!(sets.sets[0].rules, [id_of(&mut live, "deny @bad any log counter bad")]);
    let all: SetList = ask(&mut live, VIEWER, &Request::SetsList { name: None }).expect("sets");
    assert_eq!((all.sets.len(), all.sets[1].file.as_deref(), all.sets[1].members), (2, Some("/big"), 4));
    assert_eq!(
        code(ask::<SetList>(&mut live, VIEWER, &Request::SetsList { name: Some("x".to_owned()) })),
        Code::NotFound
    );
}

#[test]
fn counters_survive_where_selector_and_action_stay() {
    let mut live = live(FILE);
    let counters = live.counters;
    let kept = id_of(&mut live, "allow established");
    let changed_words = id_of(&mut live, "allow any any tcp 80-81 new rate 5/s");
    for id in [kept, changed_words] {
        counters.count(slot_of(&live, id), 70);
    }
    let text = "chain in\ndeny 10.0.0.1 any\nallow established\nallow any any tcp 80-81 new log counter web\n";
    let replace = Change::GroupReplace { group: "web".to_owned(), text: text.to_owned(), owner: None };
    let changed = commit(&mut live, OPERATOR, vec![replace]).expect("done");
    assert_eq!((changed.difference.added, changed.difference.deleted, changed.difference.kept), (1, 1, 3));
    for id in [kept, changed_words] {
        assert_eq!(counters.get(slot_of(&live, id)).packets, 1, "{id}");
    }
    let list: RuleList =
        ask(&mut live, VIEWER, &Request::RulesList { chain: Some(Chain::In), group: Some("web".to_owned()) })
            .expect("list");
    let counted: Vec<_> = list.groups[0].rules.iter().map(|rule| (rule.id, rule.packets, rule.bytes)).collect();
    assert_eq!(counted[1..], [(kept, 1, 70), (changed_words, 1, 70)]);
    assert_eq!((counted[0].1, counted.len()), (0, 3));
    let other = Change::RuleReplace { id: kept, rule: "deny established".to_owned() };
    commit(&mut live, OPERATOR, vec![other]).expect("done");
    assert_eq!(counters.get(slot_of(&live, kept)).packets, 0, "another action");
}

/// While the router may still count for an old policy, nobody else gets its counters.
#[test]
fn counters_are_free_one_policy_later() {
    let mut live = live("");
    let counters = live.counters;
    let swap = |live: &mut Live, rule: &str| {
        let text = format!("chain in\n{rule}\n");
        let changed = commit(live, ADMIN, vec![Change::GroupReplace { group: "g".to_owned(), text, owner: None }]);
        let id = changed.expect("done").rules[0];
        slot_of(live, id)
    };
    let first = swap(&mut live, "deny 10.0.0.1 any");
    counters.count(first, 9);
    let second = swap(&mut live, "deny 10.0.0.2 any");
    counters.count(first, 9);
    let third = swap(&mut live, "deny 10.0.0.3 any");
    assert!(first != second && second != third && first != third);
    let fourth = swap(&mut live, "deny 10.0.0.4 any");
    assert_eq!(fourth, first);
    assert_eq!(counters.get(fourth).packets, 0);
}

#[test]
fn named_counters_are_shared_and_stay() {
    let mut live = live(FILE);
    let counters = live.counters;
    let slot =
        |live: &Live, name: &str| live.policy().counters.iter().find(|(other, _)| other == name).map(|found| found.1);
    let bad = slot(&live, "bad").expect("there");
    counters.count(bad, 5);
    let changes =
        vec![add(None, Chain::Out, "deny @bad any counter bad"), add(None, Chain::Out, "allow counter other")];
    commit(&mut live, ADMIN, changes).expect("done");
    assert_eq!(slot(&live, "bad"), Some(bad));
    assert_eq!(counters.get(bad).bytes, 5);
    let other = slot(&live, "other").expect("there");
    assert_eq!(live.document().slots().filter(|slot| *slot == other.0 || *slot == bad.0).count(), 2, "nobody else's");
    commit(&mut live, ADMIN, vec![Change::GroupDelete { group: "live".to_owned() }]).expect("done");
    assert_eq!((slot(&live, "bad"), slot(&live, "other")), (Some(bad), None));
}

fn waiting(changes: Vec<Change>, seconds: u32) -> Request {
    Request::Commit { changes, expected_generation: None, confirm_seconds: Some(seconds), dry_run: false }
}

#[test]
fn commit_goes_back_unless_it_is_confirmed() {
    let mut live = live(FILE);
    let counters = live.counters;
    let before = live.document().clone();
    let old = id_of(&mut live, "deny @bad any log counter bad");
    counters.count(slot_of(&live, old), 1);
    let request = waiting(vec![Change::FileReplace { text: "chain in\ndeny\n".to_owned() }], 30);
    let outcome = live.handle(ADMIN, &request, at(100)).expect("done");
    assert!(outcome.policy.is_some_and(|policy| policy.generation == 1));
    assert!(outcome.message.is_some_and(|line| line.contains("uid 0") && line.contains("30 s")));
    assert_eq!(live.deadline(), Some(Duration::from_secs(130)));
    let new = id_of(&mut live, "deny");
    let status: Status = ask(&mut live, VIEWER, &Request::Status {}).expect("a status");
    assert_eq!(status.pending.map(|pending| (pending.generation, pending.uid, pending.seconds_left)), Some((1, 0, 30)));
    assert!(status.is_changed);

    assert!(live.expire(at(129)).is_none());
    let expired = live.expire(at(130)).expect("too late");
    assert_eq!(expired.policy.generation, 2);
    assert!(expired.message.contains("uid 0 was not confirmed in time"), "{}", expired.message);
    assert!(live.document().says_the_same(&before) && live.deadline().is_none());
    assert_eq!(id_of(&mut live, "deny @bad any log counter bad"), old);
    assert_eq!(counters.get(slot_of(&live, old)).packets, 1, "it goes on");
    let changed = commit(&mut live, ADMIN, vec![add(None, Chain::In, "deny")]).expect("done");
    assert!(changed.rules[0] > new, "numbers are never given again");
    let log: Log = ask(&mut live, VIEWER, &Request::Log { limit: None }).expect("a log");
    let actions: Vec<_> = log.entries.iter().map(|entry| (entry.action.as_str(), entry.generation)).collect();
    assert_eq!(
        actions,
        [
            ("commit: replace all groups and sets", Some(1)),
            ("rollback: not confirmed in time", Some(2)),
            ("commit: add to live, chain in: deny", Some(3))
        ]
    );
}

#[test]
fn one_commit_waits_at_a_time() {
    let mut live = live(FILE);
    let text = "chain in\nallow\n".to_owned();
    let changes = vec![Change::GroupReplace { group: "web".to_owned(), text, owner: None }];
    live.handle(OPERATOR, &waiting(changes, 60), at(100)).expect("done");
    let failure = commit(&mut live, ADMIN, vec![add(None, Chain::In, "deny")]).expect_err("it waits");
    assert_eq!(failure.code, Code::Pending);
    assert!(failure.message.contains("uid 1000 waits for its confirmation for another 60 s"), "{}", failure.message);
    let confirm = Request::Confirm { expected_generation: Some(7) };
    assert_eq!(code(ask::<Changed>(&mut live, OPERATOR, &confirm)), Code::Generation);
    let confirm = Request::Confirm { expected_generation: Some(1) };
    let stranger = Caller { uid: 5, ..OPERATOR };
    assert_eq!(code(ask::<Changed>(&mut live, stranger, &confirm)), Code::Denied);
    assert_eq!(code(ask::<Changed>(&mut live, stranger, &Request::Rollback {})), Code::Denied);
    assert_eq!(code(ask::<Changed>(&mut live, VIEWER, &confirm)), Code::Denied);
    let changed: Changed = ask(&mut live, OPERATOR, &confirm).expect("done");
    assert_eq!((changed.generation, live.deadline()), (1, None));
    assert_eq!(code(ask::<Changed>(&mut live, OPERATOR, &confirm)), Code::Conflict);
    assert_eq!(code(ask::<Changed>(&mut live, ADMIN, &Request::Rollback {})), Code::Conflict);
    assert_eq!(texts(&mut live, "web"), ["allow"]);
    for seconds in [0, 86_401] {
        let result = live.handle(ADMIN, &waiting(vec![add(None, Chain::In, "deny")], seconds), at(100));
        assert_eq!(code(result), Code::Invalid, "{seconds}");
    }
}

#[test]
fn admin_takes_anybodys_commit_back() {
    let mut live = live(FILE);
    let before = live.document().clone();
    let delete = Change::RuleDelete { id: id_of(&mut live, "allow established") };
    live.handle(OPERATOR, &waiting(vec![delete], 60), at(100)).expect("done");
    let changed: Changed = ask(&mut live, ADMIN, &Request::Rollback {}).expect("done");
    assert_eq!((changed.generation, changed.difference.added, changed.difference.kept), (2, 1, 3));
    assert!(live.document().says_the_same(&before));
}

/// What a commit that waits has replaced may come back: nobody else gets its counters.
#[test]
fn counters_of_what_may_come_back_are_kept() {
    let mut live = live("");
    let counters = live.counters;
    let id = commit(&mut live, ADMIN, vec![add(None, Chain::In, "deny 10.0.0.1 any")]).expect("done").rules[0];
    let slot = slot_of(&live, id);
    counters.count(slot, 1);
    live.handle(ADMIN, &waiting(vec![Change::RuleDelete { id }], 60), at(100)).expect("done");
    let script = || Some("return".to_owned());
    let refused = live.set_script(ADMIN, script(), None, at(100)).expect_err("one change at a time");
    assert_eq!(refused.code, Code::Pending);
    ask::<Changed>(&mut live, ADMIN, &Request::Rollback {}).expect("done");
    assert_eq!((slot_of(&live, id), counters.get(slot).packets), (slot, 1));
    assert!(live.set_script(ADMIN, script(), None, at(100)).expect("done").has_script);
    live.handle(ADMIN, &waiting(vec![Change::RuleDelete { id }], 60), at(100)).expect("done");
    ask::<Changed>(&mut live, ADMIN, &Request::Rollback {}).expect("done");
    assert!(live.policy().has_script, "the script stays");
}

#[test]
fn two_admins_race_for_a_generation() {
    let mut live = live(FILE);
    let changes = |rule: &str| vec![add(None, Chain::In, rule)];
    let for_generation = |changes, generation| Request::Commit {
        changes,
        expected_generation: Some(generation),
        confirm_seconds: None,
        dry_run: false,
    };
    ask::<Changed>(&mut live, ADMIN, &for_generation(changes("deny"), 0)).expect("the first");
    let other = Caller { uid: 7, ..ADMIN };
    let failure = ask::<Changed>(&mut live, other, &for_generation(changes("allow"), 0)).expect_err("the second");
    assert_eq!(failure.code, Code::Generation);
    assert!(failure.message.contains("number 1, not 0"), "{}", failure.message);
    let log: Log = ask(&mut live, VIEWER, &Request::Log { limit: Some(1) }).expect("a log");
    assert_eq!((log.entries[0].uid, log.entries[0].generation), (7, None));
    assert!(log.entries[0].error.is_some());
    ask::<Changed>(&mut live, other, &for_generation(changes("allow"), 1)).expect("again");
}

#[test]
fn difference_shows_what_is_around_it() {
    let mut live = live("chain in\nallow 10.0.0.1 any\nallow 10.0.0.2 any\nallow 10.0.0.3 any\nallow 10.0.0.4 any\n");
    let text = "chain in\nallow 10.0.0.1 any\nallow 10.0.0.2 any\nallow 10.0.0.3 any\ndeny\nallow 10.0.0.4 any\ngroup new owner \
                5\nchain route\nany any 192.0.2.7:1\n";
    let found: Difference =
        ask(&mut live, VIEWER, &Request::RulesDiff { text: text.to_owned() }).expect("a difference");
    assert_eq!(
        found.lines,
        [
            " group file",
            " chain in",
            " allow 10.0.0.2 any",
            " allow 10.0.0.3 any",
            "+deny",
            " allow 10.0.0.4 any",
            "+group new owner 5",
            " chain route",
            "+any any 192.0.2.7:1"
        ]
    );
    assert_eq!((found.added, found.deleted, found.kept), (2, 0, 4));
    assert_eq!(live.document().generation, 0);
    let moved = "chain in\nallow 10.0.0.4 any\nallow 10.0.0.1 any\nallow 10.0.0.2 any\nallow 10.0.0.3 any\n";
    let found: Difference =
        ask(&mut live, VIEWER, &Request::RulesDiff { text: moved.to_owned() }).expect("a difference");
    assert_eq!(
        found.lines.iter().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>(),
        ["+allow 10.0.0.4 any", "-allow 10.0.0.4 any"]
    );
    assert_eq!((found.added, found.deleted, found.kept), (0, 0, 4));
}

#[test]
fn file_is_checked_without_being_used() {
    let mut live = live(FILE);
    let check = |text: &str| Request::RulesCheck { text: text.to_owned() };
    let checked: Checked = ask(&mut live, VIEWER, &check(FILE)).expect("it knows the set of /big");
    assert_eq!((checked.rules, checked.groups, checked.sets, checked.warnings.len()), (4, 2, 2, 0));
    let failure = ask::<Checked>(&mut live, VIEWER, &check("chain in\n\ndney\n")).expect_err("bad");
    assert_eq!((failure.code, failure.line), (Code::Invalid, Some(3)));
    assert!(failure.message.starts_with("unknown action \"dney\""), "{}", failure.message);
}

#[test]
fn live_routes_are_gateways_that_peers_may_name() {
    let mut live = live("");
    let target = "192.0.2.77:4000".parse().expect("an address");
    assert!(!live.policy().device_routes.allow(target));
    commit(&mut live, ADMIN, vec![add(None, Chain::Route, "any 10.8.0.0/16 192.0.2.77:4000")]).expect("done");
    assert!(live.policy().device_routes.allow(target));
    assert!(!live.policy().routes.is_empty());
}
