//! A terminal of the tests: tmux(1), without anybody's configuration, whose screen is read as text.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tempfile::TempDir;

use crate::router::text;

/// How long anything may take to be seen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal in which a shell runs one line, and then waits.
pub struct Screen {
    folder: TempDir,
}

impl Screen {
    /// Runs a line of sh(1), of which the environment has `socket` as the router.
    pub fn new(width: u16, height: u16, socket: &Path, line: &str) -> Self {
        let screen = Self { folder: tempfile::tempdir().expect("a folder") };
        let line = format!(
            "UWSGI_TUNTAP_CONTROL={} TZ=UTC; export UWSGI_TUNTAP_CONTROL TZ; unset COLUMNS; {line}",
            socket.display()
        );
        let line = format!("{line}; echo \"it ended with $?\"; stty -a | grep -o ' -\\?icanon'; exec sleep 1000");
        let (width, height) = (width.to_string(), height.to_string());
        let started = screen.tmux(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", &width, "-y", &height, &line]);
        assert!(started.status.success(), "{}", text(&started.stderr));
        screen
    }

    /// Presses keys, as tmux names them.
    pub fn press(&self, keys: &[&str]) {
        assert!(self.tmux(&[&["send-keys"], keys].concat()).status.success());
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, width: u16, height: u16) {
        let size = self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
        assert!(size.status.success(), "{}", text(&size.stderr));
    }

    /// The process that the shell has started.
    pub fn child(&self) -> Pid {
        let shell = text(&self.tmux(&["list-panes", "-F", "#{pane_pid}"]).stdout).trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("it runs");
        Pid::from_raw(children.trim().parse().expect("one process"))
    }

    /// The lines that it shows.
    pub fn lines(&self) -> Vec<String> {
        text(&self.tmux(&["capture-pane", "-p"]).stdout).lines().map(str::to_owned).collect()
    }

    /// Waits until it shows something, and returns its lines.
    #[track_caller]
    pub fn wait(&self, wanted: &str) -> Vec<String> {
        self.wait_until(wanted, |screen| screen.contains(wanted))
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let start = Instant::now();
        loop {
            let lines = self.lines();
            if is_there(&lines.join("\n")) {
                return lines;
            }
            assert!(start.elapsed() < PATIENCE, "{what} doesn't come:\n{}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        // The server outlives this process, but not the screen.
        command.arg("-S").arg(self.folder.path().join("socket")).args(arguments);
        command.env_remove("TMUX").env("TERM", "xterm").output().expect("tmux(1)")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
