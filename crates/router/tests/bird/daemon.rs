//! BIRD, and what it says of itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tuntap_core::routes::bird_config::{BirdConfig, Feed};
use tuntap_core::routes::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME};

pub const NETWORKS: [&str; 2] = ["10.77.0.0/16", "fd00:77::/64"];

/// The configuration for a router that listens at an address.
pub fn config(address: SocketAddr) -> BirdConfig {
    BirdConfig {
        router_id: Some(Ipv4Addr::new(10, 99, 0, 1)),
        asn: 64512,
        feed: Feed {
            address,
            from: address.ip(),
            asn: DEFAULT_ASN,
            password: None,
            device: "emperor0".to_owned(),
            hold_time: DEFAULT_HOLD_TIME,
        },
        networks: NETWORKS.map(|net| net.parse().expect("a network")).to_vec(),
        neighbours: Vec::new(),
        bfd: false,
        max_routes: BirdConfig::DEFAULT_MAX_ROUTES,
    }
}

/// A running BIRD.
#[derive(Debug)]
pub struct Bird {
    child: Child,
    folder: TempDir,
}

impl Bird {
    /// Starts one in the network namespace of this thread.
    pub fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = start(&folder, config);
        let bird = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !bird.path("bird.ctl").exists() {
            assert!(Instant::now() < deadline, "BIRD doesn't start");
            std::thread::sleep(Duration::from_millis(10));
        }
        bird
    }

    /// Kills it, and starts it again.
    pub fn restart(&mut self, config: &str) {
        self.kill();
        self.child = start(&self.folder, config);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks it something.
    pub fn ask(&self, question: &str) -> String {
        let birdc = Command::new("timeout")
            .args(["-s", "KILL", "60", "birdc", "-s"])
            .arg(self.path("bird.ctl"))
            .args(question.split(' '))
            .output()
            .expect("birdc can be started");
        String::from_utf8_lossy(&birdc.stdout).into_owned()
    }

    /// The number of routes that it has of a protocol.
    pub fn routes(&self, protocol: &str) -> usize {
        let text = self.ask(&format!("show route protocol {protocol} count"));
        let total = text.lines().rfind(|line| line.starts_with("Total:"));
        let line = total.or_else(|| text.lines().rfind(|line| line.contains(" of "))).unwrap_or_default();
        let mut words = line.trim_start_matches("Total: ").split(' ');
        words.next().and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("it runs");
    }

    fn kill(&mut self) {
        // One that has ended already can't be killed, and that is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(folder: &TempDir, config: &str) -> Child {
    let path = folder.path().join("bird.conf");
    std::fs::write(&path, config).expect("a file");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a file of ours");
    let log = std::fs::File::create(folder.path().join("log")).expect("a file");
    Command::new("bird")
        .arg("-f")
        .arg("-c")
        .arg(&path)
        .arg("-s")
        .arg(folder.path().join("bird.ctl"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("bird can be started: scripts/setup test installs it")
}
