//! A program of any kind, mostly a uWSGI with files that are not the harness's own, in a namespace.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::log::Log;
use super::netns::Netns;
use super::processes::{Family, VARIABLE, has_mapped};
use super::wait;

/// The program with all its descendants, ended on drop.
#[derive(Debug)]
pub struct Instance {
    child: Child,
    family: Family,
    pub log: Log,
}

impl Instance {
    /// Starts a program; what it says goes to a file in its working directory.
    pub fn start(netns: &Netns, program: &[&OsStr], directory: &Path) -> Self {
        let family = Family::new();
        let log = Log::new(directory.join(format!("log-{}", family.marker())));
        let output = File::options().create(true).append(true).open(log.path()).expect("own folder");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "ip", "netns", "exec", netns.name()])
            .args(program)
            .current_dir(directory)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env(VARIABLE, family.marker())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output)
            .spawn()
            .expect("setpriv can be started");
        Self { child, family, log }
    }

    pub fn family(&self) -> &Family {
        &self.family
    }

    /// The process that was started.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits its type")
    }

    /// The exit code, once there is one.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> Option<i32> {
        wait::until("the program exits", wait::LONG, || self.child.try_wait().expect("a child can be waited for"))
            .code()
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
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}\n{}\n---", self.log.path().display(), self.log.tail());
        }
        let _ = self.child.kill();
        self.family.kill_all();
        let _ = self.child.wait();
    }
}
