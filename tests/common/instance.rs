//! A program that a [`super::starter::Starter`] has started, mostly a uWSGI.

use std::path::Path;
use std::process::{Child, ExitStatus};

use super::log::Log;
use super::processes::{Family, has_mapped};
use super::wait;

/// The program with all its descendants, ended on drop.
#[derive(Debug)]
pub struct Instance {
    child: Child,
    family: Family,
    pub log: Log,
}

impl Instance {
    pub fn new(child: Child, family: Family, log: Log) -> Self {
        Self { child, family, log }
    }

    pub fn family(&self) -> &Family {
        &self.family
    }

    /// The process that was started.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits its type")
    }

    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait::until("the program exits", wait::LONG, || self.exit_status())
    }

    /// Fails unless every process of the family uses this plugin. uWSGI's fallback is its own folder, with Debian's C
    /// plugin.
    #[track_caller]
    pub fn assert_all_mapped(&self, plugin: &Path) {
        let members = self.family.members();
        assert!(!members.is_empty());
        let strangers: Vec<_> = members.iter().filter(|process| !has_mapped(process.pid, plugin)).collect();
        assert!(strangers.is_empty(), "without {}: {strangers:?}", plugin.display());
    }

    /// The processes and the end of the log, for the report of a failed test.
    fn report(&self) -> String {
        let members = self.family.members();
        let processes: Vec<String> = members
            .iter()
            .map(|it| format!("{} (parent {}) {}", it.pid, it.parent, it.command_line.join(" ")))
            .collect();
        let log = self.log.path().display();
        format!("--- processes\n{}\n--- the end of {log}\n{}\n---", processes.join("\n"), self.log.tail())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The state at the moment of the failure, before the end of the processes changes it.
        let report = std::thread::panicking().then(|| self.report());
        let _ = self.child.kill();
        self.family.kill_all();
        let _ = self.child.wait();
        if let Some(report) = report {
            eprintln!("{report}");
        }
    }
}
