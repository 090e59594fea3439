//! The host network of this instance's routers, from the start of the first image to the end of the process.

use std::panic::catch_unwind;
use std::sync::Once;

use parking_lot::Mutex;

use super::guard::die;
use super::host;
use super::options::config;
use crate::hostnet::{Handover, HostNetwork};
use crate::sys::{fork, process};

/// Where a reloaded image finds what the one before has set up.
const HANDOVER_VARIABLE: &str = "UWSGI_TUNTAP_HOSTNET";

/// Never dropped: in a forked child its descriptor is closed, or is something else by now.
static NETWORK: Mutex<Option<HostNetwork>> = Mutex::new(None);

/// In an image that a reload has executed: takes over what the image before has set up. As early as can be: the new
/// configuration may be one that ends the process.
pub fn adopt() {
    let Ok(value) = process::take_variable(HANDOVER_VARIABLE) else { return };
    if let Some(network) = Handover::from_json(&value).and_then(HostNetwork::take_over) {
        keep(network);
    }
}

/// Sets up the host for the routers, whose devices exist. The process ends if that can't be done.
pub fn set_up() {
    let earlier = NETWORK.lock().take().unwrap_or_default();
    if let Some(descriptor) = earlier.descriptor() {
        // It may be closed now, and its number become something else.
        fork::forget(descriptor);
    }
    match HostNetwork::set_up(&config().routers, earlier, host::LOGGER) {
        Ok(network) => keep(network),
        Err(error) => die(format_args!("tuntap-router: {error}")),
    }
}

/// Keeps it until the process ends, and its descriptor from the host's other processes.
fn keep(network: HostNetwork) {
    if let Some(descriptor) = network.descriptor() {
        host::keep_open(descriptor);
        if !fork::close_in_children(descriptor) {
            die("tuntap-router: too many descriptors to keep from workers");
        }
    }
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| process::at_exit(undo));
    *NETWORK.lock() = Some(network);
}

/// Whether forks must not take a descriptor along.
pub fn has_descriptor() -> bool {
    NETWORK.lock().as_ref().is_some_and(|network| network.descriptor().is_some())
}

/// Before the process executes its next image, or ends: leaves everything in place for the former.
pub fn hand_over() {
    if !fork::owns_descriptors() {
        return;
    }
    if let Some(text) = NETWORK.lock().as_mut().and_then(|network| network.hand_over().to_json()) {
        process::set_variable(HANDOVER_VARIABLE, &text);
    }
}

/// At the end of the process, which an exec is not. Its children end, too, but have nothing to undo.
extern "C" fn undo() {
    let undo = || {
        if fork::owns_descriptors()
            && let Some(mut place) = NETWORK.try_lock()
            && let Some(network) = place.as_mut()
        {
            network.undo(host::LOGGER);
        }
    };
    // Half of it undone is as much as can be had, and the end must not be held up.
    let _ = catch_unwind(undo);
}
