//! What would take as long as others have told of many addresses: it is done in pieces of at most [`SWEEP`] holdings, so that
//! packets don't wait for it.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;

use tuntap_wire::holding::ClaimTime;

use super::{Elsewhere, Known, Moment, SWEEP, Source, latest};

/// Holdings that have to be looked at again, in the order of their times.
#[derive(Debug, Clone, Copy)]
struct Review {
    /// The first one.
    next: Moment,
    /// The time of the last ones.
    until: ClaimTime,
}

/// Holdings that have to be looked at again because the clock was set.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    /// Those that are not too far ahead any more.
    right: Option<Review>,
    /// All.
    all: Option<Review>,
    /// All once more after that.
    again: bool,
}

impl Reviews {
    const fn are_done(&self) -> bool {
        self.right.is_none() && self.all.is_none()
    }

    /// The latest time that can be right is a later one. What is left of such a move before is looked at, too.
    fn move_on(&mut self, before: ClaimTime, latest: ClaimTime) {
        if before < latest {
            let next = self.right.map_or(first_of(ClaimTime(before.0 + 1)), |review| review.next);
            self.right = Some(Review { next, until: latest });
        }
    }

    /// All have to be looked at.
    const fn restart(&mut self) {
        self.right = None;
        if self.all.is_some() {
            self.again = true;
        } else {
            self.all = Some(Review { next: first_of(ClaimTime(0)), until: ClaimTime(u64::MAX) });
        }
    }
}

/// Where the holdings of a time begin.
const fn first_of(since: ClaimTime) -> Moment {
    (since, Source::Routes, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

impl Elsewhere {
    /// Forgets all that a source has told: a piece of it at once, and the rest by [`Self::sweep`]. What the source tells from now on
    /// stays. Returns the number of holdings that are forgotten.
    pub fn forget(&mut self, source: Source) -> usize {
        let Some(known) = self.sources.get_mut(&source) else { return 0 };
        let before = known.addresses.len();
        *known = Known {
            addresses: std::mem::take(&mut known.addresses),
            round: known.round + 1,
            is_swept: true,
            ..Known::default()
        };
        self.is_full_noted = false;
        self.sweep_source(source);
        before
    }

    /// Returns true if [`Self::sweep`] or [`Self::set_clock`] has something left to do.
    pub fn is_sweeping(&self) -> bool {
        !self.reviews.are_done() || self.sources.values().any(|known| known.is_swept)
    }

    /// Takes out some of what forgotten sources had told. Returns true if an address may be free now.
    pub fn sweep(&mut self) -> bool {
        self.sweep_some();
        std::mem::take(&mut self.has_freed)
    }

    /// Returns true if there is more room now.
    pub(super) fn sweep_some(&mut self) -> bool {
        let next = self.sources.iter().find(|(_, known)| known.is_swept).map(|(source, _)| *source);
        next.is_some_and(|source| self.sweep_source(source))
    }

    fn sweep_source(&mut self, source: Source) -> bool {
        let Some(known) = self.sources.get_mut(&source) else { return false };
        let after = known.swept.map_or(Bound::Unbounded, Bound::Excluded);
        let piece: Vec<IpAddr> = known.addresses.range((after, Bound::Unbounded)).take(SWEEP).copied().collect();
        known.swept = piece.last().copied();
        known.is_swept = piece.len() == SWEEP;
        let round = known.round;
        let is_old = |address: &IpAddr| {
            let told = self.addresses.get(address).map_or(&[][..], |known| &known.told);
            told.iter().any(|teller| teller.told.source == source && teller.round < round)
        };
        let old: Vec<IpAddr> = piece.into_iter().filter(is_old).collect();
        old.iter().for_each(|address| _ = self.remove(source, *address));
        // A source that tells of nothing is none, unless it has to be known how often it was forgotten.
        if self.sources.get(&source).is_some_and(|known| known.addresses.is_empty()) {
            self.sources.remove(&source);
        }
        self.has_freed |= !old.is_empty();
        !old.is_empty()
    }

    /// Sets the host's wall clock, which may go back, too. Returns addresses about which the times of holdings may say something
    /// else now. If they are many, later calls return the others.
    pub fn set_clock(&mut self, clock: ClaimTime) -> Vec<IpAddr> {
        let before = std::mem::replace(&mut self.clock, clock);
        if clock < before {
            // Times of local claims may be too far ahead now, and those are unknown here.
            self.reviews.restart();
        } else if clock > before {
            self.reviews.move_on(latest(before), latest(clock));
        }
        let mut changed = Vec::new();
        for review in [&mut self.reviews.right, &mut self.reviews.all] {
            let Some(Review { next, until }) = *review else { continue };
            let mut due = self.times.range(next..).take_while(|(since, ..)| *since <= until);
            let room = SWEEP - changed.len();
            changed.extend(due.by_ref().take(room).map(|(_, _, address)| *address));
            *review = due.next().map(|next| Review { next: *next, until });
        }
        if self.reviews.all.is_none() && std::mem::take(&mut self.reviews.again) {
            self.reviews.restart();
        }
        changed.iter().for_each(|address| self.order(*address));
        changed
    }
}
