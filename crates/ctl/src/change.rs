//! Changes of the policy: how they are asked for, and what is said about one that was made.

use std::time::SystemTime;

use tuntap_api::control::{Change, Changed, Difference, Request};

use crate::failure::{Done, Failed};
use crate::session::{Common, Session};
use crate::text::{counted, escaped, escaped_lines, local_time};

/// How a change is made.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct How {
    /// Go back to the policy before after so many seconds, unless `rules confirm` comes first
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    confirm: Option<u32>,
    /// Change nothing unless the policy has this generation
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl How {
    /// Makes changes, all or none. `file` is where their text was read.
    pub fn commit(self, session: &mut Session<'_>, changes: Vec<Change>, file: Option<&str>) -> Result<Done, Failed> {
        let Self { confirm, expect, dry_run } = self;
        let request = Request::Commit { changes, expected_generation: expect, confirm_seconds: confirm, dry_run };
        let changed: Option<Changed> = match file {
            Some(file) => session.ask_about(file, &request)?,
            None => session.ask(&request)?,
        };
        if let Some(changed) = changed {
            session.output.write_all(told(&changed, dry_run, &session.common).as_bytes())?;
        }
        Ok(Done::Well)
    }
}

/// What people are told of a change.
pub fn told(changed: &Changed, dry_run: bool, common: &Common) -> String {
    let Changed { generation, rules, confirm_within, difference } = changed;
    let mut text = lines(difference);
    if dry_run {
        return text + &format!("nothing was changed; it would be: {}\n", summary(difference));
    }
    if !rules.is_empty() {
        let numbers = rules.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        text += &format!("new {} {numbers}\n", if rules.len() == 1 { "rule" } else { "rules" });
    }
    text += &format!("generation {generation}: {}\n", summary(difference));
    if let Some(seconds) = confirm_within {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let until = local_time(now.saturating_add(u64::from(*seconds)));
        text += &format!("This change is undone at {until}, in {seconds} s, unless you confirm it:\n");
        text += &format!("    uwsgi-tuntap {}rules confirm --expect {generation}\n", control(common));
    }
    text
}

/// The lines of a difference.
pub fn lines(difference: &Difference) -> String {
    escaped_lines(&difference.lines.join("\n"))
}

/// The numbers of a difference.
pub fn summary(difference: &Difference) -> String {
    let Difference { added, deleted, kept, .. } = difference;
    format!("{} added, {deleted} deleted, {kept} kept", counted(*added, "rule", "rules"))
}

/// The option that named the router, for the next command.
fn control(common: &Common) -> String {
    let name = common.wanted().and_then(|name| shlex::try_quote(name).ok());
    name.map(|name| format!("--control {} ", escaped(&name))).unwrap_or_default()
}
