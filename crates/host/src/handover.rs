//! The host's network in the handover: it stays in place while uWSGI executes itself anew. The next image gets the descriptor
//! that keeps the tables alive, and what was changed.

use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::HostNetwork;
use super::changes::Changes;
use super::link::Given;
use super::ports::Mapped;
use tuntap_sys::handover::{Handover, HandoverError, Received, Section, Slot};
use tuntap_sys::netlink::nftables::Nftables;

/// What the next image needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The connection that owns the tables.
    socket: Option<Slot>,
    changes: Changes,
    given: Given,
    mapped: Mapped,
}

impl Section for State {
    const NAME: &'static str = "host";
}

impl HostNetwork {
    /// Closes the descriptor of the kernel's notices: the next image subscribes anew. The option `close-on-exec2` would leave
    /// it open.
    pub fn stop_watching(&mut self) {
        self.notices = None;
    }

    /// Adds all that was set up to what is handed over, and leaves it as it is.
    pub fn hand_over<'a>(&'a self, handover: &mut Handover<'a>) -> Result<(), HandoverError> {
        let socket = self.nftables.as_ref().map(|nftables| handover.add_descriptor(nftables.as_fd()));
        handover.add(&State {
            socket,
            changes: self.changes.clone(),
            given: self.given.clone(),
            mapped: self.mapped.clone(),
        })
    }

    /// Takes over what the image before has set up. `None` if it has set up nothing. Without its descriptor the tables are
    /// gone, and are made anew.
    pub fn take_over(received: &mut Received) -> Result<Option<Self>, HandoverError> {
        let Some(State { socket, changes, given, mapped }) = received.section()? else { return Ok(None) };
        let socket = socket.and_then(|slot| received.descriptor(slot));
        let nftables = socket.and_then(|socket| Nftables::adopt(socket).ok());
        Ok(Some(Self { nftables, changes, given, mapped, ..Self::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_over(host: &str) -> Result<Option<HostNetwork>, HandoverError> {
        let text = format!(r#"{{"version": 1, "sections": {{{host}}}}}"#);
        HostNetwork::take_over(&mut Received::new(text.as_bytes(), Vec::new()).expect("a document"))
    }

    /// An update reloads the Emperor: the form stays what it is.
    #[test]
    fn what_an_earlier_version_has_set_up_is_taken_over() {
        let host = r#""host": {"socket": 0, "changes": [{"sysctl": {"interface": "emperor0", "setting": "Ipv4Forwarding"},
            "before": 0, "after": 1, "all_before": 0, "on_before": []}],
            "given": {"addresses": [{"device": "emperor0", "address": "10.0.0.1", "prefix_len": 24}],
            "up": ["emperor0"]}, "mapped": [[53, true]]}"#;
        let network = take_over(host).expect("it can be read").expect("it is there");
        assert!(network.nftables.is_none(), "its descriptor has not come");
        let mut handover = Handover::default();
        network.hand_over(&mut handover).expect("plain values");
        let told = format!("{handover:?}");
        assert!(told.contains("Ipv4Forwarding") && told.contains("10.0.0.1"), "{told}");
    }

    #[test]
    fn damaged_content_is_an_error() {
        assert!(take_over("").expect("it can be read").is_none());
        assert!(matches!(take_over(r#""host": {"socket": "x"}"#), Err(HandoverError::Section("host", _))));
    }
}
