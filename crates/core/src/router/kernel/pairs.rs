//! Peers' pairs: when they are made, and for whom. A pair is asked for with the first flow that could use it, so that idle peers
//! cost nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::kernel_path::{KernelFlow, MAX_VERDICTS_PER_PEER, PairDrops, WhyNot};
use crate::policy::drops::DropReason;
use crate::policy::registry::PeerId;
use crate::router::Router;
use crate::router::meter::MIN_EXPENSIVE_WRITES;
use crate::router::notice::Notice;
use crate::router::quarantine::Offender;
use crate::router::shell::Shell;

/// The pause before a pair is asked for again that could not be made, or was lost: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How many pairs are asked for in the time of [`FIRST_PAUSE`] for one user or namespace. It is enough for a user whose vassals all start
/// at once; who connects again and again has the kernel make some few, each of which takes it a while, with the lock on all interfaces.
pub(super) const MOST_ASKED: u32 = 32;

/// The maximum number of users and namespaces that are remembered for that.
const MOST_ASKERS: usize = 1024;

/// After a write to a peer's device has taken long, so many more take the router's way, where their cost is measured: a peer with an
/// expensive one in 64 is mostly found out, and what is measured adds up.
pub(super) const PROBATION: u32 = 16 * MIN_EXPENSIVE_WRITES;

/// On a busy machine, chance makes more than one write in [`PROBATION`] take long. So after such a watch only what is no chance begins
/// another one for so long, which is also how long the meter remembers.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// If it was no chance, all of the peer's packets take the router's way, where their cost is bounded: for so long first, and longer each
/// time.
const FIRST_WATCH: Duration = Duration::from_secs(1);
const LONGEST_WATCH: Duration = Duration::from_secs(600);

/// The least for a peer that has exceeded what it may cost.
const WATCH_OF_COSTLY: Duration = Duration::from_secs(20);

/// What makes a peer one whose packets take the router's way for a while, because they take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::router) enum Suspicion {
    /// One packet. On a machine that has other work this happens to everybody.
    Chance,
    /// So many that it is no chance.
    Significant,
    /// It has exceeded what it may cost.
    Exceeded,
}

/// A peer that was not watched for so long begins with [`FIRST_WATCH`] again.
const CALM: Duration = Duration::from_secs(60);

/// A peer's pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pair {
    /// Nobody has asked for it.
    #[default]
    None,
    /// It is being made.
    Asked,
    /// It is there.
    Ready,
    /// It could not be made, or was lost. It may be asked for again then.
    Lost(Instant),
}

/// What the kernel has of a peer.
#[derive(Debug, Default)]
pub struct PeerPath {
    pair: Pair,
    /// The latest pause before it is asked for again.
    pause: Duration,
    /// Verdicts that name the peer, and those among them on packets that it sends.
    verdicts: usize,
    sent: usize,
    /// Writes that are still measured because one has taken long.
    probation: u32,
    /// Until when chance begins no other probation.
    grace: Option<Instant>,
    /// Until when its packets take the router's way because it was no chance, and for how long that is.
    costly_until: Option<Instant>,
    watch: Duration,
    /// What was dropped at the pair and is counted already.
    drops: PairDrops,
}

/// How many pairs were asked for lately, by whose they are.
#[derive(Debug, Default)]
pub(super) struct Askers(HashMap<Offender, (Instant, u32)>);

impl Askers {
    /// Counts a pair that is to be asked for. Returns false if it may not be.
    fn ask(&mut self, asker: Offender, now: Instant) -> bool {
        if self.0.len() >= MOST_ASKERS
            && !self.0.contains_key(&asker)
            && let Some(first) = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(asker, _)| *asker)
        {
            self.0.remove(&first);
        }
        let (since, count) = self.0.entry(asker).or_insert((now, 0));
        if now >= *since + FIRST_PAUSE {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MOST_ASKED
    }
}

impl Router {
    fn path(&self, id: PeerId) -> Option<&PeerPath> {
        self.forwarder.peers.get(id)?.session.path.as_deref()
    }

    fn path_mut(&mut self, id: PeerId) -> Option<&mut PeerPath> {
        self.forwarder.peers.get_mut(id)?.session.path.as_deref_mut()
    }

    /// Returns why a peer has no pair; `Ok` if it has one.
    pub(super) fn has_pair(&self, id: PeerId) -> Result<(), WhyNot> {
        if self.forwarder.peers.get(id).is_none_or(|peer| peer.session.denies_kernel_path) {
            return Err(WhyNot::Denied);
        }
        if self.path(id).is_some_and(|path| path.pair == Pair::Ready) { Ok(()) } else { Err(WhyNot::NoPair) }
    }

    /// Returns true if a peer that is attached has a pair. If it could have one, that is asked for.
    pub(super) fn want_pair(&mut self, shell: &mut impl Shell, id: PeerId) -> bool {
        let now = self.now;
        let Some(peer) = self.forwarder.peers.get_mut(id) else { return false };
        if peer.session.denies_kernel_path {
            return false;
        }
        let path = peer.session.path.get_or_insert_default();
        match path.pair {
            Pair::Ready => return true,
            Pair::Asked => return false,
            Pair::Lost(again) if now < again => return false,
            Pair::None | Pair::Lost(_) => {}
        }
        let asker = Offender::of(peer.session.credentials.uid, peer.session.namespace);
        if self.kernel.askers.ask(asker, now) && shell.make_pair(id) {
            path.pair = Pair::Asked;
        } else {
            path.lose(now);
        }
        false
    }

    /// A peer's pair is there ([`Shell::make_pair`]).
    pub fn pair_made(&mut self, shell: &mut impl Shell, id: PeerId, now: Instant) {
        self.advance(now);
        let Some(path) = self.path_mut(id).filter(|path| path.pair == Pair::Asked) else { return };
        (path.pair, path.drops) = (Pair::Ready, PairDrops::default());
        let addresses: Vec<_> = self.forwarder.addresses(id).collect();
        addresses.into_iter().for_each(|address| shell.set_kernel_claim(id, address, true));
    }

    /// A peer's pair could not be made, or is gone. It is asked for again, but not at once.
    pub fn pair_lost(&mut self, shell: &mut impl Shell, id: PeerId, why: &str, now: Instant) {
        self.advance(now);
        let Some(path) = self.path_mut(id).filter(|path| matches!(path.pair, Pair::Asked | Pair::Ready)) else {
            return;
        };
        path.lose(now);
        self.revoke_peer(shell, id);
        let why = why.to_owned();
        self.note_peer_fault(shell, id, |who| Notice::PairLost { who, why });
    }

    /// A peer has left, or its device isn't attached any more.
    pub(in crate::router) fn leave_kernel_path(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(path) = self.path(id) else { return };
        if !matches!(path.pair, Pair::Asked | Pair::Ready) {
            return;
        }
        self.revoke_peer(shell, id);
        self.count_pair_drops(shell, id);
        shell.drop_pair(id);
        if let Some(path) = self.path_mut(id) {
            path.pair = Pair::None;
        }
    }

    /// A peer got an address, or has lost one.
    pub(super) fn tell_claim(&self, shell: &mut impl Shell, id: PeerId, address: IpAddr, is_held: bool) {
        if self.path(id).is_some_and(|path| path.pair == Pair::Ready) {
            shell.set_kernel_claim(id, address, is_held);
        }
    }

    /// Changes the number of verdicts that name the peers of a flow.
    pub(super) fn note_verdict(&mut self, flow: &KernelFlow, change: impl Fn(usize) -> usize) {
        if let Some(path) = flow.from.and_then(|id| self.path_mut(id)) {
            (path.verdicts, path.sent) = (change(path.verdicts), change(path.sent));
        }
        if let Some(path) = flow.to.and_then(|id| self.path_mut(id)) {
            path.verdicts = change(path.verdicts);
        }
    }

    /// Returns true if as many verdicts name a peer as may.
    pub(super) fn has_most(&self, id: PeerId) -> bool {
        self.path(id).is_some_and(|path| path.verdicts >= MAX_VERDICTS_PER_PEER)
    }

    /// Returns true if a peer's packets take the router's way because some towards it have taken long.
    pub(super) fn is_costly(&self, id: PeerId) -> bool {
        self.path(id).is_some_and(|path| path.is_costly(self.now))
    }

    /// A write to a peer's device has been measured. If it has taken long, the peer's next packets take the router's way for a while, where
    /// each towards it is measured, too.
    #[inline]
    pub(in crate::router) fn watch_cost(&mut self, shell: &mut impl Shell, id: PeerId, suspicion: Option<Suspicion>) {
        let Some(path) = self.path_mut(id) else { return };
        path.probation = path.probation.saturating_sub(1);
        if let Some(suspicion) = suspicion {
            self.suspect(shell, id, suspicion);
        }
    }

    /// A peer's packets take the router's way for a while, because writes to its device have taken long. So do those that it sends: a write
    /// would include what they cost in the kernel.
    #[inline(never)]
    pub(in crate::router) fn suspect(&mut self, shell: &mut impl Shell, id: PeerId, suspicion: Suspicion) {
        let now = self.now;
        let Some(path) = self.path_mut(id) else { return };
        let was_costly = path.is_costly(now);
        match suspicion {
            Suspicion::Chance if was_costly || path.grace.is_some_and(|end| now < end) => return,
            Suspicion::Chance => (path.probation, path.grace) = (PROBATION, Some(now + GRACE)),
            Suspicion::Significant => path.watch_longer(now, FIRST_WATCH),
            Suspicion::Exceeded => path.watch_longer(now, WATCH_OF_COSTLY),
        }
        if was_costly {
            return;
        }
        self.kernel.counts.watched += 1;
        self.revoke_peer(shell, id);
    }

    /// Counts what was dropped at a peer's pair.
    pub(super) fn count_pair_drops(&mut self, shell: &mut impl Shell, id: PeerId) {
        let Some(path) = self.path_mut(id).filter(|path| path.pair == Pair::Ready) else { return };
        let drops = shell.pair_drops(id);
        let before = std::mem::replace(&mut path.drops, drops);
        let news = [
            (DropReason::PairSpoofed, drops.spoofed.saturating_sub(before.spoofed)),
            (DropReason::PairUndecided, drops.undecided.saturating_sub(before.undecided)),
        ];
        for (reason, count) in news {
            self.counters.drops.add(reason, count);
            if let Some(peer) = self.forwarder.peers.get_mut(id) {
                peer.session.traffic.drops.add(reason, count);
            }
        }
    }
}

impl PeerPath {
    /// Returns true if the peer's packets take the router's way because some towards it have taken long.
    fn is_costly(&self, now: Instant) -> bool {
        self.probation > 0 || self.costly_until.is_some_and(|until| now < until)
    }

    /// Has packets take the router's way, for longer than the last time unless that was long ago. Who is watched already gains nothing by
    /// costing more, and loses nothing.
    fn watch_longer(&mut self, now: Instant, least: Duration) {
        let next = match self.costly_until {
            Some(until) if now < until && self.watch >= least => return,
            Some(until) if now < until + CALM => self.watch.saturating_mul(2).min(LONGEST_WATCH),
            _ => FIRST_WATCH,
        };
        self.watch = next.max(least);
        self.costly_until = Some(now + self.watch);
    }

    /// There is no pair, and for a while none is asked for.
    fn lose(&mut self, now: Instant) {
        self.pause = self.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.pair = Pair::Lost(now + self.pause);
    }

    /// Returns true if there is a pair.
    pub fn has_pair(&self) -> bool {
        self.pair == Pair::Ready
    }

    /// Returns true if packets that the peer sends may pass in the kernel.
    pub const fn sends(&self) -> bool {
        self.sent > 0
    }

    /// Returns the number of verdicts that name the peer.
    pub const fn verdicts(&self) -> usize {
        self.verdicts
    }
}
