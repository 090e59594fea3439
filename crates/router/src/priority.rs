//! The router's share of processor time. All that vassals send and get passes through one thread, which floods by many
//! processes would leave next to nothing of: they are many, and it is one.

use std::io;

use super::Setup;
use tuntap_api::Priority;
use tuntap_sys::priority;

/// Takes what `tuntap-router-priority` says, before the privileges for that are given up. What the kernel doesn't give is a
/// line in the log. Returns what holds then.
pub fn take(setup: &Setup) -> Priority {
    let has_autogroups = priority::has_autogroups();
    if let Some(wanted) = setup.priority {
        set(setup, wanted, has_autogroups);
    }
    Priority { nice: priority::nice(), autogroup: has_autogroups.then(priority::group_nice).flatten() }
}

/// Takes as much as it gets.
fn set(setup: &Setup, wanted: i8, has_autogroups: bool) {
    let nice = priority::set_nice(wanted).map_err(io::Error::from);
    // The session is the Emperor's, and its vassals' that don't make one. In one of its own the router shares with nobody.
    let group = if has_autogroups { set_group(wanted) } else { Ok(()) };
    if let Err(error) = nice.and(group) {
        setup.logger.line(format_args!(
            "[tuntap-router] {}: works without the priority {wanted} (tuntap-router-priority): {error} (it takes CAP_SYS_NICE \
             and /proc); vassals that flood the router may leave it little processor time",
            setup.tun.name()
        ));
    }
}

fn set_group(wanted: i8) -> io::Result<()> {
    priority::leave_session()?;
    priority::set_group_nice(wanted)
}
