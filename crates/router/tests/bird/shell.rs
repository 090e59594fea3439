//! The part of a router that has sockets: small, slow, and with the rules that a successor needs.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tuntap_core::routes::Listener;
use tuntap_core::routes::notice::Notice;
use tuntap_core::routes::output::Unsent;
use tuntap_core::routes::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME, NextHops, Settings};
use tuntap_core::routes::speaker::{Accepted, Speaker, refusal};
use tuntap_core::routes::status::State;
use tuntap_sys::socket::tcp;
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

use super::daemon::NETWORKS;

/// How long a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A claim of a router since a time.
pub fn holding(router: u64, since: u64) -> Holding {
    Holding { router: RouterId::new(router).expect("not 0"), since: ClaimTime(since) }
}

/// The nth address; every third is one of IPv6.
pub fn nth(number: u16) -> IpAddr {
    if number.is_multiple_of(3) {
        IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, number])
    } else {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, 77, high, low])
    }
}

#[derive(Debug, Default)]
pub struct Heard {
    pub elsewhere: BTreeMap<IpAddr, Holding>,
    pub lines: Vec<String>,
}

impl Listener for Heard {
    fn held(&mut self, address: IpAddr, holding: Holding) {
        self.elsewhere.insert(address, holding);
    }

    fn released(&mut self, address: IpAddr) {
        self.elsewhere.remove(&address);
    }

    fn notice(&mut self, notice: Notice) {
        self.lines.push(notice.to_string());
    }
}

/// What outlives a router: sockets, the stored session, and what wasn't sent.
#[derive(Debug)]
pub struct Legacy {
    listener: TcpListener,
    connection: Option<TcpStream>,
    stored: Option<String>,
    unsent: Option<Unsent>,
}

#[derive(Debug)]
pub struct Router {
    router: u64,
    pub speaker: Speaker,
    pub heard: Heard,
    legacy: Legacy,
}

fn settings(router: u64) -> Settings {
    Settings {
        router: RouterId::new(router).expect("not 0"),
        asn: DEFAULT_ASN,
        neighbour_asn: None,
        hold_time: DEFAULT_HOLD_TIME,
        next_hops: NextHops::NOBODY,
        networks: NETWORKS.map(|net| net.parse().expect("a network")).to_vec(),
    }
}

impl Router {
    /// A router that listens at an address of the network namespace of this thread.
    pub fn listen(router: u64, address: &str, password: Option<&str>) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        let listener = TcpListener::bind((address, 0)).expect("an address of the loopback device");
        listener.set_nonblocking(true).expect("a socket");
        if let Some(password) = password {
            tcp::set_md5_key(listener.as_fd(), address, password.as_bytes()).expect("a key");
        }
        let legacy = Legacy { listener, connection: None, stored: None, unsent: None };
        let speaker = Speaker::new(settings(router), Instant::now());
        Self { router, speaker, heard: Heard::default(), legacy }
    }

    pub fn address(&self) -> SocketAddr {
        self.legacy.listener.local_addr().expect("an address")
    }

    pub fn claim(&mut self, address: IpAddr, since: u64) {
        self.speaker.claimed(address, holding(self.router, since));
    }

    /// The router is killed: nothing is left of it but what outlives it.
    pub fn kill(self) -> (u64, Legacy) {
        (self.router, self.legacy)
    }

    /// The next router, with its claims.
    pub fn succeed((router, legacy): (u64, Legacy), claims: &[(IpAddr, u64)]) -> Self {
        let now = Instant::now();
        let speaker = Speaker::new(settings(router), now);
        let mut router = Self { router, speaker, heard: Heard::default(), legacy };
        claims.iter().for_each(|(address, since)| router.claim(*address, *since));
        let Legacy { connection: Some(connection), stored: Some(stored), unsent: Some(unsent), .. } = &router.legacy
        else {
            panic!("there was a session")
        };
        let written = tcp::written(connection.as_fd()).expect("TCP");
        let stored = serde_json::from_str(stored).expect("it can be read");
        let settle = Duration::from_millis(500);
        let taken = router.speaker.take_over(&stored, unsent.clone(), written, settle, now, &mut router.heard);
        taken.expect("it can be taken over");
        router
    }

    /// One turn of the loop.
    pub fn turn(&mut self) {
        let now = Instant::now();
        if let Ok((connection, _)) = self.legacy.listener.accept() {
            self.accept(connection, now);
        }
        self.read(now);
        self.speaker.poll(now, &mut self.heard);
        self.speaker.sweep(&mut self.heard);
        self.write(now);
        if self.speaker.is_to_be_closed(now) {
            self.close(None, now);
        }
    }

    fn accept(&mut self, mut connection: TcpStream, now: Instant) {
        connection.set_nonblocking(true).expect("a socket");
        self.read(now);
        match self.speaker.accept(now, &mut self.heard) {
            Accepted::Refused => drop(connection.write(&refusal())),
            Accepted::Taken | Accepted::Replaces => {
                (self.legacy.connection, self.legacy.stored, self.legacy.unsent) = (Some(connection), None, None);
            }
        }
    }

    fn close(&mut self, error: Option<String>, now: Instant) {
        (self.legacy.connection, self.legacy.stored) = (None, None);
        self.speaker.closed(error, now, &mut self.heard);
    }

    fn read(&mut self, now: Instant) {
        let mut buffer = vec![0; 64 * 1024];
        while let Some(connection) = &mut self.legacy.connection {
            match connection.peek(&mut buffer) {
                Ok(0) => return self.close(None, now),
                Ok(len) => {
                    let taken = self.speaker.received(&buffer[..len], now, &mut self.heard);
                    // What a successor needs is kept before the bytes are taken.
                    if self.legacy.stored.is_none() {
                        let stored = self.speaker.stored();
                        self.legacy.stored = stored.map(|it| serde_json::to_string(&it).expect("it can be written"));
                    }
                    if taken.consumed == 0 {
                        return;
                    }
                    connection.read_exact(&mut buffer[..taken.consumed]).expect("the bytes are there");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.close(Some(error.to_string()), now),
            }
        }
    }

    fn write(&mut self, now: Instant) {
        while let Some(connection) = &mut self.legacy.connection {
            let output = self.speaker.output(now).to_vec();
            if output.is_empty() {
                return;
            }
            let (position, bytes) = self.speaker.unsent().expect("a session");
            self.legacy.unsent = Some(Unsent { position, bytes: bytes.to_vec() });
            match connection.write(&output) {
                Ok(count) => self.speaker.sent(count, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.close(Some(error.to_string()), now),
            }
        }
    }
}

/// Lets routers run until something is true.
#[track_caller]
pub fn until(what: &str, routers: &mut [&mut Router], mut is_true: impl FnMut(&mut [&mut Router]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut next_look = Instant::now();
    loop {
        routers.iter_mut().for_each(|router| router.turn());
        if Instant::now() >= next_look {
            if is_true(routers) {
                return;
            }
            next_look = Instant::now() + Duration::from_millis(20);
        }
        if Instant::now() > deadline {
            let now = Instant::now();
            let all: Vec<_> = routers.iter().map(|it| (it.speaker.status(now), &it.heard)).collect();
            panic!("waited in vain: {what}\n{all:#?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets routers run until all have a session in which both sides have said all.
#[track_caller]
pub fn until_established(routers: &mut [&mut Router]) {
    until("sessions", routers, |routers| {
        let now = Instant::now();
        routers.iter().all(|router| {
            let status = router.speaker.status(now);
            status.state == State::Established && status.is_complete
        })
    });
}
