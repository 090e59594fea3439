//! What comes before packets: credentials that the router doesn't need, a hello, and the router's reply.
//!
//! Input: the first bytes of a stream, which are also read as the payload of a hello and of a reply.

use tuntap_wire::attach::{Hello, HelloReply};
use tuntap_wire::greeting::{BadStart, CREDENTIALS_MAGIC, frames_start};

/// Reads the bytes as each of the three.
pub fn check(data: &[u8]) {
    check_start(data);
    check_hello(data);
    check_reply(data);
}

/// Later bytes must not change a decision.
fn check_start(stream: &[u8]) {
    let magic = CREDENTIALS_MAGIC;
    let mut decided = Ok(None);
    for len in 0..=stream.len().min(magic.len() + 2) {
        let start = frames_start(&stream[..len]);
        let expected = if len == 0 {
            Ok(None)
        } else if stream[0] != magic[0] {
            Ok(Some(0))
        } else if stream[..len.min(magic.len())] != magic[..len.min(magic.len())] {
            Err(BadStart)
        } else {
            Ok((len >= magic.len()).then_some(magic.len()))
        };
        assert_eq!(start, expected, "after {len} bytes");
        if decided != Ok(None) {
            assert_eq!(start, decided, "another decision after {len} bytes");
        }
        decided = start;
    }
    if let Ok(Some(start)) = frames_start(stream) {
        assert!(start <= stream.len());
    }
}

fn check_hello(payload: &[u8]) {
    let expected = (payload.len() == 8 && payload[0] == 1 && payload[1] == 10).then(|| Hello {
        offloads: payload[4..].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)),
        router_only: payload[2] & 1 != 0,
    });
    let hello = Hello::decode(payload);
    assert_eq!(hello, expected);
    if let Some(hello) = hello {
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        assert!(hello.encode().len() < 20, "a router without the extension must drop it");
    }
}

fn check_reply(payload: &[u8]) {
    let reply = HelloReply::decode(payload);
    let expected = match (payload.first(), payload.get(1)) {
        (Some(1), Some(1)) => Some(HelloReply::Attached),
        (Some(1), Some(0)) => Some(HelloReply::Refused),
        (Some(1), Some(2)) => Some(HelloReply::Renew),
        _ => None,
    };
    assert_eq!(reply, expected);
    if let Some(reply) = reply {
        assert_eq!(HelloReply::decode(&reply.encode()), Some(reply));
    }
}
