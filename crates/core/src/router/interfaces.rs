//! The interfaces by which datagrams and statistics clients come. What comes by a router's device comes from a peer,
//! whatever its source address says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Router;
use super::shell::Shell;

/// How long an answer about an interface is used. Interface numbers can be reused, and a device that is made anew gets
/// another number.
const LIFETIME: Duration = Duration::from_secs(1);

/// The maximum number of interfaces in the cache.
const MAX: usize = 64;

/// A cache that says of interfaces, by number, if they are devices of routers.
#[derive(Debug, Default)]
pub struct InterfaceCache(HashMap<u32, (bool, Instant)>);

impl InterfaceCache {
    /// Returns the cached answer, or asks `find`.
    fn is_device(&mut self, index: u32, now: Instant, find: impl FnOnce() -> bool) -> bool {
        match self.0.get(&index) {
            Some((is_device, asked)) if now.saturating_duration_since(*asked) < LIFETIME => *is_device,
            _ => {
                if self.0.len() >= MAX {
                    self.0.clear();
                }
                let is_device = find();
                self.0.insert(index, (is_device, now));
                is_device
            }
        }
    }
}

impl Router {
    /// Returns true if an interface is the device of a router of this instance.
    pub(super) fn is_router_device(&mut self, shell: &mut impl Shell, index: u32) -> bool {
        self.interfaces.is_device(index, self.now, || shell.is_router_device(index))
    }

    /// Returns true if a statistics client is to be refused because it may be a peer: it came by a router's device, or from
    /// an address that a peer holds or may hold.
    pub fn refuses_client(
        &mut self,
        shell: &mut impl Shell,
        source: IpAddr,
        interface: Option<u32>,
        now: Instant,
    ) -> bool {
        self.advance(now);
        let address = source.to_canonical();
        let may_be = !self.forwarder.is_local(address)
            && (self.forwarder.may_be_peers(address)
                || interface.is_some_and(|index| self.is_router_device(shell, index)));
        self.counters.totals.stats_refused += u64::from(may_be);
        may_be
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_ages_and_is_bounded() {
        let now = Instant::now();
        let mut cache = InterfaceCache::default();
        assert!(cache.is_device(7, now, || true));
        assert!(cache.is_device(7, now + LIFETIME / 2, || false));
        assert!(!cache.is_device(7, now + LIFETIME, || false));
        (0..1000).for_each(|index| _ = cache.is_device(index, now, || false));
        assert!(cache.0.len() <= MAX);
    }
}
