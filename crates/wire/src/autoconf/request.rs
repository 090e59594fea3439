//! The question with which a device begins.

use super::{ASK_LEN, VERSION};

/// Numbers of [`ConfigurationRequest`]'s flags.
const WANTS_V4: u8 = 1;
const WANTS_V6: u8 = 2;

/// Which addresses a device wants its router to choose. Without any it is the question whether the router knows these
/// messages, and what it would tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigurationRequest {
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address.
    pub v6: bool,
    /// Which of its user's devices it is, see [`name_hash`].
    pub name: u64,
}

impl ConfigurationRequest {
    /// The payload.
    pub fn encode(self) -> [u8; ASK_LEN] {
        let flags = u8::from(self.v4) * WANTS_V4 + u8::from(self.v6) * WANTS_V6;
        let mut payload = [0; ASK_LEN];
        payload[0] = VERSION;
        payload[1] = flags;
        payload[4..].copy_from_slice(&self.name.to_le_bytes());
        payload
    }

    /// Reads a payload. `None` for another version or length. Unknown flags, and the two bytes behind them, don't count.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [VERSION, flags, _, _, name @ ..] = payload else { return None };
        let name = u64::from_le_bytes(name.try_into().ok()?);
        Some(Self { v4: flags & WANTS_V4 != 0, v6: flags & WANTS_V6 != 0, name })
    }
}

/// What tells a device from its user's other devices, so that it gets the same addresses each time: FNV-1a, 64 bits, of
/// the vassal's name (of any length: its configuration's whole path), a NUL byte and the device's name.
pub fn name_hash(vassal: &str, device: &str) -> u64 {
    fnv1a(vassal.bytes().chain([0]).chain(device.bytes()))
}

/// The hash FNV-1a of 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv).
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
