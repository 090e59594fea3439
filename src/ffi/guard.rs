//! The panic boundary: no panic leaves a callback, because it must not unwind into C.

use std::panic::{UnwindSafe, catch_unwind};

use super::uwsgi;
use tuntap_sys::log::Event;

/// Runs a callback of uWSGI. If it panics, uWSGI's log says which one it was, and the process ends: half of a
/// configuration, or a router in an unknown state, is worse than a restart.
pub fn guarded(callback: &str, body: impl FnOnce() + UnwindSafe) {
    if catch_unwind(body).is_err() {
        die(format_args!("panic in the {callback} callback"));
    }
}

/// Ends the process with a line in uWSGI's log for each line of the reason.
pub fn die(reason: impl std::fmt::Display) -> ! {
    for line in reason.to_string().lines() {
        uwsgi::log(Event::Fatal, &fatal_line(line));
    }
    std::process::exit(1)
}

/// Begins a line as the other lines of its side begin: the router's or the device's. The option at the beginning of the reason
/// tells the side. If a device follows the option, the option is left out: `tuntap-router emperor0: ...`.
fn fatal_line(reason: &str) -> String {
    const ROUTER: &str = "tuntap-router";
    const DEVICE: &str = "tuntap-device";
    let side = if reason.starts_with(ROUTER) { "[tuntap-router]" } else { "[uwsgi-tuntap]" };
    let of_a_device = [ROUTER, DEVICE].iter().find_map(|option| {
        let subject = reason.strip_prefix(option)?.strip_prefix(' ')?;
        // Else the reason is about the option itself, as in `tuntap-router = <value>: ...`.
        subject.split_whitespace().next()?.ends_with(':').then_some(subject)
    });
    format!("{side} {}", of_a_device.unwrap_or(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fatal_lines_begin_as_the_other_lines_of_their_side() {
        for (reason, line) in [
            ("tuntap-router emperor0: no room", "[tuntap-router] emperor0: no room"),
            ("tuntap-router = a b: expected", "[tuntap-router] tuntap-router = a b: expected"),
            ("tuntap-router-nat = x: expected", "[tuntap-router] tuntap-router-nat = x: expected"),
            ("tuntap-router: no room", "[tuntap-router] tuntap-router: no room"),
            ("tuntap-device uwsgi0: no room", "[uwsgi-tuntap] uwsgi0: no room"),
            ("tuntap-device was a, and is b now", "[uwsgi-tuntap] tuntap-device was a, and is b now"),
            ("tuntap-device-mtu = x: expected", "[uwsgi-tuntap] tuntap-device-mtu = x: expected"),
            ("uwsgi0: it is gone", "[uwsgi-tuntap] uwsgi0: it is gone"),
            ("refused: this plugin", "[uwsgi-tuntap] refused: this plugin"),
        ] {
            assert_eq!(fatal_line(reason), line);
        }
    }
}
