//! What these tests have in common.

use std::net::Ipv4Addr;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// Users with an access of their own, and one without.
pub const VIEWER: u32 = 30_001;
pub const OPERATOR: u32 = 30_002;
pub const STRANGER: u32 = 30_003;

/// A router that only root may ask.
pub fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
}

/// One that others may ask, too.
pub fn with_access() -> EmperorIni {
    emperor()
        .line(format!("tuntap-router-control-access = view {VIEWER}"))
        .line(format!("tuntap-router-control-access = emperor0 operate {OPERATOR}"))
}

#[track_caller]
pub fn start_vassal(emperor: &Emperor, name: &str, address: Ipv4Addr) -> Net {
    emperor.start_attached(&VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, EMPEROR))
}

/// Waits until no change waits for its confirmation any more.
#[track_caller]
pub fn wait_until_settled(emperor: &Emperor) {
    wait::until_true("the change is undone", wait::LONG, || emperor.stats().0["policy"]["pending"] == false);
}

/// Reloads the Emperor's instance, and waits for its router.
#[track_caller]
pub fn reload(emperor: &Emperor) {
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
    wait::until_true("the router answers", wait::LONG, || emperor.try_stats().is_ok());
}
