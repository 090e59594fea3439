//! The host network of this instance's routers, from the start of the first image to the end of the process.

use std::panic::catch_unwind;
use std::sync::Once;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::guard::die;
use super::host::{self, HostState};
use super::options::config;
use crate::config::RouterSpec;
use crate::hostnet::{Handover, HostNetwork, HostNetworkError};
use crate::sys::{dumpable, fork, process};

/// Where a reloaded image finds what the one before has set up.
const HANDOVER_VARIABLE: &str = "UWSGI_TUNTAP_HOSTNET";

/// Between looks at the interfaces by which vassals reach other networks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Never dropped: in a forked child its descriptor is closed, or is something else by now.
static NETWORK: Mutex<Option<HostNetwork>> = Mutex::new(None);

/// In an image that a reload has executed: takes over what the image before has set up. As early as can be: the new
/// configuration may be one that ends the process.
pub fn adopt() {
    let Ok(value) = process::take_variable(HANDOVER_VARIABLE) else { return };
    dumpable::close();
    if let Some(network) = Handover::from_json(&value).and_then(HostNetwork::take_over) {
        keep(network);
    }
}

/// Ends an instance that would leave the network that it is about to set up.
pub fn refuse_impossible(host: &HostState) {
    let sets_up = |router: &RouterSpec| {
        !(router.addresses.is_empty() && router.nat.is_empty() && router.ports.is_empty()) || router.mtu.is_some()
    };
    if host.unshares_net() && config().routers.iter().any(sets_up) {
        die(
            "tuntap-router-address, -nat, -port and -mtu set up the network of the host, which unshare = net makes this \
             instance leave: run the router in an instance without it",
        );
    }
}

/// Sets up the host for the routers, whose devices exist. They lose what the host can't have. The process ends if that can't
/// be done.
pub fn set_up(routers: &mut [RouterSpec]) {
    let earlier = NETWORK.lock().take().unwrap_or_default();
    if let Some(descriptor) = earlier.descriptor() {
        // It may be closed now, and its number become something else.
        fork::forget(descriptor);
    }
    match HostNetwork::set_up(routers, earlier, host::LOGGER) {
        Ok(network) => keep(network),
        // It names the device itself.
        Err(error @ HostNetworkError::NoAddress { .. }) => die(format_args!("tuntap-router {error}")),
        Err(error) => {
            let devices: Vec<_> = routers.iter().map(|router| router.device.as_str()).collect();
            die(format_args!("tuntap-router {}: {error}", devices.join(",")));
        }
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

/// In the master, again and again: looks after interfaces that come and go, now and then.
pub fn watch() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    if !fork::owns_descriptors() {
        return;
    }
    let mut last = LAST.lock();
    if last.is_some_and(|last| last.elapsed() < WATCH_INTERVAL) {
        return;
    }
    *last = Some(Instant::now());
    if let Some(network) = NETWORK.lock().as_mut() {
        network.look_after(host::LOGGER);
    }
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
