//! Error messages of ICMP and ICMPv6: which packet they quote.

use std::net::{IpAddr, Ipv4Addr};

use super::{Fragment, Header, Packet, protocol, v6_address};

impl Packet<'_> {
    /// Returns true for an error message of ICMP (RFC 792) or ICMPv6 (RFC 4443, section 2.1: types below 128) whose
    /// sender cannot have received the packet that the message quotes: `is_receiver` is false for the quoted
    /// destination, or none is quoted. Returns false for later fragments: no kernel uses them without the first one.
    pub fn is_error_about_others(&self, mut is_receiver: impl FnMut(IpAddr) -> bool) -> bool {
        /// Bytes before the quoted packet, in both versions.
        const HEADER_LEN: usize = 8;
        let is_icmp = self.protocol == if self.is_v4() { protocol::ICMP } else { protocol::ICMPV6 };
        if !is_icmp || self.fragment == Fragment::Later {
            return false;
        }
        let message = &self.bytes[self.header_len..self.total_len];
        let is_error = message.first().is_some_and(|kind| match self.header {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
            Header::V4(_) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Header::V6(_) => *kind < 128,
        });
        let quoted = || {
            let quoted = message.get(HEADER_LEN..)?;
            Some(match self.header {
                Header::V4(_) => IpAddr::V4(Ipv4Addr::from(*quoted.get(16..)?.first_chunk::<4>()?)),
                Header::V6(_) => v6_address(quoted.get(24..40)?),
            })
        };
        is_error && !quoted().is_some_and(&mut is_receiver)
    }
}
