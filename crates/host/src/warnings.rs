//! Warnings that are logged once for as long as they apply.

use std::collections::BTreeSet;
use std::fmt::Display;

use tuntap_sys::log::{Event, Logger};

/// Most warnings that are remembered. Further ones are not logged.
const MAX_ACTIVE: usize = 1024;

/// Warnings about what is wrong with the host at the moment. Each pass over the host adds all warnings that apply; those
/// that the pass before has not added are logged.
#[derive(Debug, Default)]
pub struct Warnings {
    active: BTreeSet<String>,
    current: BTreeSet<String>,
}

impl Warnings {
    /// Adds a warning, and logs it if it is new.
    pub fn add(&mut self, logger: Logger, event: Event, text: impl Display) {
        let line = format!("[tuntap-router] {text}");
        if self.current.len() < MAX_ACTIVE && self.current.insert(line.clone()) && !self.active.contains(&line) {
            logger.line(event, &line);
        }
    }

    /// Ends a pass. A warning that was not added in it doesn't apply any more, and is logged again if it comes back.
    pub fn end_pass(&mut self) {
        self.active = std::mem::take(&mut self.current);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local!(static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

    #[test]
    fn warning_is_written_once_for_as_long_as_it_lasts() {
        let logger = Logger(|record| LINES.with_borrow_mut(|lines| lines.push(record.line.to_owned())));
        let mut warnings = Warnings::default();
        let mut looks = |found: &[&[&str]]| {
            for texts in found {
                texts.iter().for_each(|text| warnings.add(logger, Event::HostFault, text));
                warnings.end_pass();
            }
            LINES.take()
        };
        assert_eq!(looks(&[&["a"], &["a", "b"], &["a"]]), ["[tuntap-router] a", "[tuntap-router] b"]);
        assert_eq!(looks(&[&[], &["a"]]), ["[tuntap-router] a"], "it was over, and is there again");
    }
}
