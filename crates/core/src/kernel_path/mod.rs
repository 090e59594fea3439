//! The path in the kernel: flows that are decided pass there without the router, in BPF programs between the devices.
//!
//! The router stays the authority. It gives the kernel one verdict for each direction of a flow that plainly passes, and takes
//! verdicts back before anything changes that they depend on. What a verdict has counted is added to the counters of the flow, of
//! its rules and of its peers, as if the router had passed the packets on.
//!
//! This module has what both sides speak of. [`Shell`](crate::router::Shell) is the border.

use std::net::IpAddr;
use std::time::Duration;

use tuntap_wire::ip::protocol::{TCP, UDP};
use tuntap_wire::rule::Direction;

use crate::policy::registry::PeerId;

/// The id of a verdict: one direction of a flow. At any time the kernel has one verdict of this id at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    /// The number of the flow in the table of flows, which is below its size
    /// ([`Limits::flows`](crate::policy::limits::Limits::flows)).
    pub slot: u32,
    /// True for packets towards the peer that the flow belongs to, false for those from it.
    pub is_inward: bool,
}

impl FlowId {
    /// Makes the id of a direction of a flow.
    pub const fn new(slot: u32, direction: Direction) -> Self {
        Self { slot, is_inward: matches!(direction, Direction::In) }
    }

    /// The place in an array with room for two verdicts of each flow.
    pub const fn place(self) -> usize {
        self.slot as usize * 2 + if self.is_inward { 1 } else { 0 }
    }

    /// Returns the direction, seen from the peer that the flow belongs to.
    pub const fn direction(self) -> Direction {
        if self.is_inward { Direction::In } else { Direction::Out }
    }
}

/// How the kernel recognises the packets of a verdict: whole IP packets without options and extension headers. Of TCP, packets
/// with SYN, FIN or RST never match: the router has to see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelKey {
    /// The packets' source.
    pub src: IpAddr,
    /// Their destination, of the same version of IP.
    pub dst: IpAddr,
    /// The number of the protocol: TCP, UDP, or the ICMP of the version.
    pub protocol: u8,
    /// The source port in host byte order. For an echo message of ICMP, its identifier.
    pub src_port: u16,
    /// The destination port in host byte order. For an echo message of ICMP, its type; the code is 0.
    pub dst_port: u16,
}

impl KernelKey {
    /// The ports of source and destination, of protocols that have some.
    pub fn ports(&self) -> Option<(u16, u16)> {
        [TCP, UDP].contains(&self.protocol).then_some((self.src_port, self.dst_port))
    }
}

/// A verdict for the kernel: these packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFlow {
    /// Its id.
    pub id: FlowId,
    /// The latest generation ([`Revoke::All`]). In another one the verdict is void.
    pub generation: u32,
    /// The packets that it is for.
    pub key: KernelKey,
    /// The peer whose pair they come by. `None`: they come by the router's TUN device.
    pub from: Option<PeerId>,
    /// The peer whose pair they leave by. `None`: they leave by the router's TUN device. One of the two is a peer.
    pub to: Option<PeerId>,
}

/// Which verdicts are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoke {
    /// Those for packets from this peer or to it.
    Peer(PeerId),
    /// The one with this id, if there is one.
    Flow(FlowId),
    /// All that were given until now. Those that follow have this generation.
    All {
        /// One more than before; never 0.
        generation: u32,
    },
}

/// What has passed by a verdict since the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets. A GSO packet is one, as everywhere.
    pub packets: u64,
    /// Bytes of the IP packets. Of a GSO packet those of the one that it is, with its headers once.
    pub bytes: u64,
    /// The time since the last one, or since the verdict was given. It may be shorter, by no more than the time between this look and the one
    /// before: the kernel notes no times, so that a packet counts from when it was seen.
    pub idle: Duration,
}

/// What the kernel has dropped at a peer's pair since the pair was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairDrops {
    /// Packets that came by the pair with a source that the peer doesn't hold.
    pub spoofed: u64,
    /// Packets that came by the pair without a verdict, or with headers that may not go on: nobody but root in the vassal's
    /// namespace can send such ones there.
    pub undecided: u64,
}

/// Why packets in one direction of a flow take the router's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// There is no path in the kernel: it is off, or the machine can't have it.
    #[error("the path in the kernel is off")]
    Off,
    /// Somebody captures packets.
    #[error("packets are being captured")]
    Captured,
    /// The next packet is decided anew.
    #[error("its next packet is decided anew")]
    Undecided,
    /// They could pass in the kernel, and have no verdict: the flow was idle, or has few packets since the last change.
    #[error("the router decides its next packets")]
    NotGiven,
    /// They are dropped or rejected.
    #[error("its packets don't pass")]
    Verdict,
    /// They go to another router, or come from one.
    #[error("its packets go by the gateway")]
    Gateway,
    /// They go to a router of another host, or come from one.
    #[error("its packets go by a trunk")]
    Trunk,
    /// A rule with `log` has matched.
    #[error("a rule logs it")]
    Logged,
    /// A rule with `rate` or the script wants to be asked again.
    #[error("a rule with a rate, or the script, is asked again")]
    AskedAgain,
    /// Neither TCP, UDP nor an echo of ICMP.
    #[error("the kernel passes on TCP, UDP and pings only")]
    Protocol,
    /// The connection is being opened or closed, or a rule that looks at the state waits for an answer.
    #[error("its connection is not open in both directions")]
    NotOpen,
    /// It has had few packets.
    #[error("it has had few packets")]
    Young,
    /// A limit applies to them.
    #[error("a limit holds its packets back")]
    Limited,
    /// A peer's packets travel in frames.
    #[error("a peer's packets travel in frames")]
    Frames,
    /// A peer's device doesn't want it.
    #[error("a device has tuntap-device-offload = false")]
    Denied,
    /// A peer's pair isn't there yet, or could not be made.
    #[error("a peer has no pair yet")]
    NoPair,
    /// Packets to a peer have cost much of late.
    #[error("packets to a peer take long, and are watched")]
    Costly,
    /// Packets wait for a peer.
    #[error("packets wait for a peer")]
    Backlog,
    /// The kernel has no room for more, or a peer has as many verdicts as it may.
    #[error("the kernel has no room for it")]
    Full,
}

/// Most verdicts that the kernel is given at a time.
pub const MAX_VERDICTS: usize = 1 << 16;

/// Most verdicts that name one peer at a time.
pub const MAX_VERDICTS_PER_PEER: usize = MAX_VERDICTS / 8;
