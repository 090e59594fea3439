//! Which packets a peer rule matches.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::ip::Packet;
use crate::selector::{AddressPattern, ConnectionState, Selector};

/// An address pattern in the C plugin's form. The mask need not be that of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedAddress {
    /// Compared with the packet's address after masking.
    pub address: u32,
    /// Bits of the packet's address that are compared.
    pub mask: u32,
}

impl MaskedAddress {
    /// Matches everything.
    pub const ANY: Self = Self { address: 0, mask: 0 };

    /// Returns true if an address matches. Address 0 with a full mask matches every address: devices of the C plugin
    /// write a pattern without a prefix length so.
    pub const fn matches(self, address: Ipv4Addr) -> bool {
        self.is_any() || address.to_bits() & self.mask == self.address
    }

    pub(super) const fn is_any(self) -> bool {
        self.address == 0 && (self.mask == 0 || self.mask == u32::MAX)
    }

    /// `None` for IPv6, and for 0.0.0.0/32.
    pub(super) fn of(pattern: AddressPattern) -> Option<Self> {
        match pattern {
            AddressPattern::Any => Some(Self::ANY),
            // Its record would match every address.
            AddressPattern::Net(IpNet::V4(net)) if net.network().is_unspecified() && net.prefix_len() == 32 => None,
            AddressPattern::Net(IpNet::V4(net)) => {
                Some(Self { address: net.network().to_bits(), mask: net.netmask().to_bits() })
            }
            AddressPattern::Net(IpNet::V6(_)) => None,
        }
    }
}

/// The packets that a peer rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerSelector {
    /// In the C plugin's form. It matches all IPv6 packets or none.
    Masked {
        /// Sources.
        src: MaskedAddress,
        /// Destinations.
        dst: MaskedAddress,
    },
    /// In the extended form.
    Full(Selector),
}

impl PeerSelector {
    /// Returns true if a packet matches. `state` is that of its connection, `None` if it belongs to none.
    pub fn matches(&self, packet: &Packet<'_>, state: Option<ConnectionState>) -> bool {
        match self {
            Self::Masked { src, dst } => match (packet.src(), packet.dst()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => src.matches(from) && dst.matches(to),
                _ => src.is_any() && dst.is_any(),
            },
            Self::Full(selector) => selector.matches(packet, state),
        }
    }

    /// Returns true if IPv6 packets can match.
    pub const fn is_for_v6(&self) -> bool {
        match self {
            Self::Masked { src, dst } => src.is_any() && dst.is_any(),
            Self::Full(selector) => selector.is_for(false),
        }
    }
}
