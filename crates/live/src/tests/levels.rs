//! Who may change what.

use super::*;

const STRANGER: Caller = Caller { uid: 2000, pid: 4, level: Level::Operate };

/// A level and a share in a group: viewer, operator without and with a group, admin.
const CALLERS: [Caller; 4] = [VIEWER, STRANGER, OPERATOR, ADMIN];

#[test]
fn matrix() {
    let live_before = live(FILE);
    let web = live_before.document().groups[1].rules[0].id;
    let file = live_before.document().groups[0].rules[0].id;
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let group = |name: &str, owner| Change::GroupReplace {
        group: name.to_owned(),
        text: "chain in\nallow any any tcp 443\n".to_owned(),
        owner,
    };
    let member = words(&["192.0.2.1"]);
    for (change, expected) in [
        (add(None, Chain::In, "deny"), [false, false, false, true]),
        (add(Some("web"), Chain::In, "deny"), [false, false, true, true]),
        (add(Some("file"), Chain::In, "deny"), [false, false, false, true]),
        (add(Some("another"), Chain::In, "deny"), [false, false, false, true]),
        (
            Change::RuleInsert { at: tuntap_api::control::Place::After(web), rule: "deny".to_owned() },
            [false, false, true, true],
        ),
        (
            Change::RuleInsert { at: tuntap_api::control::Place::Before(file), rule: "deny".to_owned() },
            [false, false, false, true],
        ),
        (Change::RuleReplace { id: web, rule: "deny".to_owned() }, [false, false, true, true]),
        (Change::RuleReplace { id: file, rule: "deny".to_owned() }, [false, false, false, true]),
        (Change::RuleDelete { id: web }, [false, false, true, true]),
        (Change::RuleDelete { id: file }, [false, false, false, true]),
        (group("web", None), [false, false, true, true]),
        (group("web", Some(1000)), [false, false, true, true]),
        (group("web", Some(2000)), [false, false, false, true]),
        (group("another", None), [false, false, false, true]),
        (group("ini", None), [false, false, false, false]),
        (Change::GroupDelete { group: "web".to_owned() }, [false, false, false, true]),
        (Change::FileReplace { text: "chain in\ndeny\n".to_owned() }, [false, false, false, true]),
        (set("bad", &["10.0.0.1"]), [false, true, true, true]),
        (set("another", &["10.0.0.1"]), [false, false, false, true]),
        (Change::SetAdd { name: "bad".to_owned(), members: words(&["10.0.0.1"]) }, [false, true, true, true]),
        (Change::SetRemove { name: "bad".to_owned(), members: member }, [false, true, true, true]),
    ] {
        for (caller, expected) in CALLERS.into_iter().zip(expected) {
            let mut live = live(FILE);
            let before = live.document().clone();
            match commit(&mut live, caller, vec![change.clone()]) {
                Ok(_) => assert!(expected && *live.document() != before, "{caller:?}: {change:?}"),
                Err(failure) => {
                    assert!(!expected && failure.code == Code::Denied, "{caller:?}: {change:?}: {failure:?}");
                    assert_eq!(*live.document(), before);
                }
            }
        }
    }
}

#[test]
fn set_is_deleted_by_admins_once_no_rule_names_it() {
    let mut live = live("set s { 10.0.0.1 }\nset t { 10.0.0.1 }\nchain in\ndeny @t any\n");
    let delete = |name: &str| vec![Change::SetDelete { name: name.to_owned() }];
    assert_eq!(code(commit(&mut live, OPERATOR, delete("s"))), Code::Denied);
    commit(&mut live, ADMIN, delete("s")).expect("nobody names it");
    assert_eq!(code(commit(&mut live, ADMIN, delete("t"))), Code::Conflict);
    let id = id_of(&mut live, "deny @t any");
    let both = [delete("t"), vec![Change::RuleDelete { id }]].concat();
    commit(&mut live, ADMIN, both).expect("the rule goes, too");
}

#[test]
fn owner_of_a_group_may_be_changed_with_its_rules() {
    let mut live = live(FILE);
    let text = "chain in\ndeny\n".to_owned();
    let change = Change::GroupReplace { group: "web".to_owned(), text, owner: Some(STRANGER.uid) };
    commit(&mut live, ADMIN, vec![change]).expect("an admin");
    assert_eq!(code(commit(&mut live, OPERATOR, vec![add(Some("web"), Chain::In, "allow")])), Code::Denied);
    commit(&mut live, STRANGER, vec![add(Some("web"), Chain::In, "allow")]).expect("the owner");
    let nobody = Change::GroupReplace { group: "web".to_owned(), text: String::new(), owner: Some(u32::MAX) };
    assert_eq!(code(commit(&mut live, ADMIN, vec![nobody])), Code::Invalid);
}

#[test]
fn viewers_may_look_at_everything() {
    let mut live = live(FILE);
    let text = FILE.to_owned();
    for request in [
        Request::Status {},
        Request::RulesList { chain: None, group: None },
        Request::RulesCheck { text: text.clone() },
        Request::RulesDiff { text },
        Request::SetsList { name: Some("bad".to_owned()) },
        Request::Log { limit: None },
        Request::Save {},
    ] {
        assert_eq!(request.level(), Level::View);
        live.handle(VIEWER, &request, at(100)).unwrap_or_else(|failure| panic!("{request:?}: {failure:?}"));
    }
    assert_eq!(code(live.handle(ADMIN, &Request::Peers {}, at(100))), Code::Invalid, "not about rules");
    assert_eq!(live.revision(), 0);
}
