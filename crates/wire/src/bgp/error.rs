//! Errors by their codes, as a NOTIFICATION message names them.

use std::fmt;

/// The code and subcode of an error (RFC 4271, section 4.5, and IANA, "BGP Error (Notification) Codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode {
    /// The code.
    pub code: u8,
    /// The subcode; 0 is unspecific.
    pub subcode: u8,
}

/// Makes a code and subcode.
const fn code(code: u8, subcode: u8) -> ErrorCode {
    ErrorCode { code, subcode }
}

impl ErrorCode {
    /// A marker isn't all ones.
    pub const NOT_SYNCHRONIZED: Self = code(1, 1);
    /// A message has a length that its type can't have. The data is the length.
    pub const BAD_MESSAGE_LENGTH: Self = code(1, 2);
    /// There is no such type of message. The data is the type.
    pub const BAD_MESSAGE_TYPE: Self = code(1, 3);
    /// An OPEN that can't be read.
    pub const BAD_OPEN: Self = code(2, 0);
    /// Not version 4. The data is the version that is spoken.
    pub const UNSUPPORTED_VERSION: Self = code(2, 1);
    /// The number of the neighbour's AS is not to be accepted.
    pub const BAD_PEER_AS: Self = code(2, 2);
    /// An identifier of 0.
    pub const BAD_IDENTIFIER: Self = code(2, 3);
    /// An optional parameter that isn't known.
    pub const UNSUPPORTED_PARAMETER: Self = code(2, 4);
    /// A hold time that is not to be accepted.
    pub const UNACCEPTABLE_HOLD_TIME: Self = code(2, 6);
    /// A capability that is needed is missing (RFC 5492, section 5). The data is that capability.
    pub const UNSUPPORTED_CAPABILITY: Self = code(2, 7);
    /// The attributes of an UPDATE can't be told apart.
    pub const MALFORMED_ATTRIBUTES: Self = code(3, 1);
    /// A well-known attribute that isn't known. The data is the attribute.
    pub const UNRECOGNIZED_WELL_KNOWN: Self = code(3, 2);
    /// An optional attribute that can't be read. The data is the attribute.
    pub const OPTIONAL_ATTRIBUTE: Self = code(3, 9);
    /// A prefix that can't be read.
    pub const INVALID_NETWORK: Self = code(3, 10);
    /// Nothing was heard for the hold time.
    pub const HOLD_TIMER_EXPIRED: Self = code(4, 0);
    /// A message that must not come before the session is established (RFC 6608).
    pub const UNEXPECTED_IN_OPEN_SENT: Self = code(5, 1);
    /// A message that must not come before the session is established (RFC 6608).
    pub const UNEXPECTED_IN_OPEN_CONFIRM: Self = code(5, 2);
    /// A message that must not come once the session is established (RFC 6608).
    pub const UNEXPECTED_IN_ESTABLISHED: Self = code(5, 3);
    /// The speaker ends (RFC 4486). The data may have a text (RFC 9003).
    pub const SHUTDOWN: Self = code(6, 2);
    /// The speaker does not take this connection (RFC 4486).
    pub const CONNECTION_REJECTED: Self = code(6, 5);
    /// The speaker begins with another configuration (RFC 4486).
    pub const OTHER_CONFIGURATION: Self = code(6, 6);
    /// There is another connection (RFC 4486).
    pub const COLLISION: Self = code(6, 7);
    /// A ROUTE-REFRESH has a wrong length (RFC 7313, section 5).
    pub const REFRESH_LENGTH: Self = code(7, 1);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, subcode } = *self;
        let name = match code {
            1 => "message header error",
            2 => "OPEN message error",
            3 => "UPDATE message error",
            4 => "hold timer expired",
            5 => "finite state machine error",
            6 => "cease",
            7 => "ROUTE-REFRESH message error",
            _ => "error",
        };
        write!(formatter, "{name} ({code}/{subcode}")?;
        match detail(code, subcode) {
            Some(detail) => write!(formatter, ", {detail})"),
            None => formatter.write_str(")"),
        }
    }
}

/// Says what a subcode means.
const fn detail(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (1, 1) => "no marker",
        (1, 2) => "bad message length",
        (1, 3) => "bad message type",
        (2, 1) => "unsupported version",
        (2, 2) => "bad AS of the neighbour",
        (2, 3) => "bad BGP identifier",
        (2, 4) => "unsupported optional parameter",
        (2, 6) => "unacceptable hold time",
        (2, 7) => "unsupported capability",
        (3, 1) => "malformed attribute list",
        (3, 2) => "unrecognized well-known attribute",
        (3, 3) => "missing well-known attribute",
        (3, 4) => "attribute flags",
        (3, 5) => "attribute length",
        (3, 6) => "invalid ORIGIN",
        (3, 8) => "invalid NEXT_HOP",
        (3, 9) => "optional attribute",
        (3, 10) => "invalid network",
        (3, 11) => "malformed AS_PATH",
        (5, 1) => "unexpected in OpenSent",
        (5, 2) => "unexpected in OpenConfirm",
        (5, 3) => "unexpected in Established",
        (6, 1) => "too many prefixes",
        (6, 2) => "administrative shutdown",
        (6, 3) => "neighbour is not configured any more",
        (6, 4) => "administrative reset",
        (6, 5) => "connection rejected",
        (6, 6) => "other configuration change",
        (6, 7) => "connection collision",
        (6, 8) => "out of resources",
        (6, 9) => "hard reset",
        (6, 10) => "BFD down",
        (7, 1) => "bad length",
        _ => return None,
    })
}

/// A violation of the protocol that ends the session: what to tell the neighbour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub struct Violation {
    /// Which one.
    pub code: ErrorCode,
    /// What the NOTIFICATION says beside, in the form that the code asks for.
    pub data: Vec<u8>,
}

impl Violation {
    /// The most data, in bytes, that is repeated to the neighbour.
    pub const MAX_DATA: usize = 256;

    /// Makes one without data, or with data that isn't longer than [`Violation::MAX_DATA`]. Longer data is left out.
    pub fn new(code: ErrorCode, data: &[u8]) -> Self {
        let data = if data.len() <= Self::MAX_DATA { data.to_vec() } else { Vec::new() };
        Self { code, data }
    }
}

impl From<ErrorCode> for Violation {
    fn from(code: ErrorCode) -> Self {
        Self { code, data: Vec::new() }
    }
}
