//! What this instance leaves to its next image when uWSGI executes itself anew, and takes from the one before
//! ([`tuntap_sys::handover`]): its devices, the host's network, accounts that it has looked up, and the flows
//! of its routers.

use std::os::fd::RawFd;

use nix::unistd::getpid;
use parking_lot::Mutex;
use serde::Deserialize;

use super::devices::DEVICES;
use super::uwsgi::{self, UwsgiState};
use super::{accounts, hostnet, reload, router_hosts, router_memory};
use tuntap_sys::handover::{Handover, HandoverError, Left, Received, is_announced};
use tuntap_sys::log::Event;
use tuntap_sys::{dumpable, process};

/// What the image before has left, until each part is taken over.
static RECEIVED: Mutex<Option<Result<Received, HandoverError>>> = Mutex::new(None);

/// What this image has left. Never dropped before an exec: the child that keeps it would end.
static LEFT: Mutex<Option<Left>> = Mutex::new(None);

/// Closes an image that a reload has executed, as early as can be: nobody is to take the devices while it starts, and the exec
/// has opened this process for others of its user.
pub fn protect() {
    if is_announced() {
        dumpable::close();
    }
}

/// Takes what the image before has left, as early as can be: the new configuration may be one that ends the process, and what
/// was set up on the host is undone then. Devices wait for [`take_rest`].
pub fn take() {
    close_earlier_form();
    let mut place = RECEIVED.lock();
    *place = Received::take().transpose();
    match &mut *place {
        Some(Ok(received)) => {
            received.descriptors().for_each(uwsgi::keep_open);
            hostnet::take_over(received);
            accounts::take_over(received);
            router_memory::take_over(received);
            router_hosts::take_over(received);
        }
        Some(Err(error)) => {
            uwsgi::log(
                Event::ReloadLoss,
                &format!("[uwsgi-tuntap] this image starts without what the one before the reload had: {error}"),
            );
        }
        None => {}
    }
}

/// What is left of it for the devices. `None` if the image before had nothing to hand over.
pub fn take_rest() -> Option<Result<Received, HandoverError>> {
    RECEIVED.lock().take()
}

/// Leaves everything to the next image, before the process executes it, or ends.
pub fn leave(uwsgi: &UwsgiState) {
    let mut devices = DEVICES.lock();
    let hands_over_devices = reload::hands_over(&devices);
    if hands_over_devices {
        // Their threads pass nothing on from here.
        devices.pause();
    }
    let network = hostnet::to_hand_over();
    let memory = router_memory::to_hand_over();
    let hosts = router_hosts::to_hand_over();
    let collect = || {
        let mut handover = Handover::default();
        if hands_over_devices {
            devices.hand_over(reload::settings(uwsgi), reload::name(uwsgi), &mut handover)?;
        } else if reload::are_with_parent() {
            handover.add(&reload::with_parent(uwsgi))?;
        }
        if let Some(network) = &network {
            network.hand_over(&mut handover)?;
        }
        accounts::hand_over(&mut handover)?;
        router_memory::hand_over(&memory, &mut handover)?;
        router_hosts::hand_over(&hosts, &mut handover)?;
        if handover.is_empty() { Ok(None) } else { handover.leave().map(Some) }
    };
    match collect() {
        Ok(left) => {
            left.iter().for_each(|left| uwsgi::keep_open(left.socket()));
            *LEFT.lock() = left;
        }
        Err(error) => {
            let what = if hands_over_devices { "the devices" } else { "what this instance has set up" };
            uwsgi::log(Event::ReloadLoss, &format!("[uwsgi-tuntap] {what} will not survive the reload: {error}"));
        }
    }
    if hands_over_devices {
        // The process is open to others of its user from the exec on, and must not have them then.
        devices.close_after_handover();
    }
}

/// Takes back what was left, because this process ends and executes nothing.
pub fn revoke() {
    if let Some(left) = LEFT.lock().take() {
        left.revoke();
    }
}

/// Versions before the one document used more variables, of which one names a descriptor that keeps the host's tables. Until it
/// is closed, this image can't make its own.
fn close_earlier_form() {
    #[derive(Deserialize)]
    struct Earlier {
        pid: libc::pid_t,
        socket: Option<RawFd>,
    }
    let _accounts = process::take_variable("UWSGI_TUNTAP_ACCOUNTS");
    let Ok(value) = process::take_variable("UWSGI_TUNTAP_HOSTNET") else { return };
    let Ok(Earlier { pid, socket }) = serde_json::from_str(&value) else { return };
    if pid != getpid().as_raw() {
        return;
    }
    uwsgi::log(
        Event::ReloadLoss,
        "[uwsgi-tuntap] what an earlier version has set up on the host before the reload is set up anew",
    );
    socket.and_then(process::adopt_inherited).into_iter().for_each(drop);
}
