use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> LiveRule {
    LiveRule::filter(text).unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

#[test]
fn rules_are_written_in_one_form() {
    for (text, expected) in [
        ("allow any any", "allow"),
        ("allow  established", "allow established"),
        ("deny any any established log", "deny established log"),
        ("deny 10.0.0.7/8 any", "deny 10.0.0.0/8 any"),
        ("deny any 10.0.0.7/32 tcp 80-80", "deny any 10.0.0.7 tcp 80"),
        ("reject :: 0.0.0.0 icmp", "reject any any icmp"),
        ("reject any 0.0.0.0/32 6", "reject any 0.0.0.0/32 tcp"),
        ("allow any ::/0 1", "allow any ::/0 1"),
        ("allow @a @b udp 5-9 counter x rate 10/s log new", "allow @a @b udp 5-9 new log rate 10/s counter x"),
        ("deny counter log", "deny log"),
        ("deny log counter", "deny log"),
    ] {
        assert_eq!(filter(text).to_string(), expected, "{text}");
        assert_eq!(filter(expected), filter(text), "{text}");
    }
    let route = LiveRule::route("@far any 192.0.2.1:4000 counter far log").expect("a route");
    assert_eq!(route.to_string(), "@far any 192.0.2.1:4000 log counter far");
    assert_eq!(route.identity(), "@far any 192.0.2.1:4000");
}

#[test]
fn wrong_words_are_named() {
    for (text, part) in [
        ("", "expected <allow|deny|reject>"),
        ("alow any any", "unknown action \"alow\""),
        ("allow any", "expected <allow|deny|reject>"),
        ("allow any @9x", "\"9x\" is no name of a set"),
        ("allow any @", "\"\" is no name of a set"),
        ("allow any any tcp 80 81", "expected <allow|deny|reject>"),
        ("allow any any icmp 80", "icmp has no ports"),
        ("allow 10.0.0.1 fd00::1", "different IP versions"),
        ("allow new established", "\"established\" is there twice"),
        ("allow log log", "\"log\" is there twice"),
        ("allow counter counter", "\"counter\" is there twice"),
        ("allow rate", "\"\" is no rate"),
        ("allow rate 0/s", "\"0/s\" is no rate"),
        ("allow rate 1000001/s", "\"1000001/s\" is no rate"),
        ("allow rate 5", "\"5\" is no rate"),
        ("allow rate 1/s rate 1/s", "\"rate\" is there twice"),
        ("allow log any any", "expected <allow|deny|reject>"),
        ("allow counter 1x", "\"1x\" is no name of a counter"),
    ] {
        let problem = LiveRule::filter(text).expect_err(text).to_string();
        assert!(problem.contains(part), "{text}: {problem}");
    }
    for (text, part) in [
        ("any any", "expected <src[/len]|any|@set>"),
        ("any any 192.0.2.1", "192.0.2.1"),
        ("any any 192.0.2.1:4000 new", "can't stand in a route"),
        ("any any 192.0.2.1:4000 rate 1/s", "\"rate\" can't stand in a route"),
    ] {
        let problem = LiveRule::route(text).expect_err(text).to_string();
        assert!(problem.contains(part), "{text}: {problem}");
    }
}

#[test]
fn members_are_addresses_networks_and_ranges() {
    let members = |word| {
        let mut members = Vec::new();
        parse::set_member(word, &mut members).map(|()| members.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(members("10.0.0.1").as_deref(), Ok(["10.0.0.1/32".to_owned()].as_slice()));
    assert_eq!(members("10.0.0.1-10.0.0.4").map(|nets| nets.len()), Ok(3));
    assert_eq!(members("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").map(|nets| nets.len()), Ok(1));
    assert_eq!(members("0.0.0.0/0").map(|nets| nets.len()), Ok(1));
    for (word, part) in [
        ("10.0.0.1/8", "bits set behind its length"),
        ("0.0.0.0", "stands for all addresses"),
        ("10.0.0.2-10.0.0.1", "no range"),
        ("10.0.0.2-fd00::1", "no range"),
        ("10.0.0.2-", "no range"),
        ("any", "no address"),
    ] {
        let problem = members(word).expect_err(word).to_string();
        assert!(problem.contains(part), "{word}: {problem}");
    }
}

/// A word that stands in rules, right or wrong.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "allow",
        "deny",
        "reject",
        "any",
        "10.0.0.0/8",
        "10.0.0.1",
        "fd00::/8",
        "::1",
        "0.0.0.0/0",
        "@a",
        "@b.c",
        "tcp",
        "udp",
        "icmp",
        "41",
        "80",
        "80-90",
        "new",
        "established",
        "log",
        "rate",
        "7/s",
        "counter",
        "x",
        "192.0.2.1:4000",
    ]);
    prop_oneof![20 => known.prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

proptest! {
    /// What is read is written so that it reads the same, and nothing makes the reader panic.
    #[test]
    fn what_is_written_reads_the_same(words in prop::collection::vec(word(), 0..9)) {
        let text = words.join(" ");
        for read in [LiveRule::filter, LiveRule::route] {
            if let Ok(rule) = read(&text) {
                let written = rule.to_string();
                let again = read(&written);
                prop_assert_eq!(again.as_ref().map(ToString::to_string), Ok(written));
                prop_assert_eq!(again, Ok(rule));
            }
        }
    }
}

#[test]
fn selection_is_that_of_rules_without_what_else_they_say() {
    let selection = LiveRule::selection("10.0.0.0/8 @web tcp 80-90").expect("valid");
    let rule = LiveRule::filter("deny 10.0.0.0/8 @web tcp 80-90").expect("valid");
    assert_eq!((selection.selector, selection.dst_set), (rule.selector, Some("web".to_owned())));
    for (text, part) in [
        ("", "expected <src[/len]|any|@set>"),
        ("any", "expected <src[/len]|any|@set>"),
        ("any any tcp 80 established", "\"established\" doesn't select"),
        ("any any log", "\"log\" doesn't select"),
        ("any 10.0.0.0/33", "10.0.0.0/33"),
        ("10.0.0.1 fd00::1", "different IP versions"),
        ("any any icmp 80", "has no ports"),
        ("any any tcp 80 90", "expected <src[/len]|any|@set>"),
    ] {
        let error = LiveRule::selection(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}
