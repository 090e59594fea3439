//! What these tests have in common.

use std::net::{IpAddr, Ipv4Addr};

use crate::account::Account;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::log::Mark;
use crate::common::packet;
use crate::common::raw_peer::RawPeer;
use crate::common::stats::Stats;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

pub const ROOT: Account = Account::user(0);
pub const ALICE: Account = Account::user(30_001);
pub const BOB: Account = Account::user(30_002);
/// A member of [`STAFF`].
pub const CAROL: Account = Account { uid: 30_003, gid: 30_003, groups: &[5, STAFF, 30_009] };
pub const STAFF: u32 = 30_100;

/// A router that everybody may connect to.
pub fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours).line("chmod-socket = 666")
}

pub fn with_credentials(ini: EmperorIni) -> EmperorIni {
    ini.line("tuntap-use-credentials = true")
}

pub fn lease(address: impl Into<IpAddr>, holder: impl std::fmt::Display) -> String {
    format!("tuntap-router-lease = {} {holder}", address.into())
}

/// A vassal that drops to this account.
pub fn vassal(plugin: Subject, name: &str, address: Ipv4Addr, account: Account) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), plugin, name, address, EMPEROR).uid(account.uid).without_ping()
}

/// Sends a packet and checks that it is dropped because its source is not leased to the peer, and that the peer lives.
#[track_caller]
pub fn assert_not_leased(emperor: &Emperor, peer: &mut RawPeer, address: Ipv4Addr) {
    let before = not_leased(&emperor.stats());
    peer.send_packet(&packet::echo_request(address, EMPEROR, 1, 84));
    emperor.wait_for_stats("the packet is dropped", |stats| not_leased(stats) == before + 1);
}

pub fn not_leased(stats: &Stats) -> u64 {
    stats.drops("not_leased")
}

#[track_caller]
pub fn assert_echo(peer: &mut RawPeer, address: Ipv4Addr) {
    assert!(peer.echo(address, EMPEROR, wait::SHORT), "{address} is the peer's");
}

/// The lines about addresses that are not leased.
pub fn refusals(emperor: &Emperor, since: Mark) -> Vec<String> {
    emperor.log.since(since).lines().filter(|line| line.contains("is not leased to")).map(str::to_owned).collect()
}
