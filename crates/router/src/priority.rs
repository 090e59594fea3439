//! The router's share of processor time. All packets from and to vassals pass through its one thread. Without a priority,
//! many processes that flood the router would leave this thread almost no time.

use std::io;

use tuntap_api::Priority;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::priority;

/// Sets the priority of `tuntap-router-priority` for a router's process or one beside it, before the privileges for that are given up. If
/// the kernel refuses it, this is logged; `who` begins that line, and `consequence` ends it. Returns the priority that the process has then.
pub fn take(wanted: Option<i8>, logger: Logger, who: &str, consequence: &str) -> Priority {
    let has_autogroups = priority::has_autogroups();
    if let Some(wanted) = wanted
        && let Err(error) = set(wanted, has_autogroups)
    {
        logger.line(
            Event::RouterIncomplete,
            format_args!(
                "[tuntap-router] {who}: works without the priority {wanted} (tuntap-router-priority): {error} (it takes \
                 CAP_SYS_NICE and /proc); {consequence}"
            ),
        );
    }
    Priority { nice: priority::nice(), autogroup: has_autogroups.then(priority::group_nice).flatten() }
}

/// Sets as much of the priority as the kernel allows.
fn set(wanted: i8, has_autogroups: bool) -> io::Result<()> {
    let nice = priority::set_nice(wanted).map_err(io::Error::from);
    // The process leaves the session that it shares with the Emperor and with vassals that make no session of their own. In
    // its own session it has an autogroup of its own.
    let group = if has_autogroups { set_group(wanted) } else { Ok(()) };
    nice.and(group)
}

fn set_group(wanted: i8) -> io::Result<()> {
    priority::leave_session()?;
    priority::set_group_nice(wanted)
}
