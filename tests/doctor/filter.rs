//! Packet filters, as their programs make them.

use std::panic::resume_unwind;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use crate::world::{ROUTER, Verdict, World, hide};

const ADDRESS6: &str = "tuntap-router-address = fd00:1::1/64\n";
const NAT: &str = "tuntap-router-address = 192.168.0.1/24\ntuntap-router-nat = eth0\n";
const PORT: &str = "tuntap-router-port = tcp 8080 192.168.0.2:80\n";

/// Runs the remedies of the one thing that is wrong, as an operator would copy them.
fn heal(world: &World, verdict: &Verdict, program: &str) {
    let remedies = verdict.text.lines().filter_map(|line| line.trim_start().strip_prefix("-> "));
    let commands: Vec<&str> = remedies.filter(|line| line.split_whitespace().next() == Some(program)).collect();
    assert!(!commands.is_empty(), "{}", verdict.text);
    for command in commands {
        world.netns.sh(command);
    }
}

/// Loads a file of nft.
fn nft(world: &World, rules: &str) {
    std::fs::write(world.path("rules.nft"), rules).expect("own folder");
    world.netns.sh(&world.in_dir("nft -f {dir}/rules.nft"));
    std::fs::remove_file(world.path("rules.nft")).expect("own file");
}

#[test]
fn chain_of_iptables_that_drops_is_told_and_its_remedies_mend_it() {
    for (program, remedy, table, lines) in [
        ("iptables-nft", "iptables", "ip filter", ROUTER.to_owned()),
        ("iptables-legacy", "iptables-legacy", "iptables-legacy filter", ROUTER.to_owned()),
        ("iptables-nft", "iptables", "ip filter", format!("{ROUTER}{NAT}{PORT}")),
        ("iptables-legacy", "iptables-legacy", "iptables-legacy filter", format!("{ROUTER}{NAT}{PORT}")),
        ("ip6tables-legacy", "ip6tables-legacy", "ip6tables-legacy filter", format!("{ROUTER}{ADDRESS6}")),
        ("ip6tables-nft", "ip6tables", "ip6 filter", format!("{ROUTER}{ADDRESS6}")),
    ] {
        for closing in ["-P FORWARD DROP", "-A FORWARD -j REJECT", "-A FORWARD -j DROP"] {
            let world = World::usual().with_ipv6();
            world.netns.sh(&format!("{program} -P FORWARD ACCEPT"));
            world.examine_lines(&lines).is_well();
            world.netns.sh(&format!("{program} -A FORWARD -i emperor01 -j ACCEPT"));
            world.netns.sh(&format!("{program} -A FORWARD -i emperor0 -j LOG"));
            world.netns.sh(&format!("{program} {closing}"));
            let verdict = world.examine_lines(&lines);
            verdict.is_wrong(&format!("{table}, chain FORWARD: drops what comes from emperor0"), remedy);
            heal(&world, &verdict, remedy);
            world.examine_lines(&lines).is_well();
        }
    }
}

#[test]
fn each_way_counts() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let world = World::usual();
        for line in ["-P FORWARD DROP", "-A FORWARD -i emperor0 -j ACCEPT"] {
            world.netns.sh(&format!("{program} {line}"));
        }
        world.examine_lines(ROUTER).is_wrong("chain FORWARD: drops answers to emperor0", "ESTABLISHED");
        world.netns.sh(&format!("{program} -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
        world.examine_lines(ROUTER).is_well();
        let mapped = format!("{ROUTER}{NAT}{PORT}");
        world.examine_lines(&mapped).is_wrong("drops what tuntap-router-port leads to emperor0", "--ctstate DNAT");
        world.netns.sh(&format!("{program} -I FORWARD -i emperor0 -j DROP"));
        world.examine_lines(ROUTER).is_wrong("chain FORWARD: drops what comes from emperor0", "");
    }
}

#[test]
fn rules_for_the_device_are_understood_in_all_their_forms() {
    const BACK: &str = "ct state established,related accept";
    for rules in [
        format!("iifname emperor0 accept\n{BACK}"),
        format!("iifname {{ \"emperor0\", \"eth1\" }} accept\n{BACK}"),
        format!("iifname \"emperor*\" accept\n{BACK}"),
        format!("iifname vmap {{ \"lo\" : drop, \"emperor0\" : accept }}\n{BACK}"),
        format!("iifname vmap {{ \"lo\" : drop, \"emperor0\" : jump other }}\n{BACK}"),
        "iifname emperor0 accept\nct state vmap { invalid : drop, established : accept, related : accept }".to_owned(),
        "iifname emperor0 oifname eth0 accept\niifname eth0 oifname emperor0 accept".to_owned(),
        format!("iifname != eth0 counter accept\n{BACK}"),
        format!("iifname @inner accept\n{BACK}"),
        format!("meta nfproto ipv4 jump other\n{BACK}"),
        "accept".to_owned(),
    ] {
        for (policy, end) in
            [("drop", ""), ("accept", "reject with icmpx admin-prohibited"), ("accept", "counter drop")]
        {
            let world = World::usual();
            nft(
                &world,
                &format!(
                    "table inet firewall {{\nset inner {{ type ifname; elements = {{ \"emperor0\" }} }}\n\
                     chain other {{ iifname emperor0 accept\n}}\n\
                     chain forward {{ type filter hook forward priority 0; policy {policy};\n{rules}\n{end}\n}}\n}}\n"
                ),
            );
            world.examine_lines(ROUTER).is_well();
            world.netns.sh("nft insert rule inet firewall forward iifname emperor0 drop");
            world.examine_lines(ROUTER).is_wrong("inet firewall, chain forward: drops what comes from emperor0", "");
        }
    }
}

#[test]
fn rule_by_index_is_understood() {
    for rule in
        ["nft add rule inet firewall forward iif emperor0 accept", "iptables-nft -A FORWARD -i emperor+ -j ACCEPT"]
    {
        let world = World::usual();
        world.netns.sh("ip tuntap add emperor0 mode tun");
        let own = rule.starts_with("nft");
        if own {
            nft(
                &world,
                "table inet firewall { chain forward { type filter hook forward priority 0; policy drop;\n}\n}\n",
            );
        } else {
            world.netns.sh("iptables-nft -P FORWARD DROP");
        }
        world.netns.sh(rule);
        world.examine_lines(ROUTER).is_wrong("drops answers to emperor0", "");
    }
}

#[test]
fn rule_that_is_not_understood_is_a_warning() {
    for condition in ["ip saddr 10.0.0.0/24", "iifname emperor0 meta mark 1"] {
        let world = World::usual();
        nft(
            &world,
            &format!(
                "table ip firewall {{ chain forward {{ type filter hook forward priority 0; policy drop;\n\
                 ct state established accept\n{condition} accept\n}}\n}}\n"
            ),
        );
        world
            .examine_lines(ROUTER)
            .warns("can't tell whether it lets pass what comes from emperor0: see handle ", "nft insert rule");
    }
    for program in ["iptables-nft", "iptables-legacy"] {
        let world = World::usual();
        for line in [
            "-P FORWARD DROP",
            "-A FORWARD -m state --state ESTABLISHED -j ACCEPT",
            "-A FORWARD -s 10.0.0.0/24 -j ACCEPT",
        ] {
            world.netns.sh(&format!("{program} {line}"));
        }
        world.examine_lines(ROUTER).warns(
            "can't tell whether it lets pass what comes from emperor0",
            program.strip_suffix("-nft").unwrap_or(program),
        );
    }
}

#[test]
fn rules_for_others_let_nothing_pass() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let world = World::usual();
        // These are Docker's rules.
        for line in [
            "-N USER",
            "-P FORWARD DROP",
            "-A FORWARD -j USER",
            "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
            "-A USER -j RETURN",
        ] {
            world.netns.sh(&format!("{program} {line}"));
        }
        let verdict = world.examine_lines(ROUTER);
        verdict.is_wrong("drops what comes from emperor0 and answers to emperor0", "-i emperor0");
        for line in ["-A USER -i emperor0 -j ACCEPT", "-I USER -m state --state ESTABLISHED -j ACCEPT"] {
            world.netns.sh(&format!("{program} {}", line.replace("-A USER", "-I USER")));
        }
        world.examine_lines(ROUTER).is_well();
    }
}

/// What firewalld makes of a public zone, shortened.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        ip6 daddr { ::/96, 2002::/24 } reject with icmpv6 addr-unreachable
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_ZONES {
        iifname \"eth0\" goto filter_FWD_public
        TRUSTED
        goto filter_FWD_public
    }
    chain filter_FWD_public {
        jump filter_FWD_public_allow
        reject with icmpx admin-prohibited
    }
    chain filter_FWD_public_allow {
        oifname \"eth0\" ct state new,untracked iifname \"eth0\" accept
    }
    chain filter_FWD_trusted {
        accept
    }
}";

#[test]
fn firewalld_is_understood() {
    let world = World::usual();
    nft(&world, &FIREWALLD.replace("TRUSTED", ""));
    let mapped = format!("{ROUTER}{NAT}{PORT}");
    world.examine_lines(&mapped).is_wrong(
        "inet firewalld, chain filter_FORWARD: drops what comes from emperor0",
        "firewall-cmd --permanent --zone=trusted --add-interface=emperor0",
    );
    let world = World::usual();
    nft(&world, &FIREWALLD.replace("TRUSTED", "iifname \"emperor0\" goto filter_FWD_trusted"));
    world.examine_lines(&mapped).is_well();
}

/// Runs `examine` in a thread of its own, since a seccomp filter can't be taken off again.
fn without_nftables(examine: impl FnOnce() + Send + 'static) {
    let examined = std::thread::spawn(|| {
        let is = |argument, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).expect("an argument")
        };
        let family = is(0, u64::try_from(libc::AF_NETLINK).expect("positive"));
        let protocol = is(2, u64::try_from(libc::NETLINK_NETFILTER).expect("positive"));
        let sockets = SeccompRule::new(vec![family, protocol]).expect("two conditions");
        hide(libc::SYS_socket, vec![sockets], Errno::EPROTONOSUPPORT);
        examine();
    });
    examined.join().unwrap_or_else(|panic| resume_unwind(panic));
}

#[test]
fn packet_filter_that_is_needed_and_missing_is_told() {
    without_nftables(|| {
        let world = World::usual();
        world.examine_lines(ROUTER).warns("packet filters: can't be read: nf_tables", "nf_tables");
        world.examine_lines(&format!("{ROUTER}{NAT}")).is_wrong("packet filters: can't be read", "modprobe nf_tables");
    });
}

#[test]
fn older_filter_is_seen_where_there_is_no_other() {
    without_nftables(|| {
        let world = World::usual();
        let enter = ["netns", "exec", world.netns.name()];
        let closed = Command::new("ip").args(enter).args(["iptables-legacy", "-P", "FORWARD", "DROP"]).status();
        assert!(closed.expect("ip can be started").success());
        let verdict = world.examine_lines(ROUTER);
        verdict.is_wrong("iptables-legacy filter, chain FORWARD: drops", "iptables-legacy -I FORWARD");
        verdict.has("warning", "packet filters: can't be read: nf_tables", "");
    });
}
