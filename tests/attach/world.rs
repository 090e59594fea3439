//! What these tests have in common: an Emperor, its vassals, and what the router says of them.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::probe::pings_answered;
use crate::common::processes::cpu_time;
use crate::common::stats::Stats;
pub use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;

/// An idle router uses next to no CPU time; one that spins uses a whole second each second.
const IDLE: Duration = Duration::from_millis(200);

pub fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
}

pub fn vassal(name: &str, address: Ipv4Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, EMPEROR)
}

pub fn c_vassal(name: &str, address: Ipv4Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::C, name, address, EMPEROR)
}

/// Starts a vassal of ours and waits until the router has its device.
#[track_caller]
pub fn start_attached(emperor: &Emperor, name: &str, address: Ipv4Addr) -> Net {
    emperor.start_attached(&vassal(name, address))
}

/// The reason why a peer is not attached, or `None` if it is.
#[track_caller]
pub fn stream_reason(stats: &Stats, address: Ipv4Addr) -> Value {
    let peer = stats.peer(address).unwrap_or_else(|| panic!("no peer {address} in {}", stats.0));
    assert_eq!(peer["attached"] == true, peer["stream_reason"].is_null(), "{peer}");
    peer["stream_reason"].clone()
}

#[track_caller]
pub fn total(stats: &Stats, key: &str) -> u64 {
    stats.0["totals"][key].as_u64().unwrap_or_else(|| panic!("no total `{key}` in {}", stats.0))
}

/// Fails if the router spins, or if an honest vassal's pings stop.
#[track_caller]
pub fn assert_calm(emperor: &Emperor, honest: &Net) {
    let router = emperor.router_pid();
    let before = cpu_time(router);
    sleep(Duration::from_secs(1));
    let used = cpu_time(router).saturating_sub(before);
    assert!(used < IDLE, "the router used {used:?} of CPU time in an idle second");
    assert_eq!(pings_answered(honest, EMPEROR, 5, &[]), 5, "the honest vassal's pings");
}
