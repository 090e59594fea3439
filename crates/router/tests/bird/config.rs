//! What is written for BIRD.

use std::net::SocketAddr;
use std::process::Command;

use tuntap_core::routes::bird_config::{BirdConfig, Feed, Neighbour, bird_config};

use super::daemon::config;

/// BIRD reads what is written for it: with one family and with both, with everything and with little.
#[test]
fn configuration_is_read() {
    let parse = |config: &BirdConfig| {
        let text = bird_config(config).expect("valid");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bird.conf");
        std::fs::write(&path, &text).expect("a file");
        let parsed = Command::new("bird").arg("-p").arg("-c").arg(&path).output().expect("bird can be started");
        assert!(parsed.status.success(), "{}\n{text}", String::from_utf8_lossy(&parsed.stderr));
    };
    let least = config(SocketAddr::from(([127, 0, 0, 1], 979)));
    parse(&least);
    parse(&BirdConfig { networks: least.networks[1..].to_vec(), ..least.clone() });
    let neighbour = |address: &str, asn| Neighbour { address: address.parse().expect("an address"), asn };
    let password = Some(r"#$%&'()*+,-./:;<=>?@[\]^_`{|}~ password // /* of 80 bytes ".to_owned() + &"x".repeat(21));
    parse(&BirdConfig {
        feed: Feed {
            address: "[::1]:979".parse().expect("an address"),
            from: "fd00:99::1".parse().expect("an address"),
            password,
            device: "tap.0-x@y".to_owned(),
            ..least.feed
        },
        networks: ["10.77.3.4/16", "10.78.0.0/24", "fd00:77::1/64", "0.0.0.0/0"]
            .map(|net| net.parse().expect("one"))
            .to_vec(),
        neighbours: vec![neighbour("10.99.0.2", 64512), neighbour("fd00:99::3", 4_200_000_001)],
        bfd: true,
        ..least
    });
}
