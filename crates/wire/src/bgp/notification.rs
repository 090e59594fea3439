//! NOTIFICATION (RFC 4271, section 4.5), with the text of RFC 9003.

use std::fmt;

use super::error::{ErrorCode, Violation};
use super::message::{self, Kind};

/// The longest text in bytes (RFC 9003, section 2).
pub const MAX_TEXT_LEN: usize = 255;

/// Why the other side ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// What it says.
    pub code: ErrorCode,
    /// What it says beside.
    pub data: &'a [u8],
}

impl<'a> Notification<'a> {
    /// Reads the body of a message. There is no wrong one that is long enough to be one.
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let ([code, subcode], data) = body.split_first_chunk()?;
        Some(Self { code: ErrorCode { code: *code, subcode: *subcode }, data })
    }

    /// The text for people that comes with a shutdown or a reset (RFC 9003): a length of one octet, and UTF-8.
    pub fn text(&self) -> Option<&'a [u8]> {
        let has_text = self.code.code == 6 && [2, 4].contains(&self.code.subcode);
        let (len, text) = self.data.split_first().filter(|_| has_text)?;
        text.get(..usize::from(*len)).filter(|text| !text.is_empty())
    }
}

impl fmt::Display for Notification<'_> {
    /// Writes one line. What the other side has written is escaped.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(formatter)?;
        let Some(text) = self.text() else { return Ok(()) };
        formatter.write_str(": \"")?;
        for chunk in text.utf8_chunks() {
            write!(formatter, "{}", chunk.valid().escape_debug())?;
            if !chunk.invalid().is_empty() {
                formatter.write_str("\u{fffd}")?;
            }
        }
        formatter.write_str("\"")
    }
}

/// Appends the NOTIFICATION about a violation.
pub fn append(output: &mut Vec<u8>, violation: &Violation) {
    message::append(output, Kind::Notification, |output| {
        output.extend_from_slice(&[violation.code.code, violation.code.subcode]);
        output.extend_from_slice(&violation.data);
    });
}

/// Makes a violation of nobody: this side ends the session, with a text for people. A text that is too long is cut.
pub fn farewell(code: ErrorCode, text: &str) -> Violation {
    let mut end = text.len().min(MAX_TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let len = u8::try_from(end).unwrap_or(0);
    let data = [&[len], &text.as_bytes()[..end]].concat();
    Violation::new(code, &data)
}
