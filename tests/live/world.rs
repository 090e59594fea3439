//! What these tests have in common: an Emperor with both versions of IP, vassals, and a client of the control socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub use crate::common::control::{Control, add, commit};
use crate::common::emperor::{EMPEROR, EmperorIni};
use crate::common::netns::Net;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// The IPv6 addresses beside [`EMPEROR`], `V1` and `V2`.
pub const EMPEROR_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
pub const V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
pub const V2_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 3);

pub fn emperor() -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours).lines(&[
        "exec-as-root = sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.all.forwarding=1",
        &format!("exec-as-root = ip -6 addr replace {EMPEROR_6}/64 dev emperor0 nodad"),
    ])
}

/// An Emperor whose vassals may open connections, and take none.
pub fn closed_emperor() -> EmperorIni {
    emperor().lines(&["tuntap-router-firewall-in = allow any any established", "tuntap-router-firewall-in = deny"])
}

pub fn vassal(name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> VassalIni {
    VassalIni::new(Uwsgi::usual(), Subject::Ours, name, v4, EMPEROR)
        .address_6(v6, EMPEROR_6)
        .line(format!("exec-as-root = ping -q -c 1 -W 5 {EMPEROR_6}"))
}

/// Returns true if a TCP connection is made. One that is dropped in silence is given up after a second.
pub fn connects(from: &Net, to: &Net, address: impl Into<IpAddr>, port: u16) -> bool {
    let target = SocketAddr::new(address.into(), port);
    let _listener = to.run(|| TcpListener::bind(target)).expect("the address is there");
    from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(1))).is_ok()
}

/// Waits until a TCP connection is made, as SYNs that are lost on a busy machine are sent again.
#[track_caller]
pub fn assert_connects(from: &Net, to: &Net, address: impl Into<IpAddr>, port: u16) {
    let address = address.into();
    wait::until_true("a connection", wait::LONG, || connects(from, to, address, port));
}

/// Two UDP sockets, one in each namespace, that send to each other.
pub struct Datagrams {
    pub near: UdpSocket,
    pub far: UdpSocket,
}

impl Datagrams {
    pub fn new(near: &Net, near_address: impl Into<IpAddr>, far: &Net, far_address: impl Into<IpAddr>) -> Self {
        let bind = |net: &Net, address: IpAddr| {
            let socket = net.run(|| UdpSocket::bind((address, 0))).expect("the address is there");
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
            socket
        };
        let (near, far) = (bind(near, near_address.into()), bind(far, far_address.into()));
        near.connect(far.local_addr().expect("bound")).expect("a target");
        far.connect(near.local_addr().expect("bound")).expect("a target");
        Self { near, far }
    }

    /// Returns true if one of several datagrams arrives.
    pub fn pass_out(&self) -> bool {
        passes(&self.near, &self.far)
    }

    /// The same towards the near end.
    pub fn pass_in(&self) -> bool {
        passes(&self.far, &self.near)
    }
}

fn passes(from: &UdpSocket, to: &UdpSocket) -> bool {
    (0..4).any(|_| {
        // An ICMP error about an earlier one shows here, and is no failure of this one.
        let _ = from.send(b"x");
        to.recv(&mut [0; 8]).is_ok()
    })
}
