//! The rules files of routers (`tuntap-router-rules`), which the master reads, because a router has no access to files.

use std::fs::File;
use std::io::{self, Read};

use nix::unistd::User;

use super::options::config;
use super::uwsgi;
use tuntap_config::RouterSpec;
use tuntap_live::{Document, Machine, RulesFile};

/// Longest file that is read, in bytes.
const MAX_LEN: u64 = 64 * 1024 * 1024;

/// The policy of options and rules file, as a document. What is hardly meant in the file is a line each.
pub fn initial(spec: &RouterSpec) -> Result<Document, String> {
    let Some(path) = &spec.live.rules else { return Ok(Document::initial(config(), &RulesFile::default())) };
    let machine = Machine { read: &read, user: &user };
    let text = read(path).map_err(|error| format!("rules file {path}: {error}"))?;
    let file = RulesFile::read(&text, &machine)
        .map_err(|error| format!("rules file {path}:{}: {}", error.line, error.message))?;
    for warning in &file.warnings {
        uwsgi::log(&format!("[tuntap-router] {}: rules file {path}: {warning}", spec.device));
    }
    Ok(Document::initial(config(), &file))
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let count = File::open(path)?.take(MAX_LEN + 1).read_to_string(&mut text)?;
    if count as u64 > MAX_LEN { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn user(name: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}
