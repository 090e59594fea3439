//! Claims of peers of other routers: what the shell hears of them, and what it has to tell them.

use std::net::IpAddr;

use tuntap_wire::holding::{ClaimTime, Holding};

use super::Router;
use super::notice::Notice;
use super::session::CloseReason;
use super::shell::Shell;
use crate::elsewhere::{Elsewhere, Insertion, Refusal, Source, Told};
use crate::policy::lost::ClaimChanges;
use crate::policy::registry::PeerId;
use crate::trunk::Trunks;

impl Router {
    /// Sets the host's wall clock (CLOCK_REALTIME), which may go back, too. New claims have its time, so it should be set in each
    /// turn in which there may be some.
    pub fn set_clock(&mut self, shell: &mut impl Shell, clock: ClaimTime) {
        for address in self.forwarder.elsewhere.set_clock(clock) {
            self.forwarder.note_news_elsewhere(Some(address));
            self.give_way(shell, address);
        }
        self.follow_changes(shell);
    }

    /// Says whether a source hasn't told yet what it knows ([`Elsewhere::set_unsure`]).
    pub const fn set_unsure(&mut self, is_unsure: bool) {
        self.forwarder.elsewhere.set_unsure(is_unsure);
    }

    /// A source tells that a peer of another router holds an address. If a peer of this router has an older claim to it, that one
    /// loses it.
    pub fn held_elsewhere(&mut self, shell: &mut impl Shell, source: Source, address: IpAddr, holding: Holding) {
        self.held_elsewhere_from_afar(shell, source, address, holding, 0);
    }

    /// The same for a holding that `distance` other routers have passed on to the source.
    pub fn held_elsewhere_from_afar(
        &mut self,
        shell: &mut impl Shell,
        source: Source,
        address: IpAddr,
        holding: Holding,
        distance: u8,
    ) {
        match self.forwarder.elsewhere.insert_from_afar(source, address, holding, distance) {
            Ok(Insertion { is_news, is_ahead }) => {
                if is_ahead && self.forwarder.elsewhere.note_ahead(source) {
                    let told = Told { source, holding };
                    self.note_source(shell, source, &Notice::ClockAhead { address, told });
                }
                if is_news {
                    self.forwarder.note_news_elsewhere(Some(address));
                    self.give_way(shell, address);
                }
            }
            // Another holder that the source knew before has given way.
            Err(Refusal::Own) => self.forwarder.note_news_elsewhere(Some(address)),
            Err(refusal) => {
                if self.forwarder.elsewhere.note_no_room() {
                    self.note_source(shell, source, &Notice::NoRoomElsewhere { teller: source, refusal });
                }
            }
        }
        self.follow_changes(shell);
    }

    /// A source tells that no peer of another router holds an address any more. The next claim to it is granted.
    pub fn released_elsewhere(&mut self, source: Source, address: IpAddr) {
        if self.forwarder.elsewhere.remove(source, address) {
            self.forwarder.note_news_elsewhere(Some(address));
        }
    }

    /// A source is gone, and with it all that it has told, if that is much, by and by. Returns the number of
    /// holdings.
    pub fn forget_source(&mut self, source: Source) -> usize {
        self.forwarder.note_news_elsewhere(None);
        self.forwarder.elsewhere.forget(source)
    }

    /// Returns true if something is left to do for [`Router::poll`] or [`Router::set_clock`], without any event.
    pub fn is_sweeping(&self) -> bool {
        self.forwarder.elsewhere.is_sweeping()
            || self.kernel.has_void()
            || self.trunks.as_ref().is_some_and(Trunks::has_more)
    }

    /// Forgets a piece of what sources that are gone had told.
    pub(super) fn sweep(&mut self) {
        if self.forwarder.elsewhere.sweep() {
            self.forwarder.note_news_elsewhere(None);
        }
    }

    /// Returns what is known of the holdings of other routers' peers.
    pub const fn elsewhere(&self) -> &Elsewhere {
        self.forwarder.elsewhere()
    }

    /// Returns the claims of this router's peers that have changed since this was called before. They are kept if the router has
    /// an id ([`Settings::router`](super::Settings::router)).
    pub fn take_claim_changes(&mut self) -> ClaimChanges {
        self.forwarder.take_claim_changes()
    }

    /// Returns the claim to an address, if a peer of this router holds it and the router has an id.
    pub fn local_claim(&self, address: IpAddr) -> Option<Holding> {
        self.forwarder.holding(address)
    }

    /// Returns all claims of this router's peers, if the router has an id.
    pub fn local_claims(&self) -> impl Iterator<Item = (IpAddr, Holding)> {
        self.forwarder.holdings()
    }

    /// Takes an address from its holder here if a newer claim elsewhere has it. A device that has named its address may wait until
    /// it is free again; one for which the router had chosen it is better off with another one.
    pub(super) fn give_way(&mut self, shell: &mut impl Shell, address: IpAddr) {
        let Some(account) = self.forwarder.holder(address).map(|id| self.forwarder.account(id)) else { return };
        let Some((id, told)) = self.forwarder.yield_address(address) else { return };
        self.counters.lost_elsewhere += 1;
        if let Some((who, _)) = self.who(id) {
            self.note_peer(shell, account, &Notice::LostElsewhere { who, address, told });
        }
        if self.forwarder.peers.get(id).is_some_and(|peer| peer.session.has_chosen_address) {
            // Its device claims the address again, is told that there is no use in waiting, and the vassal starts again with
            // another address.
            self.close(shell, id, CloseReason::LostAddress);
        } else {
            // The next router must not give the address back to the peer.
            self.store(shell, id);
        }
    }

    /// Counts that a peer doesn't get an address that a peer of another router holds, and logs it, once for each address and
    /// router.
    pub(super) fn note_held_elsewhere(&mut self, shell: &mut impl Shell, id: PeerId, address: IpAddr) {
        self.counters.refused_elsewhere += 1;
        if let Some(told) = self.forwarder.elsewhere.note_holder(address) {
            self.note_peer_fault(shell, id, |who| Notice::HeldElsewhere { who, address, told });
        }
    }
}

#[cfg(test)]
#[path = "elsewhere_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod hosts_tests;
