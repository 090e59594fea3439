use proptest::prelude::*;

use super::*;
use crate::holding::{ClaimTime, Holding, RouterId};
use std::net::{IpAddr, SocketAddr};

fn router() -> impl Strategy<Value = RouterId> {
    (1..u64::MAX).prop_map(|number| RouterId::new(number).expect("not 0"))
}

fn announcement() -> impl Strategy<Value = Announcement> {
    (router(), any::<u64>(), prop::collection::vec(router(), 0..=MAX_PATH_LEN)).prop_map(|(router, since, passed)| {
        let path = passed.into_iter().fold(Path::EMPTY, |path, router| path.with(router).expect("short enough"));
        Announcement { holding: Holding { router, since: ClaimTime(since) }, path }
    })
}

/// A message that can be written, and its frame.
fn written() -> impl Strategy<Value = (Message<'static>, Vec<u8>)> {
    let hello =
        (any::<[u16; 2]>(), router(), any::<[bool; 2]>(), "\\PC{0,16}").prop_map(|(versions, router, flags, name)| {
            let ([version, least], [asks, is_big_endian]) = (versions, flags);
            let name = Hello::new(router, &name, asks).name;
            Message::Hello(Hello { version, least, router, asks, is_big_endian, name })
        });
    let announce =
        (any::<IpAddr>(), announcement()).prop_map(|(address, announcement)| Message::Announce(address, announcement));
    let message = prop_oneof![
        hello,
        announce,
        any::<IpAddr>().prop_map(Message::Withdraw),
        Just(Message::End),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
    ];
    message.prop_map(|message| {
        let mut out = Vec::new();
        append(&mut out, &message);
        (message, out)
    })
}

fn append(out: &mut Vec<u8>, message: &Message<'_>) {
    match message {
        Message::Hello(hello) => hello.append(out),
        Message::Announce(address, announcement) => append_announce(out, *address, announcement),
        Message::Withdraw(address) => append_withdraw(out, *address),
        Message::End => append_end(out),
        Message::Packet { bytes, hops } => {
            out.extend_from_slice(&packet_header(bytes.len(), *hops).expect("short enough"));
            out.extend_from_slice(bytes);
        }
        Message::Ping(number) => append_ping(out, *number),
        Message::Pong(number) => append_pong(out, *number),
        Message::AnnounceTooFar(_) | Message::Unknown(_) => {}
    }
}

fn only(bytes: &[u8]) -> Result<Message<'_>, MessageError> {
    let mut frames = Frames::new(bytes);
    let frame = frames.next().expect("a frame").expect("a good one");
    assert!(frames.next().is_none() && frames.rest().is_empty());
    Message::decode(frame)
}

proptest! {
    /// What is written is read again, and a frame that is cut short is never read.
    #[test]
    fn messages_are_read_as_they_were_written((message, bytes) in written(), cut in any::<prop::sample::Index>()) {
        prop_assert_eq!(only(&bytes), Ok(message));
        let cut = cut.index(bytes.len());
        let mut frames = Frames::new(&bytes[..cut]);
        prop_assert_eq!(frames.next(), None);
        prop_assert_eq!(frames.rest(), &bytes[..cut]);
    }

    /// A later version may say more at the end of each payload, and less is an error instead of a wrong value.
    #[test]
    fn payloads_may_grow_and_must_not_shrink((message, bytes) in written(), more in prop::collection::vec(any::<u8>(), 1..9)) {
        let Some(Ok(frame)) = Frames::new(&bytes).next() else { return Err(TestCaseError::fail("no frame")) };
        let longer = [frame.payload, &more].concat();
        prop_assert_eq!(Message::decode(Frame { payload: &longer, ..frame }), Ok(message));
        if let Some((_, shorter)) = frame.payload.split_last() {
            let shorter = &frame.payload[..shorter.len()];
            prop_assert_eq!(Message::decode(Frame { payload: shorter, ..frame }), Err(MessageError::TooShort));
        }
    }

    /// Whatever comes, it ends, nothing is read twice, and what is read can be written.
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), small in any::<bool>()) {
        if small && bytes.len() > 4 {
            // Otherwise hardly a length would be short enough.
            bytes[..3].fill(0);
        }
        let mut frames = Frames::new(&bytes);
        let mut end = 0;
        while let Some(Ok(frame)) = frames.next() {
            end += HEADER_LEN + frame.payload.len();
            prop_assert_eq!(Kind::from_number(frame.kind.number()), frame.kind);
            if let Ok(message) = Message::decode(frame) {
                let mut out = Vec::new();
                append(&mut out, &message);
                match message {
                    Message::AnnounceTooFar(_) => prop_assert_eq!(frame.kind, Kind::Announce),
                    Message::Unknown(number) => prop_assert_eq!(Kind::from_number(number), Kind::Other(number)),
                    message => prop_assert_eq!(only(&out), Ok(message)),
                }
            }
        }
        prop_assert_eq!(frames.rest(), &bytes[end..]);
        let whole = whole_frames(&bytes, MAX_MESSAGE_LEN);
        prop_assert!(whole.is_err() || whole == Ok(end));
    }

    #[test]
    fn handed_connections_are_told(router in router(), has_dialled: bool, ip: IpAddr, port: u16) {
        let handed = Handed { router, has_dialled, address: SocketAddr::new(ip.to_canonical(), port) };
        prop_assert_eq!(Handed::decode(&handed.encode()), Some(handed));
        let mut other = handed.encode();
        other[3] += 1;
        prop_assert_eq!(Handed::decode(&other), None);
        prop_assert_eq!(Handed::decode(&handed.encode()[1..]), None);
    }
}

fn id(number: u64) -> RouterId {
    RouterId::new(number).expect("not 0")
}

#[test]
fn packets_begin_at_a_multiple_of_sixteen_and_fit_as_long_as_they_get() {
    assert_eq!((HEADER_LEN + VNET_HEADER_LEN) % 16, 0);
    let longest = vec![1; MAX_PAYLOAD_LEN];
    let mut out = Vec::new();
    append(&mut out, &Message::Packet { bytes: &longest, hops: 3 });
    assert_eq!(only(&out), Ok(Message::Packet { bytes: &longest, hops: 3 }));
    assert_eq!(out.len(), MAX_FRAME_LEN);
    assert_eq!(packet_header(MAX_PAYLOAD_LEN + 1, 3), None);
    out[..4].copy_from_slice(&u32::try_from(MAX_PAYLOAD_LEN + 1).expect("small").to_be_bytes());
    let mut frames = Frames::new(&out);
    assert!(frames.next().is_some_and(|frame| frame.is_err()) && frames.next().is_none());
    // Nobody gives a packet more trunks to cross than there may be.
    let far = packet_header(0, u8::MAX).expect("short enough");
    assert_eq!(only(&far), Ok(Message::Packet { bytes: &[], hops: MAX_HOPS }));
}

#[test]
fn frames_are_cut_between_two_of_them() {
    let mut out = Vec::new();
    append_ping(&mut out, 1);
    let one = out.len();
    append_end(&mut out);
    append_ping(&mut out, 2);
    assert_eq!(whole_frames(&out, usize::MAX), Ok(out.len()));
    assert_eq!(whole_frames(&out, out.len() - 1), Ok(one + HEADER_LEN));
    assert_eq!(whole_frames(&out[..out.len() - 1], usize::MAX), Ok(one + HEADER_LEN));
    assert_eq!(whole_frames(&out, one - 1), Ok(0));
}

#[test]
fn versions_are_negotiated_down() {
    let of = |least, version| Hello { version, least, ..Hello::new(id(1), "a", true) }.common_version();
    assert_eq!(of(1, 1), Some(1));
    assert_eq!(of(1, 900), Some(1), "a later one speaks ours, too");
    assert_eq!(of(VERSION + 1, 900), None, "one that has forgotten ours");
    assert_eq!(of(0, LEAST_VERSION - 1), None, "one that we have forgotten");
    assert_eq!(of(2, 1), None, "nonsense");
}

#[test]
fn names_are_cut_and_bad_ones_refused() {
    let hello = Hello::new(id(1), &format!("a\n{}", "\u{e9}".repeat(100)), false);
    assert_eq!((hello.name.len(), hello.name.starts_with("a\u{e9}")), (63, true));
    for bad in [b"a\n".as_slice(), b"\xff", &[b'a'; MAX_NAME_LEN + 1]] {
        let mut out = Vec::new();
        Hello::new(id(1), "", false).append(&mut out);
        out.pop();
        out.push(u8::try_from(bad.len()).expect("short"));
        out.extend_from_slice(bad);
        let frame = Frame { kind: Kind::Hello, hops: 0, payload: &out[HEADER_LEN..] };
        assert_eq!(Message::decode(frame), Err(MessageError::Name));
    }
}

#[test]
fn wrong_payloads_have_reasons() {
    let decode = |kind, payload: &[u8]| Message::decode(Frame { kind, hops: 0, payload }).map(drop);
    assert_eq!(decode(Kind::Hello, b"GET / HTTP/1.0\r\n\r\n"), Err(MessageError::NotATrunk));
    assert_eq!(decode(Kind::Withdraw, &[5, 0, 0, 0, 0]), Err(MessageError::Family(5)));
    assert_eq!(decode(Kind::Announce, &[[4, 10, 0, 0, 1].as_slice(), &[0; 17]].concat()), Err(MessageError::RouterId));
}

#[test]
fn announcement_that_came_too_far_tells_its_address() {
    let payload = [[4, 10, 0, 0, 1].as_slice(), &[1; 16], &[9], &[1; 72]].concat();
    let frame = Frame { kind: Kind::Announce, hops: 0, payload: &payload };
    assert_eq!(Message::decode(frame), Ok(Message::AnnounceTooFar([10, 0, 0, 1].into())));
}

#[test]
fn path_tells_who_has_passed_it_on() {
    let holding = Holding { router: id(1), since: ClaimTime(0) };
    let own = Announcement::own(holding);
    assert_eq!((own.teller(), own.has(id(1)), own.has(id(2))), (id(1), true, false));
    let path = own.path.with(id(2)).and_then(|path| path.with(id(3))).expect("short enough");
    let passed = Announcement { path, ..own };
    assert_eq!((passed.teller(), passed.has(id(2)), passed.path.len()), (id(3), true, 2));
    assert_eq!(path.to_string(), "0000000000000002 0000000000000003");
}

#[test]
fn messages_for_a_router_are_bounded_in_bytes_and_frames() {
    let mut out = Vec::new();
    (0..3 * MAX_MESSAGE_FRAMES).for_each(|_| append_end(&mut out));
    assert_eq!(message_len(&out), Ok(MAX_MESSAGE_FRAMES * HEADER_LEN));
    assert_eq!(message_len(&out[..HEADER_LEN + 1]), Ok(HEADER_LEN));
    let longest = vec![1; MAX_PAYLOAD_LEN];
    let mut out = Vec::new();
    (0..3).for_each(|_| append(&mut out, &Message::Packet { bytes: &longest, hops: 3 }));
    assert_eq!(message_len(&out), Ok(MAX_MESSAGE_LEN / MAX_FRAME_LEN * MAX_FRAME_LEN));
    out[0] = 0xff;
    assert!(message_len(&out).is_err());
}
