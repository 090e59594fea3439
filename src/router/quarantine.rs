//! Who had devices that were too expensive to write to, so that hanging up and coming back is no way around the
//! [`super::meter`].

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::sys::net::{NamespaceCookie, namespace_of};
use crate::sys::socket::PeerCredentials;

/// What stays the same when a peer comes back with another process and another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A user other than root. Namespaces are cheap for one who can make any.
    User(libc::uid_t),
    /// Vassals mostly connect as root; each has a network namespace of its own.
    Namespace(NamespaceCookie),
    /// As root from a namespace that the kernel doesn't tell: one place for all of them, or each could come back at once.
    Unknown,
}

impl Origin {
    /// Where a peer with this connection comes from.
    pub fn of(credentials: PeerCredentials, connection: BorrowedFd<'_>) -> Self {
        match credentials.uid {
            0 => namespace_of(connection).map_or(Self::Unknown, Self::Namespace),
            uid => Self::User(uid),
        }
    }
}

/// Where expensive devices came from lately.
#[derive(Debug, Default)]
pub struct Quarantine(HashMap<Origin, Instant>);

impl Quarantine {
    /// How long devices from there are not attached.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// Most origins that are remembered. Each has cost the router some expensive writes, so that they come slowly.
    const MAX: usize = 256;

    /// Remembers an origin.
    pub fn add(&mut self, origin: Origin, now: Instant) {
        self.0.retain(|_, since| !Self::is_over(*since, now));
        if self.0.len() >= Self::MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, since)| **since).map(|(origin, _)| *origin)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(origin, now);
    }

    /// Whether an origin is remembered.
    pub fn contains(&self, origin: Origin, now: Instant) -> bool {
        self.0.get(&origin).is_some_and(|since| !Self::is_over(*since, now))
    }

    fn is_over(since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= Self::PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_over_after_its_period() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        quarantine.add(Origin::User(7), start);
        assert!(quarantine.contains(Origin::User(7), start + Quarantine::PERIOD / 2));
        assert!(!quarantine.contains(Origin::User(8), start));
        assert!(!quarantine.contains(Origin::User(7), start + Quarantine::PERIOD));
        quarantine.add(Origin::User(7), start + Quarantine::PERIOD / 2);
        assert!(quarantine.contains(Origin::User(7), start + Quarantine::PERIOD), "the last time counts");
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let start = Instant::now();
        let mut quarantine = Quarantine::default();
        let origins: Vec<Origin> = (1..).map(Origin::User).take(Quarantine::MAX + 1).collect();
        for (origin, millis) in origins.iter().zip(0..) {
            quarantine.add(*origin, start + Duration::from_millis(millis));
        }
        let now = start + Quarantine::PERIOD / 2;
        assert!(!quarantine.contains(origins[0], now));
        assert!(origins[1..].iter().all(|origin| quarantine.contains(*origin, now)));
        quarantine.add(Origin::Unknown, now + Quarantine::PERIOD);
        assert_eq!(quarantine.0.len(), 1, "what is over takes no room");
    }
}
