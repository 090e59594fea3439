//! The host's own rules beside ours.

use crate::common::netns::Netns;
use crate::common::processes::descriptors;
use crate::common::wait;
use crate::world::{SET_UP, Site, TABLE, ini, ruleset, start, start_in, vassal};

/// Tables, chains and sets of several families, with counters, names that resemble ours, and a rule of iptables' kind.
pub const HOSTS_OWN: &str = r#"
table inet filter {
    set allowed { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 203.0.113.0/24 } }
    map zones { type ifname : verdict; elements = { "up4" : accept } }
    chain input { type filter hook input priority filter; policy accept; ip saddr @allowed counter accept; }
    chain forward { type filter hook forward priority filter; policy accept; iifname vmap @zones; }
}
table ip nat {
    chain postrouting { type nat hook postrouting priority srcnat; policy accept; oifname "other0" masquerade; }
}
table inet tuntap-emperor {
    chain ours { }
}
table ip6 tuntap-emperor0 {
    chain ours { }
}
"#;

pub fn add_hosts_own(host: &Netns) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), HOSTS_OWN).expect("own file");
    host.sh(&format!("nft -f {}", file.path().display()));
}

/// The host's rules without our table.
#[track_caller]
pub fn without_ours(ruleset: &str) -> String {
    let begin = ruleset.find(&format!("table inet {TABLE} {{")).expect("our table is there");
    let end = begin + ruleset[begin..].find("\n}\n").expect("a table has an end") + 3;
    format!("{}{}", &ruleset[..begin], &ruleset[end..])
}

#[test]
fn hosts_own_rules_stay_as_they_are() {
    let host = Netns::new();
    add_hosts_own(&host);
    let before = ruleset(&host);
    let mut world = start_in(host, &["tuntap-router-port = tcp 8080 192.168.0.2:80"]);
    world.start_vassal(&vassal("v1"));
    assert_eq!(without_ours(&ruleset(&world.netns)), before);
    world.signal(nix::sys::signal::Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!(ruleset(&world.netns), before);
}

#[test]
fn flushed_rules_of_others_take_ours_not_along() {
    let world = start(&[]);
    let before = ruleset(&world.netns);
    world.netns.sh("nft flush ruleset");
    assert_eq!(ruleset(&world.netns), before);
}

#[test]
fn table_of_somebody_else_stops_the_start() {
    let host = Netns::new();
    let _site = Site::around(&host);
    host.sh(&format!("nft add table inet {TABLE}"));
    let before = ruleset(&host);
    let forwarding = crate::world::forwarding(&host);
    let mut emperor = ini().lines(&SET_UP).launch_in(host);
    assert!(!emperor.wait_for_exit().success());
    emperor.log.wait_for(&format!("table inet {TABLE} is somebody else's"), wait::SHORT);
    assert_eq!(ruleset(&emperor.netns), before);
    assert_eq!(crate::world::forwarding(&emperor.netns), forwarding);
}

/// A second process with the socket would keep the table alive.
#[test]
fn only_the_master_has_the_tables_socket() {
    let world = start(&[]);
    world.start_vassal(&vassal("v1"));
    let holders = |inode: &str| -> Vec<i32> {
        let members = world.family().members();
        members.iter().map(|it| it.pid).filter(|pid| descriptors(*pid).iter().any(|it| it == inode)).collect()
    };
    // The kernel's list of netlink sockets: protocol 12 is netfilter; the last column is the inode.
    let sockets = world.netns.sh("cat /proc/net/netlink");
    let inodes: Vec<_> = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1) == Some(&"12"))
        .map(|words| format!("socket:[{}]", words[words.len() - 1]))
        .filter(|inode| !holders(inode).is_empty())
        .collect();
    assert_eq!(inodes.len(), 1, "{sockets}");
    assert_eq!(holders(&inodes[0]), [world.master_pid()]);
}
