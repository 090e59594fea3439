//! The plugin table and its callbacks. uWSGI may call each hook once, several times, or in several processes, so all that a hook
//! calls can be repeated.

use std::ffi::{c_char, c_int, c_void};

use super::bindings::uwsgi_plugin;
use super::guard::{die, guarded, tell_panics};
use super::options::OPTIONS;
use super::uwsgi::{UwsgiState, check_abi};
use super::{agents, devices, doctor, handover, hostnet, pairs, reload, routers, uwsgi};
use tuntap_sys::dumpable;

/// The table, shared with C. uWSGI writes `modifier1` into it.
#[repr(transparent)]
pub struct PluginTable(uwsgi_plugin);

// SAFETY: the pointers in it go to constants and functions, and only uWSGI's main thread uses it.
unsafe impl Sync for PluginTable {}

/// The symbol that uWSGI looks for. In builds that uWSGI drives, include/plugin.c copies the table to the name that uWSGI wants.
#[cfg_attr(not(feature = "embedded"), unsafe(export_name = "tuntap_plugin"))]
#[cfg_attr(feature = "embedded", unsafe(export_name = "uwsgi_tuntap_plugin_table"))]
pub static mut PLUGIN: PluginTable = PluginTable(uwsgi_plugin {
    name: c"tuntap".as_ptr(),
    options: OPTIONS.as_mut_ptr(),
    on_load: Some(on_load),
    init: Some(init),
    jail: Some(jail),
    early_post_jail: Some(enter_jail),
    post_jail: Some(enter_jail),
    before_privileges_drop: Some(complete_jail),
    postinit_apps: Some(postinit_apps),
    post_fork: Some(resume),
    master_cycle: Some(master_cycle),
    master_cleanup: Some(master_cleanup),
    ..EMPTY
});

// SAFETY: numbers, pointers and optional functions, for all of which zeros are valid.
const EMPTY: uwsgi_plugin = unsafe { std::mem::zeroed() };

unsafe extern "C" fn on_load() {
    tell_panics();
    guarded("on_load", || {
        handover::protect();
        check_abi().unwrap_or_else(|error| die(error));
        uwsgi::note_folder();
        doctor::prepare();
        handover::take();
    });
}

/// Called once in each image, before uWSGI opens anything. Under an Emperor the instance is in its namespaces by
/// now, but hasn't dropped its privileges yet.
unsafe extern "C" fn jail(_start: Option<unsafe extern "C" fn(*mut c_void) -> c_int>, _argv: *mut *mut c_char) {
    guarded("jail", || {
        let uwsgi = UwsgiState::read();
        devices::refuse_impossible(&uwsgi);
        hostnet::refuse_impossible(&uwsgi);
        reload::take_over(&uwsgi);
        devices::foretell(&uwsgi);
        routers::start(&uwsgi);
        if !devices::holds_any() && !routers::are_there() {
            // The process was closed because of a variable that it has inherited from another one.
            dumpable::open();
        }
        // The instance is in its final namespaces already. The later hooks may come after its in-jail hooks and its sockets, and
        // with master-as-root only in the workers, where each would need a device of its own.
        if uwsgi.is_born_into_its_net() {
            devices::ensure(&uwsgi);
        }
    });
}

/// Called when the instance has dropped its privileges, if it does that early.
unsafe extern "C" fn init() -> c_int {
    guarded("init", devices::protect);
    0
}

/// Called as root, in the jail: before and after the configured post-jail hooks, and possibly again later.
unsafe extern "C" fn enter_jail() {
    guarded("post_jail", || {
        #[cfg(feature = "faults")]
        tuntap_sys::faults::point("callback");
        devices::ensure(&UwsgiState::read());
    });
}

/// Called as root behind chroot, pivot_root and the as-root hooks, also where no privileges are to be dropped.
unsafe extern "C" fn complete_jail() {
    guarded("before_privileges_drop", devices::complete_jail);
}

unsafe extern "C" fn postinit_apps() {
    guarded("postinit_apps", || {
        devices::protect();
        devices::check(&UwsgiState::read());
    });
}

/// Called in each cycle of the master.
unsafe extern "C" fn master_cycle() {
    guarded("master_cycle", || {
        devices::protect();
        devices::resume(&UwsgiState::read());
        routers::watch();
        hostnet::watch();
    });
}

/// Called in each new worker, and in mules and spoolers of uWSGIs after 2.0.21. They run applications, which must not read the
/// routers' keys. Besides that, only a process that put itself into the background has something to do here.
unsafe extern "C" fn resume() {
    guarded("resume", || {
        agents::forget();
        pairs::forget();
        devices::resume(&UwsgiState::read());
    });
}

/// Called in the master before it executes the next image, or ends.
unsafe extern "C" fn master_cleanup() {
    guarded("master_cleanup", || {
        routers::close();
        handover::leave(&UwsgiState::read());
    });
}
