//! The host network of this instance's routers, from the start of the first image to the end of the process.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::catch_unwind;
use std::sync::Once;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::guard::die;
use super::handover;
use super::options::config;
use super::uwsgi::{self, UwsgiState};
use tuntap_config::RouterSpec;
use tuntap_host::{HostNetwork, HostNetworkError, Occasion};
use tuntap_sys::handover::Received;
use tuntap_sys::{fork, process};

/// Never dropped: in a forked child its descriptor is closed, or is something else by now.
static NETWORK: Mutex<Option<HostNetwork>> = Mutex::new(None);

/// Takes over what the image before has set up, in an image that a reload has executed.
pub fn take_over(received: &mut Received) {
    match HostNetwork::take_over(received) {
        Ok(network) => network.into_iter().for_each(keep),
        Err(error) => uwsgi::log(&format!("[tuntap-router] the host is set up anew after the reload: {error}")),
    }
}

/// Ends an instance that would leave the network that it is about to set up.
pub fn refuse_impossible(uwsgi: &UwsgiState) {
    let sets_up = |router: &RouterSpec| {
        !(router.addresses.is_empty() && router.nat.is_empty() && router.ports.is_empty()) || router.mtu.is_some()
    };
    if uwsgi.unshares_net() && config().routers.iter().any(sets_up) {
        die(
            "tuntap-router-address, -nat, -port and -mtu set up the network of the host, which unshare = net makes this \
             instance leave: run the router in an instance without it",
        );
    }
}

/// Sets up the host for the routers, whose devices exist. They lose what the host can't have. The process ends if that can't
/// be done, unless it is a reloaded one.
pub fn set_up(routers: &mut [RouterSpec], occasion: Occasion) {
    let earlier = NETWORK.lock().take().unwrap_or_default();
    // They may be closed now, and their numbers become something else.
    earlier.descriptor().into_iter().chain(earlier.watched()).for_each(fork::forget);
    match HostNetwork::set_up(routers, earlier, occasion, uwsgi::LOGGER) {
        Ok(network) => keep(network),
        // It names the device itself.
        Err(
            error @ (HostNetworkError::NoAddress { .. } | HostNetworkError::Conflict(_) | HostNetworkError::Taken(_)),
        ) => die(format_args!("tuntap-router {error}")),
        Err(error) => {
            let devices: Vec<_> = routers.iter().map(|router| router.device.as_str()).collect();
            die(format_args!("tuntap-router {}: {error}", devices.join(",")));
        }
    }
}

/// Keeps it until the process ends, and its descriptors from the host's other processes.
fn keep(network: HostNetwork) {
    network.descriptor().into_iter().chain(network.watched()).for_each(keep_from_others);
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| process::at_exit(undo));
    *NETWORK.lock() = Some(network);
}

fn keep_from_others(descriptor: BorrowedFd<'_>) {
    uwsgi::keep_open(descriptor);
    if !fork::close_in_children(descriptor) {
        die("tuntap-router: too many descriptors to keep from workers");
    }
}

/// In the master, again and again, and at once when the kernel has news: looks after what others change.
pub fn watch() {
    static WATCHED: Once = Once::new();
    if !fork::owns_descriptors() {
        return;
    }
    if let Some(network) = NETWORK.lock().as_mut() {
        // Without it the master finds out all the same, a little later.
        WATCHED.call_once(|| _ = network.watched().map(uwsgi::master_watch));
        let before = network.descriptor().map(|descriptor| descriptor.as_raw_fd());
        network.look_after(uwsgi::LOGGER);
        // Tables that couldn't be made at a reload have their descriptor from now on.
        let made = network.descriptor().filter(|descriptor| before != Some(descriptor.as_raw_fd()));
        made.into_iter().for_each(keep_from_others);
    }
}

/// Whether forks must not take a descriptor along.
pub fn has_descriptor() -> bool {
    NETWORK.lock().as_ref().is_some_and(|network| network.descriptor().or_else(|| network.watched()).is_some())
}

/// What the next image is to take over: everything stays in place. `None` if it is another process's, or nothing was set up.
pub fn to_hand_over() -> Option<MappedMutexGuard<'static, HostNetwork>> {
    let network = MutexGuard::try_map(NETWORK.lock(), Option::as_mut).ok();
    let mut network = network.filter(|_| fork::owns_descriptors())?;
    network.watched().into_iter().for_each(fork::forget);
    network.stop_watching();
    Some(network)
}

/// At the end of the process, which an exec is not. Its children end, too, but have nothing to undo.
extern "C" fn undo() {
    let undo = || {
        if fork::owns_descriptors()
            && let Some(mut place) = NETWORK.try_lock()
            && let Some(network) = place.as_mut()
        {
            // The child that keeps the tables for a next image.
            handover::revoke();
            network.undo(uwsgi::LOGGER);
        }
    };
    // Half of it undone is as much as can be had, and the end must not be held up.
    let _ = catch_unwind(undo);
}
