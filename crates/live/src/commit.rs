//! Commits, and how they are confirmed or undone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tuntap_api::control::{Change, Changed, Code, Difference, Failure, Level, LogEntry};
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::CounterSlot;

use crate::compile::compile;
use crate::difference::difference;
use crate::document::Document;
use crate::edit::Edited;
use crate::limits::{MAX_CONFIRM_SECONDS, MAX_LOG_TEXT};
use crate::stored::PendingCommit;
use crate::{Caller, Expired, Live, Now, Outcome, audit};

/// What a commit asks for beside its changes.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The generation that the changes were made for.
    pub expected_generation: Option<u64>,
    /// Time to confirm it.
    pub confirm_seconds: Option<u32>,
    /// True if nothing is changed.
    pub dry_run: bool,
}

impl Live {
    /// Makes changes, all of them or none.
    pub(crate) fn commit(
        &mut self,
        caller: Caller,
        changes: &[Change],
        terms: Terms,
        now: Now,
    ) -> Result<Outcome, Failure> {
        check_level(caller)?;
        self.check_not_pending(now)?;
        check_generation(terms.expected_generation, self.document.generation)?;
        let confirm = terms.confirm_seconds;
        if confirm.is_some_and(|seconds| seconds == 0 || seconds > MAX_CONFIRM_SECONDS) {
            return Err(Failure::invalid(format!(
                "a commit can wait 1 to {MAX_CONFIRM_SECONDS} seconds for its confirmation"
            )));
        }
        if changes.is_empty() {
            return Err(Failure::invalid("the commit has no changes"));
        }
        let edited = self.edited(caller, changes)?;
        let difference = difference(&self.document, &edited.document);
        let is_same = self.document.groups == edited.document.groups && self.document.sets == edited.document.sets;
        if terms.dry_run || is_same {
            let generation = self.document.generation;
            return answer(Changed { generation, rules: edited.added, confirm_within: None, difference });
        }
        let Edited { document, added, fresh_slots } = edited;
        fresh_slots.into_iter().for_each(|slot| self.counters.clear(CounterSlot(slot)));
        let generation = self.document.generation + 1;
        let before = self.use_document(Document { generation, ..document });
        self.pending = confirm.map(|seconds| PendingCommit {
            before,
            deadline: now.monotonic + Duration::from_secs(seconds.into()),
            generation,
            uid: caller.uid,
        });
        let action = format!("commit: {}", audit::in_short(changes));
        self.record(caller, now, action, Some(generation), None);
        let waits = confirm.map(|seconds| format!(", and goes back in {seconds} s unless it is confirmed"));
        let message = format!(
            "uid {} has changed the rules ({}): {}; the policy is number {generation} now{}",
            caller.uid,
            audit::printable(&audit::in_short(changes), MAX_LOG_TEXT),
            counts(&difference),
            waits.unwrap_or_default()
        );
        let changed = Changed { generation, rules: added, confirm_within: confirm, difference };
        Ok(Outcome { policy: Some(self.policy()), message: Some(message), ..answer(changed)? })
    }

    /// Keeps what the commit that waits has changed.
    pub(crate) fn confirm(&mut self, caller: Caller, expected: Option<u64>, now: Now) -> Result<Outcome, Failure> {
        let pending = self.check_pending(caller, now)?;
        check_generation(expected, pending.generation)?;
        self.pending = None;
        let generation = self.document.generation;
        self.record(caller, now, "confirm".to_owned(), Some(generation), None);
        let message =
            format!("uid {} has confirmed the change of the rules; the policy is number {generation}", caller.uid);
        let difference = Difference::default();
        let changed = Changed { generation, rules: Vec::new(), confirm_within: None, difference };
        Ok(Outcome { message: Some(message), ..answer(changed)? })
    }

    /// Goes back from the commit that waits.
    pub(crate) fn rollback(&mut self, caller: Caller, now: Now) -> Result<Outcome, Failure> {
        self.check_pending(caller, now)?;
        let Some(difference) = self.go_back() else { return Err(nothing_pending()) };
        let generation = self.document.generation;
        self.record(caller, now, "rollback".to_owned(), Some(generation), None);
        let message =
            format!("uid {} has taken the change of the rules back; the policy is number {generation} now", caller.uid);
        let changed = Changed { generation, rules: Vec::new(), confirm_within: None, difference };
        Ok(Outcome { policy: Some(self.policy()), message: Some(message), ..answer(changed)? })
    }

    /// Goes back from a commit that was not confirmed in time.
    pub fn expire(&mut self, now: Now) -> Option<Expired> {
        let pending = self.pending.as_ref().filter(|pending| pending.deadline <= now.monotonic)?;
        let uid = pending.uid;
        self.go_back()?;
        let generation = self.document.generation;
        let author = Caller { uid, pid: 0, level: Level::View };
        self.record(author, now, "rollback: not confirmed in time".to_owned(), Some(generation), None);
        let message = format!(
            "the change of the rules by uid {uid} was not confirmed in time and is taken back; the policy is number {generation} now"
        );
        Some(Expired { policy: self.policy(), message })
    }

    /// Goes back to the document before the commit that waits. Numbers that the commit gave are not given again.
    fn go_back(&mut self) -> Option<Difference> {
        let PendingCommit { before, .. } = self.pending.take()?;
        let Document { generation, next_id, has_script, .. } = self.document;
        let gone = self.use_document(Document { generation: generation + 1, next_id, has_script, ..before });
        Some(difference(&gone, &self.document))
    }

    /// Uses a document from now on. Returns the one before.
    pub(crate) fn use_document(&mut self, document: Document) -> Document {
        let kept: HashSet<u32> = document.slots().collect();
        // The router may count in these until it has the new policy.
        self.retired = self.document.slots().filter(|slot| !kept.contains(slot)).collect();
        let before = std::mem::replace(&mut self.document, document);
        self.policy = Arc::new(compile(&self.base, &self.document));
        self.revision += 1;
        before
    }

    /// Adds an entry to the log. `generation` is the one that a change has made; `error` says why it was refused.
    pub fn record(&mut self, caller: Caller, now: Now, action: String, generation: Option<u64>, error: Option<String>) {
        self.audit.push(LogEntry { time: now.unix, uid: caller.uid, pid: caller.pid, action, generation, error });
        self.revision += 1;
    }

    pub(crate) fn check_not_pending(&self, now: Now) -> Result<(), Failure> {
        let Some(pending) = self.pending(now) else { return Ok(()) };
        let (uid, seconds) = (pending.uid, pending.seconds_left);
        Err(Failure::new(
            Code::Pending,
            format!(
                "a commit of uid {uid} waits for its confirmation for another {seconds} s: until it is confirmed or taken back, \
                 nothing else is changed"
            ),
        ))
    }

    /// The commit that waits, if the caller may confirm it or take it back.
    fn check_pending(&self, caller: Caller, now: Now) -> Result<&PendingCommit, Failure> {
        check_level(caller)?;
        let pending = self.pending.as_ref().filter(|pending| pending.deadline > now.monotonic);
        let pending = pending.ok_or_else(nothing_pending)?;
        if caller.level < Level::Admin && pending.uid != caller.uid {
            return Err(Failure::denied(format!(
                "the commit is uid {}'s: only he or an admin may confirm it or take it back",
                pending.uid
            )));
        }
        Ok(pending)
    }
}

fn check_level(caller: Caller) -> Result<(), Failure> {
    if caller.level < Level::Operate { Err(Failure::denied("viewers may change nothing")) } else { Ok(()) }
}

fn check_generation(expected: Option<u64>, actual: u64) -> Result<(), Failure> {
    match expected {
        Some(expected) if expected != actual => Err(Failure::new(
            Code::Generation,
            format!("the policy is number {actual}, not {expected}: somebody else has changed it, look at it again"),
        )),
        _ => Ok(()),
    }
}

fn nothing_pending() -> Failure {
    Failure::new(Code::Conflict, "no commit waits for its confirmation")
}

/// A difference in numbers.
fn counts(difference: &Difference) -> String {
    let Difference { added, deleted, kept, .. } = difference;
    format!("{added} rules added, {deleted} deleted, {kept} kept")
}

/// The policy doesn't change.
fn answer(changed: Changed) -> Result<Outcome, Failure> {
    Outcome::telling(&changed)
}

impl Live {
    /// Returns the policy in use, compiled.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }
}
