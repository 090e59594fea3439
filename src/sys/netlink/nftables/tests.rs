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

fn table(name: &str, rules: Vec<Rule>) -> Table {
    let chain = |name, hook, rules| Chain { name, hook: Some(hook), rules };
    let chains = vec![
        Chain { name: "ports", hook: None, rules: Vec::new() },
        chain("forward", Hook::ForwardMangle, rules),
        chain("output", Hook::OutputNat, Vec::new()),
        chain("postrouting", Hook::SourceNat, vec![Rule::new().leaves_by("eth0").masquerade()]),
        chain("prerouting", Hook::DestinationNat, vec![Rule::new().jump("ports")]),
    ];
    Table { name: name.to_owned(), chains }
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a network")
}

/// nft(8) reads from the kernel what was meant.
#[test]
fn rules_mean_what_they_say() {
    let rules = vec![
        (Rule::new().came_by("tt0").from(net("10.0.0.1/24")), r#"iifname "tt0" ip saddr 10.0.0.0/24"#),
        (Rule::new().to(net("10.0.0.0/13")).leave(), "ip daddr 10.0.0.0/13 return"),
        (Rule::new().to(net("10.0.0.1/32")).leave(), "ip daddr 10.0.0.1 return"),
        (Rule::new().from(net("fd00:77::1/63")).leave(), "ip6 saddr fd00:77::/63 return"),
        (Rule::new().to(net("::1/128")).leave(), "ip6 daddr ::1 return"),
        (Rule::new().to_others().leave(), "fib daddr type != local return"),
        (Rule::new().to_port(Transport::Tcp, 8080).leave(), "tcp dport 8080 return"),
        (Rule::new().to_port(Transport::Udp, 53).leave(), "udp dport 53 return"),
        (Rule::new().of_no_connection().discard(), "ct state invalid,new drop"),
        (Rule::new().was_diverted().leave(), "ct status dnat return"),
        (Rule::new().was_not_diverted().leave(), "dnat return"),
        (
            Rule::new().opens_tcp().clamp_segment_size(),
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
            "comment \"uwsgi-tuntap\"",
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
fn diversions_go_to_address_and_port() {
    in_new_namespace(|| {
        let mut nftables = Nftables::open().expect("nftables");
        let mut table = table("tuntap-a", Vec::new());
        table.chains[0].rules = ["10.0.0.2:80", "[fd00:77::2]:443"]
            .map(|target| {
                let target: std::net::SocketAddr = target.parse().expect("an address");
                Rule::new().of_family(target.ip()).to_port(Transport::Tcp, 8080).divert(target)
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

        // The descriptor is all that counts.
        let copy = nftables.as_fd().try_clone_to_owned().expect("a copy");
        drop(nftables);
        let mut adopted = Nftables::adopt(copy).expect("a connection to nftables");
        adopted.replace(&[table("tuntap-b", Vec::new()), table("tuntap-c", Vec::new())]).expect("two tables");
        assert_eq!(nft(&["list", "tables"]), "table inet other\ntable inet tuntap-b\ntable inet tuntap-c\n");
        drop(adopted);
        assert_eq!(nft(&["list", "ruleset"]), before);
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

/// As on a kernel that lacks a part. All rules fail, which is more than the answers have room for: the first one counts.
#[test]
fn first_of_many_errors_is_told_with_what_may_be_missing() {
    in_new_namespace(|| {
        let mut nftables = Nftables::open().expect("nftables");
        let rules = vec![Rule::new().jump("nowhere"); 4000];
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
