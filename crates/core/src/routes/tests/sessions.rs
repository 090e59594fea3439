//! How sessions begin and end.

use std::time::Duration;

use tuntap_wire::bgp::open::Open;
use tuntap_wire::bgp::refresh::Refresh;
use tuntap_wire::bgp::write::append_end_of_rib;
use tuntap_wire::bgp::{Family, PerFamily};

use super::super::notice::{End, Notice};
use super::super::speaker::{Accepted, Speaker, refusal};
use super::super::status::State;
use super::daemon::{Daemon, World, address, daemon_open, holding, keepalive, nth, open_bytes, refresh, settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn session_begins_and_says_all_it_knows() {
    let mut world = World::new();
    world.speaker.claimed(address("10.77.0.1"), holding(1, 5_000));
    assert_eq!(world.speaker.status(world.now).state, State::Idle);
    assert!(!world.speaker.has_output(world.now));
    world.connect();
    assert_eq!(world.speaker.status(world.now).state, State::OpenSent);
    world.deliver();
    assert_eq!((world.daemon.opens, world.daemon.keepalives), (1, 0));
    world.say(&open_bytes(&daemon_open()));
    assert_eq!(world.speaker.status(world.now).state, State::OpenConfirm);
    world.deliver();
    assert_eq!((world.daemon.keepalives, world.daemon.routes.len()), (1, 0));
    assert!(world.heard.notices.is_empty());
    world.say(&keepalive());
    world.deliver();
    assert_eq!(world.daemon.routes.get(&address("10.77.0.1")), Some(&holding(1, 5_000)));
    assert_eq!(world.daemon.ends_of_rib, Family::ALL);
    let status = world.speaker.status(world.now);
    assert_eq!((status.state, status.sessions, status.claims), (State::Established, 1, 1));
    assert_eq!((status.sent.announced, status.sent.dumps, status.waiting_bytes), (1, 2, 0));
    let session = status.session.expect("established");
    assert_eq!((session.neighbour_asn, session.hold_time), (64512, 9), "the lower hold time counts");
    assert_eq!(session.paths, PerFamily::new(|_| true));
    assert_eq!(world.lines(), ["routes: a session with 10.99.0.1 (AS 64512) for IPv4 and IPv6"]);
}

#[test]
fn daemon_that_does_not_fit_is_told_why() {
    let refused = |change: fn(&mut Open), wanted: Option<u32>| {
        let mut world = World::new();
        let settings = super::super::settings::Settings { neighbour_asn: wanted, ..settings() };
        world.speaker = Speaker::new(settings, world.now);
        let mut open = daemon_open();
        change(&mut open);
        world.connect();
        world.say(&[open_bytes(&open), keepalive()].concat());
        world.deliver();
        let status = world.speaker.status(world.now);
        assert_eq!(status.state == State::Closing, world.daemon.notification.is_some());
        assert_eq!(status.last_error.is_some(), world.daemon.notification.is_some());
        assert_eq!(world.speaker.is_to_be_closed(world.now), world.daemon.notification.is_some());
        world.daemon.notification.unwrap_or_default()
    };
    assert_eq!(refused(|_| (), None), "");
    assert_eq!(refused(|_| (), Some(64512)), "");
    let bad_as = "OPEN message error (2/2, bad AS of the neighbour)";
    assert_eq!(refused(|_| (), Some(64511)), bad_as);
    let ours = |open: &mut Open| (open.asn, open.capabilities.four_octet_as) = (64513, Some(64513));
    assert_eq!(refused(ours, None), bad_as);
    assert_eq!(refused(|open| open.hold_time = 0, None), "OPEN message error (2/6, unacceptable hold time)");
    let unsupported = "OPEN message error (2/7, unsupported capability)";
    assert_eq!(refused(|open| open.capabilities.four_octet_as = None, None), unsupported);
}

/// A daemon that speaks neither family says so by naming a third one.
#[test]
fn daemon_without_a_family_is_refused_and_one_family_is_enough() {
    let mut world = World::new();
    world.connect();
    let open = [4, 0xfc, 0, 0, 9, 1, 1, 1, 1, 14, 2, 12, 65, 4, 0, 0, 0xfc, 0, 1, 4, 0, 25, 0, 70];
    world.say(&[&[0xff; 16][..], &[0, 43, 1], &open].concat());
    world.deliver();
    assert_eq!(world.daemon.notification.as_deref(), Some("OPEN message error (2/7, unsupported capability)"));

    let mut world = World::new();
    (0..10).for_each(|number| world.speaker.claimed(nth(number), holding(1, 1)));
    let mut open = daemon_open();
    open.capabilities.families.ipv6 = false;
    world.establish(&open);
    world.speaker.claimed(nth(30), holding(1, 1));
    world.speaker.claimed(nth(31), holding(1, 1));
    world.deliver();
    assert_eq!(world.daemon.routes.len(), 7, "those of IPv4");
    assert_eq!(world.daemon.ends_of_rib, [Family::Ipv4]);
    world.say(&refresh(Family::Ipv6, Refresh::Request));
    world.deliver();
    assert_eq!(world.daemon.refreshes, []);
}

#[test]
fn silence_ends_the_session_and_words_keep_it() {
    let mut world = World::established();
    for second in 0..60 {
        world.say(&keepalive());
        world.pass(SECOND);
        assert!(world.speaker.next_time(world.now).expect("a session has times") > world.now, "after {second} s");
        world.deliver();
    }
    assert_eq!(world.daemon.keepalives, 1 + 20, "one every three seconds");
    world.lines();
    world.pass(Duration::from_millis(7_999));
    assert_eq!(world.speaker.status(world.now).state, State::Established);
    world.pass(Duration::from_millis(1));
    world.deliver();
    assert_eq!(world.daemon.notification.as_deref(), Some("hold timer expired (4/0)"));
    let line =
        "routes: no session with the routing daemon any more: this router has ended it: hold timer expired (4/0)";
    assert_eq!(world.lines(), [line]);
    assert!(world.speaker.is_to_be_closed(world.now));
    world.close();
    assert!(world.lines().is_empty(), "it is said once");
    assert_eq!(world.speaker.status(world.now).state, State::Idle);
}

#[test]
fn connection_that_says_nothing_ends() {
    for said in [&[][..], &open_bytes(&daemon_open())] {
        let mut world = World::new();
        world.connect();
        world.say(said);
        let mut waited = 0;
        while world.speaker.status(world.now).state != State::Closing {
            world.pass(SECOND);
            waited += 1;
            assert!(waited <= 10);
        }
        assert!(matches!(world.heard.notices[..], [Notice::NotEstablished(End::Violated(_))]));
    }
}

/// RFC 9687: a daemon that sends, but takes nothing.
#[test]
fn daemon_that_takes_nothing_is_given_up() {
    let mut world = World::established();
    (0..5_000).for_each(|number| world.speaker.claimed(nth(number), holding(1, u64::from(number))));
    world.deliver_some(10_000);
    let mut waited = 0;
    while world.speaker.status(world.now).state == State::Established {
        world.say(&keepalive());
        world.pass(SECOND);
        world.speaker.output(world.now);
        waited += 1;
        assert!(waited <= 18);
    }
    assert_eq!(waited, 18, "two hold times");
    assert!(world.speaker.is_to_be_closed(world.now), "there is nothing to say any more");
    assert_eq!(world.heard.notices.last(), Some(&Notice::Ended(End::Stuck)));
}

/// A NOTIFICATION follows a message that is sent in part, and nothing else.
#[test]
fn last_message_comes_after_a_whole_one() {
    for cut in [1, 18, 19, 20, 105, 106, 107, 5_000] {
        let mut world = World::established();
        (0..500).for_each(|number| world.speaker.claimed(nth(number), holding(1, u64::from(number))));
        assert_eq!(world.deliver_some(cut), cut);
        world.speaker.shut_down("the Emperor ends", world.now, &mut world.heard);
        assert!(!world.speaker.is_to_be_closed(world.now));
        world.deliver();
        let expected = "cease (6/2, administrative shutdown): \"the Emperor ends\"";
        assert_eq!(world.daemon.notification.as_deref(), Some(expected));
        assert!(world.daemon.updates < 60, "what waited was dropped");
        assert!(world.speaker.is_to_be_closed(world.now));
    }
}

#[test]
fn last_message_is_given_up_after_a_while() {
    let mut world = World::established();
    world.speaker.shut_down("", world.now, &mut world.heard);
    world.pass(SECOND / 2);
    assert!(!world.speaker.is_to_be_closed(world.now));
    assert!(world.speaker.next_time(world.now).expect("it waits") <= world.now + SECOND / 2);
    world.pass(SECOND / 2);
    assert!(world.speaker.is_to_be_closed(world.now));
}

/// A living session stays; one that is not established, or silent, gives way.
#[test]
fn second_connection() {
    let mut world = World::established();
    world.lines();
    assert_eq!(world.speaker.accept(world.now, &mut world.heard), Accepted::Refused);
    assert_eq!(world.lines(), ["routes: a second connection was refused, for the first one lives"]);
    assert_eq!(world.speaker.status(world.now).refused_connections, 1);
    let mut daemon = Daemon::default();
    daemon.hear(&refusal());
    assert_eq!(daemon.notification.as_deref(), Some("cease (6/7, connection collision)"));
    world.pass(Duration::from_millis(6_001));
    assert_eq!(world.speaker.accept(world.now, &mut world.heard), Accepted::Replaces);
    assert_eq!(world.speaker.status(world.now).state, State::OpenSent);
    assert_eq!(world.heard.notices.last(), Some(&Notice::Ended(End::Replaced)));
    assert_eq!(world.speaker.accept(world.now, &mut world.heard), Accepted::Replaces);
    world.establish(&daemon_open());
    assert_eq!(world.speaker.status(world.now).sessions, 2);
}

#[test]
fn daemon_says_why_it_ends() {
    let mut world = World::established();
    world.lines();
    world.say(&[&[0xff; 16][..], &[0, 27, 3, 6, 2, 5, b'\x1b', b'b', b'y', b'e', b'!']].concat());
    let line = "routes: no session with the routing daemon any more: it says cease (6/2, administrative shutdown): \
        \"\\u{1b}bye!\"";
    assert_eq!(world.lines(), [line]);
    assert!(world.speaker.is_to_be_closed(world.now), "no answer");
    world.close();
    assert!(world.speaker.status(world.now).last_error.is_some_and(|error| error.contains("bye!")));
}

#[test]
fn messages_at_the_wrong_time_end_the_session() {
    let mut mark = Vec::new();
    append_end_of_rib(&mut mark, Family::Ipv4);
    let notification = |before: &[Vec<u8>], message: &[u8]| {
        let mut world = World::new();
        world.connect();
        for bytes in before {
            world.say(bytes);
        }
        world.say(message);
        world.deliver();
        world.daemon.notification
    };
    let open = open_bytes(&daemon_open());
    let error = |text: &str| Some(format!("finite state machine error ({text})"));
    assert_eq!(notification(&[], &keepalive()), error("5/1, unexpected in OpenSent"));
    assert_eq!(notification(&[], &mark), error("5/1, unexpected in OpenSent"));
    let confirm = [open.clone()];
    assert_eq!(notification(&confirm, &open), error("5/2, unexpected in OpenConfirm"));
    assert_eq!(notification(&confirm, &mark), error("5/2, unexpected in OpenConfirm"));
    assert_eq!(notification(&[open.clone(), keepalive()], &open), error("5/3, unexpected in Established"));
    assert_eq!(notification(&[], b"GET / HTTP/1.1\r\n"), Some("message header error (1/1, no marker)".to_owned()));
}
