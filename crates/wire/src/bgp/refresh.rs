//! ROUTE-REFRESH (RFC 2918), and the marks that enclose an answer to it (RFC 7313).

use super::error::{ErrorCode, Violation};
use super::message::{self, Kind};
use super::{Family, UNICAST};

/// What a ROUTE-REFRESH says (RFC 7313, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Send all routes once more.
    Request,
    /// All routes follow: what does not come before the end is gone.
    Begin,
    /// These were all routes.
    End,
}

impl Refresh {
    const fn subtype(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
        }
    }

    /// Reads the body of a message; `None` for a family or a subtype that isn't spoken, which is to be ignored.
    pub fn decode(body: &[u8]) -> Result<Option<(Family, Self)>, Violation> {
        let Some(([afi_high, afi_low, subtype, safi], rest)) = body.split_first_chunk() else {
            return Err(ErrorCode::REFRESH_LENGTH.into());
        };
        let refresh = match subtype {
            // A filter that follows (RFC 5291) is more than was offered: all routes are an answer to it, too.
            0 => Self::Request,
            1 | 2 if !rest.is_empty() => return Err(Violation::new(ErrorCode::REFRESH_LENGTH, body)),
            1 => Self::Begin,
            2 => Self::End,
            _ => return Ok(None),
        };
        let family = Family::from_identifiers(u16::from_be_bytes([*afi_high, *afi_low]), *safi);
        Ok(family.map(|family| (family, refresh)))
    }

    /// Appends a message.
    pub fn append(self, output: &mut Vec<u8>, family: Family) {
        message::append(output, Kind::RouteRefresh, |output| {
            output.extend_from_slice(&family.afi().to_be_bytes());
            output.extend_from_slice(&[self.subtype(), UNICAST]);
        });
    }
}
