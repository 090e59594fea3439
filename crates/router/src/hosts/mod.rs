//! What a router tells other hosts of its peers' claims, and hears of theirs: the shell's side of
//! [`tuntap_core::elsewhere`].

mod damping;
mod endpoint;
mod kept;
mod ration;
mod routes;
mod routes_stats;
mod trunks;
mod trunks_stats;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::epoll::{Epoll, EpollFlags};

use super::event_loop::EventLoop;
use super::shell::Io;
use super::{RouterError, Setup};
use tuntap_core::policy::lost::ClaimChanges;
use tuntap_core::router::Router;
use tuntap_core::routes::takeover::StoredSession;
use tuntap_core::trunk::Trunks;
use tuntap_wire::holding::{ClaimTime, RouterId};

use damping::Damping;
pub use endpoint::{EndpointError, RoutesEndpoint};
pub use kept::{KeptRoutes, LeftRoutes};
use routes::Routes;
pub use trunks::{TrunkEndpoint, TrunkSockets};

/// How long neighbours have to connect and tell what they know. It is longer than an attempt to connect and the pause after it.
const TRUNKS_TIME: Duration = Duration::from_secs(5);

/// What a router needs for other hosts. The master makes it before the fork, and keeps it.
#[derive(Debug, Default)]
pub struct Hosts {
    /// The router's id among those of other hosts.
    pub router: Option<RouterId>,
    /// Where the routing daemon connects.
    pub routes: Option<RoutesEndpoint>,
    /// What is needed for trunks.
    pub trunks: Option<TrunkEndpoint>,
}

/// All that tell other hosts of claims.
#[derive(Debug)]
pub struct Announcers<'a> {
    /// The session with the routing daemon.
    pub(super) routes: Option<Routes<'a>>,
    damping: Damping,
    /// Neighbours have had their time to tell what they know after this.
    trunks_told_by: Instant,
    /// True once all have told what they know, or had their time for it.
    are_sure: bool,
}

impl<'a> Announcers<'a> {
    /// Makes those that the setup names. `None` if the router has no id, for then nobody is told of anything.
    pub fn new(setup: &'a Setup, epoll: &Epoll, now: Instant) -> Result<Option<Self>, RouterError> {
        let Some(router) = setup.hosts.router else { return Ok(None) };
        let routes = match (&setup.hosts.routes, &setup.spec.hosts.routes) {
            (Some(endpoint), Some(spec)) => Some(Routes::new(setup, endpoint, spec, router, epoll, now)?),
            _ => None,
        };
        Ok(Some(Self { routes, damping: Damping::default(), trunks_told_by: now + TRUNKS_TIME, are_sure: false }))
    }

    /// Returns when the loop has to wake up for them even without an event.
    pub fn next_deadline(&self) -> Option<Instant> {
        let of_routes = self.routes.as_ref().and_then(Routes::next_deadline);
        [of_routes, self.damping.next_deadline()].into_iter().flatten().min()
    }

    /// Returns true if there is work that doesn't wait for an event.
    pub fn has_work(&self, now: Instant) -> bool {
        self.routes.as_ref().is_some_and(|routes| routes.has_work(now))
    }

    /// An event of the listener where the routing daemon connects (`None`), or of its connection.
    pub fn routes_event(&mut self, flags: Option<EpollFlags>) {
        if let Some(routes) = &mut self.routes {
            match flags {
                Some(flags) => routes.event(flags),
                None => routes.note_caller(),
            }
        }
    }

    /// Goes on with what the router before this one has left, once its peers are restored.
    fn take_over(&mut self, router: &mut Router, io: &mut Io<'_>, routes: Option<(StoredSession, OwnedFd)>) {
        self.tell_changes(router, Instant::now());
        if let (Some(routes), Some((session, connection))) = (&mut self.routes, routes) {
            routes.take_over(io, &session, connection, Instant::now());
        }
    }

    /// Does what is due: reads, so that claims elsewhere count before the router's own are told, and writes. `is_idle` says that no
    /// packet waits.
    fn turn(&mut self, router: &mut Router, io: &mut Io<'_>, now: Instant, is_idle: bool) {
        if let Some(routes) = &mut self.routes {
            routes.read(router, io, now, is_idle);
        }
        self.tell_changes(router, now);
        if let Some(routes) = &mut self.routes {
            routes.write(router, io, now, is_idle);
        }
        if !self.are_sure {
            let trunks_told = now >= self.trunks_told_by || router.trunks().is_none_or(Trunks::have_told);
            self.are_sure = trunks_told && self.routes.as_ref().is_none_or(|routes| routes.has_told(now));
            router.set_unsure(!self.are_sure);
        }
    }

    /// Tells all of the claims that have changed, but not of each too often.
    fn tell_changes(&mut self, router: &mut Router, now: Instant) {
        let changes = router.take_claim_changes();
        let changes = self.damping.filter(changes, now, |address| router.local_claim(address));
        router.tell_trunks(&changes);
        match changes {
            ClaimChanges::Of(changes) => {
                for (address, holding) in changes {
                    if let Some(routes) = &mut self.routes {
                        routes.claim_changed(address, holding);
                    }
                }
            }
            ClaimChanges::Any => {
                if let Some(routes) = &mut self.routes {
                    routes.replace_claims(router.local_claims());
                }
            }
        }
    }
}

impl EventLoop<'_> {
    /// Tells the router the time of the host's wall clock, which claims have. Nobody needs it if the router has no id.
    pub(super) fn set_clock(&mut self) {
        if self.hosts.is_some() {
            self.router.set_clock(&mut self.io, wall_clock());
        }
    }

    /// Exchanges claims with other hosts.
    pub(super) fn serve_hosts(&mut self, now: Instant) {
        if let Some(hosts) = &mut self.hosts {
            hosts.turn(&mut self.router, &mut self.io, now, self.is_idle);
            self.router.poll_trunks(&mut self.io);
        }
    }

    /// Goes on with the exchange of claims where the router before this one has left it.
    pub(super) fn take_over_hosts(
        &mut self,
        routes: Option<(StoredSession, OwnedFd)>,
        trunks: Vec<(RouterId, u16, OwnedFd)>,
    ) {
        if let Some(hosts) = &mut self.hosts {
            hosts.take_over(&mut self.router, &mut self.io, routes);
            self.take_over_trunks(trunks);
        }
    }
}

/// CLOCK_REALTIME. A clock before 1970 counts as 1970.
fn wall_clock() -> ClaimTime {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    ClaimTime(u64::try_from(millis).unwrap_or(u64::MAX))
}
