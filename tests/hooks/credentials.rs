//! `tuntap-use-credentials` in set-ups that differ in which process connects, and when. The statistics must show the
//! uid that the instance drops to and the process that owns the tunnel.

use crate::common::emperor::{Emperor, V1};
use crate::common::vassal::{NOBODY, VassalIni};
use crate::site::{NAME, assert_works, emperor_ini, reload, vassal, with_app};
use crate::tunnel::owner;

const OPTION: &str = "tuntap-use-credentials = true";

#[track_caller]
fn assert_shown(set_up: impl Fn(VassalIni) -> VassalIni, uid: u32) {
    let emperor = with_app(emperor_ini().line(OPTION).start());
    // The vassal pings the Emperor before it drops its privileges.
    let net = emperor.start_vassal(&set_up(vassal(&emperor)).line(OPTION));
    assert_works(&emperor, &net);
    assert_identity(&emperor, uid);
    reload(&emperor);
    assert_works(&emperor, &net);
    assert_identity(&emperor, uid);
}

#[track_caller]
fn assert_identity(emperor: &Emperor, uid: u32) {
    let stats = emperor.stats();
    assert_eq!((stats.of_peer(V1, "uid"), stats.of_peer(V1, "gid")), (u64::from(uid), u64::from(uid)));
    let owner = owner(emperor, emperor.family(), emperor.vassal_pid(NAME).expect("the vassal runs"));
    assert_eq!(stats.of_peer(V1, "pid"), u64::from(owner.unsigned_abs()));
}

#[test]
fn dropped_vassal_that_pings_as_root() {
    assert_shown(|vassal| vassal, NOBODY);
}

#[test]
fn dropped_vassal_by_name() {
    assert_shown(|vassal| vassal.stays_root().line("uid = nobody").line("gid = nogroup"), NOBODY);
}

#[test]
fn root_vassal() {
    assert_shown(VassalIni::stays_root, 0);
}

#[test]
fn master_as_root() {
    assert_shown(|vassal| vassal.line("master-as-root = true").line("workers = 2"), NOBODY);
}

#[test]
fn refork_as_root() {
    assert_shown(|vassal| vassal.line("refork-as-root = true"), NOBODY);
}

#[test]
fn drop_after_apps() {
    assert_shown(|vassal| vassal.line("drop-after-apps = true"), NOBODY);
}
