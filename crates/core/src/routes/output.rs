//! Messages that wait to be sent.
//!
//! A router may be killed while half of a message is sent. Its successor has to send the other half, so the shell keeps what
//! waits, and where in the stream it stands, in a place that outlives the router, before it sends it. How much of it was sent
//! the kernel knows: on Linux `tcpi_bytes_sent - tcpi_bytes_retrans + tcpi_notsent_bytes` of `TCP_INFO` (`linux/tcp.h`) is the
//! number of bytes that were ever written to an accepted connection.

use serde::{Deserialize, Serialize};
use tuntap_wire::bgp::message::{self, Front};

/// Whole messages, and how much of them is sent.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// Where in the stream `bytes` begins.
    position: u64,
}

/// A copy of what waits, for a successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    /// The number of bytes that went before these on the connection.
    pub position: u64,
    /// Whole messages.
    pub bytes: Vec<u8>,
}

impl Output {
    /// More routes are added while fewer bytes than this wait.
    pub(super) const FILLED: usize = 32 * 1024;

    /// The most bytes that are kept, those that were sent included.
    pub const MAX_LEN: usize = 128 * 1024;

    /// Takes over what another router has left. `written` is the number of bytes that were written to the connection. `None` if
    /// that doesn't fit the copy.
    pub(super) fn resume(unsent: Unsent, written: u64) -> Option<Self> {
        let sent = usize::try_from(written.checked_sub(unsent.position)?).ok()?;
        let output = Self { bytes: unsent.bytes, sent, position: unsent.position };
        let is_whole = output.boundary(output.bytes.len()) == Some(output.bytes.len());
        (sent <= output.bytes.len() && output.bytes.len() <= Self::MAX_LEN && is_whole).then_some(output)
    }

    /// Returns the end of the first messages that together have `at` bytes or more; `None` if a message is cut off.
    fn boundary(&self, at: usize) -> Option<usize> {
        let mut end = 0;
        while end < at {
            let Ok(Front::Message { len, .. }) = message::front(&self.bytes[end..]) else { return None };
            end += len;
        }
        Some(end)
    }

    /// The bytes that wait.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Everything that a successor needs: whole messages, and where they begin.
    pub(super) fn unsent(&self) -> (u64, &[u8]) {
        (self.position, &self.bytes)
    }

    /// Marks bytes as sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent = self.bytes.len().min(self.sent + count);
        if self.sent == self.bytes.len() {
            self.forget(self.sent);
        }
    }

    /// Frees the room of messages that are sent.
    pub(super) fn compact(&mut self) {
        let mut end = 0;
        while let Ok(Front::Message { len, .. }) = message::front(&self.bytes[end..])
            && end + len <= self.sent
        {
            end += len;
        }
        self.forget(end);
    }

    fn forget(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.sent -= count;
        self.position += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// The end of the buffer, for messages.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Drops the messages that aren't sent, but for one that is sent in part.
    pub(super) fn drop_whole(&mut self) {
        let end = self.boundary(self.sent).unwrap_or(self.sent);
        self.bytes.truncate(end);
    }
}
