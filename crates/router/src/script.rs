//! The script: that of the options (`tuntap-router-script`), or one that was loaded while the router runs.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use thiserror::Error;
use tuntap_api::control::ScriptStatus;
use tuntap_core::policy::counters::RuleCounters;
use tuntap_core::policy::script::{Script, ScriptQuery, ScriptVerdict};
use tuntap_live::ScriptSources;
use tuntap_script::limits::MAX_SOURCE;
use tuntap_script::{Compiled, Host, Runtime, ScriptError, SystemClock, Watchdog, check};
use tuntap_sys::log::Event;

use super::Setup;
use super::event_loop::EventLoop;
use super::shell::BeyondNat;

/// The name of a script that has no file, in its messages.
pub const LIVE_NAME: &str = "live script";

/// A script that was read from a file and has passed its test. Made by the master, before it forks the router's process, which
/// can't read files.
#[derive(Debug, Clone)]
pub struct ScriptFile {
    /// The file.
    pub path: String,
    /// Its text.
    pub text: String,
    /// What the router runs.
    pub compiled: Compiled,
}

/// Why a file has no script that can be used.
#[derive(Debug, Error)]
pub enum ScriptFileError {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
    /// It is too long.
    #[error("it has more than {MAX_SOURCE} bytes")]
    TooLong,
    /// It is no good.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

impl ScriptFile {
    /// Reads, compiles and tests a script.
    pub fn read(path: &Path) -> Result<Self, ScriptFileError> {
        let mut bytes = Vec::new();
        let most = MAX_SOURCE as u64;
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_SOURCE {
            return Err(ScriptFileError::TooLong);
        }
        let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let compiled = check(&text, &name)?;
        Ok(Self { path: path.to_string_lossy().into_owned(), text, compiled })
    }

    /// The same of a text that was in use before. `path` is where it may have come from.
    pub fn of_text(path: &str, text: String) -> Result<Self, ScriptFileError> {
        let compiled = check(&text, path)?;
        Ok(Self { path: path.to_owned(), text, compiled })
    }
}

/// The script that the loop's thread runs.
#[derive(Debug)]
pub struct LoopScript {
    runtime: Runtime,
    /// The number of times that the script before was brought back, of which the control thread knows.
    reverts: u64,
}

/// What the loop has to do after a script has run.
#[derive(Debug, Default)]
pub struct Aftermath {
    /// Lines for the log.
    pub lines: Vec<String>,
    /// True if the script before is in use again.
    pub has_reverted: bool,
}

impl LoopScript {
    /// Prepares the calling thread to run scripts, and uses what a router before this one has used: `sources`. To be called
    /// where threads can still be started. What can't be used is a line of the log.
    pub fn start(setup: &Setup, counters: RuleCounters, sources: &ScriptSources) -> Self {
        let line = |text: &dyn std::fmt::Display| {
            setup.logger.line(Event::ScriptFault, format_args!("[tuntap-router] {}: {text}", setup.tun.name()));
        };
        let watchdog = Watchdog::start().inspect_err(|error| line(&format_args!("can't start a thread: {error}"))).ok();
        let host = Host { counters, users: setup.users.clone(), clock: Rc::new(SystemClock) };
        let mut this = Self { runtime: Runtime::new(host, watchdog), reverts: 0 };
        for text in [&sources.previous, &sources.text].into_iter().flatten() {
            // The options' script was compiled by the master.
            let of_options = setup.script.as_ref().filter(|file| file.text == *text);
            let compiled = of_options.map_or_else(|| check(text, LIVE_NAME), |file| Ok(file.compiled.clone()));
            let file = of_options.map(|file| file.path.as_str());
            let loaded = compiled.and_then(|compiled| this.runtime.load(Some(&compiled), file));
            if let Err(error) = loaded {
                line(&format_args!("the script of the router before can't be used: {error}"));
            }
        }
        this
    }

    /// Uses a script from now on, or none.
    pub fn load(&mut self, script: Option<&Compiled>) -> Result<(), ScriptError> {
        self.runtime.load(script, None)
    }

    /// The state of the script.
    pub fn status(&self) -> ScriptStatus {
        self.runtime.status()
    }

    /// Asks about a new flow. Without a script, although the policy has one, the flow is denied: what the script would have
    /// forbidden must not pass.
    pub fn decide(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        if !self.runtime.is_loaded() {
            return Some(ScriptVerdict::DENY);
        }
        self.runtime.decide(query)
    }

    /// What there is to do after it has run.
    fn aftermath(&mut self) -> Aftermath {
        let reverts = self.runtime.reverts();
        let has_reverted = std::mem::replace(&mut self.reverts, reverts) < reverts;
        Aftermath { lines: self.runtime.take_lines(), has_reverted }
    }
}

/// Asks the script without any effect, for a packet that isn't there.
#[derive(Debug)]
pub struct DryRun<'a> {
    /// The script, if there is one.
    pub script: Option<&'a LoopScript>,
    /// Which hosts are beyond a `nat` interface.
    pub beyond_nat: BeyondNat<'a>,
}

impl Script for DryRun<'_> {
    fn decide(&mut self, query: &ScriptQuery<'_>) -> Option<ScriptVerdict> {
        match self.script.and_then(|script| script.runtime.dry_run(query)) {
            Some(Ok(tried)) => tried.verdict,
            Some(Err(_)) | None => Some(ScriptVerdict::DENY),
        }
    }

    fn is_beyond_nat(&mut self, address: IpAddr) -> bool {
        self.beyond_nat.has(address)
    }
}

impl EventLoop<'_> {
    /// Writes what the script has logged, and has all flows decided anew if another script is in use.
    pub(super) fn look_after_script(&mut self) {
        if !std::mem::take(&mut self.io.script_has_run) {
            return;
        }
        let Some(script) = &mut self.io.script else { return };
        let Aftermath { lines, has_reverted } = script.aftermath();
        for line in lines {
            self.io.line(Event::Script, line);
        }
        if has_reverted {
            let policy = std::sync::Arc::clone(self.router.forwarder().policy());
            self.router.set_policy(&mut self.io, policy);
            if let Some(control) = &self.control {
                control.answerer.tell_revert();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<ScriptFile, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("test.luau");
        std::fs::write(&path, text).expect("own folder");
        ScriptFile::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_read_and_tested() {
        let file = read(b"function policy(flow) end").expect("a script");
        assert_eq!(file.text, "function policy(flow) end");
        assert!(file.path.ends_with("/test.luau"));
        for (text, part) in [
            (&b"function policy("[..], "test.luau:1:"),
            (b"function policy() end function selftest() return false end", "selftest returned false"),
            (b"\xff\xfe", "invalid utf-8"),
            (&[b' '; MAX_SOURCE + 1], "more than 65536 bytes"),
        ] {
            let error = read(text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        let error = ScriptFile::read(Path::new("/nowhere/x.luau")).expect_err("there is none").to_string();
        assert!(error.contains("No such file"), "{error}");
    }
}
