//! A router as this command knows it: its last two answers, or why there is none.

use std::time::{Duration, Instant};

use super::sample::{Sample, Span};
use crate::text::{Decimal, Printable, Uptime, counted};

/// A router.
#[derive(Debug, Clone)]
pub struct Router {
    /// The name of its control socket.
    pub socket: String,
    /// Why it doesn't answer, as text without anything that a terminal acts upon.
    pub trouble: Option<String>,
    now: Option<Sample>,
    before: Option<Sample>,
    /// When it was asked in vain for the first time since its last answer.
    silent_since: Option<Instant>,
}

impl Router {
    /// One that was not heard yet.
    pub const fn new(socket: String) -> Self {
        Self { socket, trouble: None, now: None, before: None, silent_since: None }
    }

    /// Takes an answer, or why there is none. What was known before stays visible.
    pub fn take(&mut self, result: Result<Sample, String>, now: Instant) {
        match result {
            Ok(sample) => {
                self.before = self.now.replace(sample);
                (self.trouble, self.silent_since) = (None, None);
            }
            Err(trouble) => {
                // It is known which router this is about.
                let prefix = format!("{}: ", Printable(&self.socket));
                let trouble = trouble.strip_prefix(&prefix).map_or_else(|| trouble.clone(), str::to_owned);
                self.trouble = Some(trouble);
                self.silent_since.get_or_insert(now);
            }
        }
    }

    /// The last answer, and the one before.
    pub fn span(&self) -> Option<Span<'_>> {
        Some(Span::new(self.now.as_ref()?, self.before.as_ref()))
    }

    /// Its device, or its socket as long as that is unknown.
    pub fn name(&self) -> String {
        match &self.now {
            Some(sample) if !sample.snapshot.device.is_empty() => Printable(&sample.snapshot.device).to_string(),
            _ => Printable(&self.socket).to_string(),
        }
    }

    /// Two lines: what it is, and what it does.
    pub fn summary(&self) -> [String; 2] {
        let Some(span) = self.span() else { return [self.name(), String::new()] };
        let snapshot = &span.now.snapshot;
        let pending = if snapshot.policy.pending { ", a change waits for its confirmation" } else { "" };
        let what = format!(
            "{}  up {}  pid {}  plugin {}  policy {}{pending}",
            self.name(),
            Uptime(snapshot.uptime),
            snapshot.pid,
            Printable(&snapshot.plugin_version),
            snapshot.policy.generation
        );
        let ((out, into), drops) = (span.peers_bit_rates(), span.drop_rate());
        let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), |rate| Decimal(rate).to_string());
        let does = format!(
            "out {} bit/s  in {} bit/s  drops {}/s  {}  {}",
            rate(out),
            rate(into),
            rate(drops),
            counted(snapshot.peers.len() as u64, "peer", "peers"),
            counted(snapshot.flows.count, "flow", "flows"),
        );
        [what, does]
    }

    /// What is wrong: it doesn't answer, or hasn't for a while.
    pub fn warning(&self, now: Instant, patience: Duration) -> Option<String> {
        if let (Some(trouble), Some(since)) = (&self.trouble, self.silent_since) {
            let since = now.saturating_duration_since(since).as_secs();
            return Some(format!("no answer for {since} s: {trouble}"));
        }
        let age = now.saturating_duration_since(self.now.as_ref()?.taken);
        (age > patience).then(|| format!("no answer for {} s", age.as_secs()))
    }
}
