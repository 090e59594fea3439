//! The rules files and scripts of routers (`tuntap-router-rules`, `tuntap-router-script`), which the master reads, because a
//! router has no access to files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::unistd::{Group, User};

use super::accounts;
use super::options::config;
use super::router_memory as memory;
use super::uwsgi::{self, UwsgiState};
use tuntap_config::RouterSpec;
use tuntap_live::{Document, Machine, RulesFile};
use tuntap_router::{LIVE_NAME, ScriptFile};
use tuntap_sys::log::Event;

/// Longest file that is read, in bytes.
const MAX_LEN: u64 = 64 * 1024 * 1024;

/// What a router begins with.
pub struct Opening {
    /// The policy of options and rules file.
    pub initial: Document,
    /// The script.
    pub script: Option<ScriptFile>,
    /// True if rules file and script are those in use before a reload, because those of now can't be used.
    pub is_of_before: bool,
}

/// Reads rules file and script. If a reload finds one of them wrong, its vassals keep their network: the router goes on with the
/// rules, the sets and the script of before. That needs the same rules in the options as before, and a script if the options name
/// one; else something that is now meant to be forbidden elsewhere would be open.
///
/// # Errors
/// A file can't be used, and there is nothing to go on with.
pub fn opening(spec: &RouterSpec, uwsgi: &UwsgiState) -> Result<Opening, String> {
    let read = || {
        let initial = initial(spec)?;
        let script = spec.live.script.as_ref().map(|path| read_script(spec, path)).transpose()?;
        Ok(Opening { initial, script, is_of_before: false })
    };
    read().or_else(|error: String| {
        let before = if uwsgi.is_reload() { of_before(spec) } else { None };
        let Some(before) = before else { return Err(error) };
        uwsgi::log(Event::RulesUnusable, &format!(
            "[tuntap-router] {}: {error}; the rules, the sets and the script in use before the reload stay. Mend the file, and \
             reload again or load it with uwsgi-tuntap",
            spec.device
        ));
        Ok(before)
    })
}

/// What the image before has used last.
fn of_before(spec: &RouterSpec) -> Option<Opening> {
    let stored = memory::stored(&spec.device)?;
    let shapes = accounts::shapes(spec);
    let of_options = Document::initial(config(), &shapes, &RulesFile::default());
    let file = stored.rules_for(&of_options)?;
    file.check_for(spec).ok()?;
    let initial = Document::initial(config(), &shapes, &file);
    let path = spec.live.script.as_deref();
    let script = match (stored.script.text, path) {
        (Some(text), path) => Some(ScriptFile::of_text(path.unwrap_or(LIVE_NAME), text).ok()?),
        (None, None) => None,
        (None, Some(_)) => return None,
    };
    Some(Opening { initial, script, is_of_before: true })
}

/// The policy of options and rules file, as a document. What is hardly meant in the file is a line each.
fn initial(spec: &RouterSpec) -> Result<Document, String> {
    let Some(path) = &spec.live.rules else {
        return Ok(Document::initial(config(), &accounts::shapes(spec), &RulesFile::default()));
    };
    let machine = Machine { read: &read, user: &user, group: &group };
    let text = read(path).map_err(|error| format!("rules file {path}: {error}"))?;
    let file = RulesFile::read(&text, &machine)
        .and_then(|file| file.check_for(spec).map(|()| file))
        .map_err(|error| format!("rules file {path}:{}: {}", error.line, error.message))?;
    for warning in &file.warnings {
        uwsgi::log(Event::RulesWarning, &format!("[tuntap-router] {}: rules file {path}: {warning}", spec.device));
    }
    Ok(Document::initial(config(), &accounts::shapes(spec), &file))
}

/// Reads and tests the script of a router.
fn read_script(spec: &RouterSpec, path: &str) -> Result<ScriptFile, String> {
    let script = ScriptFile::read(Path::new(path)).map_err(|error| format!("script {path}: {error}"))?;
    let digest = &script.compiled.digest;
    uwsgi::log(
        Event::ScriptChecked,
        &format!("[tuntap-router] {}: the script {path} passes its test (SHA-256 {digest})", spec.device),
    );
    Ok(script)
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let count = File::open(path)?.take(MAX_LEN + 1).read_to_string(&mut text)?;
    if count as u64 > MAX_LEN { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn user(name: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}

fn group(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}
