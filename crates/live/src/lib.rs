//! The policy that is changed while a router runs: groups of rules and sets, changes that are made whole or not at all, one
//! commit that waits for its confirmation, and the log of who changed what. Pure: requests and the time go in, answers and
//! policies come out.
//!
//! Who may do what: everybody who may connect may look. Level `operate` may change the rules of groups that it owns, and the
//! members of sets that exist. Making and deleting groups and sets, replacing all of them, and giving a group to another owner
//! take level `admin`. A commit is confirmed or taken back by whoever made it, or by an admin. Nobody changes the group `ini`.

#![forbid(unsafe_code)]

mod audit;
mod commit;
mod compile;
mod difference;
mod document;
mod edit;
mod file;
pub mod limits;
mod line;
mod list;
mod slots;
mod stored;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tuntap_api::control::{Code, Failure, Level, Request};
use tuntap_config::{Config, RouterSpec};
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::{CounterSlot, RuleCounters};
use tuntap_core::policy::grant::Grants;
use tuntap_core::policy::shape::Shape;

pub use audit::Audit;
pub use compile::compile;
pub use document::{Document, FILE_GROUP, Group, INI_GROUP, LIVE_GROUP, Rule, Set};
pub use file::{
    FileError, FileGroup, FileRule, GROUP_SYNTAX, Machine, RulesFile, SET_SYNTAX, Sources, in_one_text, read_members,
    write,
};
pub use line::{Line, chain_name};
pub use stored::{PendingCommit, ScriptSources, Stored};

use commit::Terms;

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
    /// Limits of the options for users and groups that have come since the start.
    pub late_shapes: Vec<Shape>,
}

/// The result of a request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What the sender is told.
    pub answer: Value,
    /// The policy to use from now on, if the request has changed it.
    pub policy: Option<Arc<Policy>>,
    /// A sentence for the log, if something was changed.
    pub message: Option<String>,
}

impl Outcome {
    /// An answer that changes nothing.
    fn telling(answer: &impl Serialize) -> Result<Self, Failure> {
        let answer = serde_json::to_value(answer)
            .map_err(|error| Failure::new(Code::Failed, format!("the answer can't be written: {error}")))?;
        Ok(Self { answer, policy: None, message: None })
    }
}

/// A commit that was not confirmed in time.
#[derive(Debug, Clone)]
pub struct Expired {
    /// The policy to use from now on.
    pub policy: Arc<Policy>,
    /// A sentence for the log.
    pub message: String,
}

/// The live policy of a router.
#[derive(Debug)]
pub struct Live {
    base: Base,
    /// What options and rules file say.
    initial: Document,
    /// The source text of the script that the options name.
    script_file: Option<String>,
    document: Document,
    policy: Arc<Policy>,
    pending: Option<PendingCommit>,
    /// Slots that the rules before the last change had. The router may still count in them.
    retired: Vec<u32>,
    audit: Audit,
    script: ScriptSources,
    counters: RuleCounters,
    revision: u64,
}

impl Live {
    /// Begins with the document of options and rules file, and with the source text of the options' script, or with what a
    /// router before this one has stored. That is not used if it was stored for other options. Counters begin at zero with the
    /// document of options and file, and go on otherwise.
    pub fn new(
        base: Base,
        initial: Document,
        script_file: Option<String>,
        stored: Option<Stored>,
        counters: RuleCounters,
    ) -> Self {
        let stored = stored.filter(|stored| stored.document.has_options_of(&initial));
        let (document, pending, audit, script) = match stored {
            Some(Stored { document, pending, audit, script, .. }) => (document, pending, audit, script),
            None => {
                initial.slots().for_each(|slot| counters.clear(CounterSlot(slot)));
                let script = ScriptSources { text: script_file.clone(), previous: None };
                let document = Document { has_script: script.text.is_some(), ..initial.clone() };
                (document, None, Audit::default(), script)
            }
        };
        let policy = Arc::new(compile(&base, &document));
        Self {
            base,
            initial,
            script_file,
            document,
            policy,
            pending,
            retired: Vec::new(),
            audit,
            script,
            counters,
            revision: 0,
        }
    }

    /// Returns what is to be stored for the next router.
    pub fn stored(&self) -> Stored {
        let confirmed = self.pending.as_ref().map_or(&self.document, |pending| &pending.before);
        Stored {
            version: stored::VERSION,
            document: self.document.clone(),
            pending: self.pending.clone(),
            is_changed: !confirmed.says_the_same(&self.initial) || self.script.text != self.script_file,
            audit: self.audit.clone(),
            script: self.script.clone(),
        }
    }

    /// A number that grows with each change of what is to be stored.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The document in use.
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// Answers a request about rules, sets, commits and the log. Others are an error. Attempts to change something that are
    /// refused get into the log, too. A deadline that has passed is the caller's to see to, by [`Self::expire`], before this.
    pub fn handle(&mut self, caller: Caller, request: &Request, now: Now) -> Result<Outcome, Failure> {
        let result = match request {
            Request::Status {} => Outcome::telling(&self.status(caller, now)),
            Request::RulesList { chain, group } => Outcome::telling(&self.rules(*chain, group.as_deref())?),
            Request::RulesCheck { text } => self.check(text).and_then(|checked| Outcome::telling(&checked)),
            Request::RulesDiff { text } => self.diff(caller, text).and_then(|found| Outcome::telling(&found)),
            Request::SetsList { name } => self.sets(name.as_deref()).and_then(|sets| Outcome::telling(&sets)),
            Request::Log { limit } => Outcome::telling(&self.audit.last(*limit)),
            Request::Save {} => Outcome::telling(&self.save()),
            Request::Commit { changes, expected_generation, confirm_seconds, dry_run } => {
                let (expected_generation, confirm_seconds, dry_run) =
                    (*expected_generation, *confirm_seconds, *dry_run);
                let terms = Terms { expected_generation, confirm_seconds, dry_run };
                let result = self.commit(caller, changes, terms, now);
                let action = || format!("commit: {}", audit::in_short(changes));
                if dry_run { result } else { self.log_refusal(caller, now, action, result) }
            }
            Request::Confirm { expected_generation } => {
                let result = self.confirm(caller, *expected_generation, now);
                self.log_refusal(caller, now, || "confirm".to_owned(), result)
            }
            Request::Rollback {} => {
                let result = self.rollback(caller, now);
                self.log_refusal(caller, now, || "rollback".to_owned(), result)
            }
            _ => Err(Failure::invalid("this request isn't one about rules")),
        };
        // A wrong value comes back in the message, however long it is.
        result
            .map_err(|failure| Failure { message: audit::printable(&failure.message, limits::MAX_MESSAGE), ..failure })
    }

    fn log_refusal(
        &mut self,
        caller: Caller,
        now: Now,
        action: impl FnOnce() -> String,
        result: Result<Outcome, Failure>,
    ) -> Result<Outcome, Failure> {
        if let Err(failure) = &result {
            self.record(caller, now, action(), None, Some(failure.message.clone()));
        }
        result
    }

    /// Replaces the grants, and the limits for users and groups that have come since the start. Returns the policy to use from
    /// now on.
    pub fn set_accounts(&mut self, grants: Grants, late_shapes: Vec<Shape>) -> Arc<Policy> {
        self.base.grants = grants;
        self.base.late_shapes = late_shapes;
        self.next_generation()
    }

    /// The script's source texts.
    pub const fn script(&self) -> &ScriptSources {
        &self.script
    }

    /// Replaces the script's source text; that of the one before is kept beside it. Returns the policy to use from now on: it
    /// asks a script if there is one. `digest` names the script in the log of changes.
    ///
    /// # Errors
    /// Another change waits for its confirmation.
    pub fn set_script(
        &mut self,
        caller: Caller,
        text: Option<String>,
        digest: Option<&str>,
        now: Now,
    ) -> Result<Arc<Policy>, Failure> {
        self.check_not_pending(now)?;
        self.document.has_script = text.is_some();
        self.script = ScriptSources { previous: self.script.text.take(), text };
        let policy = self.next_generation();
        let action = digest.map_or_else(|| "script: none".to_owned(), |digest| format!("script: SHA-256 {digest}"));
        self.record(caller, now, action, Some(policy.generation), None);
        Ok(policy)
    }

    /// The script before is in use again, because the one that was loaded last has failed too often.
    pub fn revert_script(&mut self) {
        self.script.text = self.script.previous.take();
        self.revision += 1;
    }

    /// Returns true if the script is that of the options.
    pub fn has_script_of_options(&self) -> bool {
        self.script.text == self.script_file
    }

    /// Compiles the same rules again, with what they depend on.
    fn next_generation(&mut self) -> Arc<Policy> {
        self.document.generation += 1;
        self.policy = Arc::new(compile(&self.base, &self.document));
        self.revision += 1;
        self.policy()
    }

    /// Returns the time of CLOCK_MONOTONIC at which [`Self::expire`] has to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.pending.as_ref().map(|pending| pending.deadline)
    }
}
