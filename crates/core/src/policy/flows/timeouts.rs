//! How long flows are known after their last packet.

use tuntap_wire::ip::protocol;

use super::entry::{Entry, Phase};

/// A TCP connection that is being opened or closed: 4 minutes (RFC 5382, REQ-5: the transitory connection idle-timeout).
pub const TCP_TRANSITORY: u32 = 4 * 60;

/// An open TCP connection: 2 hours and 4 minutes (RFC 5382, REQ-5: the established connection idle-timeout).
pub const TCP_ESTABLISHED: u32 = 2 * 3600 + 4 * 60;

/// Datagrams in one direction only: 2 minutes (RFC 4787, REQ-5: the least).
pub const UDP_UNANSWERED: u32 = 2 * 60;

/// Datagrams in both directions: 5 minutes (RFC 4787, REQ-5: the default).
pub const UDP_ANSWERED: u32 = 5 * 60;

/// An ICMP query: 60 s (RFC 5508, REQ-1). Other ICMP messages likewise.
pub const ICMP: u32 = 60;

/// Other protocols: 10 minutes, as in Linux (net.netfilter.nf_conntrack_generic_timeout).
pub const OTHER: u32 = 10 * 60;

/// A flow of which no packet was let through. It is known only so that its next packets cost little.
pub const REFUSED: u32 = 30;

/// The shortest of all.
pub const SHORTEST: u32 = REFUSED;

/// Returns after how many seconds without a packet a flow is forgotten.
pub(super) fn idle_limit(entry: &Entry) -> u32 {
    if entry.passed == [false; 2] {
        return REFUSED;
    }
    match (entry.key.protocol, entry.phase()) {
        (protocol::TCP, Phase::Established) => TCP_ESTABLISHED,
        (protocol::TCP, _) => TCP_TRANSITORY,
        (protocol::ICMP, _) if entry.key.is_v4 => ICMP,
        (protocol::ICMPV6, _) if !entry.key.is_v4 => ICMP,
        (protocol::UDP | protocol::UDPLITE, Phase::New) => UDP_UNANSWERED,
        (protocol::UDP | protocol::UDPLITE, _) => UDP_ANSWERED,
        _ => OTHER,
    }
}
