//! A host network that lives on while uWSGI executes itself anew.
//!
//! The old image leaves the descriptor open that keeps the tables alive, and tells the new one in its environment where
//! it is and what was changed. A child that inherits the environment is another process, and takes nothing over.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::unistd;
use serde::{Deserialize, Serialize};

use super::HostNetwork;
use super::changes::Changes;
use super::link::Given;
use super::ports::Mapped;
use tuntap_sys::netlink::nftables::Nftables;
use tuntap_sys::process::{adopt_inherited, set_close_on_exec};

/// What the next image needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pid: libc::pid_t,
    socket: Option<RawFd>,
    changes: Changes,
    given: Given,
    #[serde(default)]
    mapped: Mapped,
}

impl HostNetwork {
    /// Before an exec: leaves the descriptor open and everything as it is.
    pub fn hand_over(&mut self) -> Handover {
        // The next image subscribes anew. The host's option close-on-exec2 would leave this descriptor open.
        self.notices = None;
        let socket = self.nftables.as_ref().map(|nftables| {
            // If that fails, the next image finds it closed, and makes the tables anew.
            let _ = set_close_on_exec(nftables.as_fd(), false);
            nftables.as_fd().as_raw_fd()
        });
        Handover {
            pid: unistd::getpid().as_raw(),
            socket,
            changes: self.changes.clone(),
            given: self.given.clone(),
            mapped: self.mapped.clone(),
        }
    }

    /// After an exec: takes over what an earlier image of this process has left. To be called before anything else in the
    /// new image could have opened a descriptor of that number. `None` if it was another process.
    pub fn take_over(handover: Handover) -> Option<Self> {
        if handover.pid != unistd::getpid().as_raw() {
            return None;
        }
        let socket = handover.socket.and_then(adopt_inherited);
        let nftables = socket.and_then(|socket| match Nftables::adopt(socket) {
            Ok(nftables) => {
                let _ = set_close_on_exec(nftables.as_fd(), true);
                Some(nftables)
            }
            Err(somebody_elses) => {
                std::mem::forget(somebody_elses);
                None
            }
        });
        let Handover { changes, given, mapped, .. } = handover;
        Some(Self { nftables, changes, given, mapped, ..Self::default() })
    }
}

impl Handover {
    /// As text.
    pub fn to_json(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// Reads that text.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An update reloads the Emperor: what version 0.1.0 has told is understood.
    #[test]
    fn what_an_earlier_version_has_set_up_is_taken_over() {
        let text = format!(
            r#"{{"pid": {}, "socket": null, "changes": [{{"sysctl": {{"interface": "emperor0", "setting": "Ipv4Forwarding"}},
                "before": 0, "after": 1, "all_before": 0, "on_before": []}}],
                "given": {{"addresses": [{{"device": "emperor0", "address": "10.0.0.1", "prefix_len": 24}}],
                "up": ["emperor0"]}}}}"#,
            unistd::getpid()
        );
        let handover = Handover::from_json(&text).expect("it can be read");
        let told = handover.to_json().expect("text");
        assert!(told.contains("Ipv4Forwarding") && told.contains("10.0.0.1"), "{told}");
        assert!(HostNetwork::take_over(handover).is_some());
        let others = Handover::from_json(&text.replace(&format!("{{\"pid\": {}", unistd::getpid()), "{\"pid\": 1"));
        assert!(HostNetwork::take_over(others.expect("text")).is_none(), "another process's");
    }
}
