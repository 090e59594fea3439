use std::time::Duration;

use tuntap_agent::{Config, Peer, RunError, run};

use super::host::{Host, key};

/// No connection comes within this time, in which the ones that are refused are tried several times.
const A_WHILE: Duration = Duration::from_millis(700);

#[test]
fn stranger_is_refused_by_the_server() {
    let (one, other, stranger) = (key(), key(), key());
    let first = Host::start(&one, &[(other.public(), None)]);
    let second = Host::start(&stranger, &[(one.public(), Some(first.address))]);
    first.wait_for("the other end's key is not one of the configured ones");
    // The client has finished its handshake by then, and must not believe that it is connected.
    second.wait_for("the other end doesn't know this router's key");
    assert!(second.next_within(A_WHILE).is_none() && first.next_within(Duration::ZERO).is_none());
    let lines = |host: &Host, word| host.notices().iter().filter(|line| line.contains(word)).count();
    assert_eq!((lines(&first, "refused"), lines(&second, "can't connect")), (1, 1), "each is told once");
}

#[test]
fn stranger_is_refused_by_the_client() {
    let (one, other, stranger) = (key(), key(), key());
    let first = Host::start(&stranger, &[(other.public(), None)]);
    let second = Host::start(&other, &[(one.public(), Some(first.address))]);
    second.wait_for("the other end's key is not one of the configured ones");
    first.wait_for("the other end doesn't know this router's key");
    assert!(second.next_within(A_WHILE).is_none() && first.next_within(Duration::ZERO).is_none());
}

/// The other end has one of the configured keys, but not that of the neighbour that was dialled.
#[test]
fn neighbour_is_not_mistaken_for_another_one() {
    let (one, other, third) = (key(), key(), key());
    let first = Host::start(&one, &[(other.public(), None), (third.public(), None)]);
    let second = Host::start(&other, &[(one.public(), None), (third.public(), Some(first.address))]);
    second.wait_for("the other end's key is not one of the configured ones");
    assert!(second.next_within(A_WHILE).is_none() && first.next_within(Duration::ZERO).is_none());
}

#[test]
fn changed_key_is_refused_until_it_is_configured() {
    let (one, other, changed) = (key(), key(), key());
    let mut first = Host::start(&one, &[(other.public(), None)]);
    let second = Host::start(&other, &[(one.public(), Some(first.address))]);
    let ((_, _first_end), (_, second_end)) = (first.next(), second.next());
    first.stop();
    assert_eq!(second_end.receive(), None);
    let Ok(again) = std::net::TcpListener::bind(first.address) else { return };
    let address = first.address;
    let first = Host::start_at(again, &changed, &[(other.public(), None)]);
    second.wait_for("the other end's key is not one of the configured ones");
    assert!(second.next_within(A_WHILE).is_none());
    let third = Host::start(&other, &[(changed.public(), Some(address))]);
    assert_eq!(third.next().0.router, changed.router_id());
    assert_eq!(first.next().0.router, other.router_id());
}

#[test]
fn own_key_is_no_neighbour() {
    let own = key();
    let (_control, theirs) = tuntap_sys::socket::message_pair().expect("sockets");
    let peers = vec![Peer { key: own.public(), address: None }];
    let result = run(Config { key: own.clone(), peers, listeners: Vec::new(), has_bbr: false }, theirs, |_| {});
    assert!(matches!(result, Err(RunError::OwnKey(found)) if found == own.public()));
}
