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

/// Why a text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// It is no base64.
    #[error("no base64, as a public key is written")]
    Base64,
    /// It stands for another number of bytes.
    #[error("{0} bytes instead of the {KEY_LEN} of a public key")]
    Length(usize),
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
}
