//! The device's claim of addresses that it already has, or that its configuration names.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::{MessageError, check_len, check_version, claimable, json};
use super::{MAX_ADDRESSES, VERSION};

/// An address that a device claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedAddress {
    /// The address.
    pub address: IpAddr,
    /// True if a router has assigned it to this device before. Otherwise the device has chosen it itself.
    pub assigned: bool,
}

/// The addresses that a device claims.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimRequest {
    /// 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<ClaimedAddress>,
}

#[derive(Serialize, Deserialize)]
struct RawClaim {
    version: u64,
    addresses: Vec<RawClaimedAddress>,
}

#[derive(Serialize, Deserialize)]
struct RawClaimedAddress {
    address: String,
    #[serde(default, rename = "leased")]
    assigned: bool,
}

impl ClaimRequest {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let address = |claimed: &ClaimedAddress| RawClaimedAddress {
            address: claimed.address.to_string(),
            assigned: claimed.assigned,
        };
        let raw = RawClaim { version: VERSION.into(), addresses: self.addresses.iter().map(address).collect() };
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let raw: RawClaim = json(payload, &["addresses"])?;
        check_version(raw.version)?;
        check_len("addresses", &raw.addresses, MAX_ADDRESSES)?;
        let claimed =
            |raw: RawClaimedAddress| Ok(ClaimedAddress { address: claimable(&raw.address)?, assigned: raw.assigned });
        Ok(Self { addresses: raw.addresses.into_iter().map(claimed).collect::<Result<_, MessageError>>()? })
    }
}
