//! What a script gets from the router, besides the flow.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::{CounterSlot, RuleCount, RuleCounters};
use tuntap_core::policy::set::AddressSet;
use tuntap_sys::process::{LocalTime, local_time};

use super::limits::MAX_NAMES;
use super::log::LineQueue;
use super::names::Names;

/// What a script gets from the router, besides the flow.
#[derive(Debug, Clone)]
pub struct Host {
    /// The counters of the rules.
    pub counters: RuleCounters,
    /// Names of users, by uid. A peer whose user isn't in it has no name for the script.
    pub users: HashMap<u32, String>,
    /// The time.
    pub clock: Rc<dyn Clock>,
}

impl Default for Host {
    /// No counters, no names, the system's time.
    fn default() -> Self {
        Self { counters: RuleCounters::default(), users: HashMap::new(), clock: Rc::new(SystemClock) }
    }
}

/// The time that a script is told.
pub trait Clock: Debug {
    /// The time since 1970.
    fn now(&self) -> Duration;

    /// The time of day in the router's time zone, for seconds since 1970.
    fn local(&self, seconds: i64) -> Option<LocalTime>;
}

/// The time of the system, in the time zone of the process. Its time zone must have been read before the process may open no
/// files any more, see [`pin_time_zone`](tuntap_sys::process::pin_time_zone).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn local(&self, seconds: i64) -> Option<LocalTime> {
        local_time(seconds)
    }
}

/// What the functions that a script calls share: the present policy's sets and counters, and lines to log.
#[derive(Debug)]
pub struct Surroundings {
    pub host: Host,
    shared: RefCell<Shared>,
}

#[derive(Debug)]
struct Shared {
    known: Known,
    sets: Names<Arc<AddressSet>>,
    counters: Names<CounterSlot>,
    lines: LineQueue,
}

/// The sets and counters of a policy.
#[derive(Debug, Default)]
struct Known {
    /// What tells the policy from others: its number, and where it lies. `None` before the first one.
    policy: Option<(u64, usize, usize)>,
    sets: HashMap<String, Arc<AddressSet>>,
    counters: HashMap<String, CounterSlot>,
}

/// What is wrong with a call of one of the functions.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("there is no set '{0}'")]
    NoSet(String),
    #[error("there is no counter '{0}'")]
    NoCounter(String),
    #[error("'{0}' is not an address")]
    NoAddress(String),
    #[error("a script may name {MAX_NAMES} sets and {MAX_NAMES} counters")]
    TooManyNames,
    #[error("that is not a set")]
    NotASet,
    #[error("the time can't be told")]
    NoTime,
}

impl Surroundings {
    pub fn new(host: Host) -> Self {
        let shared = Shared {
            known: Known::default(),
            sets: Names::default(),
            counters: Names::default(),
            lines: LineQueue::new(Instant::now()),
        };
        Self { host, shared: RefCell::new(shared) }
    }

    /// Uses the sets and counters of this policy. If it is the one in use already, this costs nothing.
    pub fn use_policy(&self, policy: &Policy) {
        let identity = (policy.generation, policy.sets.as_ptr().addr(), policy.counters.as_ptr().addr());
        let mut shared = self.shared.borrow_mut();
        if shared.known.policy == Some(identity) {
            return;
        }
        let Shared { known, sets, counters, .. } = &mut *shared;
        *known = Known {
            policy: Some(identity),
            sets: policy.sets.iter().cloned().collect(),
            counters: policy.counters.iter().cloned().collect(),
        };
        sets.refresh(|name| known.sets.get(name).cloned());
        counters.refresh(|name| known.counters.get(name).copied());
    }

    /// Returns the number by which the script names a set from now on.
    pub fn set(&self, name: &str) -> Result<usize, CallError> {
        let Shared { known, sets, .. } = &mut *self.shared.borrow_mut();
        let number = sets.number(name, |name| known.sets.get(name).cloned()).ok_or(CallError::TooManyNames)?;
        if known.policy.is_some() && !known.sets.contains_key(name) {
            return Err(CallError::NoSet(name.to_owned()));
        }
        Ok(number)
    }

    /// Returns true if the set of this number has an address. Without a policy, all sets are empty.
    pub fn set_has(&self, number: f64, address: &str) -> Result<bool, CallError> {
        let address: IpAddr = address.parse().map_err(|_| CallError::NoAddress(address.to_owned()))?;
        let shared = self.shared.borrow();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is no such number is not found"
        )]
        match shared.sets.get(number as usize).ok_or(CallError::NotASet)? {
            (_, Some(set)) => Ok(set.contains(address)),
            (name, None) if shared.known.policy.is_some() => Err(CallError::NoSet(name.clone())),
            _ => Ok(false),
        }
    }

    /// Returns what a named counter has counted. Without a policy, all counters are zero.
    pub fn counter(&self, name: &str) -> Result<RuleCount, CallError> {
        let Shared { known, counters, .. } = &mut *self.shared.borrow_mut();
        let number = counters.number(name, |name| known.counters.get(name).copied()).ok_or(CallError::TooManyNames)?;
        match counters.get(number) {
            Some((_, Some(slot))) => Ok(self.host.counters.get(*slot)),
            _ if known.policy.is_some() => Err(CallError::NoCounter(name.to_owned())),
            _ => Ok(RuleCount::default()),
        }
    }

    /// Returns the date and the time of day.
    pub fn local_time(&self) -> Result<LocalTime, CallError> {
        let now = i64::try_from(self.host.clock.now().as_secs()).map_err(|_| CallError::NoTime)?;
        self.host.clock.local(now).ok_or(CallError::NoTime)
    }

    /// Logs a line.
    pub fn log(&self, text: &str) {
        self.shared.borrow_mut().lines.push(text, Instant::now());
    }

    /// Takes the lines that wait to be written.
    pub fn take_lines(&self) -> Vec<String> {
        self.shared.borrow_mut().lines.take()
    }

    /// Returns the names of sets and of counters that the script has used so far.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let shared = self.shared.borrow();
        (shared.sets.iter().map(str::to_owned).collect(), shared.counters.iter().map(str::to_owned).collect())
    }
}
