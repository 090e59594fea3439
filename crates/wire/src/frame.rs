//! Framing on the unix stream: a header of 4 bytes in uwsgi's style, then the payload.

use thiserror::Error;

use super::{attach, autoconf, rule};

/// Bytes of a frame's header: `modifier1`, the payload's length as little-endian u16, `modifier2`.
pub const HEADER_LEN: usize = 4;

/// Longest payload of a frame, in bytes. With its header it fills the buffer of 8192 bytes of the C plugin, which
/// corrupts its heap when it receives a longer one.
pub const MAX_PAYLOAD_LEN: usize = 8188;

/// Longest frame with its header, in bytes.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + MAX_PAYLOAD_LEN;

/// What a frame carries: its `modifier2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// One IP packet.
    Packet,
    /// Peer rules in the C plugin's form, see [`super::rule`].
    Rules,
    /// Peer rules in the extended form, see [`super::rule`].
    ExtendedRules,
    /// A device passes its TUN descriptor, see [`super::attach`].
    Hello,
    /// A router's reply to a hello.
    HelloReply,
    /// A device requests its configuration, see [`super::autoconf`].
    ConfigurationRequest,
    /// A router's answer to a request or a claim.
    Configuration,
    /// A device claims addresses.
    ClaimRequest,
    /// An unknown kind, with its `modifier2`.
    Other(u8),
}

impl FrameKind {
    /// The `modifier2` of this kind.
    pub const fn modifier2(self) -> u8 {
        match self {
            Self::Packet => 0,
            Self::Rules => 1,
            Self::ExtendedRules => rule::EXTENDED,
            Self::Hello => attach::HELLO,
            Self::HelloReply => attach::REPLY,
            Self::ConfigurationRequest => autoconf::REQUEST,
            Self::Configuration => autoconf::CONFIGURATION,
            Self::ClaimRequest => autoconf::CLAIM,
            Self::Other(value) => value,
        }
    }

    const fn from_modifier2(value: u8) -> Self {
        match value {
            0 => Self::Packet,
            1 => Self::Rules,
            rule::EXTENDED => Self::ExtendedRules,
            attach::HELLO => Self::Hello,
            attach::REPLY => Self::HelloReply,
            autoconf::REQUEST => Self::ConfigurationRequest,
            autoconf::CONFIGURATION => Self::Configuration,
            autoconf::CLAIM => Self::ClaimRequest,
            other => Self::Other(other),
        }
    }
}

/// One complete frame inside the reader's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload carries.
    pub kind: FrameKind,
    /// 1 to [`MAX_PAYLOAD_LEN`] bytes.
    pub payload: &'a [u8],
}

/// A header that neither our devices nor those of the C plugin write. The rest of the stream can't be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The header announces no payload.
    #[error("a frame of zero bytes")]
    Empty,
    /// The header announces more than [`MAX_PAYLOAD_LEN`] bytes.
    #[error("a frame of {0} bytes, the limit is {MAX_PAYLOAD_LEN}")]
    Oversized(u16),
}

/// Iterates over the frames at the start of a buffer. Ends before the first incomplete frame, or after the first error;
/// [`Frames::rest`] returns the bytes that were not consumed.
#[derive(Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    failed: bool,
}

impl<'a> Frames<'a> {
    /// Starts at the first byte of a frame.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, failed: false }
    }

    /// The bytes behind the last complete frame. Once the iterator has ended without an error, they are the start of
    /// the next one, at most [`MAX_FRAME_LEN`] - 1 bytes.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let (&[_modifier1, low, high, modifier2], body) = self.rest.split_first_chunk::<HEADER_LEN>()?;
        let announced = u16::from_le_bytes([low, high]);
        let len = usize::from(announced);
        if len == 0 || len > MAX_PAYLOAD_LEN {
            self.failed = true;
            return Some(Err(if len == 0 { FrameError::Empty } else { FrameError::Oversized(announced) }));
        }
        let (payload, rest) = body.split_at_checked(len)?;
        self.rest = rest;
        Some(Ok(Frame { kind: FrameKind::from_modifier2(modifier2), payload }))
    }
}

/// The header for a payload of this length, or `None` if no frame can carry it.
pub fn header(kind: FrameKind, payload_len: usize) -> Option<[u8; HEADER_LEN]> {
    if payload_len == 0 || payload_len > MAX_PAYLOAD_LEN {
        return None;
    }
    let [low, high] = u16::try_from(payload_len).ok()?.to_le_bytes();
    Some([0, low, high, kind.modifier2()])
}

/// Appends a frame to `out`. Returns false and leaves `out` unchanged if no frame can carry the payload.
#[must_use]
pub fn append(out: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) -> bool {
    let Some(header) = header(kind, payload.len()) else { return false };
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(append(&mut out, kind, payload));
        out
    }

    #[test]
    fn header_is_modifier1_little_endian_length_modifier2() {
        assert_eq!(header(FrameKind::Rules, 0x0118), Some([0, 0x18, 0x01, 1]));
    }

    #[test]
    fn lengths_at_the_bounds() {
        assert_eq!(header(FrameKind::Packet, 0), None);
        assert!(header(FrameKind::Packet, 1).is_some());
        assert!(header(FrameKind::Packet, MAX_PAYLOAD_LEN).is_some());
        assert_eq!(header(FrameKind::Packet, MAX_PAYLOAD_LEN + 1), None);
        assert_eq!(Frames::new(&[0, 0, 0, 0]).next(), Some(Err(FrameError::Empty)));
        assert_eq!(Frames::new(&[0, 0xfd, 0x1f, 0]).next(), Some(Err(FrameError::Oversized(8189))));
    }

    #[test]
    fn nothing_follows_an_error() {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend(frame(FrameKind::Packet, b"x"));
        let mut frames = Frames::new(&bytes);
        assert!(matches!(frames.next(), Some(Err(_))));
        assert!(frames.next().is_none());
    }

    proptest! {
        /// The same frames are read from a stream however it is cut into reads.
        #[test]
        fn cuts_do_not_matter(
            payloads in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 1..300)), 1..12),
            cut_len in 1usize..700,
        ) {
            let stream: Vec<u8> = payloads
                .iter()
                .flat_map(|(modifier2, payload)| frame(FrameKind::from_modifier2(*modifier2), payload))
                .collect();
            let mut seen = Vec::new();
            let mut pending = Vec::new();
            for chunk in stream.chunks(cut_len) {
                pending.extend_from_slice(chunk);
                let mut frames = Frames::new(&pending);
                for item in frames.by_ref() {
                    let item = item.expect("only valid frames were written");
                    seen.push((item.kind.modifier2(), item.payload.to_vec()));
                }
                pending = frames.rest().to_vec();
                prop_assert!(pending.len() < MAX_FRAME_LEN);
            }
            prop_assert!(pending.is_empty());
            prop_assert_eq!(seen, payloads);
        }

        /// Frames and rest together are as long as the input, whatever it is.
        #[test]
        fn garbage_is_only_split(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut frames = Frames::new(&bytes);
            let consumed: usize = frames.by_ref().flatten().map(|item| HEADER_LEN + item.payload.len()).sum();
            prop_assert_eq!(consumed + frames.rest().len(), bytes.len());
        }
    }
}
