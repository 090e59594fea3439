//! What the operator is told about trunks, and why something was refused.

use std::net::IpAddr;
use std::time::Instant;

use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::{LEAST_VERSION, MessageError, Oversized, VERSION};

use super::{NOTICE_PERIOD, SILENCE_LIMIT};

/// Why something from a neighbour was refused, without an end of the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// An announcement outside of the neighbour's networks.
    #[error("it announced an address outside of its networks")]
    ForeignAnnouncement,
    /// An announcement of an address that no peer can have.
    #[error("it announced an address that no peer can have")]
    UnusableAddress,
    /// An announcement that has come from this router.
    #[error("it announced what has passed this router before (a loop of trunks)")]
    Loop,
    /// An announcement that too many routers have passed on.
    #[error("it announced what too many routers have passed on")]
    LongPath,
    /// An announcement whose path doesn't end with the neighbour.
    #[error("it announced something in the name of another router")]
    OtherTeller,
    /// More announcements than one neighbour may make.
    #[error("it announced too many addresses")]
    TooMany,
    /// A packet whose source is outside of the neighbour's networks.
    #[error("it sent a packet with a source outside of its networks")]
    SpoofedSource,
    /// Bytes that are no IP packet, or that their virtio_net header doesn't fit.
    #[error("it sent a packet that is none")]
    MalformedPacket,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ForeignAnnouncement,
        Self::UnusableAddress,
        Self::Loop,
        Self::LongPath,
        Self::OtherTeller,
        Self::TooMany,
        Self::SpoofedSource,
        Self::MalformedPacket,
    ];

    /// Its place in [`Self::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// A word for it in statistics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ForeignAnnouncement => "foreign_announcement",
            Self::UnusableAddress => "unusable_address",
            Self::Loop => "loop",
            Self::LongPath => "long_path",
            Self::OtherTeller => "other_teller",
            Self::TooMany => "too_many",
            Self::SpoofedSource => "spoofed_source",
            Self::MalformedPacket => "malformed_packet",
        }
    }
}

/// Why a trunk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The connection is closed.
    #[error("the connection was closed")]
    Closed,
    /// Another connection with the same neighbour has come.
    #[error("a newer connection has taken its place")]
    Replaced,
    /// Nothing has come for [`SILENCE_LIMIT`].
    #[error("nothing has come for {} s", SILENCE_LIMIT.as_secs())]
    Silent,
    /// The neighbour's hello has another id than its key.
    #[error("its hello names router {0}, which its key doesn't belong to")]
    OtherRouter(RouterId),
    /// Neither speaks a version of the other one.
    #[error("it speaks versions {least} to {version} of trunks, and this router {LEAST_VERSION} to {VERSION}")]
    Version {
        /// The oldest version that the neighbour speaks.
        least: u16,
        /// The latest one.
        version: u16,
    },
    /// The neighbour's virtio_net headers can't be read here.
    #[error("its byte order is another one")]
    ByteOrder,
    /// Something came before the neighbour's hello.
    #[error("something came before its hello")]
    NoHello,
    /// More hellos than a router that starts again can make.
    #[error("it greets too often")]
    TooManyHellos,
    /// A message that can't be read.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A frame that is too long.
    #[error(transparent)]
    Oversized(#[from] Oversized),
    /// A message that ends within a frame.
    #[error("a message that ends within a frame")]
    HalfFrame,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// The neighbour's hello has come.
    #[error("trunk to router {router} ({name}) is open")]
    Opened {
        /// The neighbour.
        router: RouterId,
        /// Its name, as it says.
        name: String,
    },
    /// The trunk is closed.
    #[error("trunk to router {router} ended: {reason}")]
    Ended {
        /// The neighbour.
        router: RouterId,
        /// Why.
        reason: EndReason,
    },
    /// Something was refused. Others like it are only counted for a while.
    #[error("trunk to router {router}: {refusal}: {address} (others like this are only counted for {} s)", NOTICE_PERIOD.as_secs())]
    Refused {
        /// The neighbour.
        router: RouterId,
        /// Why.
        refusal: Refusal,
        /// The address that was announced, or a packet's source.
        address: IpAddr,
    },
    /// A packet could not be read. Others like it are only counted for a while.
    #[error("trunk to router {router}: {refusal} (others like this are only counted for {} s)", NOTICE_PERIOD.as_secs())]
    RefusedPacket {
        /// The neighbour.
        router: RouterId,
        /// Why.
        refusal: Refusal,
    },
}

impl Notice {
    /// The neighbour that it is about.
    pub const fn router(&self) -> RouterId {
        match self {
            Self::Opened { router, .. }
            | Self::Ended { router, .. }
            | Self::Refused { router, .. }
            | Self::RefusedPacket { router, .. } => *router,
        }
    }
}

/// When lines of each kind about one neighbour were written.
#[derive(Debug, Default)]
pub(super) struct Told {
    refusals: [Option<Instant>; Refusal::ALL.len()],
}

impl Told {
    /// Returns true if a line is to be written now, and remembers it.
    pub(super) fn may_tell(&mut self, refusal: Refusal, now: Instant) -> bool {
        let last = &mut self.refusals[refusal.index()];
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= NOTICE_PERIOD);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}
