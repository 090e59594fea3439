//! A session, from the first byte to the last.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tuntap_wire::bgp::capability::{self, AddPath, Capabilities};
use tuntap_wire::bgp::error::{ErrorCode, Violation};
use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::{Family, PerFamily};

use super::output::Output;
use super::settings::Settings;

/// What both sides have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// The daemon's AS.
    pub neighbour_asn: u32,
    /// The daemon's identifier.
    pub neighbour: Ipv4Addr,
    /// Seconds without a message after which either side counts as dead.
    pub hold_time: u16,
    /// The families whose routes are exchanged.
    pub families: PerFamily<bool>,
    /// True if the daemon sends several paths for a prefix.
    pub paths: PerFamily<bool>,
    /// True if the daemon sends all routes again when it is asked to.
    pub route_refresh: bool,
    /// True if both sides mark where such an answer begins and ends. Without this no successor can take over.
    pub enhanced_route_refresh: bool,
}

impl Negotiated {
    /// Checks the daemon's OPEN.
    pub(super) fn new(settings: &Settings, open: &Open) -> Result<Self, Violation> {
        // Within one AS other rules hold: paths without an AS, LOCAL_PREF, no routes from one neighbour to another.
        let is_wrong = settings.neighbour_asn.is_some_and(|asn| asn != open.asn) || open.asn == settings.asn;
        if is_wrong {
            return Err(ErrorCode::BAD_PEER_AS.into());
        }
        // A hold time of 0 means that nobody ever notices that the other one hangs.
        if open.hold_time == 0 {
            return Err(ErrorCode::UNACCEPTABLE_HOLD_TIME.into());
        }
        let theirs = open.capabilities;
        if theirs.four_octet_as.is_none() {
            return Err(Violation::new(ErrorCode::UNSUPPORTED_CAPABILITY, &capability::FOUR_OCTET_AS_MISSING));
        }
        if !(theirs.families.ipv4 || theirs.families.ipv6) {
            let missing = Family::ALL.map(capability::multiprotocol).concat();
            return Err(Violation::new(ErrorCode::UNSUPPORTED_CAPABILITY, &missing));
        }
        Ok(Self {
            neighbour_asn: open.asn,
            neighbour: open.identifier,
            hold_time: open.hold_time.min(settings.hold_time),
            families: theirs.families,
            paths: PerFamily::new(|family| theirs.add_path.get(family).send),
            route_refresh: theirs.route_refresh,
            enhanced_route_refresh: theirs.enhanced_route_refresh,
        })
    }

    /// The families whose routes are exchanged.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let families = self.families;
        Family::ALL.into_iter().filter(move |family| *families.get(*family))
    }
}

/// Makes the first message.
pub(super) fn open(settings: &Settings) -> Open {
    Open {
        asn: settings.asn,
        hold_time: settings.hold_time,
        identifier: settings.identifier(),
        capabilities: Capabilities {
            families: PerFamily::new(|_| true),
            route_refresh: true,
            enhanced_route_refresh: true,
            four_octet_as: Some(settings.asn),
            add_path: PerFamily::new(|_| AddPath { receive: true, send: false }),
        },
    }
}

/// How far a session is (RFC 4271, section 8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The daemon's OPEN is awaited.
    OpenSent,
    /// Its KEEPALIVE is awaited.
    OpenConfirm(Negotiated),
    /// Routes are exchanged.
    Established(Negotiated),
    /// The last message waits to be sent.
    Closing,
}

/// A session and its times.
#[derive(Debug)]
pub(super) struct Session {
    pub stage: Stage,
    pub output: Output,
    /// When the stage began.
    pub since: Instant,
    /// When the daemon was heard.
    pub heard: Instant,
    /// When something was written to the buffer for the daemon.
    pub spoken: Instant,
    /// When the daemon's socket took something, or nothing waited.
    pub moved: Instant,
}

impl Session {
    /// A session that isn't established within this time ends.
    pub const OPENING: Duration = Duration::from_secs(10);

    /// The last message is given up after this time.
    const CLOSING: Duration = Duration::from_secs(1);

    /// A session whose bytes nobody takes ends after so many hold times (RFC 9687).
    const SEND_HOLD_TIMES: u32 = 2;

    pub fn new(stage: Stage, output: Output, now: Instant) -> Self {
        Self { stage, output, since: now, heard: now, spoken: now, moved: now }
    }

    pub const fn negotiated(&self) -> Option<&Negotiated> {
        match &self.stage {
            Stage::Established(negotiated) => Some(negotiated),
            _ => None,
        }
    }

    /// The hold time in this stage.
    fn hold_time(&self) -> Duration {
        match self.stage {
            Stage::OpenConfirm(it) | Stage::Established(it) => Duration::from_secs(u64::from(it.hold_time)),
            Stage::OpenSent => Self::OPENING,
            Stage::Closing => Self::CLOSING,
        }
    }

    /// When the session ends unless something is heard.
    pub fn expiry(&self) -> Instant {
        match self.stage {
            Stage::OpenSent | Stage::Closing => self.since + self.hold_time(),
            Stage::OpenConfirm(_) | Stage::Established(_) => self.heard + self.hold_time(),
        }
    }

    /// When the session ends unless something is taken; `None` if nothing waits.
    pub fn send_expiry(&self) -> Option<Instant> {
        let waits = !self.output.waiting().is_empty() && self.stage != Stage::Closing;
        waits.then(|| self.moved + Self::SEND_HOLD_TIMES * self.hold_time())
    }

    /// When a KEEPALIVE is due.
    pub fn keepalive_at(&self) -> Option<Instant> {
        // RFC 4271, section 10: a third of the hold time.
        matches!(self.stage, Stage::OpenConfirm(_) | Stage::Established(_)).then(|| self.spoken + self.hold_time() / 3)
    }

    /// Returns true if a new connection may take the place of this one: it isn't established, or the daemon was silent for
    /// longer than it may be when it lives.
    pub fn gives_way(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Established(_) => now.saturating_duration_since(self.heard) > self.hold_time() / 3 * 2,
            _ => true,
        }
    }
}
