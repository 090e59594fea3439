//! Packets that are refused with an answer, so that their senders fail at once instead of waiting.

use super::event_loop::EventLoop;
use super::parcel::Parcel;
use crate::policy::forward::Origin;
use crate::policy::registry::PeerId;

impl EventLoop<'_> {
    /// Tells a peer that its packet was refused.
    pub(super) fn reject(&mut self, _id: PeerId, _parcel: &Parcel<'_>) {}

    pub(super) fn reject_inward(&mut self, _origin: Origin, _parcel: &Parcel<'_>) {}
}
