//! BIRD, the routing daemon of a host.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::instance::Instance;
use super::netns::Netns;
use super::processes;
use super::starter::{self, Starter};
use super::wait;

/// BIRD in a namespace, ended on drop.
#[derive(Debug)]
pub struct Bird {
    netns: Netns,
    // Dropped before its folder.
    instance: Option<Instance>,
    dir: TempDir,
}

impl Bird {
    /// Starts it, and waits until it can be asked.
    #[track_caller]
    pub fn start(netns: &Netns, config: &str) -> Self {
        let dir = starter::folder();
        let path = dir.path().join("bird.conf");
        std::fs::write(&path, config).expect("own folder");
        // It may have a password in it.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("own file");
        let mut bird = Self { netns: netns.clone(), instance: None, dir };
        bird.start_again();
        bird
    }

    /// Starts one that was killed, with the same configuration.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.instance.is_none(), "it runs");
        let starter = Starter::program("bird", self.dir.path())
            .netns(&self.netns)
            .arguments(["-f", "-c", "{dir}/bird.conf", "-s", "{dir}/bird.ctl", "-P", "{dir}/bird.pid"])
            .log("bird.log");
        let instance = self.instance.insert(starter.start());
        let log = instance.log.clone();
        let ready =
            wait::try_until(wait::LONG, || self.try_ask("show status")?.contains("up and running").then_some(()));
        assert!(ready.is_some(), "BIRD does not start: {}", log.tail());
    }

    /// Adds something to its configuration.
    #[track_caller]
    pub fn add(&self, text: &str) {
        let path = self.path("bird.conf");
        let config = std::fs::read_to_string(&path).expect("own file") + text;
        std::fs::write(&path, config).expect("own file");
        let answer = self.ask("configure");
        assert!(answer.contains("Reconfigured") || answer.contains("in progress"), "{answer}");
    }

    /// Kills it as a crash does: the kernel keeps its routes until the next one looks at them.
    pub fn kill(&mut self) {
        self.instance = None;
    }

    pub fn signal(&self, signal: Signal) {
        processes::send(self.instance.as_ref().expect("it runs").pid(), signal);
    }

    /// What it answers to a question.
    #[track_caller]
    pub fn ask(&self, question: &str) -> String {
        self.try_ask(question).expect("BIRD answers")
    }

    /// True if the session of a protocol is established.
    pub fn is_established(&self, protocol: &str) -> bool {
        self.try_ask(&format!("show protocols {protocol}")).is_some_and(|text| text.contains("Established"))
    }

    /// Since when the session of a protocol is established, in seconds of the day. BIRD makes it from another clock each time, so that
    /// its last digits may change ([`is_since`]).
    #[track_caller]
    pub fn established_since(&self, protocol: &str) -> f64 {
        let text = self.ask(&format!("show protocols {protocol}"));
        let line = text.lines().last().unwrap_or_default();
        let since = || {
            let [_, _, _, "up", since, "Established", ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            since.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
        };
        since().unwrap_or_else(|| panic!("no session: {text}"))
    }

    /// The number of routes that it has of a protocol.
    pub fn routes(&self, protocol: &str) -> usize {
        // With several tables, the last line has the sum.
        let text = self.try_ask(&format!("show route protocol {protocol} count")).unwrap_or_default();
        let line = text.lines().rfind(|line| line.contains(" of ")).unwrap_or_default();
        line.trim_start_matches("Total: ").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn try_ask(&self, question: &str) -> Option<String> {
        let output = Command::new("timeout")
            .args(["-s", "KILL", "30", "birdc", "-s"])
            .arg(self.path("bird.ctl"))
            .args(question.split(' '))
            .output()
            .expect("timeout can be started");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Seconds of a day.
const DAY: f64 = 24.0 * 3600.0;

/// True if two times of [`Bird::established_since`] are the same one.
pub fn is_since(before: f64, after: f64) -> bool {
    let apart = (before - after).abs();
    // One may be before midnight.
    !(1.0..=DAY - 1.0).contains(&apart)
}

impl Drop for Bird {
    /// What it knows, for the report of a failed test.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let routes = self.try_ask("show route all").unwrap_or_default();
            let protocols = self.try_ask("show protocols").unwrap_or_default();
            eprintln!("--- BIRD in {}\n{protocols}\n{routes}\n---", self.netns.name());
        }
    }
}
