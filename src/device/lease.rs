//! What a device and its router settle before anything else: its addresses, and what belongs to them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::greeting::Introduced;
use crate::config::DeviceSpec;
use crate::sys::socket;
use crate::wire::echo::echo_request;
use crate::wire::frame::{self, FrameError, FrameKind, Frames, MAX_FRAME_LEN};
use crate::wire::lease::{Ask, Claim, ClaimedAddress, Configuration, Family, LeaseError, Wish, name_hash};

/// How long a router may take to answer before it counts as one that knows no questions. A router that is just being
/// started takes as long as that.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes read in one go.
const READ_LEN: usize = 4096;

/// Why a router gives no configuration.
#[derive(Debug, Error)]
pub enum SettleError {
    /// Nothing came in time.
    #[error(
        "it has not answered within {} s: it is a router of the C plugin, which knows nothing of auto, or too busy", .0.as_secs()
    )]
    Unanswered(Duration),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    /// What came is no stream of frames.
    #[error("it sent {0}")]
    Frame(#[from] FrameError),
    /// What came is no configuration.
    #[error("its configuration makes no sense: {0}")]
    Message(#[from] LeaseError),
    /// It gave what nobody asked for.
    #[error("it gave {0}, which nobody asked for")]
    Unasked(IpNet),
    /// It has no networks.
    #[error("it has no network to give addresses from (its options tuntap-router-address)")]
    NoNetwork,
    /// It could not be told the rules.
    #[error(
        "it has not answered within {} s: it is a router of the C plugin, which knows no tuntap-device-rule with IPv6, a \
         protocol or reject, or too busy", .0.as_secs()
    )]
    Rules(Duration),
    /// It must not be told the rules before it knows whose they are.
    #[error(
        "a tuntap-device-rule with IPv6, a protocol or reject has to be told before the privileges are dropped, but the kernel \
         lets nobody show the credentials of uid {0} before that"
    )]
    RulesTooEarly(libc::uid_t),
    /// It refused.
    #[error("it refuses {0}: {1}")]
    Refused(String, String),
    /// The router wants to know first who asks, and that can't be told yet.
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
        Self::Connection(errno.into())
    }
}

impl SettleError {
    /// Whether another connection could help.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

/// The addresses of a device, for its next connection. They outlive reloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holding {
    /// Addresses that the router chose.
    pub leased: Vec<IpAddr>,
    /// Addresses that the instance chose, each with whom to send an echo request to.
    pub fixed: Vec<(IpAddr, IpAddr)>,
}

impl Holding {
    /// Whether there are none, so that packets claim what they come from.
    pub const fn is_empty(&self) -> bool {
        self.leased.is_empty() && self.fixed.is_empty()
    }

    fn claim(&self) -> Claim {
        let leased = self.leased.iter().map(|address| ClaimedAddress { address: *address, leased: true });
        let fixed = self.fixed.iter().map(|(address, _)| ClaimedAddress { address: *address, leased: false });
        Claim { addresses: leased.chain(fixed).collect() }
    }

    /// Frames that claim the instance's own addresses from a router that doesn't answer questions.
    pub fn echo_requests(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        for packet in self.fixed.iter().filter_map(|(from, to)| echo_request(*from, *to)) {
            let _it_fits = frame::append(&mut frames, FrameKind::Packet, &packet);
        }
        frames
    }
}

/// The addresses that an instance has chosen.
pub fn fixed(spec: &DeviceSpec) -> Vec<(IpAddr, IpAddr)> {
    let target = |net: &IpNet| {
        let gateway = spec.gateways.iter().copied().find(|it| Family::of(*it) == Family::of(net.addr()));
        // Mostly the router.
        gateway.or_else(|| net.hosts().take(2).find(|host| *host != net.addr())).unwrap_or(net.addr())
    };
    spec.addresses.iter().map(|net| (net.addr(), target(net))).collect()
}

/// A connection before its first packet.
#[allow(missing_debug_implementations, reason = "a function can't be shown")]
pub struct Talk<'a> {
    connection: &'a OwnedFd,
    /// Which of its user's devices this is.
    name: u64,
    /// Waits for bytes: no longer than told, and not beyond the instance's end.
    wait: &'a dyn Fn(&OwnedFd, Duration) -> Waited,
    received: Vec<u8>,
}

/// What became of waiting.
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
    ) -> Self {
        Self { connection, name: name_hash(vassal, device), wait, received: Vec::new() }
    }

    /// What came behind the last answer: the beginning of frames for the device.
    pub fn rest(self) -> Vec<u8> {
        self.received
    }

    /// Asks for an address of each family that the router has; of IPv4 only for a device that can't have others.
    pub fn lease(&mut self, v4_only: bool, within: Duration) -> Result<Configuration, SettleError> {
        let told = self.ask(Ask { v4: true, v6: !v4_only, name: self.name }, within)?;
        if let Some(refusal) = told.refused.first() {
            return Err(SettleError::Refused(refusal.wish.to_string(), refusal.reason.clone()));
        }
        for (index, net) in told.addresses.iter().enumerate() {
            if told.addresses[..index].iter().any(|other| Family::of(other.addr()) == Family::of(net.addr())) {
                return Err(SettleError::Unasked(*net));
            }
        }
        if told.addresses.is_empty() { Err(SettleError::NoNetwork) } else { Ok(told) }
    }

    /// Claims the addresses that a device had before. Returns false if the router knows no questions, or may not be asked
    /// yet, and nothing was chosen by a router.
    pub fn reclaim(&mut self, introduced: Introduced, holding: &Holding) -> Result<bool, SettleError> {
        let told = match introduced {
            Introduced::Done => self.hold(holding)?,
            Introduced::NotYet(identity) if !holding.leased.is_empty() => {
                return Err(SettleError::NoCredentials(identity.uid.as_raw()));
            }
            Introduced::NotYet(_) => None,
        };
        if told.is_none() && !holding.leased.is_empty() {
            return Err(SettleError::Unanswered(PATIENCE));
        }
        Ok(told.is_some())
    }

    /// Claims the addresses that a device should have. `None` if the router knows no questions.
    pub fn hold(&mut self, holding: &Holding) -> Result<Option<Configuration>, SettleError> {
        match self.ask(Ask { v4: false, v6: false, name: self.name }, PATIENCE) {
            Ok(_) => {}
            Err(SettleError::Unanswered(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let claim = holding.claim();
        let told = self.request(FrameKind::Claim, &claim.encode(), PATIENCE)?;
        let is_claimed = |net: &&IpNet| claim.addresses.iter().any(|claimed| claimed.address == net.addr());
        if let Some(net) = told.addresses.iter().find(|net| !is_claimed(net)) {
            return Err(SettleError::Unasked(*net));
        }
        for ClaimedAddress { address, .. } in claim.addresses {
            if !told.addresses.iter().any(|net| net.addr() == address) {
                let of_this = told.refused.iter().find(|refusal| refusal.wish == Wish::Address(address));
                let reason = of_this.map_or_else(|| "without a reason".to_owned(), |refusal| refusal.reason.clone());
                return Err(SettleError::Refused(address.to_string(), reason));
            }
        }
        Ok(Some(told))
    }

    /// Makes sure that the router knows rules that the C plugin doesn't.
    pub fn confirm(&mut self, introduced: Introduced) -> Result<(), SettleError> {
        if let Introduced::NotYet(identity) = introduced {
            return Err(SettleError::RulesTooEarly(identity.uid.as_raw()));
        }
        match self.ask(Ask { v4: false, v6: false, name: self.name }, PATIENCE) {
            Err(SettleError::Unanswered(waited)) => Err(SettleError::Rules(waited)),
            result => result.map(drop),
        }
    }

    fn ask(&mut self, ask: Ask, within: Duration) -> Result<Configuration, SettleError> {
        self.request(FrameKind::Ask, &ask.encode(), within)
    }

    fn request(&mut self, kind: FrameKind, payload: &[u8], within: Duration) -> Result<Configuration, SettleError> {
        let mut bytes = Vec::new();
        if !frame::append(&mut bytes, kind, payload) || socket::send(self.connection.as_fd(), &bytes)? != bytes.len() {
            return Err(Errno::EMSGSIZE.into());
        }
        let deadline = Instant::now() + within;
        loop {
            if let Some(told) = self.next_configuration()? {
                return Ok(told);
            }
            match (self.wait)(self.connection, deadline.saturating_duration_since(Instant::now())) {
                Waited::Readable => self.receive()?,
                Waited::InVain => return Err(SettleError::Unanswered(within)),
                Waited::Stopped => return Err(SettleError::Stopped),
            }
        }
    }

    fn receive(&mut self) -> Result<(), SettleError> {
        let mut buffer = [0; READ_LEN];
        match socket::recv(self.connection.as_fd(), &mut buffer) {
            Ok(0) => Err(Errno::ECONNRESET.into()),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes frames off what has come. Packets among them are for a device that is not up yet, and go the way of all packets
    /// for such devices.
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
