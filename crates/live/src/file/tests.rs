use proptest::prelude::*;

use super::*;
use crate::document::{Document, Group, Rule};
use crate::limits::{MAX_LINE_LEN, MAX_RULES, MAX_SETS};
use crate::tests::{FILE, initial, read};

fn good(text: &str) -> RulesFile {
    read(text).unwrap_or_else(|error| panic!("{error}"))
}

fn groups(file: &RulesFile) -> Vec<(&str, Option<u32>, Vec<String>)> {
    let rules = |group: &FileGroup| group.rules.iter().map(|rule| rule.rule.to_string()).collect();
    file.groups.iter().map(|group| (group.name.as_str(), group.owner, rules(group))).collect()
}

fn members(set: &Set) -> Vec<String> {
    set.members().iter().map(ToString::to_string).collect()
}

#[test]
fn groups_chains_and_sets() {
    let file = good(FILE);
    let (deny, web) = ("deny @bad any log counter bad", "allow any any tcp 80-81 new rate 5/s");
    assert_eq!(
        groups(&file),
        [
            ("file", None, vec![deny.to_owned()]),
            ("web", Some(1000), vec![web.to_owned(), "allow established".to_owned(), "deny any @big".to_owned()])
        ]
    );
    let chains: Vec<_> = file.groups[1].rules.iter().map(|rule| (rule.chain, rule.line)).collect();
    assert_eq!(chains, [(Chain::In, 8), (Chain::In, 9), (Chain::Out, 11)]);
    assert_eq!(members(&file.sets["bad"]), ["192.0.2.1/32", "198.51.100.0/24"]);
    assert_eq!(members(&file.sets["big"]), ["10.1.0.0/16", "10.2.0.1/32", "10.2.0.2/32", "fd00::/64"]);
    assert_eq!(file.sets["big"].file(), Some("/big"));
    assert_eq!(file.warnings, []);
}

#[test]
fn sets_stand_in_braces_however_they_are_broken() {
    for text in [
        "set s { 10.0.0.1 10.0.0.2 }",
        "set s{10.0.0.1,10.0.0.2}",
        "set s {\n10.0.0.1 # one\n\n  10.0.0.2,\n}\n",
        "set s\t{\r\n10.0.0.1-10.0.0.2\r\n} # the end\r\n",
        "set s { 10.0.0.2, 10.0.0.1, 10.0.0.2/32 }",
    ] {
        assert_eq!(members(&good(text).sets["s"]), ["10.0.0.1/32", "10.0.0.2/32"], "{text:?}");
    }
    assert_eq!(members(&good("set s { }").sets["s"]), Vec::<String>::new());
    let both = good("set s = /not/read { 10.0.0.1 }");
    assert_eq!((members(&both.sets["s"]), both.sets["s"].file()), (vec!["10.0.0.1/32".to_owned()], Some("/not/read")));
}

#[test]
fn group_of_live_rules_comes_first() {
    let file = good("chain in\nallow\ngroup a owner www-data\ngroup live owner 7\nchain out\ndeny\ngroup b\n");
    let names: Vec<_> = file.groups.iter().map(|group| (group.name.as_str(), group.owner)).collect();
    assert_eq!(names, [("live", Some(7)), ("file", None), ("a", Some(33)), ("b", None)]);
}

#[test]
fn errors_name_the_line_and_the_word() {
    for (text, line, part) in [
        ("allow", 1, "unknown word \"allow\", expected chain in, chain out, chain route or chain shape"),
        ("chain in\nallow\ngroup g\nallow", 4, "expected chain in"),
        ("chain forward", 1, "unknown chain \"forward\", expected in, out, route or shape"),
        ("chain", 1, "unknown chain \"\""),
        ("\n# x\nchain in\nalow any any", 4, "unknown action \"alow\""),
        ("chain route\nany any 192.0.2.1", 2, "\"192.0.2.1\""),
        ("chain in\ndeny @s any\n", 2, "there is no set s in this file"),
        ("group", 1, "expected group <name> [owner <uid|user>]"),
        ("group g own 5", 1, "expected group <name>"),
        ("group 9", 1, "\"9\" is no name of a group"),
        ("group ini", 1, "the group ini has the rules of the options"),
        ("group g owner nobody-like-that", 1, "there is no user \"nobody-like-that\" on this machine"),
        ("group g owner 4294967295", 1, "\"4294967295\" is no user"),
        ("group g\ngroup h\ngroup g", 3, "there is a group g already"),
        ("chain in\nallow\ngroup file", 3, "there is a group file already"),
        ("set", 1, "\"\" is no name of a set"),
        ("set s", 1, "expected set <name> {"),
        ("set s 10.0.0.1", 1, "expected set <name> {"),
        ("set s = big", 1, "\"big\" is no path of a file"),
        ("set s = /a\tb", 1, "control characters"),
        ("set s = /none", 1, "/none can't be read"),
        ("set s { 10.0.0.1 } 10.0.0.2", 1, "\"10.0.0.2\" stands behind }"),
        ("set s { 10.0.0.1\n10.0.0.256\n}", 2, "\"10.0.0.256\""),
        ("# x\nset s { 10.0.0.1\nchain in\n", 3, "\"chain\" is no address"),
        ("# x\nset s { 10.0.0.1\n", 2, "the set s has no } at its end"),
        ("set s {}\nset s {}", 2, "there is a set s already"),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.line, line, "{text:?}: {error}");
        assert!(error.message.contains(part), "{text:?}: {error}");
    }
    let in_set = read_members("10.0.0.1\n10.0.0.1/8\n").expect_err("host bits");
    assert_eq!(in_set.line, 2);
    assert_eq!(read_group("chain in\nset x {}").expect_err("a set").line, 2);
}

#[test]
fn bounds_are_told() {
    let line = format!("# {}", "x".repeat(MAX_LINE_LEN));
    assert!(read(&line).expect_err("long").message.contains("a line can have"));
    let rules = format!("chain in\n{}", "deny\n".repeat(MAX_RULES + 1));
    assert_eq!(read(&rules).expect_err("many").line, u32::try_from(MAX_RULES + 2).expect("small"));
    let sets: String = (0..=MAX_SETS).map(|number| format!("set s{number} {{}}\n")).collect();
    assert!(read(&sets).expect_err("many").message.contains("sets at most"));
    let groups: String = (0..=crate::limits::MAX_GROUPS).map(|number| format!("group g{number}\n")).collect();
    assert!(read(&groups).expect_err("many").message.contains("groups at most"));
    let members = format!("set s {{\n{}}}", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe\n".repeat(8_000));
    assert!(read(&members).expect_err("many").message.contains("members at most"));
}

/// What editors of other systems add is no part of a word.
#[test]
fn byte_order_mark_and_carriage_returns_mean_nothing() {
    let file = good("\u{feff}set a { 10.0.0.1 }\r\nchain in\r\nallow\t@a  any tcp 80\r\n");
    assert_eq!((file.rules(), file.sets.len()), (1, 1));
    assert_eq!(file.groups[0].rules[0].rule.to_string(), "allow @a any tcp 80");
}

#[test]
fn longest_path_can_be_written() {
    let path = format!("/{}", "x".repeat(4_094));
    let file = good(&format!("set s={path}{{10.0.0.1}}"));
    let mut text = String::new();
    write::write_whole_set(&mut text, "s", &file.sets["s"]);
    let whole = good(&text);
    assert_eq!((whole.sets["s"].file(), whole.sets.len()), (Some(path.as_str()), 1));
}

#[test]
fn what_is_hardly_meant_is_told() {
    let text = "set unused { 10.0.0.1 }\nchain in\nallow established\ndeny\nallow any any tcp 80\ngroup g\nchain in\nallow\nchain \
                out\nreject\n";
    let warnings: Vec<_> = good(text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 1: no rule names the set unused",
            "line 5: the rule is never reached: the one of line 4 takes all packets before it",
            "line 8: the rule is never reached: the one of line 4 takes all packets before it",
            "line 10: the chain out lets nothing pass",
        ]
    );
    let text =
        "chain out\nallow 10.0.0.0/8 any\ngroup live\nchain in\nallow 10.0.0.0/8 any\nchain out\nallow fd00::1 any\n";
    let warnings: Vec<_> = good(text).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("line 2: no rule of the chain out is about IPv6"), "{warnings:?}");
}

#[test]
fn files_and_users_are_put_into_one_text() {
    let files = |_: &str| Ok("10.0.0.1\n".to_owned());
    let users = |_: &str| Ok(Some(7));
    let machine = Machine { read: &files, user: &users, group: &users };
    let text = "set s = /s # all\ngroup g owner me\nchain in\ndeny @s any\nset t { fd00::1 } # mine\nallow any @t";
    let text = in_one_text(text, &machine).expect("good");
    // No line has another number than before.
    assert_eq!(
        text,
        "\ngroup g owner 7\nchain in\ndeny @s any\nset t { fd00::1 } # mine\nallow any @t\nset s = /s {\n    10.0.0.1\n}\n\n"
    );
    let nothing = |_: &str| -> io::Result<String> { panic!("nothing is read") };
    let nobody = |_: &str| -> io::Result<Option<u32>> { panic!("nobody is looked up") };
    let file = RulesFile::read(&text, &Machine { read: &nothing, user: &nobody, group: &nobody }).expect("good");
    assert_eq!(file.sets["s"].file(), Some("/s"));
}

#[test]
fn limits_are_lines_of_a_chain() {
    let text = "chain shape\nboth any 20M/50M weight=3 # all\nin www-data 5000k\nout @www-data 5M\nin 33 1G\ngroup g owner 0\n\
                chain shape\nout uplink 1G\nout any 1M";
    let file = good(text);
    let lines: Vec<_> = file.groups[0].rules.iter().map(|rule| rule.rule.to_string()).collect();
    assert_eq!(lines, ["both any 20M/50M weight=3", "in 33 5M", "out @33 5M", "in 33 1G"]);
    let warnings: Vec<_> = file.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "line 5: the limit never counts: the one of line 3 is for the same traffic",
            "line 9: the limit never counts: the one of line 2 is for the same traffic",
        ]
    );
    let apart = good("chain shape\nout any 1M\nin any 1M\nboth 7 1M\nin 7 1M");
    assert_eq!(apart.warnings.iter().map(|warning| warning.line).collect::<Vec<_>>(), [5]);

    let files = |_: &str| -> io::Result<String> { panic!("nothing is read") };
    let accounts = |_: &str| Ok(Some(44));
    let machine = Machine { read: &files, user: &accounts, group: &accounts };
    let whole = in_one_text(text, &machine).expect("good");
    assert!(
        whole.starts_with("chain shape\nboth any 20M/50M weight=3 # all\nin 44 5M\nout @44 5M\nin 33 1G\n"),
        "{whole}"
    );

    for (text, line, part) in [
        ("chain shape\nallow", 2, "expected <in|out|both>"),
        ("chain shape\nin any 1X", 2, "\"1X\" is no rate"),
        ("chain shape\nin nobody 1M", 2, "there is no user \"nobody\""),
        ("chain shape\nin @nobody 1M", 2, "there is no group \"nobody\""),
        ("group g owner 7\nchain shape\nin any 1M", 3, "the group g is uid 7's"),
        ("in any 1M", 1, "chain route or chain shape before the first rule"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.line == line && error.message.contains(part), "{text}: {error}");
    }
    let alone = read_group("chain shape\nin www-data 1M").expect_err("nobody to ask");
    assert!(alone.message.contains("the user \"www-data\" can't be looked up"), "{alone}");

    let many: String = (0..=tuntap_config::MAX_SHAPES).map(|uid| format!("in {uid} 1M\n")).collect();
    assert!(read(&format!("chain shape\n{many}")).expect_err("many").message.contains("4096 limits"));
}

#[test]
fn limits_of_the_internet_need_a_way_there() {
    let file = good("chain shape\nin any 1M\nboth internet 1M");
    let router = |nat: &str| {
        let options = ["a /run/a", "a 10.0.0.1/24", nat];
        let names = [
            tuntap_config::OptionName::Router,
            tuntap_config::OptionName::RouterAddress,
            tuntap_config::OptionName::RouterNat,
        ];
        let values = names.into_iter().zip(options).filter(|(_, value)| !value.is_empty());
        tuntap_config::Config::from_options(values).expect("valid").routers.remove(0)
    };
    let error = file.check_for(&router("")).expect_err("no way");
    assert!(error.line == 3 && error.message.contains("tuntap-router-nat"), "{error}");
    assert_eq!(file.check_for(&router("eth0")), Ok(()));
}

#[test]
fn saved_file_reads_the_same() {
    let document = initial(FILE);
    let again = initial(&write(&document));
    assert!(again.says_the_same(&document));
    assert!(write(&document).contains("set big = /big\n"));
}

fn rule() -> impl Strategy<Value = (Chain, Line)> {
    let filter = (
        prop::sample::select(vec!["allow", "deny", "reject"]),
        prop::sample::select(vec!["any any", "@a any", "10.0.0.0/8 @b", "any fd00::1", "0.0.0.0/32 0.0.0.0/0"]),
        prop::sample::select(vec!["", "tcp", "udp 53", "icmp", "sctp 1-9", "41"]),
        prop::sample::select(vec!["", "new", "established"]),
        any::<bool>(),
        prop::option::of(1u32..=1_000_000),
        prop::option::of("[a-z][a-z0-9._-]{0,8}"),
        any::<bool>(),
    );
    let filter = filter.prop_filter_map("no such rule", |(action, ends, service, state, log, rate, counter, is_in)| {
        let log = if log { "log" } else { "" };
        let rate = rate.map(|rate| format!("rate {rate}/s")).unwrap_or_default();
        let counter = counter.map(|name| format!("counter {name}")).unwrap_or_default();
        let text = format!("{action} {ends} {service} {counter} {state} {rate} {log}");
        let chain = if is_in { Chain::In } else { Chain::Out };
        Some((chain, Line::read(chain, &text).ok()?))
    });
    let route = prop::sample::select(vec![
        "any any 192.0.2.1:1",
        "@a 10.0.0.0/8 [fd00::1]:2 log",
        "any @b 192.0.2.1:1 counter x",
    ]);
    let route = route.prop_map(|text| (Chain::Route, Line::read(Chain::Route, text).expect("a route")));
    let shape = prop::sample::select(vec![
        "both any 20M/50M weight=3",
        "in 10.0.0.0/8 1.5M burst=10ms",
        "out @7 500k pps=100 queue=1s",
        "in 33 1T",
        "out uplink 100M",
        "both class:bulk 8k",
    ]);
    let shape = shape.prop_map(|text| (Chain::Shape, Line::read(Chain::Shape, text).expect("a limit")));
    prop_oneof![4 => filter, 1 => route, 1 => shape]
}

fn document() -> impl Strategy<Value = Document> {
    let member = prop_oneof![
        (any::<u32>(), 0u8..=32)
            .prop_map(|(bits, len)| IpNet::new_assert(std::net::Ipv4Addr::from_bits(bits).into(), len)),
        (any::<u128>(), 0u8..=128)
            .prop_map(|(bits, len)| IpNet::new_assert(std::net::Ipv6Addr::from_bits(bits).into(), len)),
    ];
    let set =
        prop::collection::vec(member.prop_map(|net| net.trunc()), 0..6).prop_map(|nets| Arc::new(Set::new(nets, None)));
    let rules = prop::collection::vec(rule(), 0..6);
    let groups = prop::collection::vec((prop::option::of(0u32..9), rules), 0..4);
    (set.clone(), set, any::<bool>(), groups).prop_map(|(a, b, has_live, groups)| {
        let names = ["live", "file", "g.1", "h"].into_iter().skip(usize::from(!has_live));
        let groups = names.zip(groups).map(|(name, (owner, rules))| Group {
            name: name.to_owned(),
            owner: owner.filter(|_| rules.iter().all(|(chain, _)| *chain != Chain::Shape)),
            rules: rules.into_iter().map(|(chain, rule)| Rule { id: 0, slot: 0, chain, rule }).collect(),
        });
        let sets = [("a".to_owned(), a), ("b".to_owned(), b)].into();
        Document { groups: groups.collect(), sets, ..Document::default() }
    })
}

/// Lines that stand in rules files, right or wrong.
fn line() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "chain in",
        "chain out",
        "chain route",
        "chain shape",
        "both any 20M/50M",
        "in www-data 5M",
        "out @www-data 5M queue=10ms # x",
        "in nobody-knows 5M",
        "in internet 5M",
        "chain x",
        "group a",
        "group b owner 7",
        "group live",
        "group ini",
        "set s {",
        "set t { 10.0.0.1 }",
        "set u = /big",
        "set v = /none",
        "}",
        "10.0.0.0/8, fd00::/8",
        "10.0.0.1-10.0.0.9",
        "allow",
        "deny @s any",
        "deny @t @u rate 5/s",
        "any any 192.0.2.1:5",
        "# comment",
        "",
        "allow any any tcp 80 log # x",
        "{",
        "set",
    ]);
    prop_oneof![12 => known.prop_map(str::to_owned), 1 => "\\PC{0,20}", 1 => "[ -~\\t]{0,20}"]
}

proptest! {
    /// Writing and reading gives the same groups and sets.
    #[test]
    fn written_document_reads_the_same(document in document()) {
        let text = write(&document);
        let file = read(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let with_ini = |mut document: Document| {
            document.groups.push(Group { name: "ini".to_owned(), owner: None, rules: Vec::new() });
            document
        };
        let again = Document::initial(&tuntap_config::Config::default(), &[], &file);
        prop_assert!(again.says_the_same(&with_ini(document)), "{}", text);
    }

    /// Nothing makes the reader panic, and what it takes can be written and read again.
    #[test]
    fn any_text_is_read_or_refused(lines in prop::collection::vec(line(), 0..14)) {
        let text = lines.join("\n");
        let count = u32::try_from(lines.len()).expect("few").max(1);
        match read(&text) {
            Ok(file) => {
                let document = Document::initial(&tuntap_config::Config::default(), &[], &file);
                let again = Document::initial(&tuntap_config::Config::default(), &[], &good(&write(&document)));
                prop_assert!(again.says_the_same(&document));
                prop_assert!(file.warnings.iter().all(|warning| (1..=count).contains(&warning.line)));
            }
            Err(error) => prop_assert!((1..=count).contains(&error.line), "{}", error),
        }
    }
}
