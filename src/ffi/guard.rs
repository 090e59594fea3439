//! The panic boundary: no panic leaves a callback, because C can't take one.

use std::panic::{UnwindSafe, catch_unwind};

use super::host;

/// Runs a callback of the host. If it panics, the host's log says which one it was, and the process ends: half of a
/// configuration, or a router in an unknown state, is worse than a restart.
pub fn guarded(callback: &str, body: impl FnOnce() + UnwindSafe) {
    if catch_unwind(body).is_err() {
        die(format_args!("panic in the {callback} callback"));
    }
}

/// Ends the process with a line in the host's log.
pub fn die(reason: impl std::fmt::Display) -> ! {
    for line in reason.to_string().lines() {
        host::log(&format!("[uwsgi-tuntap] {line}"));
    }
    std::process::exit(1)
}
