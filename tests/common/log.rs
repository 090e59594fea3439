//! A log file that a process writes while the test watches it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wait;

const TAIL_LINES: usize = 150;

#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
}

/// A place in a log: what comes after it is new.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Log {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    pub fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    pub fn mark(&self) -> Mark {
        Mark(self.text().len())
    }

    pub fn since(&self, mark: Mark) -> String {
        self.text().get(mark.0..).unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn wait_for(&self, needle: &str, within: Duration) {
        wait::until_true(&format!("`{needle}` in the log"), within, || self.text().contains(needle));
    }

    #[track_caller]
    pub fn wait_for_since(&self, mark: Mark, needle: &str, within: Duration) {
        wait::until_true(&format!("`{needle}` as a new line in the log"), within, || self.since(mark).contains(needle));
    }

    /// The last lines, for the report of a failure.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}
