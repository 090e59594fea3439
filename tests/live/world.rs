//! What these tests have in common: an Emperor with both versions of IP, vassals, and a client of the control socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tuntap_api::control::{Chain, Change, Changed, Failure, Request, Response, RuleEntry, RuleList};

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::processes::send;
use crate::common::stats::is_attached;
use crate::common::user::as_user;
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
        .with_ipv6()
        .line(format!("exec-as-root = ip -6 addr replace {v6}/64 dev uwsgi0 nodad"))
        .line(format!("exec-as-root = ip -6 route replace default via {EMPEROR_6} dev uwsgi0"))
        .line(format!("exec-as-root = ping -q -c 1 -W 5 {EMPEROR_6}"))
}

#[track_caller]
pub fn start_attached(emperor: &Emperor, vassal: &VassalIni) -> Net {
    let net = emperor.start_vassal(vassal);
    emperor.wait_for_stats("the vassal is attached", |stats| is_attached(stats, vassal.address));
    net
}

/// Kills the router and waits for the next one.
#[track_caller]
pub fn kill_router(emperor: &Emperor) {
    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until_true("there is a new router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
}

/// A client of the control socket.
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects from the router's network namespace, as root.
    #[track_caller]
    pub fn open(emperor: &Emperor) -> Self {
        let path = emperor.path("t.sock.control");
        wait::until("the control socket answers", wait::LONG, || {
            let stream = emperor.netns.run(|| UnixStream::connect(&path)).ok()?;
            Some(Self::of(stream))
        })
    }

    /// Connects as another user.
    #[track_caller]
    pub fn open_as(emperor: &Emperor, uid: u32) -> Self {
        let path = emperor.path("t.sock.control");
        let stream = emperor.netns.run(|| as_user(uid, || UnixStream::connect(&path)));
        Self::of(stream.expect("the control socket takes everybody's connection"))
    }

    fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
        Self { stream: BufReader::new(stream) }
    }

    #[track_caller]
    pub fn send(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).expect("a request has a form");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).expect("the router reads");
    }

    #[track_caller]
    pub fn next(&mut self) -> Response {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the router answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("an answer, not {line:?}: {error}"))
    }

    /// Sends a request, and returns its result.
    #[track_caller]
    pub fn try_ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        self.send(request);
        let Response { ok, error, .. } = self.next();
        match (ok, error) {
            (Some(ok), None) => Ok(T::deserialize(&ok).unwrap_or_else(|error| panic!("a result, not {ok}: {error}"))),
            (None, Some(error)) => Err(error),
            other => panic!("one result or one error: {other:?}"),
        }
    }

    #[track_caller]
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> T {
        self.try_ask(request).unwrap_or_else(|failure| panic!("{request:?}: {failure:?}"))
    }

    #[track_caller]
    pub fn commit(&mut self, changes: &[Change]) -> Changed {
        self.ask(&commit(changes))
    }

    /// Adds a rule to the group `live`, and returns its number.
    #[track_caller]
    pub fn add(&mut self, chain: Chain, rule: &str) -> u32 {
        let changed = self.commit(&[add(chain, rule)]);
        let [id] = changed.rules[..] else { panic!("one rule: {changed:?}") };
        id
    }

    #[track_caller]
    pub fn rules(&mut self) -> Vec<RuleEntry> {
        let list: RuleList = self.ask(&Request::RulesList { chain: None, group: None });
        list.groups.into_iter().flat_map(|group| group.rules).collect()
    }

    #[track_caller]
    pub fn rule(&mut self, id: u32) -> RuleEntry {
        self.rules().into_iter().find(|rule| rule.id == id).unwrap_or_else(|| panic!("there is a rule {id}"))
    }
}

pub fn commit(changes: &[Change]) -> Request {
    Request::Commit { changes: changes.to_vec(), expected_generation: None, confirm_seconds: None, dry_run: false }
}

pub fn add(chain: Chain, rule: &str) -> Change {
    Change::RuleAdd { group: None, chain, rule: rule.to_owned() }
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

/// The value at a path of a document.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or_else(|| panic!("{path} in {value}"))
}
