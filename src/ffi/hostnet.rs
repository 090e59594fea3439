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
use tuntap_sys::log::Event;
use tuntap_sys::{fork, process};

/// Never dropped: in a forked child its descriptor is closed, or has another meaning by now.
static NETWORK: Mutex<Option<HostNetwork>> = Mutex::new(None);

/// Takes over what the image before has set up, in an image that a reload has executed.
pub fn take_over(received: &mut Received) {
    match HostNetwork::take_over(received) {
        Ok(network) => network.into_iter().for_each(keep),
        Err(error) => {
            uwsgi::log(Event::ReloadLoss, &format!("[tuntap-router] the host is set up anew after the reload: {error}"))
        }
    }
}

/// Ends an instance that would leave the network namespace that it is about to set up.
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

/// Sets up the host for the routers, whose devices exist. What the host can't have is taken out of the routers. The process ends
/// if the set-up fails, unless it is a reloaded one.
pub fn set_up(routers: &mut [RouterSpec], occasion: Occasion) {
    let earlier = NETWORK.lock().take().unwrap_or_default();
    // These descriptors may be closed now, and their numbers used for others.
    earlier.descriptor().into_iter().chain(earlier.watched()).for_each(fork::forget);
    match HostNetwork::set_up(routers, earlier, occasion, uwsgi::LOGGER) {
        Ok(network) => keep(network),
        // These errors name the device themselves.
        Err(
            error @ (HostNetworkError::NoAddress { .. } | HostNetworkError::Conflict(_) | HostNetworkError::Taken(_)),
        ) => die(format_args!("tuntap-router {error}")),
        Err(error) => {
            let devices: Vec<_> = routers.iter().map(|router| router.device.as_str()).collect();
            die(format_args!("tuntap-router {}: {error}", devices.join(",")));
        }
    }
}

/// Keeps the network until the process ends, and its descriptors out of uWSGI's other processes.
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

/// Repairs what others have changed. The master calls this in each cycle, and at once when the kernel reports a change.
pub fn watch() {
    static WATCHED: Once = Once::new();
    if !fork::owns_descriptors() {
        return;
    }
    if let Some(network) = NETWORK.lock().as_mut() {
        // If this fails, the master notices changes in its next cycle.
        WATCHED.call_once(|| _ = network.watched().map(uwsgi::master_watch));
        let before = network.descriptor().map(|descriptor| descriptor.as_raw_fd());
        network.reconcile(uwsgi::LOGGER);
        // Tables that couldn't be made at a reload may exist from now on, with their descriptor.
        let made = network.descriptor().filter(|descriptor| before != Some(descriptor.as_raw_fd()));
        made.into_iter().for_each(keep_from_others);
    }
}

/// Returns true if forks must not take a descriptor along.
pub fn has_descriptor() -> bool {
    NETWORK.lock().as_ref().is_some_and(|network| network.descriptor().or_else(|| network.watched()).is_some())
}

/// The network that the next image takes over. `None` if nothing was set up, or if it belongs to another process.
pub fn to_hand_over() -> Option<MappedMutexGuard<'static, HostNetwork>> {
    let network = MutexGuard::try_map(NETWORK.lock(), Option::as_mut).ok();
    let mut network = network.filter(|_| fork::owns_descriptors())?;
    network.watched().into_iter().for_each(fork::forget);
    network.stop_watching();
    Some(network)
}

/// Undoes the set-up at the end of the process. An exec doesn't call this, and children have nothing to undo.
extern "C" fn undo() {
    let undo = || {
        if fork::owns_descriptors()
            && let Some(mut place) = NETWORK.try_lock()
            && let Some(network) = place.as_mut()
        {
            // Else the tables would stay until the child ends that keeps them for a next image.
            handover::revoke();
            network.undo(uwsgi::LOGGER);
        }
    };
    // A panic leaves the rest in place, and must not hold up the end.
    let _ = catch_unwind(undo);
}
