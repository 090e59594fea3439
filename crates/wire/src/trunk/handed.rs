//! What the trunk process says to the router together with a descriptor.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::holding::RouterId;

/// Bytes of the message.
pub const HANDED_LEN: usize = 32;

/// What the message begins with: a word and the version.
const MAGIC: [u8; 4] = *b"utt\x01";

/// A connection with a neighbour whose key has been checked. The descriptor that comes along is a SOCK_SEQPACKET socket whose
/// messages are whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// The neighbour.
    pub router: RouterId,
    /// This side has dialled.
    pub has_dialled: bool,
    /// The address of the neighbour's end. Scope and flow label of IPv6 are left out.
    pub address: SocketAddr,
}

impl Handed {
    /// The bytes of the message.
    pub fn encode(&self) -> [u8; HANDED_LEN] {
        let mut bytes = [0; HANDED_LEN];
        let ip = match self.address.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = u8::from(self.has_dialled);
        bytes[6..8].copy_from_slice(&self.address.port().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.router.number().to_be_bytes());
        bytes[16..].copy_from_slice(&ip.octets());
        bytes
    }

    /// Reads the message. `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HANDED_LEN] = bytes.try_into().ok()?;
        let (flags, port) = ([bytes[4], bytes[5]], u16::from_be_bytes([bytes[6], bytes[7]]));
        let router = RouterId::new(u64::from_be_bytes(*bytes[8..].first_chunk()?))?;
        let ip = Ipv6Addr::from(*bytes[16..].first_chunk::<16>()?).to_canonical();
        let has_dialled = match flags {
            [0, 0] => false,
            [1, 0] => true,
            _ => return None,
        };
        bytes.starts_with(&MAGIC).then(|| Self { router, has_dialled, address: SocketAddr::new(ip, port) })
    }
}
