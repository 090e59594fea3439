//! What a kernel says of changes of its routes.

use std::fs::read_to_string;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

use crate::common::netns::Net;
use crate::common::wait;

/// A running `ip monitor route`, ended on drop.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    text: NamedTempFile,
}

impl Monitor {
    /// Starts it, and waits until it sees something.
    #[track_caller]
    pub fn start(net: &Net) -> Self {
        let text = NamedTempFile::new().expect("a file");
        let output = text.reopen().expect("own file");
        let child = net.run(|| {
            Command::new("timeout")
                .args(["-s", "KILL", "300", "ip", "-o", "monitor", "route"])
                .stdin(Stdio::null())
                .stdout(output)
                .spawn()
                .expect("timeout can be started")
        });
        let monitor = Self { child, text };
        wait::until_true("the monitor sees a route", wait::LONG, || {
            // A route that is there already is no change.
            net.output(&["ip", "route", "del", "192.0.2.1/32", "dev", "lo"]);
            net.sh("ip route add 192.0.2.1/32 dev lo");
            monitor.lines().iter().any(|line| line.contains("192.0.2.1"))
        });
        monitor
    }

    /// Waits until a line has some words in it.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        wait::until_true(&format!("a change of {words}"), wait::LONG, || {
            self.lines().iter().any(|line| line.contains(words))
        });
    }

    pub fn lines(&self) -> Vec<String> {
        read_to_string(self.text.path()).expect("own file").lines().map(str::to_owned).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // timeout passes the signal on; SIGKILL could not be.
        let pid = i32::try_from(self.child.id()).expect("a pid fits its type");
        crate::common::processes::send(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
