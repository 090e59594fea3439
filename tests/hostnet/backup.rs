//! Operators and nftables.service save, load and flush the whole ruleset.

use std::net::SocketAddr;
use std::process::Command;

use crate::common::netns::Net;
use crate::rules::add_hosts_own;
use crate::world::{HOST_IPV4, OUTSIDE_IPV4, client_as_seen, ip, ruleset, start_in, vassal};

fn shell(host: &Net, command: &str) -> bool {
    host.run(|| Command::new("sh").args(["-c", command]).status()).expect("sh").success()
}

/// Tables are listed in the order in which they were made, with numbers that depend on it.
fn sorted(ruleset: &str) -> Vec<&str> {
    let mut lines: Vec<_> = ruleset.lines().map(|line| line.split(" # handle").next().unwrap_or(line)).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// The line that docs/OPERATIONS.md names.
fn documented() -> String {
    let text = include_str!("../../docs/OPERATIONS.md");
    let line = text.lines().find(|line| line.contains("nft list ruleset | awk")).expect("it is documented");
    line.trim().to_owned()
}

#[test]
fn ruleset_is_saved_and_loaded_beside_ours() {
    let host = crate::common::netns::Netns::new();
    add_hosts_own(&host);
    let world = start_in(host, &[]);
    let net = world.start_vassal(&vassal("v1"));
    let file = world.path("rules.nft");
    let before = ruleset(&world.netns);
    // The list can't be loaded as it is, because nobody may change a table that has an owner.
    let all = format!("nft list ruleset > {0}; nft -f {0} 2> {0}.err", file.display());
    assert!(!shell(&world.netns, &all));
    assert_eq!(ruleset(&world.netns), before, "and then nothing changes");
    // What is documented leaves that table out, and the file begins as /etc/nftables.conf does.
    let save = documented().replace("/etc/nftables.conf", &file.display().to_string());
    assert!(shell(&world.netns, &save), "{save}");
    for _ in 0..2 {
        // nftables.service: start, reload and, for its stop, nft flush ruleset.
        assert!(shell(&world.netns, &format!("nft -f {}", file.display())));
        assert_eq!(sorted(&ruleset(&world.netns)), sorted(&before));
        let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7400));
        assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
        assert!(shell(&world.netns, "nft flush ruleset"));
        assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
    }
}
