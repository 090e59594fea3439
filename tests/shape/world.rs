//! What these tests have in common: an Emperor with limits, and vassals of several users.

use std::net::Ipv4Addr;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::flood::{End, OFFERED};

/// The address after [`V2`](crate::common::emperor::V2).
pub const V3: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 4);

/// An Emperor with these limits, whose vassals show their users.
pub fn emperor(shapes: &[&str]) -> EmperorIni {
    plain_emperor(shapes).line("tuntap-use-credentials = true")
}

/// An Emperor with these limits.
pub fn plain_emperor(shapes: &[&str]) -> EmperorIni {
    let limit = |ini: EmperorIni, shape: &&str| ini.line(format!("tuntap-router-shape = {shape}"));
    shapes.iter().fold(EmperorIni::new(Uwsgi::usual(), Subject::Ours), limit)
}

/// Starts a vassal, whose device the router reads itself.
pub fn start(emperor: &Emperor, name: &str, address: Ipv4Addr, uid: u32) -> Net {
    let vassal = VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, EMPEROR)
        .uid(uid)
        .line("tuntap-use-credentials = true");
    emperor.start_attached(&vassal)
}

/// The end at the router's host.
pub fn host(emperor: &Emperor) -> End<'_> {
    (&emperor.netns, EMPEROR.into())
}

/// Fails unless a limited rate is what it should be. On a slow machine, less may arrive: then less does without a limit, too.
#[track_caller]
pub fn assert_rate(what: &str, seen: f64, wanted: f64, free: f64) {
    assert!(seen <= wanted * 1.1, "{what}: {seen:.0} bit/s of {wanted:.0}");
    let least = wanted.min(free) / 2.0;
    assert!(seen >= least, "{what}: {seen:.0} bit/s of {wanted:.0}, without a limit {free:.0} of {OFFERED:.0}");
}
