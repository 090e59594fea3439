//! What these tests have in common.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// The addresses of the Emperor and of the two vassals besides those of IPv4.
pub const EMPEROR_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
pub const V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
pub const V2_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 3);

/// How long a socket waits for what may not come.
const SILENCE: Duration = Duration::from_millis(300);

pub fn emperor() -> EmperorIni {
    emperor_of(Uwsgi::usual(), Subject::Ours, "on")
}

/// One whose kernel is said to lack something; `tuntap-router-offload` has this value.
pub fn emperor_without(what: &str, value: &str) -> EmperorIni {
    emperor_of(Uwsgi::Distribution, Subject::Faulty, value).line(format!("env = UWSGI_TUNTAP_HOOK={what}"))
}

fn emperor_of(uwsgi: Uwsgi, plugin: Subject, value: &str) -> EmperorIni {
    EmperorIni::new(uwsgi, plugin)
        .line(format!("tuntap-router-offload = {value}"))
        .line("tuntap-router-switch = true")
        // A vassal that has gone to frames, as one may on a slow machine, connects again after the router's death, as its own user.
        .line("chmod-socket = 666")
        .line(format!("exec-as-root = ip -6 addr replace {EMPEROR_6}/64 dev emperor0 nodad"))
}

/// Starts an instance in a namespace with IPv6.
#[track_caller]
pub fn start(ini: EmperorIni) -> Emperor {
    let emperor = ini.start_in(Netns::new().with_ipv6());
    emperor.log.wait_for("spawned uWSGI tuntap pairs", wait::LONG);
    emperor
}

pub fn vassal(name: &str, address: Ipv4Addr, address_6: Ipv6Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, address, EMPEROR).address_6(address_6, EMPEROR_6)
}

/// Packets that an interface has received and sent; `None` if there is no such one.
fn try_packets(net: &Net, device: &str) -> Option<[u64; 2]> {
    let output = net.output(&["ip", "-s", "-j", "link", "show", "dev", device]);
    let shown: Value =
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("ip prints JSON"))?;
    Some(["rx", "tx"].map(|direction| shown[0]["stats64"][direction]["packets"].as_u64().expect("a number")))
}

/// Packets that an interface has received and sent.
#[track_caller]
pub fn packets(net: &Net, device: &str) -> [u64; 2] {
    try_packets(net, device).unwrap_or_else(|| panic!("there is no {device}"))
}

/// Packets that a vassal's pair has received and sent there; none if it has no pair.
pub fn pair_packets(vassal: &Net) -> [u64; 2] {
    try_packets(vassal, "tv0").unwrap_or_default()
}

/// Nothing has passed by a pair since. On a slow machine the vassal may have lost its pair for a while: the next one counts from 0.
#[track_caller]
pub fn assert_none_passed(after: [u64; 2], before: [u64; 2]) {
    let is_next = wait::is_slow() && [0, 1].iter().all(|way| after[*way] <= before[*way]);
    assert!(after == before || is_next, "{after:?}, {before:?} before");
}

/// Two sockets that send each other datagrams.
pub struct Datagrams {
    near: UdpSocket,
    far: UdpSocket,
    /// The number that the next datagram has.
    next: AtomicU64,
}

impl Datagrams {
    #[track_caller]
    pub fn open(from: &Net, own: impl Into<IpAddr>, to: &Net, other: impl Into<IpAddr>) -> Self {
        let bind = |net: &Net, address: IpAddr| {
            let socket = net.run(|| UdpSocket::bind(SocketAddr::new(address, 0))).expect("the address is there");
            socket.set_read_timeout(Some(SILENCE)).expect("a timeout can be set");
            socket
        };
        let (near, far) = (bind(from, own.into()), bind(to, other.into()));
        near.connect(far.local_addr().expect("an address")).expect("a route");
        far.connect(near.local_addr().expect("an address")).expect("a route");
        Self { near, far, next: AtomicU64::new(0) }
    }

    /// The port at the other end.
    pub fn port(&self) -> u16 {
        self.far.local_addr().expect("it is bound").port()
    }

    /// Sends one datagram each way. Returns true if both have arrived.
    pub fn pass(&self) -> bool {
        self.goes(true) && self.goes(false)
    }

    /// Sends so many datagrams each way, all of which arrive. On a slow machine the router may find for a moment that a vassal's packets
    /// take too much time, and drop some: there it is tried again.
    #[track_caller]
    pub fn assert_all_pass(&self, count: usize) {
        let all = || (0..count).all(|_| self.pass());
        if wait::is_slow() {
            wait::until_true("all datagrams arrive", wait::LONG, all);
        } else {
            assert!(all(), "a datagram is lost");
        }
    }

    /// Sends a datagram, and returns true if it has arrived. What was sent before and comes only now doesn't count.
    pub fn goes(&self, outward: bool) -> bool {
        let (from, to) = if outward { (&self.near, &self.far) } else { (&self.far, &self.near) };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if from.send(&number.to_ne_bytes()).is_err() {
            return false;
        }
        let mut bytes = [0; 16];
        loop {
            match to.recv(&mut bytes) {
                Ok(len) => {
                    let got = u64::from_ne_bytes(bytes[..len].try_into().expect("a number"));
                    assert!(got <= number, "{got} was never sent");
                    if got == number {
                        return true;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Passes datagrams until those of the flow take the way in the kernel: the pair of the vassal has them.
    #[track_caller]
    pub fn until_in_kernel(&self, vassal: &Net) {
        wait::until_true("the flow passes in the kernel", wait::LONG, || {
            let before = pair_packets(vassal);
            let all = (0..5).all(|_| self.pass());
            let after = pair_packets(vassal);
            all && [0, 1].iter().all(|way| after[*way] == before[*way] + 5)
        });
    }
}
