//! What the machine must offer. A test that cannot run fails and says what to do.

use std::path::Path;
use std::sync::Once;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use super::netns;

const PROGRAMS: [&str; 18] = [
    "bird",
    "birdc",
    "cc",
    "curl",
    "git",
    "ip",
    "iptables",
    "iptables-save",
    "make",
    "mount",
    "nft",
    "nsenter",
    "ping",
    "prlimit",
    "setpriv",
    "ss",
    "sysctl",
    "timeout",
];

/// Fails unless namespaces and TUN devices can be made here; once per process also clears what killed runs left
/// behind and takes as many descriptors as the hard limit allows.
pub fn require() {
    static ONCE: Once = Once::new();
    assert!(geteuid().is_root(), "integration tests need root: run `make test` as root");
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        panic!("/dev/net/tun cannot be opened ({error}): load the `tun` module, or give the container the device");
    }
    for program in PROGRAMS {
        assert!(on_path(program), "`{program}` is not on the PATH: run `make test`, which installs what is missing");
    }
    ONCE.call_once(|| {
        netns::remove_stale();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("RLIMIT_NOFILE is readable");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the soft limit may rise to the hard one");
    });
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).exists()))
}
