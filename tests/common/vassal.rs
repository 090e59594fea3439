//! Ini files of vassals.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::emperor::OWN_PLUGIN;
use super::uwsgi::{Subject, Uwsgi};

/// The uid and gid that vassals drop to.
pub const NOBODY: u32 = 65534;

/// A vassal's ini file in the making. `{dir}` in any line stands for the test's folder.
#[derive(Clone, Debug)]
pub struct VassalIni {
    pub name: String,
    pub address: Ipv4Addr,
    gateway: Ipv4Addr,
    length: u8,
    head: String,
    devices: Vec<String>,
    lines: Vec<String>,
    uid: Option<u32>,
    ipv6: bool,
    pings: bool,
    mtu: u32,
}

impl VassalIni {
    /// A vassal with one device, which drops its privileges and pings the Emperor before it does: what the
    /// plugin's documentation recommends.
    pub fn new(uwsgi: Uwsgi, plugin: Subject, name: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            gateway,
            length: 24,
            head: uwsgi.plugin_lines(plugin),
            devices: vec!["uwsgi0 {dir}/t.sock".to_owned()],
            lines: Vec::new(),
            uid: Some(NOBODY),
            ipv6: false,
            pings: true,
            mtu: 1500,
        }
    }

    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// The plugin is that of the Emperor's folder ([`EmperorIni::own_plugin`](super::emperor::EmperorIni::own_plugin)).
    pub fn own_plugin(mut self) -> Self {
        OWN_PLUGIN.clone_into(&mut self.head);
        self
    }

    /// Other devices than the usual one; the first gets the address.
    pub fn devices(mut self, devices: &[&str]) -> Self {
        self.devices = devices.iter().map(|device| (*device).to_owned()).collect();
        self
    }

    pub fn stays_root(mut self) -> Self {
        self.uid = None;
        self
    }

    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    pub fn with_ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// An IPv6 address besides the other one, and the router's as the way to everywhere.
    pub fn address_6(self, address: Ipv6Addr, gateway: Ipv6Addr) -> Self {
        self.with_ipv6()
            .line(format!("exec-as-root = ip -6 addr replace {address}/64 dev uwsgi0 nodad"))
            .line(format!("exec-as-root = ip -6 route replace default via {gateway} dev uwsgi0"))
    }

    /// For vassals that cannot reach the Emperor while they start.
    pub fn without_ping(mut self) -> Self {
        self.pings = false;
        self
    }

    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Another length of the network in which the vassal sees itself than 24.
    pub fn length(mut self, length: u8) -> Self {
        self.length = length;
        self
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let mut ini = format!("[uwsgi]\nmaster = true\njailed = true\nprocesses = 1\n{}", self.head);
        let mut add = |line: &str| writeln!(ini, "{line}").expect("a string takes lines");
        add("socket = 127.0.0.1:3031");
        if let Some(uid) = self.uid {
            add(&format!("uid = {uid}"));
            add(&format!("gid = {uid}"));
        }
        for device in &self.devices {
            add(&format!("tuntap-device = {device}"));
        }
        let device = self.devices[0].split_whitespace().next().expect("a device has a name");
        add(&format!("exec-as-root = sysctl -qw net.ipv6.conf.all.disable_ipv6={}", u8::from(!self.ipv6)));
        add("exec-as-root = ip link set lo up");
        add(&format!("exec-as-root = ip addr replace {}/{} dev {device}", self.address, self.length));
        add(&format!("exec-as-root = ip link set {device} mtu {} up", self.mtu));
        add(&format!("exec-as-root = ip route replace default via {} dev {device}", self.gateway));
        if self.pings {
            add(&format!("exec-as-root = ping -q -c 1 -W 5 {}", self.gateway));
        }
        for line in &self.lines {
            add(line);
        }
        ini
    }
}
