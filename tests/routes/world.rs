//! What these tests have in common.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use ipnet::IpNet;
use tempfile::TempDir;
use tuntap_core::routes::bird_config::{BirdConfig, Feed, Neighbour, bird_config};
use tuntap_core::routes::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME};

use crate::common::bird::Bird;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::Netns;
use crate::common::stats::Stats;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::{starter, wait};

/// Where the router waits for BIRD.
pub const FEED: &str = "127.0.0.1:979";

/// The hosts' addresses towards each other.
pub const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];

/// The AS of all hosts.
const HOSTS_ASN: u32 = 64512;

pub const PASSWORD: &str = "a long pass word";

/// A router's key and the password of its session.
#[derive(Debug)]
pub struct Secrets(TempDir);

impl Secrets {
    pub fn new() -> Self {
        let this = Self(starter::folder());
        this.write("password", PASSWORD);
        this
    }

    /// A file that only root may open.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, format!("{text}\nanother line\n")).expect("own folder");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("own file");
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn key_line(&self) -> String {
        format!("tuntap-router-key = {}", self.path("key").display())
    }

    /// The line of a router whose session is signed.
    pub fn routes_line(&self) -> String {
        format!("tuntap-router-routes = {FEED} {}", self.path("password").display())
    }
}

/// An Emperor whose router has the network 192.168.0.0/24 and a key.
pub fn emperor(secrets: &Secrets) -> EmperorIni {
    let ini = EmperorIni::new(Uwsgi::usual(), Subject::Ours);
    ini.line("tuntap-router-address = 192.168.0.1/24").line(secrets.key_line())
}

pub fn vassal(emperor: &Emperor, name: &str, address: Ipv4Addr) -> VassalIni {
    VassalIni::new(emperor.uwsgi, Subject::Ours, name, address, EMPEROR)
}

/// BIRD's configuration for that router. `neighbour` is another host.
pub fn bird_text(password: Option<&str>, neighbour: Option<Ipv4Addr>) -> String {
    let address: SocketAddr = FEED.parse().expect("an address");
    let neighbours =
        neighbour.into_iter().map(|address| Neighbour { address: address.into(), asn: HOSTS_ASN }).collect();
    let config = BirdConfig {
        router_id: Some(HOSTS[0]),
        asn: HOSTS_ASN,
        feed: Feed {
            address,
            from: address.ip(),
            asn: DEFAULT_ASN,
            password: password.map(str::to_owned),
            device: "emperor0".to_owned(),
            hold_time: DEFAULT_HOLD_TIME,
        },
        networks: vec!["192.168.0.0/24".parse::<IpNet>().expect("a network")],
        neighbours,
        bfd: false,
        max_routes: BirdConfig::DEFAULT_MAX_ROUTES,
    };
    bird_config(&config).expect("valid")
}

/// BIRD beside an Emperor.
pub fn bird(netns: &Netns, text: &str) -> Bird {
    Bird::start(netns, text)
}

/// What the statistics say of the session.
pub fn state(stats: &Stats) -> &str {
    stats.0["routes"]["state"].as_str().unwrap_or("nothing")
}

#[track_caller]
pub fn until_established(emperor: &Emperor) {
    wait::until("a session with BIRD", wait::LONG, || {
        let stats = emperor.try_stats().ok()?;
        (state(&stats) == "established" && stats.0["routes"]["complete"] == true).then_some(())
    });
}

/// Returns true if the host's kernel sends packets for an address to the router's device.
pub fn has_route(netns: &Netns, address: Ipv4Addr) -> bool {
    netns.sh(&format!("ip route show {address}/32")).contains("dev emperor0")
}

#[track_caller]
pub fn until_route(netns: &Netns, address: Ipv4Addr, is_there: bool) {
    let what = format!("{address} has {} route", if is_there { "a" } else { "no" });
    wait::until_true(&what, wait::LONG, || has_route(netns, address) == is_there);
}
