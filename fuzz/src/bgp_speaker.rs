//! A router's side of a BGP session, with a daemon that may say anything at any time, routers that are killed, and a socket that
//! takes what it likes.
//!
//! Input: events. The daemon reads with care, and remembers what it is told; in the end it has to know all claims.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use tuntap_core::routes::Listener;
use tuntap_core::routes::import::Imports;
use tuntap_core::routes::notice::Notice;
use tuntap_core::routes::output::{Output, Unsent};
use tuntap_core::routes::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME, NextHops, Settings};
use tuntap_core::routes::speaker::{Accepted, Speaker};
use tuntap_core::routes::status::State;
use tuntap_wire::bgp::capability::{AddPath, Capabilities};
use tuntap_wire::bgp::message::{self, Front, Kind};
use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::update::Update;
use tuntap_wire::bgp::{Family, PerFamily, claim};
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use super::input::Input;

/// Claims are to this many addresses.
const ADDRESSES: usize = 32;

/// How long a successor waits for claims.
const SETTLE: Duration = Duration::from_secs(2);

/// Plays the events of an input.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        world.event(&mut input);
        world.check();
    }
    world.finish();
}

fn settings() -> Settings {
    Settings {
        router: RouterId::new(1).expect("not 0"),
        asn: DEFAULT_ASN,
        neighbour_asn: None,
        hold_time: DEFAULT_HOLD_TIME,
        next_hops: NextHops::NOBODY,
        networks: ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network")).to_vec(),
    }
}

fn address(input: &mut Input<'_>) -> IpAddr {
    let number = u16::try_from(input.below(ADDRESSES)).expect("small");
    match number & 1 {
        0 => IpAddr::from([10, 0, 0, u8::try_from(number).expect("small")]),
        _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]),
    }
}

/// What others hold, as the listener is told.
#[derive(Debug, Default)]
struct Elsewhere(BTreeMap<IpAddr, Holding>);

impl Listener for Elsewhere {
    fn held(&mut self, address: IpAddr, holding: Holding) {
        assert_ne!(self.0.insert(address, holding), Some(holding), "that is no news");
        assert_ne!(holding.router, settings().router);
    }

    fn released(&mut self, address: IpAddr) {
        assert!(self.0.remove(&address).is_some(), "nobody held it");
    }

    fn notice(&mut self, notice: Notice) {
        assert!(!notice.to_string().contains(char::is_control));
    }
}

/// What the daemon was told.
#[derive(Debug, Default)]
struct Daemon {
    unread: Vec<u8>,
    routes: BTreeMap<IpAddr, Holding>,
    stale: BTreeSet<IpAddr>,
    has_ended: bool,
}

impl Daemon {
    fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut self.unread);
        let mut rest = &unread[..];
        while let Front::Message { kind, body, len } = message::front(rest).expect("a valid stream") {
            assert!(!self.has_ended, "nothing follows a NOTIFICATION");
            self.message(kind, body);
            rest = &rest[len..];
        }
        self.unread = rest.to_vec();
    }

    fn message(&mut self, kind: Kind, body: &[u8]) {
        match kind {
            Kind::Notification => self.has_ended = true,
            Kind::Update => {
                let update = Update::decode(body, &PerFamily::default()).expect("valid");
                assert_eq!(update.fault(), None);
                for nlri in update.withdrawn() {
                    self.routes.remove(&nlri.net.addr());
                }
                for route in update.announced() {
                    let claim = claim::decode(DEFAULT_ASN, update.attributes().large_communities);
                    self.routes.insert(route.nlri.net.addr(), claim.expect("certain").expect("a claim"));
                    self.stale.remove(&route.nlri.net.addr());
                }
            }
            Kind::RouteRefresh => {
                let (family, refresh) = Refresh::decode(body).expect("valid").expect("known");
                let of_family = |address: &IpAddr| Family::of(*address) == family;
                match refresh {
                    Refresh::Begin => self.stale.extend(self.routes.keys().copied().filter(of_family)),
                    Refresh::End => {
                        self.routes.retain(|address, _| !(of_family(address) && self.stale.contains(address)));
                        self.stale.retain(|address| !of_family(address));
                    }
                    Refresh::Request => {}
                }
            }
            Kind::Open | Kind::Keepalive => {}
        }
    }
}

#[derive(Debug)]
struct World {
    speaker: Speaker,
    daemon: Daemon,
    elsewhere: Elsewhere,
    claims: BTreeMap<IpAddr, Holding>,
    /// What the daemon has said and the speaker has not read yet.
    said: Vec<u8>,
    now: Instant,
    written: u64,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            speaker: Speaker::new(settings(), now),
            daemon: Daemon::default(),
            elsewhere: Elsewhere::default(),
            claims: BTreeMap::new(),
            said: Vec::new(),
            now,
            written: 0,
        }
    }

    fn event(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0 => self.connect(),
            1 => {
                self.say_open(input.byte());
                self.say(Kind::Keepalive, &[]);
            }
            2 => self.say(Kind::Keepalive, &[]),
            3 | 4 => {
                let body: Vec<u8> = (0..input.byte()).map(|_| input.byte()).collect();
                self.say(Kind::Update, &body);
            }
            5 => {
                let refresh = [Refresh::Request, Refresh::Begin, Refresh::End][input.below(3)];
                refresh.append(&mut self.said, Family::ALL[input.below(2)]);
                self.read();
            }
            6 => {
                let bytes: Vec<u8> = (0..input.below(32)).map(|_| input.byte()).collect();
                self.said.extend(bytes);
                self.read();
            }
            7 => {
                let (address, since) = (address(input), u64::from(input.byte()));
                let holding = Holding { router: settings().router, since: ClaimTime(since) };
                self.speaker.claimed(address, holding);
                self.claims.insert(address, holding);
            }
            8 => {
                let address = address(input);
                self.speaker.released(address);
                self.claims.remove(&address);
            }
            9 => {
                self.deliver(usize::from(input.word()));
            }
            10 => {
                self.now += Duration::from_millis(500 * u64::from(input.byte()));
                self.speaker.poll(self.now, &mut self.elsewhere);
            }
            _ => self.succeed(),
        }
        if self.speaker.is_to_be_closed(self.now) {
            self.close();
        }
    }

    fn close(&mut self) {
        self.said.clear();
        self.speaker.closed(None, self.now, &mut self.elsewhere);
        assert_eq!(self.state(), State::Idle);
    }

    fn state(&self) -> State {
        self.speaker.status(self.now).state
    }

    fn connect(&mut self) {
        if self.speaker.accept(self.now, &mut self.elsewhere) != Accepted::Refused {
            (self.daemon, self.written) = (Daemon::default(), 0);
            self.said.clear();
        }
    }

    fn say_open(&mut self, flags: u8) {
        let capabilities = Capabilities {
            families: PerFamily { ipv4: flags & 1 == 0, ipv6: flags & 2 == 0 },
            route_refresh: flags & 4 == 0,
            enhanced_route_refresh: flags & 8 == 0,
            four_octet_as: Some(64512),
            add_path: PerFamily::new(|_| AddPath { receive: false, send: flags & 16 == 0 }),
        };
        let open = Open { asn: 64512, hold_time: 90, identifier: Ipv4Addr::LOCALHOST, capabilities };
        open.append(&mut self.said);
        self.read();
    }

    fn say(&mut self, kind: Kind, body: &[u8]) {
        let number = if kind == Kind::Update { 2 } else { 4 };
        let len = u16::try_from(19 + body.len()).expect("short");
        self.said.extend([&[0xff; 16][..], &len.to_be_bytes(), &[number], body].concat());
        self.read();
    }

    fn read(&mut self) {
        if self.state() == State::Idle {
            self.said.clear();
        }
        loop {
            let taken = self.speaker.received(&self.said, self.now, &mut self.elsewhere);
            self.said.drain(..taken.consumed);
            if taken.consumed == 0 || self.said.is_empty() {
                break assert!(self.said.len() < taken.needed.max(1) && taken.needed <= message::MAX_LEN);
            }
        }
    }

    /// Brings some of what waits to the daemon, and returns how much.
    fn deliver(&mut self, count: usize) -> usize {
        let output = self.speaker.output(self.now);
        let some = output[..output.len().min(count)].to_vec();
        self.daemon.hear(&some);
        self.speaker.sent(some.len(), self.now);
        self.written += some.len() as u64;
        some.len()
    }

    /// The router is killed, and the next one goes on, if it can.
    fn succeed(&mut self) {
        self.speaker.output(self.now);
        let kept = self.speaker.stored().zip(self.speaker.unsent());
        let kept = kept.map(|(stored, (position, bytes))| (stored, Unsent { position, bytes: bytes.to_vec() }));
        self.speaker = Speaker::new(settings(), self.now);
        self.elsewhere = Elsewhere::default();
        self.claims.iter().for_each(|(address, holding)| self.speaker.claimed(*address, *holding));
        let taken = kept.map(|(stored, unsent)| {
            self.speaker.take_over(&stored, unsent, self.written, SETTLE, self.now, &mut self.elsewhere)
        });
        if !matches!(taken, Some(Ok(()))) {
            self.said.clear();
        }
    }

    fn check(&self) {
        let status = self.speaker.status(self.now);
        assert_eq!(status.claims, self.claims.len());
        assert!(status.routes <= Imports::MAX_ROUTES && self.elsewhere.0.len() <= status.routes);
        assert!(self.speaker.unsent().is_none_or(|(_, kept)| kept.len() <= Output::MAX_LEN));
        assert_eq!(status.session.is_some(), status.state == State::Established);
    }

    /// All that waits arrives, and the daemon knows the claims of the families that the session has.
    fn finish(mut self) {
        while self.deliver(usize::MAX) > 0 {}
        self.now += SETTLE;
        while self.deliver(usize::MAX) > 0 {}
        let Some(session) = self.speaker.status(self.now).session else { return };
        let claims = self.claims.into_iter().filter(|(address, _)| *session.families.get(Family::of(*address)));
        assert_eq!(self.daemon.routes, claims.collect());
        assert!(!self.speaker.has_output(self.now));
    }
}
