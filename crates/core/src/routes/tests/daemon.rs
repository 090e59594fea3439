//! The other side of a session, and the world around both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use tuntap_wire::bgp::capability::{AddPath, Capabilities};
use tuntap_wire::bgp::claim;
use tuntap_wire::bgp::message::{self, Front, Kind};
use tuntap_wire::bgp::notification::Notification;
use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::update::Update;
use tuntap_wire::bgp::{Family, PerFamily};
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use super::super::Listener;
use super::super::notice::Notice;
use super::super::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME, NextHops, Settings};
use super::super::speaker::{Accepted, Speaker};

pub const ROUTER: u64 = 0x1111_2222_3333_4444;
pub const DAEMON_ASN: u32 = 64512;

pub fn settings() -> Settings {
    Settings {
        router: RouterId::new(ROUTER).expect("not 0"),
        asn: DEFAULT_ASN,
        neighbour_asn: None,
        hold_time: DEFAULT_HOLD_TIME,
        next_hops: NextHops::NOBODY,
        networks: ["10.77.0.0/16", "fd00:77::/64"].map(|net| net.parse().expect("a network")).to_vec(),
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The nth address: every third is one of IPv6.
pub fn nth(number: u16) -> IpAddr {
    if number.is_multiple_of(3) {
        IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, number])
    } else {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, 77, high, low])
    }
}

pub fn holding(router: u64, since: u64) -> Holding {
    Holding { router: RouterId::new(router).expect("not 0"), since: ClaimTime(since) }
}

pub fn daemon_open() -> Open {
    let add_path = PerFamily::new(|_| AddPath { receive: false, send: true });
    Open {
        asn: DAEMON_ASN,
        hold_time: 240,
        identifier: Ipv4Addr::new(10, 99, 0, 1),
        capabilities: Capabilities {
            families: PerFamily::new(|_| true),
            route_refresh: true,
            enhanced_route_refresh: true,
            four_octet_as: Some(DAEMON_ASN),
            add_path,
        },
    }
}

pub fn open_bytes(open: &Open) -> Vec<u8> {
    let mut output = Vec::new();
    open.append(&mut output);
    output
}

pub fn keepalive() -> Vec<u8> {
    let mut output = Vec::new();
    message::append_keepalive(&mut output);
    output
}

pub fn refresh(family: Family, refresh: Refresh) -> Vec<u8> {
    let mut output = Vec::new();
    refresh.append(&mut output, family);
    output
}

/// A daemon: what it has been told.
#[derive(Debug, Default, Clone)]
pub struct Daemon {
    unread: Vec<u8>,
    pub routes: BTreeMap<IpAddr, Holding>,
    stale: BTreeSet<IpAddr>,
    pub opens: usize,
    pub keepalives: usize,
    pub updates: usize,
    pub ends_of_rib: Vec<Family>,
    pub refreshes: Vec<(Family, Refresh)>,
    pub notification: Option<String>,
}

impl Daemon {
    pub fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut self.unread);
        let mut rest = &unread[..];
        while let Front::Message { kind, body, len } = message::front(rest).expect("a valid stream") {
            self.message(kind, body);
            rest = &rest[len..];
        }
        self.unread = rest.to_vec();
    }

    fn message(&mut self, kind: Kind, body: &[u8]) {
        assert_eq!(self.notification, None, "nothing comes after a NOTIFICATION");
        match kind {
            Kind::Open => self.opens += 1,
            Kind::Keepalive => self.keepalives += 1,
            Kind::Update => self.update(body),
            Kind::Notification => self.notification = Notification::decode(body).map(|it| it.to_string()),
            Kind::RouteRefresh => {
                let (family, refresh) = Refresh::decode(body).expect("valid").expect("known");
                self.refreshes.push((family, refresh));
                let of_family = |address: &IpAddr| Family::of(*address) == family;
                match refresh {
                    Refresh::Begin => {
                        self.stale.extend(self.routes.keys().copied().filter(of_family));
                    }
                    Refresh::End => {
                        self.routes.retain(|address, _| !(of_family(address) && self.stale.contains(address)));
                        self.stale.retain(|address| !of_family(address));
                    }
                    Refresh::Request => {}
                }
            }
        }
    }

    fn update(&mut self, body: &[u8]) {
        self.updates += 1;
        let update = Update::decode(body, &PerFamily::default()).expect("valid");
        assert_eq!(update.fault(), None);
        self.ends_of_rib.extend(update.end_of_rib());
        for nlri in update.withdrawn() {
            self.routes.remove(&nlri.net.addr());
        }
        for route in update.announced() {
            let address = route.nlri.net.addr();
            assert_eq!(route.nlri.net.prefix_len(), Family::of(address).bits());
            assert_eq!(route.next_hop, settings().next_hops.of(Family::of(address)));
            let holding =
                claim::decode(DEFAULT_ASN, update.attributes().large_communities).expect("certain").expect("ours");
            assert_eq!(update.attributes().med, Some(holding.since.seconds()));
            self.routes.insert(address, holding);
            self.stale.remove(&address);
        }
    }
}

/// What the listener has heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub elsewhere: BTreeMap<IpAddr, Holding>,
    pub notices: Vec<Notice>,
    /// How often it was told something of an address.
    pub changes: usize,
}

impl Listener for Heard {
    fn held(&mut self, address: IpAddr, holding: Holding) {
        assert_ne!(self.elsewhere.insert(address, holding), Some(holding), "it is told of changes");
        self.changes += 1;
    }

    fn released(&mut self, address: IpAddr) {
        assert!(self.elsewhere.remove(&address).is_some(), "it was held");
        self.changes += 1;
    }

    fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }
}

/// Both sides, and the time.
#[derive(Debug)]
pub struct World {
    pub speaker: Speaker,
    pub daemon: Daemon,
    pub heard: Heard,
    pub now: Instant,
    /// Bytes written to the connection.
    pub written: u64,
}

impl World {
    pub fn new() -> Self {
        let now = Instant::now();
        let speaker = Speaker::new(settings(), now);
        Self { speaker, daemon: Daemon::default(), heard: Heard::default(), now, written: 0 }
    }

    /// A world with a session, in which nothing waits.
    pub fn established() -> Self {
        let mut world = Self::new();
        world.establish(&daemon_open());
        world
    }

    pub fn establish(&mut self, open: &Open) {
        self.connect();
        self.say(&open_bytes(open));
        self.say(&keepalive());
        self.deliver();
    }

    pub fn connect(&mut self) {
        self.daemon = Daemon::default();
        self.written = 0;
        assert_ne!(self.speaker.accept(self.now, &mut self.heard), Accepted::Refused);
    }

    /// Lets the daemon say something, and returns how much of it was read.
    pub fn say(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.speaker.received(rest, self.now, &mut self.heard);
            rest = &rest[taken.consumed..];
            if taken.consumed == 0 {
                break;
            }
        }
        self.sweep();
        bytes.len() - rest.len()
    }

    /// Removes all routes that are gone.
    fn sweep(&mut self) {
        while self.speaker.sweep(&mut self.heard) {}
        assert!(!self.speaker.is_sweeping());
    }

    /// Brings at most `count` bytes of what waits to the daemon, and returns how many.
    pub fn deliver_some(&mut self, count: usize) -> usize {
        let output = self.speaker.output(self.now);
        let some = output[..output.len().min(count)].to_vec();
        self.daemon.hear(&some);
        self.speaker.sent(some.len(), self.now);
        self.written += some.len() as u64;
        some.len()
    }

    pub fn deliver(&mut self) {
        while self.deliver_some(usize::MAX) > 0 {}
        assert!(!self.speaker.has_output(self.now));
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.speaker.poll(self.now, &mut self.heard);
        self.sweep();
    }

    /// The lines of the log since this was asked last.
    pub fn lines(&mut self) -> Vec<String> {
        self.heard.notices.drain(..).map(|notice| notice.to_string()).collect()
    }

    pub fn close(&mut self) {
        self.speaker.closed(None, self.now, &mut self.heard);
    }
}
