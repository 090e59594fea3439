//! Limits on traffic.

use ipnet::IpNet;
use tuntap_api::control::{Place, Saved, SetList};
use tuntap_config::ShapeSpec;
use tuntap_core::policy::grant::{Grants, Identity};
use tuntap_core::policy::shape::{PeerShape, Shape};
use tuntap_wire::rule::Direction;

use super::*;

fn shape(text: &str) -> Shape {
    ShapeSpec::read(text).and_then(|spec| spec.numbered()).unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

/// The live policy of a router whose options have these limits.
fn live_with(options: &[&str], file: &str) -> Live {
    let shapes: Vec<_> = options.iter().map(|text| shape(text)).collect();
    let initial = Document::initial(&base().config, &shapes, &read(file).expect("a good file"));
    Live::new(base(), initial, None, None, counters())
}

fn out_of(live: &Live, address: &str, uid: u32) -> PeerShape {
    let address = [address.parse().expect("an address")];
    let identity = Identity { uid, gid: uid, groups: Vec::new() };
    live.policy().shapes.of_peer(Direction::Out, address.into_iter(), &identity)
}

fn rate(live: &Live, address: &str) -> Option<u64> {
    out_of(live, address, 1).peer.map(|limit| limit.rate)
}

fn replace(group: &str, text: &str, owner: Option<u32>) -> Change {
    Change::GroupReplace { group: group.to_owned(), text: text.to_owned(), owner }
}

#[test]
fn first_limit_for_the_same_traffic_counts() {
    let mut live = live_with(&["both any 20M", "out 10.0.0.5 1M"], "chain shape\nout any 10M\n");
    assert_eq!((rate(&live, "10.0.0.1"), rate(&live, "10.0.0.5")), (Some(10_000_000), Some(1_000_000)));
    assert_eq!(texts(&mut live, "ini")[3..], ["both any 20M", "out 10.0.0.5 1M"]);
    commit(&mut live, ADMIN, vec![add(None, Chain::Shape, "out any 5M")]).expect("done");
    assert_eq!(rate(&live, "10.0.0.1"), Some(5_000_000), "what was added live comes before the file");
    let id = id_of(&mut live, "out any 5M");
    commit(&mut live, ADMIN, vec![Change::RuleReplace { id, rule: "out any 6M weight=2".to_owned() }]).expect("done");
    assert_eq!((rate(&live, "10.0.0.1"), id_of(&mut live, "out any 6M weight=2")), (Some(6_000_000), id));
    let at = Place::Before(id);
    commit(&mut live, ADMIN, vec![Change::RuleInsert { at, rule: "out any 4M".to_owned() }]).expect("the same chain");
    assert_eq!(rate(&live, "10.0.0.1"), Some(4_000_000));
    commit(&mut live, ADMIN, vec![Change::GroupDelete { group: "live".to_owned() }]).expect("done");
    assert_eq!(rate(&live, "10.0.0.1"), Some(10_000_000));
    commit(&mut live, ADMIN, vec![Change::GroupDelete { group: "file".to_owned() }]).expect("done");
    assert_eq!(rate(&live, "10.0.0.1"), Some(20_000_000), "the options' own");
}

#[test]
fn numbers_stay_when_only_the_rate_changes() {
    let mut live = live("group g\nchain shape\nout any 10M\nin any 10M\n");
    let ids = |live: &mut Live| rules(live).iter().filter(|rule| rule.1 == "g").map(|rule| rule.0).collect::<Vec<_>>();
    let before = ids(&mut live);
    let text = "chain shape\nout any 20M pps=100\nboth any 10M\n";
    let changed = commit(&mut live, ADMIN, vec![replace("g", text, None)]).expect("done");
    let after = ids(&mut live);
    assert_eq!((after[0], after[1]), (before[0], changed.rules[0]));
    let lines: Vec<_> = changed.difference.lines.iter().map(String::as_str).collect();
    assert_eq!(
        lines,
        [" group g", " chain shape", "+out any 20M pps=100", "+both any 10M", "-out any 10M", "-in any 10M"]
    );
    assert_eq!((changed.difference.added, changed.difference.deleted, changed.difference.kept), (1, 1, 1));
    // Limits name no sets.
    let sets: SetList = ask(&mut live, VIEWER, &Request::SetsList { name: None }).expect("a list");
    assert!(sets.sets.is_empty());
}

#[test]
fn limits_are_saved_and_handed_over() {
    let mut live = live_with(&["both any 20M"], "chain shape\nin @7 10M/20M queue=50ms\nchain in\ndeny\n");
    commit(&mut live, ADMIN, vec![add(None, Chain::Shape, "both class:bulk 1.5M")]).expect("done");
    let saved: Saved = ask(&mut live, VIEWER, &Request::Save {}).expect("a text");
    assert_eq!(
        saved.text,
        "group live\nchain shape\nboth class:bulk 1.5M\n\ngroup file\nchain shape\nin @7 10M/20M queue=50ms\nchain in\ndeny\n\n"
    );
    let next = storage::handed_over(&live);
    assert_eq!(next.policy().shapes, live.policy().shapes);
    assert_eq!(next.policy().shapes.class("bulk"), Some(0));
}

#[test]
fn what_a_router_without_limits_has_stored_is_read() {
    let live = live(FILE);
    let mut stored = serde_json::to_value(live.stored()).expect("it can be written");
    let old = r#"{"id":9,"slot":9,"chain":"in","text":"deny any 10.0.0.1"}"#;
    let rules = stored["document"]["groups"][0]["rules"].as_array_mut().expect("rules");
    rules.push(serde_json::from_str(old).expect("JSON"));
    let read = crate::Stored::read(stored.to_string().as_bytes()).expect("the version is the same");
    assert_eq!(read.document.groups[0].rules.last().expect("there").rule.to_string(), "deny any 10.0.0.1");
    // What can't be read is told, rather than left out.
    let wrong = stored.to_string().replace("deny any 10.0.0.1", "deny any 10.0.0");
    assert!(crate::Stored::read(wrong.as_bytes()).expect_err("no address").contains("can't be read"));
}

#[test]
fn only_admins_change_limits() {
    let mut live = live("group web owner 1000\nchain in\nallow any any\ngroup root owner 0\nchain shape\nin any 1M\n");
    let limit = |group| vec![add(Some(group), Chain::Shape, "in any 100M")];
    for (caller, group) in [(OPERATOR, "web"), (OPERATOR, "live"), (OPERATOR, "root"), (VIEWER, "web"), (ADMIN, "web")]
    {
        let failure = commit(&mut live, caller, limit(group)).expect_err(group);
        assert_eq!(failure.code, Code::Denied, "{caller:?} {group}: {failure:?}");
    }
    let text = "chain shape\nin any 100M\n";
    let failure = commit(&mut live, OPERATOR, vec![replace("web", text, None)]).expect_err("an owner's");
    assert!(
        failure.message.contains("the group web is uid 1000's, and limits (chain shape) can't stand"),
        "{failure:?}"
    );
    assert_eq!(
        code(commit(&mut live, ADMIN, vec![replace("root", text, Some(1000))])),
        Code::Denied,
        "it gets an owner"
    );
    assert!(commit(&mut live, ADMIN, limit("live")).is_ok() && commit(&mut live, ADMIN, limit("root")).is_ok());
}

#[test]
fn limits_that_a_router_can_not_have_are_refused() {
    let mut live = live("");
    for (text, part) in [
        ("in any 1X", "\"1X\" is no rate"),
        ("in alice 1M", "the user \"alice\" can't be looked up here, expected the number"),
        ("in internet 1M", "\"in internet 1M\": the router has no interface that leads to other networks"),
    ] {
        for change in [
            add(None, Chain::Shape, text),
            Change::FileReplace { text: format!("chain shape\n{text}\n") },
            replace("g", &format!("chain shape\n{text}\n"), None),
        ] {
            let failure = commit(&mut live, ADMIN, vec![change.clone()]).expect_err(text);
            let is_told = failure.message.contains(part) || failure.message.contains("can't look up the user");
            assert!(failure.code == Code::Invalid && is_told, "{change:?}: {failure:?}");
        }
        let text = format!("\nchain shape\n{text}\n");
        for request in [Request::RulesCheck { text: text.clone() }, Request::RulesDiff { text }] {
            assert_eq!(code(live.handle(VIEWER, &request, at(100))), Code::Invalid);
        }
    }
    let most: Vec<_> =
        (0..=tuntap_config::MAX_SHAPES).map(|uid| add(None, Chain::Shape, &format!("in {uid} 1M"))).collect();
    assert_eq!(code(commit(&mut live, ADMIN, most)), Code::TooMuch);
}

#[test]
fn limits_of_those_who_come_later_stand_behind_all_others() {
    let mut live = live_with(&["out 7 1M"], "");
    let late = vec![shape("out 7 2M"), shape("out 8 3M")];
    let policy = live.set_accounts(Grants::none(), late);
    assert_eq!(policy.generation, 1);
    let user = |live: &Live, uid| out_of(live, "10.0.0.1", uid).user.map(|limit| limit.rate);
    assert_eq!([7, 8, 9].map(|uid| user(&live, uid)), [Some(1_000_000), Some(3_000_000), None]);
    commit(&mut live, ADMIN, vec![add(None, Chain::Shape, "out 8 4M")]).expect("done");
    assert_eq!(user(&live, 8), Some(4_000_000));
    // The loop has no document: it puts them behind what it has.
    let before: IpNet = "10.0.0.0/8".parse().expect("a network");
    let net = shape(&format!("out {before} 9M"));
    let next = live.policy().with_shapes(std::slice::from_ref(&net)).expect("it is new");
    assert_eq!(next.shapes.iter().last(), Some(&net));
    assert_eq!(next.generation, live.policy().generation + 1);
    assert!(next.with_shapes(&[net]).is_none(), "the second time");
}
