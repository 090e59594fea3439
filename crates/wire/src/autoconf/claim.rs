//! The addresses that a device says it should have.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::{MessageError, check_len, check_version, host, json};
use super::{MAX_ADDRESSES, VERSION};

/// An address that a device says it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether a router chose it for this device before; else it is the device's own choice.
    pub leased: bool,
}

/// The addresses that a device says it should have.
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
    #[serde(default)]
    leased: bool,
}

impl ClaimRequest {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let address = |claimed: &ClaimedAddress| RawClaimedAddress {
            address: claimed.address.to_string(),
            leased: claimed.leased,
        };
        let raw = RawClaim { version: VERSION.into(), addresses: self.addresses.iter().map(address).collect() };
        serde_json::to_vec(&raw).unwrap_or_default()
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, MessageError> {
        let raw: RawClaim = json(payload, &["addresses"])?;
        check_version(raw.version)?;
        check_len("addresses", &raw.addresses, MAX_ADDRESSES)?;
        let claimed = |raw: RawClaimedAddress| Ok(ClaimedAddress { address: host(&raw.address)?, leased: raw.leased });
        Ok(Self { addresses: raw.addresses.into_iter().map(claimed).collect::<Result<_, MessageError>>()? })
    }
}
