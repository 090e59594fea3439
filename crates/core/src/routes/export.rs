//! Local claims, and what the daemon doesn't know of them yet.

use std::collections::btree_map::Entry::Vacant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::time::Instant;

use ipnet::IpNet;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::write::{self, Attributes};
use tuntap_wire::bgp::{Family, PerFamily, claim};
use tuntap_wire::holding::Holding;

use super::import::Imports;
use super::output::Output;
use super::session::Negotiated;
use super::settings::Settings;

/// An address that is held here, or that the daemon has to forget.
#[derive(Debug, Clone, Copy)]
struct Entry {
    holding: Option<Holding>,
    /// True if the daemon was told of it.
    is_announced: bool,
}

/// How the end of all routes is marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Marks {
    /// At the beginning of a session.
    EndOfRib,
    /// Beginning and end (RFC 7313).
    Refresh,
    /// Not at all: the daemon doesn't know the marks.
    #[default]
    None,
}

/// All routes of a family on their way.
#[derive(Debug, Clone, Copy)]
struct Dump {
    marks: Marks,
    has_begun: bool,
    /// The address after which it goes on.
    after: Option<IpAddr>,
    /// The mark at the end is not written before this time.
    end_at: Option<Instant>,
    /// All routes are to be sent once more after this.
    again: bool,
}

impl Dump {
    const fn of(marks: Marks, end_at: Option<Instant>) -> Self {
        Self { marks, has_begun: false, after: None, end_at, again: false }
    }
}

/// Numbers of what was written to the daemon in this session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Routes that were announced.
    pub announced: u64,
    /// Routes that were withdrawn.
    pub withdrawn: u64,
    /// Times that all routes of a family were sent.
    pub dumps: u64,
}

/// The local claims.
#[derive(Debug, Default)]
pub(super) struct Exports {
    entries: BTreeMap<IpAddr, Entry>,
    /// Addresses of entries that the daemon doesn't know yet, of families that the session has.
    dirty: BTreeSet<IpAddr>,
    /// Addresses that a router before this one has announced, as the daemon says. It is told that they are gone when all routes have
    /// been sent, if nobody has claimed them again.
    doubted: BTreeSet<IpAddr>,
    families: PerFamily<bool>,
    dumps: PerFamily<Option<Dump>>,
    /// How an answer to a request for all routes is marked.
    refresh_marks: Marks,
    claims: usize,
    pub sent: Sent,
    /// Those that are written next. Kept for its memory.
    batch: Vec<(IpAddr, Option<Holding>)>,
}

impl Exports {
    /// Routes that are written in one go.
    const BATCH: usize = 256;

    /// Returns the number of claims.
    pub const fn claims(&self) -> usize {
        self.claims
    }

    /// Returns the number of routes that the daemon is to know of, but wasn't told yet.
    pub fn waiting(&self) -> usize {
        self.dirty.len()
    }

    /// Sets who holds an address here.
    pub fn set(&mut self, address: IpAddr, holding: Option<Holding>) {
        let is_new = !self.entries.contains_key(&address);
        if is_new && holding.is_none() {
            return;
        }
        let entry = self.entries.entry(address).or_insert(Entry { holding: None, is_announced: false });
        if !is_new && entry.holding == holding {
            return;
        }
        self.claims = self.claims + usize::from(holding.is_some()) - usize::from(entry.holding.is_some());
        entry.holding = holding;
        if holding.is_none() && !entry.is_announced {
            self.entries.remove(&address);
            self.dirty.remove(&address);
        } else if *self.families.get(Family::of(address)) {
            self.dirty.insert(address);
        }
    }

    /// Sets who holds all addresses here.
    pub fn replace(&mut self, claims: BTreeMap<IpAddr, Holding>) {
        let gone =
            self.entries.iter().filter(|(address, entry)| entry.holding.is_some() && !claims.contains_key(address));
        let gone: Vec<IpAddr> = gone.map(|(address, _)| *address).collect();
        gone.into_iter().for_each(|address| self.set(address, None));
        claims.into_iter().for_each(|(address, holding)| self.set(address, Some(holding)));
    }

    /// A session has begun, or is taken over. All routes are to be sent, between these marks.
    pub fn begin(&mut self, negotiated: &Negotiated, marks: Marks, end_at: Option<Instant>) {
        self.end();
        let families = negotiated.families;
        self.families = families;
        self.refresh_marks = if negotiated.enhanced_route_refresh { Marks::Refresh } else { Marks::None };
        let dump = Dump::of(marks, end_at);
        self.dumps = PerFamily::new(|family| families.get(family).then_some(dump));
        self.sent = Sent::default();
    }

    /// The session has ended.
    pub fn end(&mut self) {
        self.entries.retain(|_, entry| {
            entry.is_announced = false;
            entry.holding.is_some()
        });
        self.dirty.clear();
        self.doubted.clear();
        self.families = PerFamily::default();
        self.dumps = PerFamily::default();
    }

    /// The daemon says that this router has announced an address. Not every daemon forgets at the second mark what isn't announced
    /// again (FRR 8 doesn't), so it is told of what isn't true any more.
    pub fn doubt(&mut self, address: IpAddr) {
        let family = Family::of(address);
        let has_room = self.doubted.len() + self.dirty.len() < Imports::MAX_ROUTES;
        if !has_room || !*self.families.get(family) || self.entries.contains_key(&address) {
            return;
        }
        match self.dumps.get(family) {
            Some(_) => _ = self.doubted.insert(address),
            None => self.disown(address),
        }
    }

    fn disown(&mut self, address: IpAddr) {
        if let Vacant(place) = self.entries.entry(address) {
            place.insert(Entry { holding: None, is_announced: true });
            self.dirty.insert(address);
        }
    }

    /// The daemon asks for all routes of a family.
    pub fn refresh(&mut self, family: Family) {
        if !*self.families.get(family) {
            return;
        }
        match self.dumps.get_mut(family) {
            // The marks of two answers must not mix.
            Some(dump) => dump.again = true,
            none => *none = Some(Dump::of(self.refresh_marks, None)),
        }
    }

    /// Returns true if there is something to write as soon as there is room.
    pub fn has_more(&self, now: Instant) -> bool {
        !self.dirty.is_empty() || self.due_dump(now).is_some()
    }

    /// Returns when there will be something to write although nothing changes.
    pub fn next_time(&self, now: Instant) -> Option<Instant> {
        Family::ALL.iter().filter_map(|family| (*self.dumps.get(*family))?.end_at).filter(|at| *at > now).min()
    }

    /// Writes routes while there is room. Returns true if something was written.
    pub fn fill(&mut self, output: &mut Output, settings: &Settings, now: Instant) -> bool {
        let before = output.waiting().len();
        if before >= Output::FILLED {
            return false;
        }
        output.compact();
        while output.waiting().len() < Output::FILLED {
            while self.batch.len() < Self::BATCH
                && let Some(address) = self.dirty.pop_first()
            {
                self.batch.push((address, self.entries.get(&address).and_then(|entry| entry.holding)));
            }
            if self.batch.is_empty() {
                let Some(family) = self.due_dump(now) else { break };
                self.dump_on(family, output.tail(), now);
            }
            self.write_batch(output.tail(), settings);
        }
        output.waiting().len() > before
    }

    /// Returns the family whose dump can go on. One comes after the other: FRR takes the marks of one family alone at a time.
    fn due_dump(&self, now: Instant) -> Option<Family> {
        let (family, dump) = Family::ALL.into_iter().find_map(|family| Some((family, (*self.dumps.get(family))?)))?;
        let is_due = self.goes_on(family, &dump) || dump.end_at.is_some_and(|at| at <= now);
        is_due.then_some(family)
    }

    fn goes_on(&self, family: Family, dump: &Dump) -> bool {
        dump.end_at.is_none() || !dump.has_begun || self.entries.range(rest(family, dump.after)).next().is_some()
    }

    /// Goes on with a dump: puts routes into the batch, or writes the mark at the end.
    fn dump_on(&mut self, family: Family, output: &mut Vec<u8>, now: Instant) {
        let Some(mut dump) = *self.dumps.get(family) else { return };
        if !dump.has_begun {
            dump.has_begun = true;
            if dump.marks == Marks::Refresh {
                Refresh::Begin.append(output, family);
            }
        }
        let rest = self.entries.range(rest(family, dump.after)).take(Self::BATCH);
        self.batch.extend(rest.map(|(address, entry)| (*address, entry.holding)));
        let mut next = Some(dump);
        if let Some((last, _)) = self.batch.last() {
            next = Some(Dump { after: Some(*last), ..dump });
        } else if dump.end_at.is_none_or(|at| at <= now) {
            match dump.marks {
                Marks::Refresh => Refresh::End.append(output, family),
                Marks::EndOfRib => write::append_end_of_rib(output, family),
                Marks::None => {}
            }
            self.sent.dumps += 1;
            let doubted = std::mem::take(&mut self.doubted);
            let (of_family, others) = doubted.into_iter().partition(|address| Family::of(*address) == family);
            self.doubted = others;
            BTreeSet::into_iter(of_family).for_each(|address| self.disown(address));
            next = dump.again.then_some(Dump::of(self.refresh_marks, None));
        }
        *self.dumps.get_mut(family) = next;
    }

    /// Writes what is in the batch: what is gone first, then routes with the same attributes together.
    fn write_batch(&mut self, output: &mut Vec<u8>, settings: &Settings) {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable_by_key(|(address, holding)| (*holding, address.is_ipv6()));
        for group in batch.chunk_by(|one, other| one.1 == other.1 && one.0.is_ipv4() == other.0.is_ipv4()) {
            let (family, holding) = (Family::of(group[0].0), group[0].1);
            let nets: Vec<IpNet> = group.iter().map(|(address, _)| IpNet::from(*address)).collect();
            let count = u64::try_from(nets.len()).unwrap_or(u64::MAX);
            match holding {
                Some(holding) => {
                    announce(output, settings, family, holding, &nets);
                    self.sent.announced += count;
                }
                None => {
                    in_messages(&nets, |nets| write::append_withdrawal(output, family, nets));
                    self.sent.withdrawn += count;
                }
            }
            for (address, _) in group {
                self.dirty.remove(address);
                match self.entries.get_mut(address) {
                    Some(entry) if holding.is_some() => entry.is_announced = true,
                    _ => drop(self.entries.remove(address)),
                }
            }
        }
        batch.clear();
        self.batch = batch;
    }
}

/// The addresses of a family after one of them.
fn rest(family: Family, after: Option<IpAddr>) -> (Bound<IpAddr>, Bound<IpAddr>) {
    let (first, last): (IpAddr, IpAddr) = match family {
        Family::Ipv4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
        Family::Ipv6 => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()),
    };
    match after {
        // Nothing comes after the last one, and a range must not be empty in this way.
        Some(address) if address >= last => (Bound::Excluded(first), Bound::Included(first)),
        Some(address) => (Bound::Excluded(address), Bound::Included(last)),
        None => (Bound::Included(first), Bound::Included(last)),
    }
}

fn announce(output: &mut Vec<u8>, settings: &Settings, family: Family, holding: Holding, nets: &[IpNet]) {
    let communities = claim::encode(settings.asn, holding);
    let attributes = Attributes {
        asn: settings.asn,
        next_hop: settings.next_hops.of(family),
        med: holding.since.seconds(),
        large_communities: &communities,
    };
    in_messages(nets, |nets| write::append_announcement(output, &attributes, nets));
}

/// Writes messages until all prefixes are written.
fn in_messages(mut nets: &[IpNet], mut append: impl FnMut(&[IpNet]) -> usize) {
    while !nets.is_empty() {
        // A message has room for one at least.
        let done = append(nets).max(1);
        nets = nets.get(done..).unwrap_or_default();
    }
}
