//! The policy that is changed while a router runs: groups of rules and sets, changes that are made whole or not at all, one
//! commit that waits for its confirmation, and the log of who changed what. Pure: requests and the time go in, answers and
//! policies come out.

#![forbid(unsafe_code)]

mod document;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tuntap_api::control::{Failure, Level, Request};
use tuntap_config::{Config, RouterSpec};
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::RuleCounters;
use tuntap_core::policy::grant::Grants;

pub use document::{Document, Group, Rule, Set};

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The user (SO_PEERCRED).
    pub uid: u32,
    /// The process.
    pub pid: i32,
    /// What it may do.
    pub level: Level,
}

/// The time, on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// CLOCK_MONOTONIC, by which deadlines are kept. It goes on when a router dies.
    pub monotonic: Duration,
    /// Seconds since 1970, for the log.
    pub unix: u64,
}

/// What the options say, of which every live policy of a router is made.
#[derive(Debug, Clone)]
pub struct Base {
    /// The options of the instance.
    pub config: Config,
    /// The router.
    pub router: RouterSpec,
    /// The grants, which the master may extend while the router runs.
    pub grants: Grants,
}

/// What outlives a router's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The document in use.
    pub document: Document,
}

/// The result of a request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What the sender is told.
    pub answer: Value,
    /// The policy to use from now on, if the request has changed it.
    pub policy: Option<Arc<Policy>>,
}

/// The live policy of a router.
#[derive(Debug)]
pub struct Live {
    base: Base,
    document: Document,
    counters: RuleCounters,
}

impl Live {
    /// Begins with the document of options and rules file, or with what a router before this one has stored.
    pub fn new(base: Base, initial: Document, stored: Option<Stored>, counters: RuleCounters) -> Self {
        let document = stored.map_or(initial, |stored| stored.document);
        Self { base, document, counters }
    }

    /// Returns the policy in use, compiled.
    pub fn policy(&self) -> Arc<Policy> {
        todo!("{:?} {:?} {:?}", self.base, self.document, self.counters)
    }

    /// Returns what is to be stored for the next router, after each change.
    pub fn stored(&self) -> Stored {
        todo!()
    }

    /// Answers a request about rules, sets, commits and the log. Others are an error.
    pub fn handle(&mut self, caller: Caller, request: &Request, now: Now) -> Result<Outcome, Failure> {
        todo!("{caller:?} {request:?} {now:?}")
    }

    /// Adds grants.
    pub fn set_grants(&mut self, grants: Grants) -> Arc<Policy> {
        self.base.grants = grants;
        self.policy()
    }

    /// Returns the time of CLOCK_MONOTONIC at which [`Self::expire`] has to be called.
    pub fn deadline(&self) -> Option<Duration> {
        todo!()
    }

    /// Goes back from a commit that was not confirmed in time. Returns the policy to use from now on.
    pub fn expire(&mut self, now: Now) -> Option<Arc<Policy>> {
        todo!("{now:?}")
    }
}
