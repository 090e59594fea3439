//! Pings that go on while something happens.

use std::fs::read_to_string;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::netns::Net;
use super::{processes, wait};

/// The time between two pings.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// Seconds after which a series ends by itself.
const LONGEST: &str = "300";

/// A running series.
#[derive(Debug)]
pub struct Series {
    ping: Child,
    text: NamedTempFile,
}

/// What became of the pings of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pings {
    pub sent: u32,
    pub answered: u32,
    /// The most pings in a row without an answer.
    pub longest_loss: u32,
}

impl Series {
    /// Starts one, and waits until a ping is answered.
    #[track_caller]
    pub fn start(from: &Net, to: impl Into<IpAddr>) -> Self {
        let to = to.into().to_string();
        let text = NamedTempFile::new().expect("a file");
        let output = text.reopen().expect("own file");
        let (interval, longest) = (INTERVAL.as_secs_f64().to_string(), LONGEST);
        let ping = from.run(|| {
            Command::new("ping")
                .args(["-n", "-i", &interval, "-w", longest, "-W", "5", &to])
                .stdin(Stdio::null())
                .stdout(output)
                .spawn()
                .expect("ping can be started")
        });
        let series = Self { ping, text };
        wait::until_true(&format!("an answer from {to}"), wait::LONG, || numbers(&series.read()).next().is_some());
        series
    }

    /// Waits until pings that are sent from now on are answered.
    #[track_caller]
    pub fn wait_until_answered(&self, what: &str) {
        let before = numbers(&self.read()).count();
        wait::until_true(what, wait::LONG, || numbers(&self.read()).count() > before + 2);
    }

    /// Ends it.
    #[track_caller]
    pub fn end(mut self) -> Pings {
        let pid = i32::try_from(self.ping.id()).expect("a pid fits its type");
        processes::send(pid, Signal::SIGINT);
        wait::until_true("the end of ping", wait::LONG, || self.ping.try_wait().expect("a child").is_some());
        let text = self.read();
        summary(&text).unwrap_or_else(|| panic!("no summary of ping: {text}"))
    }

    fn read(&self) -> String {
        read_to_string(self.text.path()).expect("own file")
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        // One that has ended already can't be killed, and that is no error.
        let _ = self.ping.kill();
        let _ = self.ping.wait();
    }
}

/// The numbers of answered pings, in the order of the answers.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    text.lines().filter_map(|line| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok())
}

fn summary(text: &str) -> Option<Pings> {
    let counts = text.lines().find(|line| line.contains(" packets transmitted, "))?;
    let sent = counts.split(' ').next()?.parse().ok()?;
    let mut answered: Vec<u32> = numbers(text).collect();
    answered.sort_unstable();
    answered.dedup();
    // The last ones may have had no time for an answer.
    let ends = [0].into_iter().chain(answered.iter().copied());
    let longest_loss = ends.zip(&answered).map(|(one, next)| next - one - 1).max().unwrap_or(sent);
    Some(Pings { sent, answered: u32::try_from(answered.len()).ok()?, longest_loss })
}
