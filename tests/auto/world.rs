//! What these tests have in common.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::NOBODY;
use crate::common::wait;

/// The router's address in the test's IPv6 network.
pub const EMPEROR_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);

/// An Emperor whose router gives IPv4 addresses.
pub fn emperor() -> EmperorIni {
    emperor_on(Uwsgi::usual())
}

pub fn emperor_on(uwsgi: Uwsgi) -> EmperorIni {
    EmperorIni::new(uwsgi, Subject::Ours).line("tuntap-router-address = 192.168.0.1/24")
}

/// Adds IPv6 addresses. The namespace has to be one of [`netns_with_v6`].
pub fn with_v6(ini: EmperorIni) -> EmperorIni {
    ini.line("tuntap-router-address = fd00:77::1/64")
}

pub fn netns_with_v6() -> Netns {
    let netns = Netns::new();
    netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    netns
}

/// The host's addresses towards an outside host.
pub const HOST: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
pub const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8:1::2"];

/// A host, and a machine behind its `veth0`, which knows no way to the vassals.
pub fn host_and_outside() -> (Netns, Netns) {
    let (host, outside) = (netns_with_v6(), netns_with_v6());
    host.join("203.0.113.1/24", &outside, "203.0.113.2/24");
    for (netns, address) in [(&host, HOST[1]), (&outside, OUTSIDE[1])] {
        netns.sh(&format!("ip addr add {address}/64 dev veth0 nodad"));
    }
    (host, outside)
}

/// A vassal's ini file with nothing in it that configures a network. `{dir}` stands for the test's folder.
#[derive(Clone, Debug)]
pub struct Vassal {
    pub name: String,
    text: String,
}

impl Vassal {
    /// A vassal with a device that the router assigns addresses to.
    pub fn auto(emperor: &Emperor, name: &str) -> Self {
        Self::bare(emperor, Subject::Ours, name).line("tuntap-device = uwsgi0 {dir}/t.sock auto")
    }

    /// A vassal without any device, which drops to the user of most vassals.
    pub fn bare(emperor: &Emperor, plugin: Subject, name: &str) -> Self {
        let head = format!(
            "[uwsgi]\n{}master = true\nprocesses = 1\njailed = true\nsocket = 127.0.0.1:3031\n",
            emperor.uwsgi.plugin_lines(plugin)
        );
        Self { name: name.to_owned(), text: head }.uid(NOBODY)
    }

    pub fn line(mut self, line: impl AsRef<str>) -> Self {
        self.text += line.as_ref();
        self.text.push('\n');
        self
    }

    /// Sets another user; uWSGI takes the last of several such lines.
    pub fn uid(self, uid: u32) -> Self {
        self.line(format!("uid = {uid}")).line(format!("gid = {uid}"))
    }

    pub fn stays_root(mut self) -> Self {
        self.text = self
            .text
            .lines()
            .filter(|line| !line.starts_with("uid") && !line.starts_with("gid"))
            .fold(String::new(), |text, line| text + line + "\n");
        self
    }

    pub fn add(&self, emperor: &Emperor) {
        let draft = emperor.path("draft");
        std::fs::write(&draft, emperor.in_dir(&self.text)).expect("own folder");
        std::fs::rename(&draft, self.path(emperor)).expect("own folder");
    }

    /// Adds it and waits until it serves.
    #[track_caller]
    pub fn start(&self, emperor: &Emperor) -> Net {
        let mark = emperor.log.mark();
        self.add(emperor);
        emperor.wait_until_ready(mark, &self.name);
        emperor.vassal_net(&self.name)
    }

    /// Takes the file away and waits until the processes are gone.
    #[track_caller]
    pub fn stop(&self, emperor: &Emperor) {
        std::fs::remove_file(self.path(emperor)).expect("own file");
        wait::until_true("the vassal is gone", wait::LONG, || emperor.vassal_pid(&self.name).is_none());
    }

    /// The same file without one of its lines.
    pub fn without(&self, line: &str) -> Self {
        let text = self.text.replacen(&format!("{line}\n"), "", 1);
        assert_ne!(text, self.text, "{line}");
        Self { name: self.name.clone(), text }
    }

    pub fn text(&self, emperor: &Emperor) -> String {
        emperor.in_dir(&self.text)
    }

    pub fn path(&self, emperor: &Emperor) -> std::path::PathBuf {
        emperor.path(&format!("vassals/{}.ini", self.name))
    }
}

/// The addresses of a device, with their lengths, link-local ones left out.
pub fn addresses(net: &Net, device: &str) -> Vec<String> {
    let text = net.sh(&format!("ip -o addr show dev {device} scope global"));
    text.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect()
}

/// The one IPv4 address of `uwsgi0`.
#[track_caller]
pub fn v4(net: &Net) -> Ipv4Addr {
    let of_v4: Vec<_> = addresses(net, "uwsgi0").into_iter().filter(|address| !address.contains(':')).collect();
    let [address] = of_v4.as_slice() else { panic!("{of_v4:?}") };
    address.split('/').next().and_then(|word| word.parse().ok()).expect("an address")
}

/// The one IPv6 address of `uwsgi0`.
#[track_caller]
pub fn v6(net: &Net) -> Ipv6Addr {
    let of_v6: Vec<_> = addresses(net, "uwsgi0").into_iter().filter(|address| address.contains(':')).collect();
    let [address] = of_v6.as_slice() else { panic!("{of_v6:?}") };
    address.split('/').next().and_then(|word| word.parse().ok()).expect("an address")
}

pub fn pings(net: &Net, to: impl Into<IpAddr>) -> bool {
    net.output(&["ping", "-q", "-n", "-c", "1", "-W", "3", &to.into().to_string()]).status.success()
}
