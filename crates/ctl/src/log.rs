//! `uwsgi-tuntap log`: who changed what, and when.

use tuntap_api::control::{Log, Request};

use crate::failure::{Done, Failed};
use crate::session::Session;
use crate::table::{Kind, Table};
use crate::text::{escaped, local_time, or_dash};

/// Which entries.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Show at most so many, the latest
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let Some(log) = session.ask::<Log>(&Request::Log { limit: self.limit })? else { return Ok(Done::Well) };
        let mut table = Table::new(&[
            ("TIME", Kind::Word),
            ("UID", Kind::Number),
            ("PID", Kind::Number),
            ("GENERATION", Kind::Number),
            ("ACTION", Kind::Text),
        ]);
        for entry in &log.entries {
            let refused = entry.error.as_deref().map(|error| format!(" (refused: {})", escaped(error)));
            table.row([
                local_time(entry.time),
                entry.uid.to_string(),
                entry.pid.to_string(),
                or_dash(entry.generation),
                escaped(&entry.action) + &refused.unwrap_or_default(),
            ]);
        }
        session.table(&table)?;
        Ok(Done::Well)
    }
}
