//! Requests about scripts. A script is compiled and tested here; the event loop only loads it.

use super::question::Question;
use super::requests::{Requests, now};
use crate::script::LIVE_NAME;
use tuntap_api::control::{Failure, ScriptStatus};
use tuntap_live::Caller;
use tuntap_script::{Compiled, ScriptError};
use tuntap_sys::log::Event;

/// Compiles and tests a script without using it.
pub fn check(text: &str) -> Result<ScriptStatus, Failure> {
    let compiled = compile(text)?;
    Ok(ScriptStatus { digest: Some(compiled.digest.to_string()), ..ScriptStatus::default() })
}

impl Requests {
    /// The script in use. A file is named only if its text is in use.
    pub(super) fn script_status(&self) -> Result<ScriptStatus, Failure> {
        self.asker.ask(Question::ScriptStatus)
    }

    /// Uses a script from now on, or none if the text is empty. All flows are decided anew.
    pub(super) fn load_script(&mut self, caller: Caller, text: &str) -> Result<ScriptStatus, Failure> {
        let compiled = if text.is_empty() { None } else { Some(compile(text)?) };
        let digest = compiled.as_ref().map(|compiled| compiled.digest.to_string());
        let text = compiled.as_ref().map(|_| text.to_owned());
        let policy = self.live.set_script(caller, text, digest.as_deref(), now())?;
        // A script is loaded before the policy that asks it is in use, and it goes after that.
        let is_there = compiled.is_some();
        if is_there {
            self.load(compiled)?;
        }
        self.use_what_has_changed(Some(policy))?;
        if !is_there {
            self.load(None)?;
        }
        let what = digest.map_or_else(|| "no script".to_owned(), |digest| format!("a script (SHA-256 {digest})"));
        self.line(Event::PolicyChanged, format_args!("uid {} (pid {}) has loaded {what}", caller.uid, caller.pid));
        self.script_status()
    }

    /// Has the loop load a script. If it can't, everything is as it was stored.
    fn load(&mut self, compiled: Option<Compiled>) -> Result<(), Failure> {
        let loaded = self.asker.ask(|reply| Question::LoadScript(compiled, reply)).and_then(|it| it.map_err(invalid));
        if loaded.is_err() {
            self.start_anew();
        }
        loaded
    }
}

fn compile(text: &str) -> Result<Compiled, Failure> {
    tuntap_script::check(text, LIVE_NAME).map_err(invalid)
}

fn invalid(error: ScriptError) -> Failure {
    Failure::invalid(error.text)
}
