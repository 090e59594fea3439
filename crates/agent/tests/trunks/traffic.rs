use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use tuntap_sys::socket::send;
use tuntap_wire::trunk::{
    MAX_FRAME_LEN, MAX_MESSAGE_FRAMES, MAX_MESSAGE_LEN, MAX_PAYLOAD_LEN, append_ping, packet_header,
};

use super::host::{Host, PATIENCE, Trunk, key, listener, pair};

/// A longest packet, whose bytes differ from each other's.
fn packet(seed: u8) -> Vec<u8> {
    let mut frame = packet_header(MAX_PAYLOAD_LEN, 7).expect("it fits").to_vec();
    frame.extend((0..MAX_PAYLOAD_LEN).map(|at| u8::try_from(at % 251).expect("small").wrapping_add(seed)));
    assert_eq!(frame.len(), MAX_FRAME_LEN);
    frame
}

#[test]
fn frames_of_all_lengths_travel_both_ways_in_order() {
    let (_first, first_end, _second, second_end) = pair();
    for (from, to) in [(&first_end, &second_end), (&second_end, &first_end)] {
        let mut wanted = Vec::new();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                for seed in 0..100 {
                    let mut message = Vec::new();
                    append_ping(&mut message, u64::from(seed));
                    assert!(from.send(&message) && from.send(&packet(seed)));
                    // Several frames in one message.
                    message.extend_from_slice(&packet(seed));
                    assert!(message.len() <= MAX_MESSAGE_LEN && from.send(&message));
                }
            });
            for seed in 0..100 {
                for _ in 0..2 {
                    append_ping(&mut wanted, u64::from(seed));
                    wanted.extend(packet(seed));
                }
            }
            let mut received = Vec::new();
            while received.len() < wanted.len() {
                let message = to.receive().expect("the trunk is open");
                let whole = tuntap_wire::trunk::whole_frames(&message, usize::MAX);
                assert_eq!(whole, Ok(message.len()), "only whole frames");
                received.extend(message);
            }
            assert!(received == wanted);
            sender.join().expect("no panic");
        });
    }
}

/// A router that doesn't read makes the other one full, and nothing else: everything arrives once it reads.
#[test]
fn slow_neighbour_slows_down_and_loses_nothing() {
    let (_first, first_end, _second, second_end) = pair();
    let mut sent = 0_u64;
    let mut idle = 0;
    // Full for good: nothing has moved for half a second.
    while idle < 50 {
        let mut message = Vec::new();
        append_ping(&mut message, sent);
        message.extend(packet(0));
        match send(first_end.0.as_fd(), &message) {
            Ok(_) => (sent, idle) = (sent + 1, 0),
            Err(Errno::EAGAIN) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    // The other direction isn't held up.
    assert!(second_end.send_ping(77));
    assert_eq!(first_end.pings(), Some(vec![77]));
    let one_len = MAX_FRAME_LEN + 14;
    let mut received = 0;
    while received < usize::try_from(sent).expect("few") * one_len {
        received += second_end.receive().expect("the trunk is open").len();
    }
    assert_eq!(received, usize::try_from(sent).expect("few") * one_len);
}

#[test]
fn end_of_one_router_is_seen_by_the_other_and_they_connect_again() {
    let (first, first_end, second, second_end) = pair();
    drop(first_end);
    assert_eq!(second_end.receive(), None);
    first.wait_for("the router has closed the trunk");
    second.wait_for("the neighbour has closed the connection");
    let ((_, first_end), (_, second_end)) = (first.next(), second.next());
    assert!(second_end.send_ping(5));
    assert_eq!(first_end.pings(), Some(vec![5]));
}

/// A router that dies leaves its sockets in the store. The next one finds them as they were.
#[test]
fn connection_stays_while_a_copy_of_its_socket_does() {
    let (first, first_end, _second, second_end) = pair();
    let stored = first_end.0.try_clone().expect("a descriptor");
    drop(first_end);
    assert!(second_end.send_ping(1));
    let next = super::host::Trunk(stored);
    assert_eq!(next.pings(), Some(vec![1]));
    assert!(next.send_ping(2));
    assert_eq!(second_end.pings(), Some(vec![2]));
    assert!(!first.notices().iter().any(|line| line.contains("ended")));
}

#[test]
fn process_ends_with_its_router_and_the_neighbour_finds_the_next_one() {
    let (one, other) = (key(), key());
    let mut first = Host::start(&one, &[(other.public(), None)]);
    let second = Host::start(&other, &[(one.public(), Some(first.address))]);
    let ((_, first_end), (_, second_end)) = (first.next(), second.next());
    first.stop();
    assert_eq!((first_end.receive(), second_end.receive()), (None, None));
    second.wait_for("can't connect");
    let again = std::net::TcpListener::bind(first.address).unwrap_or_else(|_| listener());
    if again.local_addr().expect("bound") == first.address {
        let first = Host::start_at(again, &one, &[(other.public(), None)]);
        let ((_, first_end), (_, second_end)) = (first.next(), second.next());
        assert!(first_end.send_ping(3));
        assert_eq!(second_end.pings(), Some(vec![3]));
    }
}

/// Both sides dial. Whatever comes first, one connection stays, and both have the same one.
#[test]
fn of_two_connections_one_stays() {
    for _ in 0..3 {
        let (one, other) = (key(), key());
        let (first_listener, second_listener) = (listener(), listener());
        let address = |listener: &std::net::TcpListener| listener.local_addr().expect("bound");
        let (first_address, second_address) = (address(&first_listener), address(&second_listener));
        let first = Host::start_at(first_listener, &one, &[(other.public(), Some(second_address))]);
        let second = Host::start_at(second_listener, &other, &[(one.public(), Some(first_address))]);
        let (mut first_ends, mut second_ends) = (Vec::new(), Vec::new());
        // More connections come within this time, for the pauses between attempts are shorter; on a busy machine later.
        let pass = |first_ends: &mut Vec<Trunk>, second_ends: &mut Vec<Trunk>| {
            first_ends
                .extend(std::iter::from_fn(|| first.next_within(Duration::from_millis(1_500))).map(|(_, end)| end));
            second_ends
                .extend(std::iter::from_fn(|| second.next_within(Duration::from_millis(10))).map(|(_, end)| end));
            let last = [first_ends, second_ends].map(|ends| ends.last());
            matches!(last, [Some(first), Some(second)] if first.send_ping(1) && second.send_ping(2))
        };
        assert!((0..10).any(|_| pass(&mut first_ends, &mut second_ends)), "{:#?}", first.notices());
        assert!((1..=3).contains(&first_ends.len()) && (1..=3).contains(&second_ends.len()), "{:#?}", first.notices());
        let (first_end, second_end) = (first_ends.pop().expect("one"), second_ends.pop().expect("one"));
        assert_eq!((first_end.pings(), second_end.pings()), (Some(vec![2]), Some(vec![1])));
        assert!(first_ends.iter().chain(&second_ends).all(|end| end.receive().is_none()), "the others are closed");
    }
}

#[test]
fn neighbour_that_sends_no_frames_is_cut_off() {
    let (_first, first_end, second, second_end) = pair();
    assert!(first_end.send(&[0xff; 100]));
    assert_eq!(second_end.receive(), None);
    second.wait_for("a frame of 4294967295 bytes");
    assert!(second.next_within(PATIENCE).is_some(), "it dials again");
}

/// A router reads a message at once, so one of the shortest frames is no longer than others.
#[test]
fn message_has_few_frames() {
    let (_first, first_end, _second, second_end) = pair();
    let mut message = Vec::new();
    (0..4_000).for_each(|number| append_ping(&mut message, number));
    assert!(first_end.send(&message));
    let mut received = Vec::new();
    while received.len() < 4_000 {
        let some = second_end.pings().expect("the trunk is open");
        assert!((1..=MAX_MESSAGE_FRAMES).contains(&some.len()), "{}", some.len());
        received.extend(some);
    }
    assert!(received.into_iter().eq(0..4_000));
}
