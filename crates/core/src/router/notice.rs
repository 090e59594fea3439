//! Notices for the operator. Each is one line in the log.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tuntap_wire::autoconf::RefusedRequest;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::rule::Direction;

use super::meter::Cost;
use super::session::{CloseReason, StreamReason};
use super::shell::Fault;
use super::watch::PacketFacts;
use crate::elsewhere::{MAX_AHEAD_MILLIS, Refusal, Source, Told};
use crate::policy::admission::AdmissionError;
use crate::policy::verdict::RuleRef;

/// The description of a peer for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// The address that it holds.
    pub address: Option<IpAddr>,
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

impl fmt::Display for Who {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("peer")?;
        if let Some(address) = self.address {
            write!(formatter, " {address}")?;
        }
        write!(formatter, " (pid {}, uid {})", self.pid, self.uid)
    }
}

/// The words for the holder of an address elsewhere.
struct Elsewhere(Told);

impl fmt::Display for Elsewhere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "router {}, told by {}", self.0.holding.router, self.0.source)
    }
}

/// Why a peer can't have an address that no grant covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclaimable {
    /// Its user holds as many addresses as one user may hold.
    Share,
    /// No peer may claim the address.
    Place,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Lines were left out because there were too many.
    #[error("{0} lines like these were left out")]
    LeftOut(u64),
    /// A peer's packets take the router's way again.
    #[error("{who} has lost its pair, its packets pass the router: {why}")]
    PairLost {
        /// The peer.
        who: Who,
        /// Why.
        why: String,
    },
    /// No connections are accepted for a while.
    #[error("can't accept: {fault} ({peers} peers); trying again in {} s", pause.as_secs())]
    CannotAccept {
        /// Why.
        fault: Fault,
        /// The number of peers.
        peers: usize,
        /// How long no connection is accepted.
        pause: Duration,
    },
    /// A connection was closed at once.
    #[error("a connection was turned away (pid {}, uid {}): {error}", credentials.pid, credentials.uid)]
    TurnedAway {
        /// The credentials of the process that connected.
        credentials: PeerCredentials,
        /// Why.
        error: AdmissionError,
    },
    /// A peer got an address.
    #[error("peer {address} joined (pid {}, uid {})", credentials.pid, credentials.uid)]
    Joined {
        /// The address.
        address: IpAddr,
        /// The peer.
        credentials: PeerCredentials,
    },
    /// A peer that held an address is closed.
    #[error("peer {address} left (pid {}, uid {}): {reason}", credentials.pid, credentials.uid)]
    Left {
        /// The address.
        address: IpAddr,
        /// The peer.
        credentials: PeerCredentials,
        /// Why.
        reason: CloseReason,
    },
    /// A peer that held no address is closed.
    #[error("peer without address ended (pid {}, uid {}): {reason}", credentials.pid, credentials.uid)]
    Ended {
        /// The peer.
        credentials: PeerCredentials,
        /// Why.
        reason: CloseReason,
    },
    /// A peer wants the address of another one.
    #[error(
        "address {address} is held by another peer, dropping packets with it from pid {}, uid {}",
        credentials.pid, credentials.uid
    )]
    AddressHeld {
        /// The address.
        address: IpAddr,
        /// The peer.
        credentials: PeerCredentials,
    },
    /// A peer wants the address of a peer of another router.
    #[error("{who} can't have the address {address}: a vassal of another host holds it ({})", Elsewhere(*told))]
    HeldElsewhere {
        /// The peer.
        who: Who,
        /// The address.
        address: IpAddr,
        /// The holder.
        told: Told,
    },
    /// What trunks have to say.
    #[error(transparent)]
    Trunk(#[from] crate::trunk::Notice),
    /// What the session with the routing daemon has to say.
    #[error(transparent)]
    Routes(#[from] crate::routes::notice::Notice),
    /// A peer has lost its address to a peer of another router.
    #[error("{who} has lost the address {address}: a vassal of another host has claimed it later ({})", Elsewhere(*told))]
    LostElsewhere {
        /// The peer.
        who: Who,
        /// The address.
        address: IpAddr,
        /// The holder.
        told: Told,
    },
    /// The clock of another router's host is far ahead of this host's.
    #[error(
        "the clock of another host, or of this one, is wrong: {address} is held there since a time that is more than {} s ahead ({}).          Such claims don't count as new",
        MAX_AHEAD_MILLIS / 1000, Elsewhere(*told)
    )]
    ClockAhead {
        /// The address.
        address: IpAddr,
        /// The holder.
        told: Told,
    },
    /// There is no room for all holdings of other routers.
    #[error("not all addresses are known that other hosts' vassals hold: {refusal} ({teller})")]
    NoRoomElsewhere {
        /// Who tells of them.
        teller: Source,
        /// Why.
        refusal: Refusal,
    },
    /// A peer wants an address that is granted to others, or to nobody.
    #[error(
        "address {address} is not leased to uid {}, gid {}, dropping packets with it from pid {}{}",
        credentials.uid, credentials.gid, credentials.pid,
        if *is_hidden_root {
            " (it connected as root: with tuntap-use-credentials, in the router and in the vassal, it shows whom it will become)"
        } else {
            ""
        }
    )]
    NotGranted {
        /// The address.
        address: IpAddr,
        /// The peer.
        credentials: PeerCredentials,
        /// True if it connected as root, and peers show no credentials.
        is_hidden_root: bool,
    },
    /// A peer wants an address that it can't have.
    #[error(
        "{who} can't have the address {address}, dropping packets with it: {}",
        match why {
            Unclaimable::Share => "its user holds as many as one may (tuntap-router-max-addresses-per-uid)",
            Unclaimable::Place => "it is in none of the router's networks, or the host's own, a gateway's, or a mapped port's \
                (tuntap-router-claims = any allows addresses elsewhere, tuntap-router-lease a certain one)",
        }
    )]
    NotClaimable {
        /// The peer.
        who: Who,
        /// The address.
        address: IpAddr,
        /// Why.
        why: Unclaimable,
    },
    /// A peer sends to the gateway of a router.
    #[error(
        "{who} sends to the gateway of a router at {destination}: dropping such packets, unless tuntap-router-gateway-vassal \
         names its address"
    )]
    ToGateway {
        /// The peer.
        who: Who,
        /// The gateway's address.
        destination: IpAddr,
    },
    /// Packets to another router leave with one system call each.
    #[error("packets to the gateway {target} leave one by one, not in batches (UDP_SEGMENT): {fault}")]
    NoBatches {
        /// The gateway.
        target: SocketAddr,
        /// Why.
        fault: Fault,
    },
    /// A peer asked for something and doesn't get it.
    #[error("{who} asked for {} and doesn't get it: {}", refused.requested, refused.reason)]
    Refused {
        /// The peer.
        who: Who,
        /// What it asked for, and why it doesn't get it.
        refused: RefusedRequest,
    },
    /// A peer sent other rules too late.
    #[error(
        "{0} sent other rules after its first packet: they have no effect, those from before do. New rules take effect on a \
         new connection, as a vassal makes when it reloads with others"
    )]
    LateRules(Who),
    /// A peer's rule names a gateway that peers may not name.
    #[error(
        "{who} has a rule that routes to {target}, which is no target of a tuntap-router-route here: dropping packets that match \
         it. To allow it: tuntap-router-device-route = {target}"
    )]
    RefusedTarget {
        /// The peer.
        who: Who,
        /// The gateway.
        target: SocketAddr,
    },
    /// Packets to a peer are dropped now and then because they cost too much.
    #[error(
        "{who} is limited, some packets to it are dropped: packets take too much time in its network namespace ({cost})"
    )]
    Limited {
        /// The peer.
        who: Who,
        /// What they cost.
        cost: Cost,
    },
    /// A peer's device is not read and written for some time because writing to it costs too much.
    #[error("{who} goes back to frames for {} s: {} ({cost})", period.as_secs(), StreamReason::SlowWrites)]
    Detached {
        /// The peer.
        who: Who,
        /// What writes cost.
        cost: Cost,
        /// The length of the quarantine.
        period: Duration,
    },
    /// A peer's device can't be used any more.
    #[error(
        "peer {} (pid {pid}) goes back to frames: {reason}",
        address.map_or_else(|| "without address".to_owned(), |it| it.to_string())
    )]
    DeviceLost {
        /// The address that the peer holds.
        address: Option<IpAddr>,
        /// Its process.
        pid: i32,
        /// Why.
        reason: StreamReason,
    },
    /// The router before this one hung while it wrote to a peer's device.
    #[error(
        "peer {} (pid {}, uid {}) goes back to frames for {} s: the router before this one hung while it wrote a packet to its \
         device",
        address.map_or_else(|| "without address".to_owned(), |it| it.to_string()),
        credentials.pid, credentials.uid, period.as_secs()
    )]
    Hung {
        /// The address that the peer held.
        address: Option<IpAddr>,
        /// The peer.
        credentials: PeerCredentials,
        /// The length of the quarantine.
        period: Duration,
    },
    /// A peer is attached again after its quarantine.
    #[error("{0} is attached again")]
    Reattached(Who),
    /// A rule that is to be logged has matched the first packet of a flow, or of one direction of it.
    #[error("{rule} has matched a packet {}: {packet}", match direction {
        Direction::Out => "from a peer",
        Direction::In => "towards a peer",
    })]
    RuleLog {
        /// The rule.
        rule: RuleRef,
        /// The way of the packet.
        direction: Direction,
        /// The packet.
        packet: PacketFacts,
    },
    /// A notice of the shell about itself.
    #[error("{0}")]
    Shell(String),
}
