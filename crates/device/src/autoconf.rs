//! Autoconfiguration: what a device and its router settle before the first packet, namely the device's addresses, routes, MTU
//! and DNS servers.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::greeting::Introduced;
use tuntap_config::DeviceSpec;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::socket;
use tuntap_wire::autoconf::{
    ClaimRequest, ClaimedAddress, Configuration, ConfigurationRequest, Family, MessageError, RefusedRequest, Requested,
    name_hash,
};
use tuntap_wire::echo::echo_request;
use tuntap_wire::frame::{self, FrameError, FrameKind, Frames, MAX_FRAME_LEN};

/// How long a router may take to answer a question that it has read. After that it counts as a router of the C plugin, which
/// answers none.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval at which the device checks that a router has read its question.
const READ_POLL: Duration = Duration::from_millis(100);

/// Bytes read in one go.
const READ_LEN: usize = 4096;

/// Why a device gets no configuration from its router.
#[derive(Debug, Error)]
pub enum SettleError {
    /// The router has read the question and doesn't answer: it is one of the C plugin.
    #[error("it answers no questions: it is a router of the C plugin, which knows nothing of auto")]
    Unanswered,
    /// The router has not read the question.
    #[error("it has read nothing for {} s: does it stand still?", .0.as_secs())]
    Unread(Duration),
    /// The router has closed the connection.
    #[error(
        "it has closed the connection: its log says why (one with tuntap-use-credentials takes nothing from a device \
         without)"
    )]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    /// The router has sent no valid frame.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// The router's configuration can't be decoded.
    #[error("its configuration makes no sense: {0}")]
    Message(#[from] MessageError),
    /// The router gave an address that the device didn't ask for.
    #[error("it gave {0}, which nobody asked for")]
    Unasked(IpNet),
    /// The router has no networks to choose addresses from.
    #[error("it has no network to give addresses from (its options tuntap-router-address)")]
    NoNetwork,
    /// The router can't take the rules, which the C plugin doesn't have.
    #[error(
        "it answers no questions: it is a router of the C plugin, which knows no tuntap-device-rule with IPv6, a protocol or \
         reject"
    )]
    Rules,
    /// The rules can't be sent yet, because the credentials that have to come first can't be shown.
    #[error(
        "a tuntap-device-rule with IPv6, a protocol or reject has to be told before the privileges are dropped, but the kernel \
         lets nobody show the credentials of uid {0} before that"
    )]
    RulesTooEarly(libc::uid_t),
    /// The router refused an address.
    #[error("it refuses {}: {}", .0.requested, .0.reason)]
    Refused(RefusedRequest),
    /// The router's networks are not those that it chose the device's addresses from.
    #[error("its network is another one than before")]
    Changed,
    /// The router wants credentials before it answers, and these can't be shown yet.
    #[error(
        "it has to be asked before the privileges are dropped, but the kernel lets nobody show the credentials of uid {0} \
         before that; without auto, give the device a tuntap-device-address"
    )]
    NoCredentials(libc::uid_t),
    /// The instance is to stop.
    #[error("stopped")]
    Stopped,
}

impl From<Errno> for SettleError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ECONNRESET | Errno::EPIPE => Self::Closed,
            errno => Self::Connection(errno.into()),
        }
    }
}

impl SettleError {
    /// Returns true if another connection could help.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Closed)
    }

    /// Returns true if the error stays for as long as the router's options and the device's addresses are the same.
    pub const fn is_for_good(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.for_good,
            Self::Changed => true,
            _ => false,
        }
    }
}

/// The addresses of a device, which it claims on its next connection. They outlive reloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holding {
    /// Addresses that the router chose.
    pub assigned: Vec<IpAddr>,
    /// The same addresses with the prefix lengths of their networks.
    pub networks: Vec<(IpAddr, u8)>,
    /// The router's own addresses, where the device has default routes to them.
    pub default_routers: Vec<IpAddr>,
    /// The device's MTU in bytes, if the router has sent one.
    pub mtu: Option<u16>,
    /// Addresses that the instance chose, each with the destination of the echo request that claims it.
    pub fixed: Vec<(IpAddr, IpAddr)>,
}

impl Holding {
    /// Returns true if there are no addresses. The device's packets claim their sources then.
    pub const fn is_empty(&self) -> bool {
        self.assigned.is_empty() && self.fixed.is_empty()
    }

    fn claim_request(&self) -> ClaimRequest {
        let assigned = self.assigned.iter().map(|address| ClaimedAddress { address: *address, assigned: true });
        let fixed = self.fixed.iter().map(|(address, _)| ClaimedAddress { address: *address, assigned: false });
        ClaimRequest { addresses: assigned.chain(fixed).collect() }
    }

    /// Frames that claim the instance's own addresses of a family from a router that takes no claim request. Those of IPv6 must
    /// not be sent to a router that has never answered: one of the C plugin would take a part of the address for one of IPv4.
    pub fn echo_requests(&self, family: Family) -> Vec<u8> {
        let mut frames = Vec::new();
        let of_family = self.fixed.iter().filter(|(from, _)| Family::of(*from) == family);
        for packet in of_family.filter_map(|(from, to)| echo_request(*from, *to)) {
            let _it_fits = frame::append(&mut frames, FrameKind::Packet, &packet);
        }
        frames
    }

    /// Logs how the addresses are claimed from a router that answers no questions.
    pub fn log_without_answers(&self, device: &str, logger: Logger) {
        logger.line(
            Event::DeviceIncomplete,
            format_args!(
                "[uwsgi-tuntap] {device}: its router answers no questions, as one of the C plugin: {}",
                self.without_answers()
            ),
        );
    }

    fn without_answers(&self) -> &'static str {
        let has = |family| self.fixed.iter().any(|(address, _)| Family::of(*address) == family);
        match (has(Family::V4), has(Family::V6)) {
            (_, false) => "the device's address is claimed by an echo request, and no route, MTU or DNS server is told",
            (true, true) => {
                "the device's IPv4 address is claimed by an echo request, its IPv6 addresses lead nowhere, and no route, MTU \
                 or DNS server is told"
            }
            (false, true) => "it has no IPv6, and the device's addresses lead nowhere",
        }
    }

    /// The addresses that a router has chosen. `own_default_routers` are those that the instance chose.
    pub fn assigned(told: &Configuration, own_default_routers: &[IpAddr]) -> Self {
        let is_own = |family| own_default_routers.iter().any(|own| Family::of(*own) == family);
        let has = |family| told.addresses.iter().any(|net| Family::of(net.addr()) == family);
        let used = told.routers.iter().filter(|gateway| {
            let family = Family::of(**gateway);
            has(family) && !is_own(family)
        });
        Self {
            assigned: told.addresses.iter().map(IpNet::addr).collect(),
            networks: told.addresses.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
            default_routers: used.copied().collect(),
            ..Self::default()
        }
    }

    /// Removes addresses that the device doesn't have.
    pub fn retain(&mut self, has: impl Fn(IpAddr) -> bool) {
        self.assigned.retain(|address| has(*address));
        self.networks.retain(|(address, _)| has(*address));
        self.fixed.retain(|(address, _)| has(*address));
        let networks = &self.networks;
        self.default_routers
            .retain(|router| networks.iter().any(|(address, _)| Family::of(*address) == Family::of(*router)));
    }

    /// Returns true if a router still has the networks that it chose the addresses from.
    fn is_as_told(&self, told: &Configuration) -> bool {
        let is_told = |(address, len): &(IpAddr, u8)| {
            told.addresses.iter().any(|net| net.addr() == *address && net.prefix_len() == *len)
        };
        self.networks.iter().all(is_told)
            && self.default_routers.iter().all(|router| told.default_router(Family::of(*router)) == Some(*router))
    }
}

/// The addresses that the instance's options name, each with the destination of the echo request that claims it.
pub fn fixed(spec: &DeviceSpec) -> Vec<(IpAddr, IpAddr)> {
    let target = |net: &IpNet| {
        let gateway = spec.gateways.iter().copied().find(|it| Family::of(*it) == Family::of(net.addr()));
        // The first address of a network is usually the router's.
        gateway.or_else(|| net.hosts().take(2).find(|host| *host != net.addr())).unwrap_or(net.addr())
    };
    spec.addresses.iter().map(|net| (net.addr(), target(net))).collect()
}

/// The questions and answers on a connection before its first packet.
#[allow(missing_debug_implementations, reason = "a function can't be shown")]
pub struct Talk<'a> {
    connection: &'a OwnedFd,
    /// A hash that tells this device from its user's others.
    name: u64,
    /// Waits until there are bytes to read, the time is over or the instance is to stop.
    wait: &'a dyn Fn(&OwnedFd, Duration) -> Waited,
    /// How long the router may leave a question unread.
    within: Duration,
    received: Vec<u8>,
}

/// How waiting for bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// There is something to read.
    Readable,
    /// There was nothing in time.
    InVain,
    /// The instance is to stop.
    Stopped,
}

impl<'a> Talk<'a> {
    /// For a device of an instance.
    pub fn new(
        connection: &'a OwnedFd,
        (vassal, device): (&str, &str),
        wait: &'a dyn Fn(&OwnedFd, Duration) -> Waited,
        within: Duration,
    ) -> Self {
        Self { connection, name: name_hash(vassal, device), wait, within, received: Vec::new() }
    }

    /// The bytes that came after the last answer: the beginning of the frames for the device.
    pub fn rest(self) -> Vec<u8> {
        self.received
    }

    /// Asks the router to choose an address of each of its families, or of IPv4 only.
    pub fn request_assignment(&mut self, v4_only: bool) -> Result<Configuration, SettleError> {
        let told = self.ask(ConfigurationRequest { v4: true, v6: !v4_only, name: self.name })?;
        if let Some(refusal) = told.refused.first() {
            return Err(SettleError::Refused(refusal.clone()));
        }
        for (index, net) in told.addresses.iter().enumerate() {
            if told.addresses[..index].iter().any(|other| Family::of(other.addr()) == Family::of(net.addr())) {
                return Err(SettleError::Unasked(*net));
            }
        }
        if told.addresses.is_empty() { Err(SettleError::NoNetwork) } else { Ok(told) }
    }

    /// Claims the addresses that the device had before. `None` if the router answers no questions, or may not be asked yet; that
    /// is an error where a router has chosen an address.
    pub fn reclaim(&mut self, introduced: Introduced, holding: &Holding) -> Result<Option<Configuration>, SettleError> {
        let told = match introduced {
            Introduced::Done => self.claim(holding)?,
            Introduced::NotYet(identity) if !holding.assigned.is_empty() => {
                return Err(SettleError::NoCredentials(identity.uid.as_raw()));
            }
            Introduced::NotYet(_) => None,
        };
        match &told {
            None if !holding.assigned.is_empty() => Err(SettleError::Unanswered),
            Some(told) if !holding.is_as_told(told) => Err(SettleError::Changed),
            _ => Ok(told),
        }
    }

    /// Claims the addresses that the device should have. `None` if the router answers no questions.
    pub fn claim(&mut self, holding: &Holding) -> Result<Option<Configuration>, SettleError> {
        match self.ask(ConfigurationRequest { v4: false, v6: false, name: self.name }) {
            Ok(_) => {}
            Err(SettleError::Unanswered) => return Ok(None),
            Err(error) => return Err(error),
        }
        let claim = holding.claim_request();
        let told = self.request(FrameKind::ClaimRequest, &claim.encode())?;
        let is_claimed = |net: &&IpNet| claim.addresses.iter().any(|claimed| claimed.address == net.addr());
        if let Some(net) = told.addresses.iter().find(|net| !is_claimed(net)) {
            return Err(SettleError::Unasked(*net));
        }
        for ClaimedAddress { address, .. } in claim.addresses {
            if !told.addresses.iter().any(|net| net.addr() == address) {
                let of_this = told.refused.iter().find(|refusal| refusal.requested == Requested::Address(address));
                let no_reason = || RefusedRequest {
                    requested: Requested::Address(address),
                    reason: "without a reason".to_owned(),
                    for_good: false,
                };
                return Err(SettleError::Refused(of_this.cloned().unwrap_or_else(no_reason)));
            }
        }
        Ok(Some(told))
    }

    /// Makes sure that the router takes rules that the C plugin doesn't have.
    pub fn confirm(&mut self, introduced: Introduced) -> Result<(), SettleError> {
        if let Introduced::NotYet(identity) = introduced {
            return Err(SettleError::RulesTooEarly(identity.uid.as_raw()));
        }
        match self.ask(ConfigurationRequest { v4: false, v6: false, name: self.name }) {
            Err(SettleError::Unanswered) => Err(SettleError::Rules),
            result => result.map(drop),
        }
    }

    fn ask(&mut self, ask: ConfigurationRequest) -> Result<Configuration, SettleError> {
        self.request(FrameKind::ConfigurationRequest, &ask.encode())
    }

    /// Sends a frame and waits for the answer. A router that has not read the frame is slow, or is starting. One that has read it
    /// and doesn't answer is of the C plugin.
    fn request(&mut self, kind: FrameKind, payload: &[u8]) -> Result<Configuration, SettleError> {
        let mut bytes = Vec::new();
        if !frame::append(&mut bytes, kind, payload) || socket::send(self.connection.as_fd(), &bytes)? != bytes.len() {
            return Err(Errno::EMSGSIZE.into());
        }
        let read_deadline = Instant::now() + self.within;
        let mut answer_deadline = None;
        loop {
            if let Some(told) = self.next_configuration()? {
                return Ok(told);
            }
            let now = Instant::now();
            if answer_deadline.is_none() && socket::is_all_read(self.connection.as_fd()) {
                answer_deadline = Some(now + ANSWER_TIMEOUT);
            }
            let until = match answer_deadline {
                Some(deadline) if now >= deadline => return Err(SettleError::Unanswered),
                Some(deadline) => deadline,
                None if now >= read_deadline => return Err(SettleError::Unread(self.within)),
                None => read_deadline.min(now + READ_POLL),
            };
            match (self.wait)(self.connection, until.saturating_duration_since(now)) {
                Waited::Readable => self.receive()?,
                Waited::InVain => {}
                Waited::Stopped => return Err(SettleError::Stopped),
            }
        }
    }

    fn receive(&mut self) -> Result<(), SettleError> {
        let mut buffer = [0; READ_LEN];
        match socket::recv(self.connection.as_fd(), &mut buffer) {
            Ok(0) => Err(SettleError::Closed),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes frames off the received bytes, up to a configuration. Packets among them are dropped: the device is not up yet.
    fn next_configuration(&mut self) -> Result<Option<Configuration>, SettleError> {
        let mut frames = Frames::new(&self.received);
        let mut told = None;
        while told.is_none() {
            let Some(frame) = frames.next() else { break };
            let frame = frame?;
            if frame.kind == FrameKind::Configuration {
                told = Some(Configuration::decode(frame.payload)?);
            }
        }
        self.received = frames.rest().to_vec();
        debug_assert!(told.is_some() || self.received.len() < MAX_FRAME_LEN);
        Ok(told)
    }
}
