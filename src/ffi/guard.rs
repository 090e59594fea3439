//! The panic boundary: no panic leaves a callback, because it must not unwind into C.

use std::any::Any;
use std::env;
use std::fmt::Write;
use std::panic::{PanicHookInfo, UnwindSafe, catch_unwind, set_hook, take_hook};

use super::uwsgi;
use tuntap_api::text::needs_escape;
use tuntap_sys::log::Event;

/// Has each panic told by a line of uWSGI's log, in the form of the others: where it is in the source, and why. Rust's own lines,
/// which have neither that form nor a source, come in addition to it if somebody wants its backtrace (`RUST_BACKTRACE`).
pub fn tell_panics() {
    let usual = take_hook();
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        uwsgi::log(Event::Panic, &panic_line(&place, info.payload()));
        if env::var_os("RUST_BACKTRACE").is_some_and(|wanted| wanted != "0") {
            usual(info);
        }
    }));
}

/// Longest reason of a panic in a line, in characters. uWSGI's `log-master` cuts lines beyond 8 KiB off, of whatever form.
const MAX_REASON: usize = 1000;

/// A line about a panic, in which nothing can begin another line.
fn panic_line(place: &str, payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let reason = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
    let mut line = format!("[uwsgi-tuntap] panic at {place}: ");
    let mut characters = reason.chars();
    for character in characters.by_ref().take(MAX_REASON) {
        if needs_escape(character) {
            // A string takes everything.
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
    if characters.next().is_some() {
        line.push_str("...");
    }
    line
}

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
    fn panic_is_one_line_whatever_it_says() {
        let begin = "[uwsgi-tuntap] panic at a.rs:1:2: ";
        assert_eq!(
            panic_line("a.rs:1:2", &"left: \"a\"\nright: 2\x1b"),
            format!("{begin}left: \"a\"\\nright: 2\\u{{1b}}")
        );
        assert_eq!(panic_line("a.rs:1:2", &"a string".to_owned()), format!("{begin}a string"));
        assert_eq!(panic_line("a.rs:1:2", &7_u8), format!("{begin}no reason given"));
        let long = "x".repeat(100_000);
        assert_eq!(panic_line("a.rs:1:2", &long), format!("{begin}{}...", &long[..MAX_REASON]));
    }

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
