//! What the daemon has announced: routes of other hosts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Bound, RangeBounds};
use std::time::{Duration, Instant};

use tuntap_wire::bgp::claim;
use tuntap_wire::bgp::prefix::Nlri;
use tuntap_wire::bgp::update::{Announced, Fault, PathAttributes, Update};
use tuntap_wire::bgp::{Family, PerFamily};
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use super::Listener;
use super::notice::Notice;
use super::settings::Settings;
use crate::policy::prefix_map::PrefixSet;

/// Why a route is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It is not for one address.
    #[error("it is not for a single address")]
    NotOneAddress,
    /// It is for an address elsewhere.
    #[error("it is outside the networks of this router")]
    Outside,
    /// Its large communities name no certain claim, or it has none, and no next hop to go by.
    #[error("it doesn't say who holds it")]
    NoHolder,
    /// There are [`Imports::MAX_ROUTES`].
    #[error("there are {} routes already", Imports::MAX_ROUTES)]
    TooManyRoutes,
    /// There are [`Imports::MAX_PATHS`] for the address.
    #[error("there are {} routes for this address already", Imports::MAX_PATHS)]
    TooManyPaths,
    /// Its attributes are malformed.
    #[error("{0}")]
    Malformed(Fault),
}

/// Numbers of what was received since the speaker was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Routes that were announced, those that were refused included.
    pub announced: u64,
    /// Routes that were withdrawn.
    pub withdrawn: u64,
    /// Routes of this router itself, which come back. They are ignored.
    pub reflected: u64,
    /// Refused because they are not for a single address.
    pub not_one_address: u64,
    /// Refused because they are outside the networks.
    pub outside: u64,
    /// Refused because they don't say who holds them.
    pub no_holder: u64,
    /// Refused because there are too many.
    pub too_many_routes: u64,
    /// Refused because there are too many for their address.
    pub too_many_paths: u64,
    /// Refused because their attributes are malformed.
    pub malformed: u64,
}

impl Received {
    /// Counts a refusal. Returns true if it is the first one of its kind.
    fn refuse(&mut self, refusal: Refusal) -> bool {
        let count = match refusal {
            Refusal::NotOneAddress => &mut self.not_one_address,
            Refusal::Outside => &mut self.outside,
            Refusal::NoHolder => &mut self.no_holder,
            Refusal::TooManyRoutes => &mut self.too_many_routes,
            Refusal::TooManyPaths => &mut self.too_many_paths,
            Refusal::Malformed(_) => &mut self.malformed,
        };
        *count += 1;
        *count == 1
    }
}

/// A route.
#[derive(Debug, Clone, Copy)]
struct Route {
    holding: Holding,
    /// In which round it was announced last.
    round: u64,
}

/// Routes that may be gone.
#[derive(Debug, Clone, Copy)]
struct Stale {
    /// Those of earlier rounds are removed at this time at the latest.
    until: Instant,
}

/// Routes that are gone on their way out, in the order of their addresses.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    /// Those of rounds before this one are gone.
    before: u64,
    /// The address after which it goes on.
    after: Option<IpAddr>,
    /// True if more routes have gone since it began.
    again: bool,
}

/// The routes of other hosts.
#[derive(Debug)]
pub struct Imports {
    networks: PrefixSet,
    /// By address and number of the path.
    routes: BTreeMap<(IpAddr, u32), Route>,
    /// Counts sessions and answers to requests for all routes. Each announces all routes anew.
    rounds: PerFamily<u64>,
    stale: PerFamily<Option<Stale>>,
    sweeps: PerFamily<Option<Sweep>>,
    /// True if all routes of the family have come since the session began.
    complete: PerFamily<bool>,
    /// True if a route was refused for lack of room since all routes were asked for.
    lacked_room: PerFamily<bool>,
    /// Addresses that the last UPDATE says this router itself to hold.
    pub(super) reflected: Vec<IpAddr>,
    pub(super) received: Received,
}

impl Imports {
    /// The most routes that are kept, all paths counted. A route takes about 100 bytes. By BIRD's configuration, what one host may
    /// announce of both families is half of it.
    pub const MAX_ROUTES: usize = 131_072;

    /// The most routes for one address.
    pub const MAX_PATHS: usize = 16;

    /// Routes of a session that has ended, or that were not announced again, are kept so long. It is longer than it takes to
    /// start the daemon again.
    pub const STALE: Duration = Duration::from_secs(10);

    /// Routes that the daemon hasn't announced again are removed this long after it has begun to announce all, at the latest.
    pub const REFRESHING: Duration = Duration::from_secs(60);

    /// Routes that are looked at in one piece when there may be some that are gone, but for further ones to the last address.
    pub const SWEEP: usize = 1024;

    /// Below this number of routes there is room again for those that were refused.
    const ROOM: usize = Self::MAX_ROUTES / 4 * 3;

    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            networks: settings.networks.iter().copied().collect(),
            routes: BTreeMap::new(),
            rounds: PerFamily::default(),
            stale: PerFamily::default(),
            sweeps: PerFamily::default(),
            complete: PerFamily::default(),
            lacked_room: PerFamily::default(),
            reflected: Vec::new(),
            received: Received::default(),
        }
    }

    /// Returns the number of routes.
    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Returns true if all routes of a family have come since the session began.
    pub(super) const fn is_complete(&self, family: Family) -> bool {
        *self.complete.get(family)
    }

    /// Returns the newest claim to an address.
    fn newest(&self, address: IpAddr) -> Option<Holding> {
        self.routes.range((address, 0)..=(address, u32::MAX)).map(|(_, route)| route.holding).max()
    }

    /// Reads what an UPDATE says.
    pub(super) fn update(&mut self, update: &Update<'_>, settings: &Settings, listener: &mut impl Listener) {
        for nlri in update.withdrawn() {
            match update.fault() {
                Some(fault) => self.refuse(&nlri, Refusal::Malformed(fault), listener),
                None => self.received.withdrawn += 1,
            }
            self.withdraw(&nlri, listener);
        }
        for announced in update.announced() {
            self.received.announced += 1;
            match self.check(&announced, update.attributes(), settings) {
                Ok(Some((address, holding))) => self.insert(address, announced.nlri.path, holding, listener),
                Ok(None) => {
                    self.received.reflected += 1;
                    self.reflected.push(announced.nlri.net.addr());
                    self.withdraw(&announced.nlri, listener);
                }
                Err(refusal) => {
                    self.refuse(&announced.nlri, refusal, listener);
                    // It takes the place of what was announced before.
                    self.withdraw(&announced.nlri, listener);
                }
            }
        }
        if let Some(family) = update.end_of_rib() {
            self.end_round(family);
        }
    }

    /// Finds out whom a route says to hold which address; `None` for this router itself.
    fn check(
        &self,
        announced: &Announced,
        attributes: &PathAttributes<'_>,
        settings: &Settings,
    ) -> Result<Option<(IpAddr, Holding)>, Refusal> {
        let Nlri { path, net } = announced.nlri;
        let address = net.addr();
        if net.prefix_len() != net.max_prefix_len() {
            return Err(Refusal::NotOneAddress);
        }
        if self.networks.covering(address).next().is_none() {
            return Err(Refusal::Outside);
        }
        let claim = claim::decode(settings.asn, attributes.large_communities).map_err(|_| Refusal::NoHolder)?;
        let holding = match claim {
            Some(holding) => holding,
            None => foreign(announced.next_hop, attributes).ok_or(Refusal::NoHolder)?,
        };
        if holding.router == settings.router {
            return Ok(None);
        }
        if !self.routes.contains_key(&(address, path)) {
            if self.routes.len() >= Self::MAX_ROUTES {
                return Err(Refusal::TooManyRoutes);
            }
            if self.routes.range((address, 0)..=(address, u32::MAX)).count() >= Self::MAX_PATHS {
                return Err(Refusal::TooManyPaths);
            }
        }
        Ok(Some((address, holding)))
    }

    fn refuse(&mut self, nlri: &Nlri, refusal: Refusal, listener: &mut impl Listener) {
        if refusal == Refusal::TooManyRoutes {
            *self.lacked_room.get_mut(Family::of(nlri.net.addr())) = true;
        }
        if self.received.refuse(refusal) {
            listener.notice(Notice::Refused { net: nlri.net, refusal });
        }
    }

    fn insert(&mut self, address: IpAddr, path: u32, holding: Holding, listener: &mut impl Listener) {
        let before = self.newest(address);
        let round = *self.rounds.get(Family::of(address));
        self.routes.insert((address, path), Route { holding, round });
        self.tell(address, before, listener);
    }

    fn withdraw(&mut self, nlri: &Nlri, listener: &mut impl Listener) {
        let address = nlri.net.addr();
        let before = self.newest(address);
        // Only routes for one address are kept.
        if nlri.net.prefix_len() == nlri.net.max_prefix_len() && self.routes.remove(&(address, nlri.path)).is_some() {
            self.tell(address, before, listener);
        }
    }

    /// Tells who holds an address, if that has changed.
    fn tell(&self, address: IpAddr, before: Option<Holding>, listener: &mut impl Listener) {
        match self.newest(address) {
            now if now == before => {}
            Some(holding) => listener.held(address, holding),
            None => listener.released(address),
        }
    }

    /// All routes of a family are announced anew from now on.
    pub(super) fn begin_round(&mut self, family: Family, until: Instant) {
        *self.rounds.get_mut(family) += 1;
        self.stale.get_mut(family).get_or_insert(Stale { until });
        *self.lacked_room.get_mut(family) = false;
    }

    /// All routes of a family were announced: those of earlier rounds are gone, and [`Imports::sweep`] removes them.
    pub(super) fn end_round(&mut self, family: Family) {
        *self.complete.get_mut(family) = true;
        self.begin_sweep(family);
    }

    fn begin_sweep(&mut self, family: Family) {
        if self.stale.get_mut(family).take().is_some() {
            let before = *self.rounds.get(family);
            match self.sweeps.get_mut(family) {
                // It goes on from where it is, so that it comes to an end however often there is a new one.
                Some(sweep) => (sweep.before, sweep.again) = (before, true),
                none => *none = Some(Sweep { before, after: None, again: false }),
            }
        }
    }

    /// The session has ended: its routes are kept until the next one has announced all, but for a while at most.
    pub(super) fn lose(&mut self, now: Instant) {
        self.complete = PerFamily::default();
        for family in Family::ALL {
            self.begin_round(family, now + Self::STALE);
        }
    }

    /// What is stale for too long is gone, and [`Imports::sweep`] removes it.
    pub(super) fn expire(&mut self, now: Instant) {
        for family in Family::ALL {
            if self.stale.get(family).is_some_and(|stale| stale.until <= now) {
                self.begin_sweep(family);
            }
        }
    }

    /// Returns true if routes that are gone may be left.
    pub(super) fn is_sweeping(&self) -> bool {
        Family::ALL.iter().any(|family| self.sweeps.get(*family).is_some())
    }

    /// Removes some of the routes that are gone. Returns false if there are none. An address is told of once.
    pub(super) fn sweep(&mut self, listener: &mut impl Listener) -> bool {
        let next = Family::ALL.into_iter().find_map(|family| Some((family, (*self.sweeps.get(family))?)));
        let Some((family, sweep)) = next else { return false };
        let (mut seen, mut last) = (0, sweep.after);
        let mut gone: Vec<(IpAddr, u32)> = Vec::new();
        let mut is_cut = false;
        for (&(address, path), route) in self.routes.range(rest(family, sweep.after)) {
            if seen >= Self::SWEEP && last != Some(address) {
                is_cut = true;
                break;
            }
            (seen, last) = (seen + 1, Some(address));
            if route.round < sweep.before {
                gone.push((address, path));
            }
        }
        *self.sweeps.get_mut(family) = match (is_cut, sweep.again) {
            (true, _) => Some(Sweep { after: last, ..sweep }),
            (false, true) => Some(Sweep { after: None, again: false, ..sweep }),
            (false, false) => None,
        };
        for paths in gone.chunk_by(|one, other| one.0 == other.0) {
            let before = self.newest(paths[0].0);
            paths.iter().for_each(|key| _ = self.routes.remove(key));
            self.tell(paths[0].0, before, listener);
        }
        true
    }

    /// Returns when [`Imports::expire`] has something to do.
    pub(super) fn next_time(&self) -> Option<Instant> {
        Family::ALL.iter().filter_map(|family| Some((*self.stale.get(*family))?.until)).min()
    }

    /// Returns true, once, if routes of a family were refused for lack of room, and there is room now.
    pub(super) fn has_room_again(&mut self, family: Family) -> bool {
        let has_room = self.routes.len() < Self::ROOM;
        has_room && std::mem::take(self.lacked_room.get_mut(family))
    }
}

/// The routes of a family to addresses after one of them.
fn rest(family: Family, after: Option<IpAddr>) -> impl RangeBounds<(IpAddr, u32)> {
    let (first, last): (IpAddr, IpAddr) = match family {
        Family::Ipv4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
        Family::Ipv6 => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()),
    };
    let begin = after.map_or(Bound::Included((first, 0)), |address| Bound::Excluded((address, u32::MAX)));
    (begin, Bound::Included((last, u32::MAX)))
}

/// A holder that isn't one of our routers: it is told apart by where its packets go, and MULTI_EXIT_DISC is its time. `None`
/// without such a place.
fn foreign(next_hop: IpAddr, attributes: &PathAttributes<'_>) -> Option<Holding> {
    let number = match (attributes.originator, next_hop) {
        (Some(originator), _) => u64::from(originator.to_bits()),
        (None, IpAddr::V4(address)) => u64::from(address.to_bits()),
        (None, IpAddr::V6(address)) => {
            let [a, b, c, d, e, f, g, h] = address.segments().map(u64::from);
            (a << 48 | b << 32 | c << 16 | d) ^ (e << 48 | f << 32 | g << 16 | h)
        }
    };
    let since = ClaimTime(u64::from(attributes.med.unwrap_or(0)) * 1000);
    Some(Holding { router: RouterId::new(number)?, since })
}
