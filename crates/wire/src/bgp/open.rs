//! OPEN (RFC 4271, section 4.2).

use std::net::Ipv4Addr;

use super::capability::Capabilities;
use super::error::{ErrorCode, Violation};
use super::message::{self, Kind};
use super::take_u16;

/// The version of BGP.
const VERSION: u8 = 4;

/// Stands for an AS whose number doesn't fit into two octets (RFC 6793, section 9).
pub const AS_TRANS: u16 = 23456;

/// The first message of a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// The number of its AS: that of its capability, if it has one.
    pub asn: u32,
    /// Seconds after which it takes a silent neighbour for dead; 0: never.
    pub hold_time: u16,
    /// Its identifier. It isn't 0.
    pub identifier: Ipv4Addr,
    /// What it offers.
    pub capabilities: Capabilities,
}

impl Open {
    /// Reads the body of a message.
    pub fn decode(body: &[u8]) -> Result<Self, Violation> {
        let malformed = || Violation::from(ErrorCode::BAD_OPEN);
        let (&version, rest) = body.split_first().ok_or_else(malformed)?;
        if version != VERSION {
            return Err(Violation::new(ErrorCode::UNSUPPORTED_VERSION, &u16::from(VERSION).to_be_bytes()));
        }
        let (short_as, rest) = take_u16(rest).ok_or_else(malformed)?;
        let (hold_time, rest) = take_u16(rest).ok_or_else(malformed)?;
        let (identifier, parameters) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let capabilities = Capabilities::decode(parameters)?;
        let asn = capabilities.four_octet_as.unwrap_or(u32::from(short_as));
        // RFC 7607: there is no AS 0.
        if asn == 0 {
            return Err(ErrorCode::BAD_PEER_AS.into());
        }
        // RFC 4271, section 6.2.
        if hold_time == 1 || hold_time == 2 {
            return Err(ErrorCode::UNACCEPTABLE_HOLD_TIME.into());
        }
        // RFC 6286, section 2.2.
        if *identifier == [0; 4] {
            return Err(ErrorCode::BAD_IDENTIFIER.into());
        }
        Ok(Self { asn, hold_time, identifier: (*identifier).into(), capabilities })
    }

    /// Appends the message.
    pub fn append(&self, output: &mut Vec<u8>) {
        message::append(output, Kind::Open, |output| {
            output.push(VERSION);
            output.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
            output.extend_from_slice(&self.hold_time.to_be_bytes());
            output.extend_from_slice(&self.identifier.octets());
            self.capabilities.append(output);
        });
    }
}
