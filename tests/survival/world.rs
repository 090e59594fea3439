//! What these tests have in common.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::fake_router::FakeRouter;
use crate::common::netns::Net;
pub use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;

/// `modifier2` of a device's first frame, with which it hands over its descriptor.
pub const HELLO: u8 = 0x74;

pub fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
}

pub fn vassal(name: &str, address: Ipv4Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, EMPEROR)
}

/// A vassal whose router is the test itself.
pub fn vassal_of_fake(address: Ipv4Addr) -> VassalIni {
    vassal("v1", address).devices(&["uwsgi0 {dir}/fake.sock"]).without_ping()
}

/// A router's socket that everybody may connect to, as with `chmod-socket = 666`.
pub fn open_to_all(socket: &Path) -> FakeRouter {
    let _ = std::fs::remove_file(socket);
    let router = FakeRouter::bind(socket);
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).expect("own file");
    router
}

#[track_caller]
pub fn start_attached(emperor: &Emperor, name: &str, address: Ipv4Addr) -> Net {
    emperor.start_attached(&vassal(name, address))
}
