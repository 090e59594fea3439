use proptest::prelude::*;

use super::*;
use crate::{Config, OptionName};

fn read(text: &str) -> Shape {
    let spec = ShapeSpec::read(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    spec.numbered().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

#[test]
fn limits_are_written_in_one_form() {
    for (text, expected) in [
        ("both any 20M", "both any 20M"),
        ("in  internet 1500k", "in internet 1.5M"),
        ("out 10.0.0.5/32 0.5Gbit", "out 10.0.0.5 500M"),
        ("out fd00::/8 8000", "out fd00::/8 8k"),
        ("out 0.0.0.0 8K", "out 0.0.0.0/0 8k"),
        ("both 1000 10M/10M weight=1 queue=20ms", "both 1000 10M/10M"),
        (
            "both @7 10M/1T pps=1000 queue=1s weight=3 burst=1.5ms",
            "both @7 10M/1T burst=1.5ms pps=1000 weight=3 queue=1s",
        ),
        ("in uplink 1G burst=1000us", "in uplink 1G burst=1ms"),
        ("in class:bulk 1G", "in class:bulk 1G"),
    ] {
        assert_eq!(read(text).to_string(), expected, "{text}");
        assert_eq!(read(expected), read(text), "{text}");
        assert_eq!(ShapeSpec::read(text).expect("valid").to_string(), expected);
    }
}

#[test]
fn wrong_words_are_named() {
    for (text, part) in [
        ("", "expected <in|out|both> <any|"),
        ("in any", "expected <in|out|both> <any|"),
        ("up any 1M", "unknown direction \"up\", expected in, out or both"),
        ("in 10.0.0.256 1M", "\"10.0.0.256\" is no address"),
        ("in 10.0.0.1/33 1M", "\"10.0.0.1/33\" is no address"),
        ("in 10.0.0.1/8 1M", "bits set behind its length"),
        ("in fd00: 1M", "\"fd00:\" is no address"),
        ("in @ 1M", "\"@\" is no user or group"),
        ("in 4294967295 1M", "\"4294967295\" is no user or group"),
        ("in class: 1M", "\"\" is no name of a class"),
        ("in class:1 1M", "\"1\" is no name of a class"),
        ("in any 1", "\"1\" is no rate, expected 8k to 1T"),
        ("in any 1.1T", "\"1.1T\" is no rate"),
        ("in any 1m", "\"1m\" is no rate"),
        ("in any -1M", "\"-1M\" is no rate"),
        ("in any 1e9", "\"1e9\" is no rate"),
        ("in any .5M", "\".5M\" is no rate"),
        ("in any 5.M", "\"5.M\" is no rate"),
        ("in any 8.0001k", "\"8.0001k\" is no rate"),
        ("in any 18446744073709551616", "is no rate"),
        ("in any 18446744073709552k", "is no rate"),
        ("in any 1M/", "\"\" is no rate"),
        ("in any 2M/1M", "the second rate of \"2M/1M\" is below the first one"),
        ("in any 1M/2M/3M", "\"2M/3M\" is no rate"),
        ("in any 1M 5ms", "unknown setting \"5ms\""),
        ("in any 1M size=5", "unknown setting \"size=5\""),
        ("in any 1M burst=5", "\"burst=5\" has a wrong value, expected 1ms to 10s"),
        ("in any 1M burst=11s", "\"burst=11s\" has a wrong value"),
        ("in any 1M queue=0.5ms", "\"queue=0.5ms\" has a wrong value, expected 1ms to 10s"),
        ("in any 1M weight=0", "\"weight=0\" has a wrong value, expected 1 to 1000"),
        ("in any 1M weight=1001", "\"weight=1001\" has a wrong value"),
        ("in any 1M pps=0", "\"pps=0\" has a wrong value, expected 1 to 1000000000"),
        ("in any 1M pps=+5", "\"pps=+5\" has a wrong value"),
        ("in any 1M pps=5 pps=5", "\"pps\" is there twice"),
        ("in uplink 1M/2M", "the uplink has nobody to borrow from"),
        ("in uplink 1M weight=2", "the uplink has nobody to borrow from"),
    ] {
        let problem = ShapeSpec::read(text).expect_err(text).to_string();
        assert!(problem.contains(part), "{text}: {problem}");
    }
    for (text, part) in [("in alice 1M", "the user \"alice\" can't be looked up"), ("in @web 1M", "the group \"web\"")]
    {
        let problem = ShapeSpec::read(text).expect(text).numbered().expect_err(text).to_string();
        assert!(problem.contains(part) && problem.contains("expected the number"), "{text}: {problem}");
    }
}

fn config(options: &[(OptionName, &str)]) -> Result<Config, String> {
    Config::from_options(options.iter().copied()).map_err(|errors| errors.to_string())
}

#[test]
fn limits_are_given_to_their_routers() {
    let options = [
        (OptionName::Shape, "a both any 20M"),
        (OptionName::Router, "a /run/a"),
        (OptionName::Router, "in /run/b"),
        (OptionName::Shape, "in out @web 5M pps=7"),
        (OptionName::Shape, "in in @web 5M"),
        (OptionName::RouterAddress, "a 10.0.0.1/24"),
        (OptionName::Shape, "a in internet 1M"),
        (OptionName::RouterNat, "a eth0"),
    ];
    let routers = config(&options).expect("valid").routers;
    let shapes = routers.iter().map(|router| router.shapes.iter().map(ToString::to_string).collect::<Vec<_>>());
    let expected = [["both any 20M", "in internet 1M"], ["out @web 5M pps=7", "in @web 5M"]];
    assert_eq!(shapes.collect::<Vec<_>>(), expected);
    // Without any router they have no effect, like all options of routers.
    assert!(config(&options[..1]).is_ok());
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let router = (OptionName::Router, "a /run/a");
    for (values, part) in [
        (
            &["both any 1M", "in any 2M"][..],
            "tuntap-router-shape = in any 2M: there is a limit for the same traffic already: both any 1M",
        ),
        (&["b in any 1M"], "no tuntap-router with the device b"),
        (
            &["in internet 1M"],
            "tuntap-router-shape = a in internet 1M: the router has no interface that leads to other networks (tuntap-router-nat)",
        ),
        (&["in any 1X"], "tuntap-router-shape = in any 1X: \"1X\" is no rate"),
    ] {
        let options: Vec<_> =
            [router].into_iter().chain(values.iter().map(|value| (OptionName::Shape, *value))).collect();
        let error = config(&options).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
    let several = [router, (OptionName::Router, "b /run/b"), (OptionName::Shape, "in any 1M")];
    assert!(config(&several).expect_err("which one").contains("the device must stand before the value"));
    let apart = [router, (OptionName::Shape, "in any 1M"), (OptionName::Shape, "out any 1M")];
    assert!(config(&apart).is_ok());
    let most: Vec<String> = (0..=MAX_SHAPES).map(|uid| format!("in {uid} 1M")).collect();
    let most: Vec<_> = [router].into_iter().chain(most.iter().map(|it| (OptionName::Shape, it.as_str()))).collect();
    assert!(config(&most).expect_err("many").contains("there can be 4096 of these"));
}

#[test]
fn names_are_looked_up_and_missing_ones_are_named() {
    let specs: Vec<_> = ["in alice 1M", "in bob 2M", "out @staff 3M", "in 7 4M"]
        .iter()
        .map(|text| ShapeSpec::read(text).expect("valid"))
        .collect();
    let id = |name: &str| Ok(matches!(name, "alice" | "staff").then_some(9));
    let (found, errors) = resolve_shapes(&specs, id, id);
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["in 9 1M", "out @9 3M", "in 7 4M"]);
    let errors: Vec<_> = errors.iter().map(|(place, error)| format!("{place} {error}")).collect();
    assert_eq!(errors, ["1 tuntap-router-shape = in bob 2M: there is no user \"bob\" on this machine"]);
}

/// A word that stands in limits, right or wrong.
fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "in",
        "out",
        "both",
        "any",
        "internet",
        "uplink",
        "10.0.0.0/8",
        "10.0.0.1",
        "fd00::/8",
        "::",
        "1000",
        "@7",
        "alice",
        "@web",
        "class:bulk",
        "class:",
        "1M",
        "1.5M",
        "20M/50Mbit",
        "8k",
        "9G/1T",
        "burst=10ms",
        "pps=7",
        "weight=3",
        "queue=1s",
        "queue=1.25ms",
        "weight=0",
    ]);
    prop_oneof![20 => known.prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

fn limit() -> impl Strategy<Value = Limit> {
    let [least, most] = Limit::RATES;
    let time = |[least, most]: [Duration; 2]| {
        let [least, most] = [least, most].map(|time| u64::try_from(time.as_nanos()).expect("short"));
        (least..=most).prop_map(Duration::from_nanos)
    };
    let [fewest, greatest] = Limit::PACKETS;
    (
        least..=most,
        prop::option::of(least..=most),
        prop::option::of(time(Limit::BURSTS)),
        prop::option::of(fewest..=greatest),
        1..=Limit::MAX_WEIGHT,
        prop_oneof![Just(Limit::DEFAULT_QUEUE), time(Limit::QUEUES)],
    )
        .prop_map(|(rate, ceil, burst, packets, weight, queue)| {
            let ceil = ceil.map(|ceil| ceil.max(rate));
            Limit { rate, ceil, burst, packets, weight, queue }
        })
}

fn selector() -> impl Strategy<Value = ShapeSelector> {
    prop_oneof![
        Just(ShapeSelector::Any),
        Just(ShapeSelector::Internet),
        (any::<u32>(), 0u8..=32).prop_map(|(bits, len)| {
            let net = ipnet::IpNet::new_assert(std::net::Ipv4Addr::from_bits(bits).into(), len);
            ShapeSelector::Network(net.trunc())
        }),
        (any::<u128>(), 0u8..=128).prop_map(|(bits, len)| {
            let net = ipnet::IpNet::new_assert(std::net::Ipv6Addr::from_bits(bits).into(), len);
            ShapeSelector::Network(net.trunc())
        }),
        (0..u32::MAX).prop_map(ShapeSelector::User),
        (0..u32::MAX).prop_map(ShapeSelector::Group),
        "[a-z][a-z0-9._-]{0,8}".prop_map(ShapeSelector::Class),
    ]
}

proptest! {
    /// What is read is written so that it reads the same, and nothing makes the reader panic.
    #[test]
    fn what_is_read_is_written_so_that_it_reads_the_same(words in prop::collection::vec(word(), 0..8)) {
        let text = words.join(" ");
        let _ = shape(&text);
        if let Ok(spec) = ShapeSpec::read(&text) {
            let written = spec.to_string();
            prop_assert_eq!(ShapeSpec::read(&written), Ok(spec), "{}", written);
        }
    }

    /// So is every limit that there can be.
    #[test]
    fn what_is_written_reads_the_same(out: bool, inn: bool, selector in selector(), limit in limit()) {
        let shape = Shape { out: out || !inn, inn, selector, limit };
        let text = shape.to_string();
        prop_assert_eq!(ShapeSpec::read(&text).and_then(|spec| spec.numbered()), Ok(shape), "{}", text);
    }
}
