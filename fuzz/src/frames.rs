//! The frame stream. The same frames must be read from it however it is cut into reads.
//!
//! Input: the number of lengths (1 byte, modulo 8), each length less 1 (2 bytes), the stream. The lengths are used
//! cyclically; without any, the stream is read byte by byte.

use tuntap_wire::frame::{self, Frame, FrameError, Frames, HEADER_LEN, MAX_FRAME_LEN, MAX_PAYLOAD_LEN};

use super::input::Input;

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    /// `modifier2` and payload.
    frames: Vec<(u8, Vec<u8>)>,
    error: Option<FrameError>,
}

/// Decodes a stream in one piece, in pieces, and with the oracle.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let pieces: Vec<usize> = (0..input.below(8)).map(|_| 1 + usize::from(input.word()) % MAX_FRAME_LEN).collect();
    let stream = input.rest();

    let expected = by_hand(stream);
    assert_eq!(in_one_piece(stream), expected);
    assert_eq!(in_pieces(stream, if pieces.is_empty() { &[1] } else { &pieces }), expected);
}

fn in_one_piece(stream: &[u8]) -> Decoded {
    let mut decoded = Decoded { frames: Vec::new(), error: None };
    let mut frames = Frames::new(stream);
    let mut consumed = 0;
    for item in frames.by_ref() {
        match item {
            Ok(frame) => {
                check_encoding(frame);
                consumed += HEADER_LEN + frame.payload.len();
                decoded.frames.push((frame.kind.modifier2(), frame.payload.to_vec()));
            }
            Err(error) => decoded.error = Some(error),
        }
    }
    assert_eq!(frames.rest(), &stream[consumed..], "what no frame consumed is the rest");
    assert!(frames.next().is_none(), "it has ended");
    decoded
}

/// Decodes as the router does: bytes that no frame has consumed stand before the next piece.
fn in_pieces(stream: &[u8], lengths: &[usize]) -> Decoded {
    let mut decoded = Decoded { frames: Vec::new(), error: None };
    let mut partial = Vec::new();
    let mut rest = stream;
    for len in lengths.iter().cycle() {
        let (piece, behind) = rest.split_at(rest.len().min(*len));
        rest = behind;
        partial.extend_from_slice(piece);
        let mut frames = Frames::new(&partial);
        for item in frames.by_ref() {
            match item {
                Ok(frame) => decoded.frames.push((frame.kind.modifier2(), frame.payload.to_vec())),
                Err(error) => decoded.error = Some(error),
            }
        }
        if decoded.error.is_some() || rest.is_empty() {
            break;
        }
        partial = frames.rest().to_vec();
        assert!(partial.len() < MAX_FRAME_LEN, "the router's buffer has no room for more");
    }
    decoded
}

fn by_hand(stream: &[u8]) -> Decoded {
    let mut frames = Vec::new();
    let mut at = 0;
    while stream.len() - at >= 4 {
        let announced = u16::from(stream[at + 1]) + 256 * u16::from(stream[at + 2]);
        let len = usize::from(announced);
        if len == 0 {
            return Decoded { frames, error: Some(FrameError::Empty) };
        }
        if len > 8188 {
            return Decoded { frames, error: Some(FrameError::Oversized(announced)) };
        }
        if stream.len() - at < 4 + len {
            break;
        }
        frames.push((stream[at + 3], stream[at + 4..at + 4 + len].to_vec()));
        at += 4 + len;
    }
    Decoded { frames, error: None }
}

/// A frame that was read can be written and read again.
fn check_encoding(original: Frame<'_>) {
    let mut bytes = b"before".to_vec();
    assert!(frame::append(&mut bytes, original.kind, original.payload));
    let encoded = bytes.strip_prefix(b"before").expect("it appends");
    assert_eq!(Frames::new(encoded).next(), Some(Ok(original)));

    let too_long = vec![0; MAX_PAYLOAD_LEN + 1];
    assert!(!frame::append(&mut bytes, original.kind, &too_long));
    assert_eq!(bytes.len(), b"before".len() + HEADER_LEN + original.payload.len(), "a refused frame leaves no trace");
}
