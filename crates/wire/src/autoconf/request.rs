//! The device's first message: which addresses the router is to assign.

use super::{REQUEST_LEN, VERSION};

/// Flags of a [`ConfigurationRequest`].
const WANTS_V4: u8 = 1;
const WANTS_V6: u8 = 2;

/// A device asks its router for addresses. Without a family, it asks for the rest of the configuration only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigurationRequest {
    /// It wants an IPv4 address.
    pub v4: bool,
    /// It wants an IPv6 address.
    pub v6: bool,
    /// Tells it from the other devices of its user, see [`name_hash`].
    pub name: u64,
}

impl ConfigurationRequest {
    /// The payload.
    pub fn encode(self) -> [u8; REQUEST_LEN] {
        let flags = u8::from(self.v4) * WANTS_V4 + u8::from(self.v6) * WANTS_V6;
        let mut payload = [0; REQUEST_LEN];
        payload[0] = VERSION;
        payload[1] = flags;
        payload[4..].copy_from_slice(&self.name.to_le_bytes());
        payload
    }

    /// Reads a payload. `None` for another version or length. Unknown flags and the two reserved bytes are ignored.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [VERSION, flags, _, _, name @ ..] = payload else { return None };
        let name = u64::from_le_bytes(name.try_into().ok()?);
        Some(Self { v4: flags & WANTS_V4 != 0, v6: flags & WANTS_V6 != 0, name })
    }
}

/// A number that tells a device from the other devices of its user, so that it gets the same addresses each time: the
/// 64-bit FNV-1a hash of the vassal's name (the whole path of its configuration, of any length), a NUL byte and the
/// device's name.
pub fn name_hash(vassal: &str, device: &str) -> u64 {
    fnv1a(vassal.bytes().chain([0]).chain(device.bytes()))
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo; draft-eastlake-fnv).
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
