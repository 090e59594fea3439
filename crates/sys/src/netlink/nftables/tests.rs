use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs nft(8) in the thread's namespace.
fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().expect("nft can be started");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn table(name: &str, rules: Vec<NftRule>) -> Table {
    let chain = |name, hook, rules| Chain { name, hook: Some(hook), rules };
    let chains = vec![
        Chain { name: "ports", hook: None, rules: Vec::new() },
        chain("forward", Hook::ForwardMangle, rules),
        chain("output", Hook::OutputNat, Vec::new()),
        chain("postrouting", Hook::PostroutingNat, vec![NftRule::new().oif("eth0").masquerade()]),
        chain("prerouting", Hook::PreroutingNat, vec![NftRule::new().jump("ports")]),
    ];
    Table { name: name.to_owned(), sets: sets(), chains }
}

fn sets() -> Vec<Set> {
    let set = |name, family, timeout| Set { name, family, key: Key::Source, size: 100, timeout };
    vec![
        set("counts", Family::Ipv4, None),
        Set { key: Key::SourceAndDestination, ..set("counts6", Family::Ipv6, None) },
        set("rates", Family::Ipv6, Some(std::time::Duration::from_secs(60))),
    ]
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a network")
}

/// nft(8) lists the rules in the words that they were made from.
#[test]
fn rules_mean_what_they_say() {
    let rules = vec![
        (NftRule::new().iif("tt0").from(net("10.0.0.1/24")), r#"iifname "tt0" ip saddr 10.0.0.0/24"#),
        (NftRule::new().to(net("10.0.0.0/13")).leave(), "ip daddr 10.0.0.0/13 return"),
        (NftRule::new().to(net("10.0.0.1/32")).leave(), "ip daddr 10.0.0.1 return"),
        (NftRule::new().from(net("fd00:77::1/63")).leave(), "ip6 saddr fd00:77::/63 return"),
        (NftRule::new().to(net("::1/128")).leave(), "ip6 daddr ::1 return"),
        (NftRule::new().to_others().leave(), "fib daddr type != local return"),
        (NftRule::new().came_by_way_back().leave(), "fib saddr . iif oif != 0 return"),
        (NftRule::new().to_port(Transport::Tcp, 8080).leave(), "tcp dport 8080 return"),
        (NftRule::new().to_port(Transport::Udp, 53).leave(), "udp dport 53 return"),
        (NftRule::new().to_this_host().accept(), "fib daddr type local accept"),
        (NftRule::new().of_protocol(6).to_ports(80, 90).leave(), "tcp dport 80-90 return"),
        (NftRule::new().of_protocol(132).leave(), "meta l4proto sctp return"),
        (NftRule::new().is_echo_request(Family::Ipv4).leave(), "icmp type echo-request return"),
        (NftRule::new().is_echo_request(Family::Ipv6).leave(), "icmpv6 type echo-request return"),
        (NftRule::new().of_no_connection().discard(), "ct state invalid,new,untracked drop"),
        (NftRule::new().of_known_connection().leave(), "ct state established,related return"),
        (NftRule::new().is_never_translated().discard(), "ct state invalid,untracked drop"),
        (NftRule::new().begins_connection().leave(), "ct state new ct status ! confirmed return"),
        (NftRule::new().of_protocol(6).reject(Rejection::TcpReset), "meta l4proto tcp reject with tcp reset"),
        (NftRule::new().to_port(Transport::Udp, 5).reject(Rejection::PortUnreachable), "udp dport 5 reject"),
        (NftRule::new().count().because("a reason").discard(), r#"counter drop comment "a reason""#),
        (NftRule::new().source_has_more_than(7, &sets()[0]).discard(), "add @counts { ip saddr ct count over 7 } drop"),
        (
            NftRule::new().source_has_more_than(7, &sets()[1]).discard(),
            // 32 bytes from byte 8 of the header on: source and destination.
            "add @counts6 { @nh,64,256 ct count over 7 } drop",
        ),
        (
            NftRule::new()
                .source_is_faster_than(Rate { unit: Unit::Packets, per_second: 20, burst: 30 }, &sets()[2])
                .discard(),
            "update @rates { ip6 saddr limit rate over 20/second burst 30 packets } drop",
        ),
        (
            NftRule::new()
                .is_fragment(Family::Ipv6)
                .source_is_faster_than(Rate { unit: Unit::Bytes, per_second: 2048, burst: 4096 }, &sets()[2]),
            "exthdr frag exists update @rates { ip6 saddr limit rate over 2 kbytes/second burst 4 kbytes }",
        ),
        (NftRule::new().is_fragment(Family::Ipv4).discard(), "ip frag-off & 16383 != 0 drop"),
        (NftRule::new().counts_for_source(&sets()[2]), "update @rates { ip6 saddr counter }"),
        (NftRule::new().is_dnat().leave(), "ct status dnat return"),
        (NftRule::new().is_not_dnat().leave(), "dnat return"),
        (
            NftRule::new().opens_tcp().clamp_mss(),
            // Versions differ in how they write the flags.
            "tcp option maxseg size set rt mtu",
        ),
    ];
    in_new_namespace(move || {
        let mut nftables = Nftables::open().expect("nftables");
        let (rules, texts): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        nftables.replace(&[table("tuntap-a", rules)]).expect("a table");
        let listed = nft(&["-s", "list", "chain", "inet", "tuntap-a", "forward"]);
        let lines: Vec<_> = listed.lines().map(str::trim).skip(3).collect();
        assert_eq!(lines.len(), texts.len() + 2, "{listed}");
        for (line, text) in lines.into_iter().zip(texts) {
            assert!(line.ends_with(text), "{text} in {listed}");
        }
        // Versions differ in which priorities they give names.
        let listed = nft(&["--numeric-priority", "list", "table", "inet", "tuntap-a"]);
        for line in [
            "comment \"uwsgi-tuntap ",
            "type ipv6_addr",
            "size 100",
            "flags dynamic,timeout",
            "timeout 1m",
            "flags owner",
            "type filter hook forward priority -150",
            "type nat hook prerouting priority -100",
            "type nat hook output priority -100",
            "type nat hook postrouting priority 100",
            "oifname \"eth0\" masquerade",
            "jump ports",
        ] {
            assert!(listed.contains(line), "{line} in {listed}");
        }
    });
}

#[test]
fn dnat_goes_to_address_and_port() {
    in_new_namespace(|| {
        let mut nftables = Nftables::open().expect("nftables");
        let mut table = table("tuntap-a", Vec::new());
        table.chains[0].rules = ["10.0.0.2:80", "[fd00:77::2]:443"]
            .map(|target| {
                let target: std::net::SocketAddr = target.parse().expect("an address");
                NftRule::new().of_family(target.ip()).to_port(Transport::Tcp, 8080).dnat(target)
            })
            .into();
        nftables.replace(&[table]).expect("a table");
        let listed = nft(&["list", "chain", "inet", "tuntap-a", "ports"]);
        assert!(listed.contains("tcp dport 8080 dnat ip to 10.0.0.2:80"), "{listed}");
        assert!(listed.contains("tcp dport 8080 dnat ip6 to [fd00:77::2]:443"), "{listed}");
    });
}

#[test]
fn tables_are_replaced_and_end_with_their_socket() {
    in_new_namespace(|| {
        nft(&["add", "table", "inet", "other"]);
        let before = nft(&["list", "ruleset"]);
        let mut nftables = Nftables::open().expect("nftables");
        for _ in 0..2 {
            nftables.replace(&[table("tuntap-a", Vec::new()), table("tuntap-b", Vec::new())]).expect("two tables");
        }
        assert_eq!(nft(&["list", "tables"]), "table inet other\ntable inet tuntap-a\ntable inet tuntap-b\n");
        nftables.replace(&[table("tuntap-b", Vec::new())]).expect("one table");
        assert_eq!(nft(&["list", "tables"]), "table inet other\ntable inet tuntap-b\n");

        // The tables last as long as any copy of the descriptor is open.
        let copy = nftables.as_fd().try_clone_to_owned().expect("a copy");
        drop(nftables);
        let mut adopted = Nftables::adopt(copy).expect("a connection to nftables");
        adopted.replace(&[table("tuntap-b", Vec::new()), table("tuntap-c", Vec::new())]).expect("two tables");
        assert_eq!(nft(&["list", "tables"]), "table inet other\ntable inet tuntap-b\ntable inet tuntap-c\n");
        drop(adopted);
        assert_eq!(nft(&["list", "ruleset"]), before);
    });
}

/// A table that is made anew loses its counters. So one that isn't to change stays, even for the next image.
#[test]
fn table_that_is_as_it_should_be_stays() {
    in_new_namespace(|| {
        let counting = |text| table("tuntap-a", vec![NftRule::new().count().because(text).leave()]);
        let mut nftables = Nftables::open().expect("nftables");
        nftables.replace(&[counting("one"), table("tuntap-b", Vec::new())]).expect("two tables");
        let before = nft(&["-a", "list", "ruleset"]);
        let copy = nftables.as_fd().try_clone_to_owned().expect("a copy");
        drop(nftables);
        let mut adopted = Nftables::adopt(copy).expect("a connection to nftables");
        adopted.replace(&[counting("one"), table("tuntap-b", Vec::new())]).expect("the same");
        assert_eq!(nft(&["-a", "list", "ruleset"]), before);
        adopted.replace(&[counting("another"), table("tuntap-b", Vec::new())]).expect("one is another");
        let after = nft(&["-a", "list", "ruleset"]);
        assert!(after.contains("another") && !after.contains("one\""), "{after}");
        // The other one is the same, with its handle.
        let line = |text: &str| text.lines().find(|it| it.contains("inet tuntap-b")).map(str::to_owned);
        assert_eq!(line(&after), line(&before));
    });
}

#[test]
fn counters_are_read_by_their_reasons() {
    in_new_namespace(|| {
        let counting = |rule: NftRule| rule.count().because("something").discard();
        let rules =
            vec![counting(NftRule::new().of_protocol(1)), counting(NftRule::new().of_protocol(17)), NftRule::new()];
        let output = Chain { name: "out", hook: Some(Hook::PostroutingLast), rules };
        let mut nftables = Nftables::open().expect("nftables");
        nftables
            .replace(&[
                Table { name: "tuntap-a".to_owned(), sets: Vec::new(), chains: vec![output] },
                table("b", Vec::new()),
            ])
            .expect("two tables");
        let counted = |nftables: &mut Nftables| nftables.counted("tuntap-a").expect("they can be read");
        assert_eq!(counted(&mut nftables), [("something".to_owned(), 0)].into());
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|it| it.success()));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback is up");
        for _ in 0..3 {
            let _ = socket.send_to(b"x", "127.0.0.1:9");
        }
        assert_eq!(counted(&mut nftables), [("something".to_owned(), 3)].into());
        assert!(nftables.counted("b").expect("they can be read").is_empty());
    });
}

#[test]
fn flushed_rules_of_others_take_ours_not_along() {
    in_new_namespace(|| {
        let mut nftables = Nftables::open().expect("nftables");
        nftables.replace(&[table("tuntap-a", Vec::new())]).expect("a table");
        nft(&["flush", "ruleset"]);
        assert!(nft(&["list", "tables"]).contains("tuntap-a"));
    });
}

#[test]
fn table_of_somebody_else_stays() {
    in_new_namespace(|| {
        nft(&["add", "table", "inet", "tuntap-a"]);
        let before = nft(&["list", "ruleset"]);
        let mut nftables = Nftables::open().expect("nftables");
        let refused = nftables.replace(&[table("tuntap-a", Vec::new())]).expect_err("it is taken");
        assert!(refused.to_string().contains("inet tuntap-a is somebody else's"), "{refused}");
        assert_eq!(nft(&["list", "ruleset"]), before);

        let mut other = Nftables::open().expect("nftables");
        other.replace(&[table("tuntap-b", Vec::new())]).expect("a table");
        nftables.replace(&[table("tuntap-b", Vec::new())]).expect_err("another socket owns it");
    });
}

/// On a kernel that lacks a module, all rules fail. Their answers don't all fit the receive buffer; the first one is used.
#[test]
fn first_of_many_errors_is_told_with_what_may_be_missing() {
    in_new_namespace(|| {
        let mut nftables = Nftables::open().expect("nftables");
        let rules = vec![NftRule::new().jump("nowhere"); 4000];
        let refused = nftables.replace(&[table("tuntap-a", rules)]).expect_err("there is no such chain");
        assert_eq!(refused.errno(), Some(Errno::ENOENT), "{refused}");
        assert!(refused.to_string().contains("Linux 5.12") && refused.to_string().contains("nft_nat"), "{refused}");
        assert_eq!(nft(&["list", "ruleset"]), "");
        nftables.replace(&[table("tuntap-a", Vec::new())]).expect("the answers to the one before are not in the way");
    });
}

#[test]
fn other_descriptors_are_not_adopted() {
    let route = super::super::connection::Connection::<NetfilterMessage>::open(netlink_sys::protocols::NETLINK_ROUTE);
    let copy = route.expect("netlink").as_fd().try_clone_to_owned().expect("a copy");
    assert!(Nftables::adopt(copy).is_err());
    assert!(Nftables::adopt(tempfile::tempfile().expect("a file").into()).is_err());
}

/// Objects of all families are listed, those that this project doesn't make included.
#[test]
fn tables_of_others_are_listed() {
    use crate::netlink::attributes::{find, iterate, text};

    /// NFPROTO_INET and NFPROTO_BRIDGE of linux/netfilter.h.
    const INET: u8 = 1;
    const BRIDGE: u8 = 7;
    in_new_namespace(|| {
        nft(&["add", "table", "inet", "one"]);
        nft(&["add", "table", "bridge", "two"]);
        nft(&["add", "chain", "inet", "one", "c"]);
        nft(&["add", "chain", "bridge", "two", "c"]);
        nft(&["add", "set", "inet", "one", "ports", "{ type inet_service; }"]);
        nft(&["add", "element", "inet", "one", "ports", "{ 22, 53, 80 }"]);
        for _ in 0..20 {
            // Together they are longer than a datagram.
            nft(&["add", "rule", "inet", "one", "c", &vec!["tcp dport 1 counter"; 20].join(" ")]);
        }
        let mut lists = lists::Lists::open().expect("nftables");
        let names = |objects: &[lists::Object]| objects.iter().map(|it| text(&it.attributes, 1)).collect::<Vec<_>>();
        assert_eq!(names(&lists.tables(INET).expect("a list")), ["one"]);
        let mut all = names(&lists.tables(0).expect("a list"));
        all.sort_unstable();
        assert_eq!(all, ["one", "two"]);
        let families: Vec<_> = lists.chains().expect("a list").iter().map(|chain| chain.family).collect();
        assert!(families.len() == 2 && families.contains(&INET) && families.contains(&BRIDGE), "{families:?}");
        assert_eq!(lists.rules().expect("a list").len(), 20);
        let elements = lists.elements(INET, "one", "ports").expect("a list");
        let count = |list: &lists::Object| find(&list.attributes, 3).map_or(0, |elements| iterate(elements).count());
        assert_eq!(elements.iter().map(count).sum::<usize>(), 3);
        let missing = lists.elements(INET, "one", "nothing").expect_err("there is no such set");
        assert_eq!(missing.errno(), Some(Errno::ENOENT), "{missing}");
    });
}
