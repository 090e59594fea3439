//! The public keys that routers of several hosts are known by.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::holding::RouterId;

/// Bytes of a public key of Ed25519 (RFC 8032, section 5.1.5).
pub const KEY_LEN: usize = 32;

/// A router's public key of Ed25519. As text it is the base64 of its bytes, 44 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_LEN]);

/// Keys of small order, without the sign of x (RFC 8032, section 5.1.3; of points of orders 1, 2, 4 and 8, and what is read as
/// one of them). With such a key anybody can sign what others take for signed. The first one is what a template may have.
const WEAK: [[u8; KEY_LEN]; 7] = [
    [0; KEY_LEN],
    one(),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
];

/// The bit of the last byte that has the sign of x.
const SIGN: u8 = 0x80;

/// The number 1.
const fn one() -> [u8; KEY_LEN] {
    let mut bytes = [0; KEY_LEN];
    bytes[0] = 1;
    bytes
}

/// A number near 2^255 - 19, with this as its lowest byte.
const fn near_prime(lowest: u8) -> [u8; KEY_LEN] {
    let mut bytes = [0xff; KEY_LEN];
    bytes[0] = lowest;
    bytes[KEY_LEN - 1] = !SIGN;
    bytes
}

/// Why a text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// It is no base64.
    #[error("no base64, as a public key is written")]
    Base64,
    /// It stands for another number of bytes.
    #[error("{0} bytes instead of the {KEY_LEN} of a public key")]
    Length(usize),
    /// A key of small order.
    #[error("a key with which anybody could sign, so none that a router has")]
    Weak,
    /// The one key in 2^64 whose digest begins with zeros.
    #[error("a key without a router id")]
    RouterId,
}

impl PublicKey {
    /// The id of the router with this key. `None` for one key in 2^64, whose digest begins with zeros.
    pub fn router_id(&self) -> Option<RouterId> {
        let digest = Sha256::digest(self.0);
        RouterId::new(u64::from_be_bytes(*digest.first_chunk()?))
    }

    /// Returns true if anybody can sign for this key.
    fn is_weak(&self) -> bool {
        let mut bytes = self.0;
        bytes[KEY_LEN - 1] &= !SIGN;
        WEAK.contains(&bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
        let key = Self(bytes.as_slice().try_into().map_err(|_| KeyError::Length(bytes.len()))?);
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        key.router_id().map(|_| key).ok_or(KeyError::RouterId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_short_and_exact() {
        // The first test key of RFC 8032, section 7.1, and its digest as sha256sum prints it.
        let text = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let key: PublicKey = text.parse().expect("a key");
        assert_eq!(key.0[..4], [0xd7, 0x5a, 0x98, 0x01]);
        assert_eq!(key.to_string(), text);
        assert_eq!(key.router_id().map(|id| id.to_string()).as_deref(), Some("21fe31dfa154a261"));
        assert_eq!("11qY".parse::<PublicKey>(), Err(KeyError::Length(3)));
        assert_eq!("not a key".parse::<PublicKey>(), Err(KeyError::Base64));
        assert_eq!(text.trim_end_matches('=').parse::<PublicKey>(), Err(KeyError::Base64));
    }

    #[test]
    fn key_with_which_anybody_could_sign_is_none() {
        for mut bytes in WEAK {
            for _ in 0..2 {
                assert_eq!(PublicKey(bytes).to_string().parse::<PublicKey>(), Err(KeyError::Weak));
                bytes[KEY_LEN - 1] ^= SIGN;
            }
        }
    }
}
