//! The stream of messages (RFC 4271, section 4.1): a marker of 16 octets of ones, a length, a type, and what the type says.

use super::error::{ErrorCode, Violation};

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 19;

/// The longest message, in bytes with its header (RFC 4271, section 4.1). The longer ones of RFC 8654 are not offered.
pub const MAX_LEN: usize = 4096;

/// Bytes of the marker.
const MARKER_LEN: usize = 16;

/// The longest body of a message.
pub(super) const MAX_BODY_LEN: usize = MAX_LEN - HEADER_LEN;

/// A type of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first message of each side.
    Open,
    /// Routes.
    Update,
    /// An error. The connection ends with it.
    Notification,
    /// A sign of life.
    Keepalive,
    /// The other side asks for all routes once more, or marks them (RFC 2918, RFC 7313).
    RouteRefresh,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    /// True if a body of a message of this kind can have this length.
    const fn can_have(self, body_len: usize) -> bool {
        match self {
            Self::Open => body_len >= 10,
            Self::Update | Self::RouteRefresh => body_len >= 4,
            Self::Notification => body_len >= 2,
            Self::Keepalive => body_len == 0,
        }
    }
}

/// What stands at the front of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front<'a> {
    /// A whole message.
    Message {
        /// Its type.
        kind: Kind,
        /// What follows its header.
        body: &'a [u8],
        /// Its length in bytes with its header.
        len: usize,
    },
    /// A part of a message.
    Part {
        /// The length in bytes from which on more can be said.
        needed: usize,
    },
}

/// Reads the front of a stream. Fails as soon as the bytes can't become a message.
pub fn front(stream: &[u8]) -> Result<Front<'_>, Violation> {
    if stream.iter().take(MARKER_LEN).any(|octet| *octet != 0xff) {
        return Err(ErrorCode::NOT_SYNCHRONIZED.into());
    }
    let Some((header, behind)) = stream.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Front::Part { needed: HEADER_LEN });
    };
    let length = [header[MARKER_LEN], header[MARKER_LEN + 1]];
    let len = usize::from(u16::from_be_bytes(length));
    let bad_length = || Violation::new(ErrorCode::BAD_MESSAGE_LENGTH, &length);
    if len > MAX_LEN {
        return Err(bad_length());
    }
    let body_len = len.checked_sub(HEADER_LEN).ok_or_else(bad_length)?;
    let number = header[HEADER_LEN - 1];
    let kind = Kind::from_number(number).ok_or_else(|| Violation::new(ErrorCode::BAD_MESSAGE_TYPE, &[number]))?;
    if !kind.can_have(body_len) {
        return Err(bad_length());
    }
    Ok(behind.get(..body_len).map_or(Front::Part { needed: len }, |body| Front::Message { kind, body, len }))
}

/// Appends a message whose body `write` appends. If the body is too long, nothing is appended, and the result is false.
pub(super) fn append(output: &mut Vec<u8>, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let start = output.len();
    output.extend_from_slice(&[0xff; MARKER_LEN]);
    output.extend_from_slice(&[0, 0, kind.number()]);
    write(output);
    let len = output.len() - start;
    match u16::try_from(len) {
        Ok(field) if len <= MAX_LEN => {
            output[start + MARKER_LEN..start + MARKER_LEN + 2].copy_from_slice(&field.to_be_bytes());
            true
        }
        _ => {
            output.truncate(start);
            false
        }
    }
}

/// Appends a KEEPALIVE.
pub fn append_keepalive(output: &mut Vec<u8>) {
    append(output, Kind::Keepalive, |_| ());
}
