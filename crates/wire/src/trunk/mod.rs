//! What two routers of different hosts say to each other on a trunk.
//!
//! A frame is a header of [`HEADER_LEN`] bytes, all numbers big-endian, and a payload:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 to 3 | length of the payload, 32 bits |
//! | 4 | what it carries, [`Kind`] |
//! | 5 | for a packet: how many trunks it may still cross; 0 otherwise |
//!
//! Behind the header of a packet there is its virtio_net header, so that the IP packet begins at a multiple of 16. A reader
//! skips frames of an unknown kind, and bytes behind those that it knows of a payload: so a later version can say more.
//!
//! Router and trunk process hand each other whole frames, one or more in each message of a socket that preserves messages'
//! boundaries. A process that ends between two messages leaves no half frame.

mod announcement;
mod handed;
mod hello;
mod key;
mod message;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use self::announcement::{Announcement, MAX_PATH_LEN, Path};
pub use self::handed::{HANDED_LEN, Handed};
pub use self::hello::{Hello, LEAST_VERSION, MAX_NAME_LEN, VERSION};
pub use self::key::{KEY_LEN, KeyError, PublicKey};
pub use self::message::{
    Message, MessageError, append_announce, append_end, append_ping, append_pong, append_withdraw,
};
use super::vnet::VNET_HEADER_LEN;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 6;

/// Longest IP packet, in bytes: IPv6 counts its header of 40 bytes beside a payload of 65,535 (RFC 8200, section 3).
pub const MAX_PACKET_LEN: usize = 40 + 65_535;

/// Longest payload of a frame, in bytes: the longest packet with its virtio_net header.
pub const MAX_PAYLOAD_LEN: usize = VNET_HEADER_LEN + MAX_PACKET_LEN;

/// Longest frame with its header, in bytes.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + MAX_PAYLOAD_LEN;

/// Longest message between router and trunk process, in bytes: room for a longest frame and what waits beside it. It fits
/// into a socket's buffer of the default size (socket(7), net.core.wmem_default).
pub const MAX_MESSAGE_LEN: usize = 128 * 1024;

/// Most frames in a message from the trunk process to the router. A message is read at once, so that a neighbour that sends the
/// shortest frames would make others wait for thousands of them.
pub const MAX_MESSAGE_FRAMES: usize = 32;

/// How many trunks a packet may cross. Packets stay on one trunk unless a router relays.
pub const MAX_HOPS: u8 = 8;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Hello`]: the first frame of each side.
    Hello,
    /// An address and who holds it.
    Announce,
    /// An address that the sender knows no holder of any longer.
    Withdraw,
    /// All that the sender knew at its hello has been announced.
    End,
    /// An IP packet with its virtio_net header.
    Packet,
    /// Asks for a [`Kind::Pong`].
    Ping,
    /// Answers a [`Kind::Ping`].
    Pong,
    /// Something that this version doesn't know.
    Other(u8),
}

impl Kind {
    /// The number in the header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Announce => 2,
            Self::Withdraw => 3,
            Self::End => 4,
            Self::Packet => 5,
            Self::Ping => 6,
            Self::Pong => 7,
            Self::Other(number) => number,
        }
    }

    /// The kind with this number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Hello,
            2 => Self::Announce,
            3 => Self::Withdraw,
            4 => Self::End,
            5 => Self::Packet,
            6 => Self::Ping,
            7 => Self::Pong,
            other => Self::Other(other),
        }
    }
}

/// One complete frame inside the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload carries.
    pub kind: Kind,
    /// How many trunks a packet may still cross.
    pub hops: u8,
    /// 0 to [`MAX_PAYLOAD_LEN`] bytes.
    pub payload: &'a [u8],
}

/// A header that no router writes. The rest of the stream can't be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a frame of {0} bytes on a trunk, the limit is {MAX_PAYLOAD_LEN}")]
pub struct Oversized(pub u32);

/// Iterates over the frames at the start of a buffer. Ends before the first incomplete frame, or after an error.
#[derive(Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    has_failed: bool,
}

impl<'a> Frames<'a> {
    /// Starts at the first byte of a frame.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, has_failed: false }
    }

    /// The bytes behind the last complete frame. Once the iterator has ended without an error, they are the start of the
    /// next one, at most [`MAX_FRAME_LEN`] - 1 bytes.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Oversized>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let (&[a, b, c, d, kind, hops], body) = self.rest.split_first_chunk::<HEADER_LEN>()?;
        let announced = u32::from_be_bytes([a, b, c, d]);
        let Some(len) = usize::try_from(announced).ok().filter(|len| *len <= MAX_PAYLOAD_LEN) else {
            self.has_failed = true;
            return Some(Err(Oversized(announced)));
        };
        let (payload, rest) = body.split_at_checked(len)?;
        self.rest = rest;
        Some(Ok(Frame { kind: Kind::from_number(kind), hops, payload }))
    }
}

/// The length of the whole frames at the start of a buffer, at most `limit` bytes. 0 if there is none that fits.
pub fn whole_frames(bytes: &[u8], limit: usize) -> Result<usize, Oversized> {
    up_to(Frames::new(bytes), limit)
}

/// The length of the next message for a router: the whole frames at the start of a buffer, at most [`MAX_MESSAGE_FRAMES`] and
/// [`MAX_MESSAGE_LEN`] bytes. 0 if there is none.
pub fn message_len(bytes: &[u8]) -> Result<usize, Oversized> {
    up_to(Frames::new(bytes).take(MAX_MESSAGE_FRAMES), MAX_MESSAGE_LEN)
}

/// The length of frames that follow each other, at most `limit` bytes.
fn up_to<'a>(frames: impl Iterator<Item = Result<Frame<'a>, Oversized>>, limit: usize) -> Result<usize, Oversized> {
    let mut end = 0;
    for frame in frames {
        let next = end + HEADER_LEN + frame?.payload.len();
        if next > limit {
            break;
        }
        end = next;
    }
    Ok(end)
}

/// The header before a packet with its virtio_net header, which are `len` bytes together. `None` if that is too much.
pub fn packet_header(len: usize, hops: u8) -> Option<[u8; HEADER_LEN]> {
    (len <= MAX_PAYLOAD_LEN).then(|| header(Kind::Packet, len, hops))
}

/// The header of a frame whose payload has a length that is known to fit.
fn header(kind: Kind, len: usize, hops: u8) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, kind.number(), hops]
}
