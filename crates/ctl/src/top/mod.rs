//! `uwsgi-tuntap top`: peers, flows, drops and limits with their rates, on a terminal as they change, or as text.

mod app;
mod feed;
mod grid;
mod plain;
mod router;
mod sample;
mod screen;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::failure::{Done, Failed};
use crate::session::{Session, usage_error};

use grid::Sorting;
use view::View;

pub use feed::Sources;

/// What is shown at first, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds between two looks at a router
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = delay)]
    delay: Duration,
    /// Print so many reports as text, also on a terminal, and end; 0 prints them until the command is stopped. Without it,
    /// one is printed if the output is no terminal
    #[arg(short = 'n', long, value_name = "NUMBER")]
    iterations: Option<u64>,
    /// Print one report as text: the same as -n 1
    #[arg(long, conflicts_with = "iterations")]
    once: bool,
    /// Begin with this view; without it, with peers, or with the flows of --peer
    #[arg(long)]
    view: Option<View>,
    /// Begin with the flows, drops and limits of the vassal with this process ID
    #[arg(long, value_name = "PID")]
    peer: Option<i32>,
    /// Begin with rows in which this text is
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// Sort by the column whose title begins so, such as out; greatest numbers come first
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// The other way round
    #[arg(long)]
    reverse: bool,
}

/// What is shown.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The view.
    pub view: View,
    /// The process that flows, drops and limits are shown of; without one, all.
    pub pid: Option<i32>,
    /// Rows have this text in them.
    pub filter: String,
    /// The order of rows in each view.
    pub sortings: [Sorting; View::ALL.len()],
}

impl Choice {
    /// The order of rows.
    pub const fn sorting(&self) -> Sorting {
        self.sortings[self.view.number()]
    }
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let choice = self.choice();
        let sources = Sources::new(session.common.wanted());
        // A terminal that can't move its cursor gets lines.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let iterations = match self.iterations {
            _ if self.once => Some(1),
            None if !io::stdout().is_terminal() => Some(1),
            None if is_dumb => Some(0),
            given => given,
        };
        match iterations {
            Some(number) => plain::run(session, &sources, &choice, self.delay, number),
            None => terminal::run(&session.common, sources, choice, self.delay),
        }
    }

    fn choice(&self) -> Choice {
        let view = self.view.unwrap_or(if self.peer.is_some() { View::Flows } else { View::Peers });
        let mut sortings = View::ALL.map(View::usual_sorting);
        let own = &mut sortings[view.number()];
        if let Some(name) = &self.sort {
            match view.column(name) {
                Some(column) if !name.is_empty() => own.column = column,
                _ => {
                    let titles: Vec<_> = view.columns().iter().map(|(title, _)| *title).collect();
                    usage_error(&format!(
                        "--sort {name:?} is no column of the view {}; there are {}",
                        view.name(),
                        titles.join(", ")
                    ));
                }
            }
        }
        own.is_reversed = self.reverse;
        Choice { view, pid: self.peer, filter: self.filter.clone(), sortings }
    }
}

/// Reads seconds with a fraction.
fn delay(text: &str) -> Result<Duration, String> {
    const LEAST: f64 = 0.1;
    const MOST: f64 = 3600.0;
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if (LEAST..=MOST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("expected {LEAST} to {MOST} seconds"))
    }
}
