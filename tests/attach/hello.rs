//! The extension's two frames, written down once more: tests must not lean on the code that they test.

use std::os::fd::BorrowedFd;

use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::common::wire;
use crate::tun::{HEADER_LEN, MERGED_HEADER_LEN, OFFLOADS};

pub const HELLO: u8 = 0x74;
const ANSWER: u8 = 0x75;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Attached,
    Refused,
}

/// The payload of a hello.
pub fn hello() -> [u8; 8] {
    with(1, HEADER_LEN)
}

pub fn hello_of_version(version: u8) -> [u8; 8] {
    with(version, HEADER_LEN)
}

pub fn hello_with_merged_header() -> [u8; 8] {
    with(1, MERGED_HEADER_LEN)
}

fn with(version: u8, header_len: i32) -> [u8; 8] {
    let [a, b, c, d] = OFFLOADS.to_le_bytes();
    [version, u8::try_from(header_len).expect("a short header"), 0, 0, a, b, c, d]
}

/// Offers descriptors to the router.
pub fn offer(peer: &mut RawPeer, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
    peer.send_with_descriptors(&wire::frame(HELLO, payload), descriptors);
}

/// The router's answer, which is the first thing that comes.
#[track_caller]
pub fn answer(peer: &mut RawPeer) -> Answer {
    let frame = peer.next_frame(wait::SHORT).expect("the router answers a hello");
    assert_eq!((frame.modifier2, frame.payload.len()), (ANSWER, 8), "{frame:?}");
    match frame.payload[..2] {
        [1, 0] => Answer::Refused,
        [1, 1] => Answer::Attached,
        _ => panic!("an answer of another kind: {frame:?}"),
    }
}
