//! The script of the router's thread.

use std::time::Duration;

use tuntap_api::control::ScriptStatus;
use tuntap_core::policy::script::{Script, ScriptQuery, ScriptVerdict};
use tuntap_sys::process::thread_time_nanos;

use super::blame::{Blame, Conclusion};
use super::check::Compiled;
use super::error::{ErrorKind, ScriptError, printable};
use super::guard::Guard;
use super::host::{Host, Surroundings};
use super::limits::{FAILURE_TTL, MAX_FAILURES, MAX_LINE};
use super::vm::{Answer, Vm};
use super::watchdog::Watchdog;

/// One call in so many is measured. Reading the clock of processor time takes about as long as a call.
const CALLS_PER_MEASUREMENT: u64 = 256;

/// Lines for the router's log that are kept until they are taken.
const MAX_NOTICES: usize = 16;

/// The script of the thread that made this. It stays in that thread.
#[derive(Debug)]
pub struct Runtime {
    host: Host,
    watchdog: Option<Watchdog>,
    current: Option<Loaded>,
    /// What comes back if the present script fails too often.
    previous: Option<Compiled>,
    blame: Blame,
    status: ScriptStatus,
    notices: Vec<String>,
    /// True if a line says already that the script fails and stays.
    is_reported: bool,
}

/// A script in use.
#[derive(Debug)]
struct Loaded {
    compiled: Compiled,
    /// `None` if it could not be built anew.
    vm: Option<Vm>,
}

/// What a script says about a packet that isn't there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// `None` if it has no opinion.
    pub verdict: Option<ScriptVerdict>,
    /// Its note on that.
    pub note: Option<String>,
}

impl Runtime {
    /// Has no script yet. Without a watchdog, which the same thread must have started, calls take longer.
    pub fn new(host: Host, watchdog: Option<Watchdog>) -> Self {
        Self {
            host,
            watchdog,
            current: None,
            previous: None,
            blame: Blame::default(),
            status: ScriptStatus::default(),
            notices: Vec::new(),
            is_reported: false,
        }
    }

    /// Uses a script from now on, or none. `file` is the file that it came from, if it wasn't loaded live. If it can't be
    /// loaded, nothing is changed. Flows that were decided before keep their verdicts until they are decided anew.
    pub fn load(&mut self, script: Option<&Compiled>, file: Option<&str>) -> Result<(), ScriptError> {
        let loaded = script.map(|compiled| self.build(compiled)).transpose()?;
        self.previous = self.current.take().map(|loaded| loaded.compiled);
        self.use_from_now_on(loaded, file.map(str::to_owned));
        Ok(())
    }

    /// Returns true if there is a script.
    pub const fn is_loaded(&self) -> bool {
        self.current.is_some()
    }

    /// Returns the number of times that the script before was brought back.
    pub const fn reverts(&self) -> u64 {
        self.status.reverts
    }

    /// Returns the status of the script.
    pub fn status(&self) -> ScriptStatus {
        let vm = self.current.as_ref().and_then(|loaded| loaded.vm.as_ref());
        let longest = self.watchdog.as_ref().map_or(0, Watchdog::longest);
        ScriptStatus {
            memory: vm.map_or(0, |vm| vm.memory() as u64),
            slowest: self.status.slowest.max(longest),
            ..self.status.clone()
        }
    }

    /// Returns the script that is in use: not the one that was loaded last, if that failed too often.
    pub fn script(&self) -> Option<&Compiled> {
        self.current.as_ref().map(|loaded| &loaded.compiled)
    }

    /// Takes the lines that are to be logged: those of the script, and about it. Each is one line, and their number is
    /// limited.
    pub fn take_lines(&mut self) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.notices);
        if let Some(vm) = self.current.as_ref().and_then(|loaded| loaded.vm.as_ref()) {
            lines.extend(vm.surroundings().take_lines().into_iter().map(|line| format!("script: {line}")));
        }
        lines
    }

    /// Asks the script about a packet that isn't there. That changes and counts nothing: a virtual machine of its own is
    /// asked, whose `state` is empty. `None` if there is no script.
    pub fn dry_run(&self, query: &ScriptQuery<'_>) -> Option<Result<Tried, ScriptError>> {
        let loaded = self.current.as_ref()?;
        let result = self.build(&loaded.compiled).and_then(|loaded| {
            let mut vm = loaded.vm.ok_or_else(|| ScriptError::new(ErrorKind::Error, "the script can't be loaded"))?;
            vm.decide(query)
        });
        Some(result.map(|Answer { verdict, note }| Tried { verdict, note }))
    }

    fn build(&self, compiled: &Compiled) -> Result<Loaded, ScriptError> {
        let (guard, surroundings) = (Guard::new(self.watchdog.clone()), Surroundings::new(self.host.clone()));
        let vm = Vm::new(&compiled.bytecode, &compiled.name, guard, surroundings)?;
        Ok(Loaded { compiled: compiled.clone(), vm: Some(vm) })
    }

    fn use_from_now_on(&mut self, loaded: Option<Loaded>, file: Option<String>) {
        self.status = ScriptStatus {
            is_loaded: loaded.is_some(),
            digest: loaded.as_ref().map(|loaded| loaded.compiled.digest.to_string()),
            file,
            reverts: self.status.reverts,
            ..ScriptStatus::default()
        };
        self.current = loaded;
        self.blame = Blame::default();
        self.is_reported = false;
    }

    fn ask(&mut self, query: &ScriptQuery<'_>) -> Result<Answer, ScriptError> {
        let vm = match &mut self.current {
            Some(Loaded { vm: Some(vm), .. }) => vm,
            Some(Loaded { compiled, .. }) => {
                let compiled = compiled.clone();
                let rebuilt = self.build(&compiled)?;
                self.current.insert(rebuilt).vm.as_mut().ok_or_else(no_machine)?
            }
            None => return Ok(Answer::default()),
        };
        if self.status.calls % CALLS_PER_MEASUREMENT != 1 {
            return vm.decide(query);
        }
        let start = thread_time_nanos();
        let result = vm.decide(query);
        self.status.slowest = self.status.slowest.max(thread_time_nanos().saturating_sub(start));
        result
    }

    /// Notes a failure, and brings back the script before if there were several in a row.
    fn fail(&mut self, query: &ScriptQuery<'_>, error: &ScriptError) {
        self.status.failures += 1;
        self.status.last_failure = Some(error.text.clone());
        match error.kind {
            // What it has stored may be what is too much.
            ErrorKind::Memory => self.drop_machine(),
            ErrorKind::Time => self.blame.rest(query),
            _ => {}
        }
        match self.blame.note_failure(query) {
            Conclusion::None => {}
            Conclusion::Fails => self.go_back(error),
            Conclusion::FailsFor(owner) => self.report(&format!(
                "the script has failed {MAX_FAILURES} times in a row, for uid {} alone: it stays in use, and flows for which it \
                 fails stay denied: {}",
                owner.uid(),
                error.text
            )),
        }
    }

    /// Drops the virtual machine, with what it has stored. It is built anew for the next flow.
    fn drop_machine(&mut self) {
        let lines = self.take_lines();
        self.notices = lines.into_iter().take(MAX_NOTICES).collect();
        if let Some(loaded) = &mut self.current {
            loaded.vm = None;
        }
    }

    /// Goes back to the script before. If there is none, the virtual machine is built anew.
    fn go_back(&mut self, error: &ScriptError) {
        self.drop_machine();
        let text = &error.text;
        let Some(previous) = self.previous.take() else {
            self.report(&format!(
                "the script has failed {MAX_FAILURES} times in a row, and there was none before it: it starts anew, and flows \
                 for which it fails stay denied: {text}"
            ));
            return;
        };
        match self.build(&previous) {
            Ok(loaded) => {
                let (failures, last_failure) = (self.status.failures, self.status.last_failure.take());
                self.use_from_now_on(Some(loaded), None);
                self.status.reverts += 1;
                (self.status.failures, self.status.last_failure) = (failures, last_failure);
                self.notice(&format!(
                    "the script has failed {MAX_FAILURES} times in a row: the one before it is in use again: {text}"
                ));
            }
            Err(error) => {
                self.notice(&format!(
                    "the script has failed {MAX_FAILURES} times in a row, and the one before it can't be loaded: {error}"
                ));
            }
        }
    }

    /// Tells once of a script that fails and stays.
    fn report(&mut self, text: &str) {
        if !std::mem::replace(&mut self.is_reported, true) {
            self.notice(text);
        }
    }

    fn notice(&mut self, text: &str) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(printable(text, 2 * MAX_LINE));
        }
    }
}

fn no_machine() -> ScriptError {
    ScriptError::new(ErrorKind::Error, "the script can't be loaded")
}

impl Script for Runtime {
    fn decide(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        self.current.as_ref()?;
        self.status.calls += 1;
        if self.blame.is_resting(query) {
            self.status.failures += 1;
            return Some(denied());
        }
        match self.ask(query) {
            Ok(answer) => {
                self.blame.note_decision(query);
                answer.verdict
            }
            Err(error) => {
                self.fail(query, &error);
                Some(denied())
            }
        }
    }
}

/// What becomes of a flow about which the script fails.
const fn denied() -> ScriptVerdict {
    const TTL: Option<Duration> = Some(FAILURE_TTL);
    ScriptVerdict { ttl: TTL, ..ScriptVerdict::DENY }
}
