//! What an image of the instance leaves to the next one, so that a reload doesn't end the session with the routing daemon.

use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::super::control::Documents;
use super::super::store::Store;
use super::endpoint::RoutesEndpoint;
use tuntap_core::routes::takeover::StoredSession;
use tuntap_sys::handover::{Handover, Received, Slot};

/// The listener of a router that has ended, and its session with the routing daemon.
#[derive(Debug)]
pub struct LeftRoutes {
    pub(super) listener: OwnedFd,
    pub(super) unsent: Documents,
    pub(super) session: Option<(StoredSession, OwnedFd)>,
}

/// What the document of the handover says of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRoutes {
    listener: Slot,
    unsent: [Slot; 2],
    session: Option<(StoredSession, Slot)>,
}

impl LeftRoutes {
    /// Takes what is left of a router that has ended: nobody writes to its store or its connection any more.
    pub fn of(endpoint: RoutesEndpoint, store: &Store) -> Self {
        let (listener, unsent) = endpoint.into_parts();
        Self { listener, unsent, session: store.take_routes() }
    }

    /// Adds it to what is handed over.
    pub fn hand_over<'a>(&'a self, handover: &mut Handover<'a>) -> KeptRoutes {
        let listener = handover.add_descriptor(self.listener.as_fd());
        let unsent = self.unsent.descriptors().map(|file| handover.add_descriptor(file));
        let session = self.session.as_ref();
        let session = session.map(|(session, fd)| (session.clone(), handover.add_descriptor(fd.as_fd())));
        KeptRoutes { listener, unsent, session }
    }
}

impl KeptRoutes {
    /// Takes over what was handed over. `None` if its descriptors are missing.
    pub fn take(self, received: &mut Received) -> Option<LeftRoutes> {
        let listener = received.descriptor(self.listener)?;
        let [first, second] = self.unsent.map(|slot| received.descriptor(slot));
        let unsent = Documents::adopt([first?, second?]);
        let session = self.session.and_then(|(session, slot)| Some((session, received.descriptor(slot)?)));
        Some(LeftRoutes { listener, unsent, session })
    }
}
