use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tuntap_agent::{MAX_CONNECTIONS_AT_ONCE, MAX_HALF_OPEN};

use super::host::{Host, PATIENCE, key, listener};

#[test]
fn garbage_is_refused_and_told_once() {
    let (one, other) = (key(), key());
    let first = Host::start(&one, &[(other.public(), None)]);
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 300], &[0x16, 3, 1, 0xff, 0xff], &[0x16; 70_000]] {
        let mut tcp = TcpStream::connect(first.address).expect("it listens");
        // It may be closed before all is written.
        let _ = tcp.write_all(garbage);
        let _ = tcp.shutdown(std::net::Shutdown::Write);
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let _ = tcp.read_to_end(&mut Vec::new());
    }
    first.wait_for("the other end doesn't speak TLS");
    assert_eq!(first.notices().len(), 1, "{:#?}", first.notices());
    let second = Host::start(&other, &[(one.public(), Some(first.address))]);
    let ((_, first_end), (_, second_end)) = (first.next(), second.next());
    assert!(first_end.send_ping(1));
    assert_eq!(second_end.pings(), Some(vec![1]));
}

/// However many connections say nothing, a neighbour is let in, and a connection that there is stays.
#[test]
fn silent_strangers_keep_nobody_out() {
    let (one, other, third) = (key(), key(), key());
    let first = Host::start(&one, &[(other.public(), None), (third.public(), None)]);
    let second = Host::start(&other, &[(one.public(), Some(first.address))]);
    let ((_, first_end), (_, second_end)) = (first.next(), second.next());
    let silent: Vec<_> =
        (0..2 * MAX_HALF_OPEN).map(|_| TcpStream::connect(first.address).expect("it listens")).collect();
    first.wait_for("too many connections at once");
    let oldest = &silent[0];
    oldest.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert!(matches!((&*oldest).read(&mut [0]), Ok(0) | Err(_)), "the oldest is closed");
    let late = Host::start(&third, &[(one.public(), Some(first.address))]);
    assert_eq!((late.next().0.router, first.next().0.router), (one.router_id(), third.router_id()));
    assert!(first_end.send_ping(1));
    assert_eq!(second_end.pings(), Some(vec![1]));
}

/// Who accepts and says nothing, in either role, isn't waited for without end.
#[test]
fn silent_end_is_given_up() {
    let (one, other) = (key(), key());
    let silent = listener();
    let address = silent.local_addr().expect("bound");
    let first = Host::start(&one, &[(other.public(), Some(address))]);
    let tcp = TcpStream::connect(first.address).expect("it listens");
    let start = Instant::now();
    first.wait_for("didn't answer in time");
    first.wait_for("can't connect with");
    first.wait_for("refused a connection from");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert!(matches!((&tcp).read(&mut [0]), Ok(0)), "it is closed");
    assert!(start.elapsed() >= Duration::from_secs(1), "it had a chance");
}

#[test]
fn dialling_goes_on_and_is_told_once() {
    let (one, other) = (key(), key());
    let closed = listener();
    let address = closed.local_addr().expect("bound");
    drop(closed);
    let first = Host::start(&one, &[(other.public(), Some(address))]);
    first.wait_for("can't connect");
    // Some attempts later.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(first.notices().len(), 1, "{:#?}", first.notices());
    let Ok(open) = std::net::TcpListener::bind(address) else { return };
    let second = Host::start_at(open, &other, &[(one.public(), None)]);
    assert_eq!(second.next().0.router, one.router_id());
}

/// Each connection makes work for a router. A neighbour that ends all of them at once gets few.
#[test]
fn connections_that_end_at_once_become_few() {
    let (one, other) = (key(), key());
    let first = Host::start(&one, &[(other.public(), None)]);
    // Each dials again soon after its connection has ended.
    let second = [(); 4].map(|()| Host::start(&other, &[(one.public(), Some(first.address))]));
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(4) {
        second.iter().for_each(|host| while host.next_within(Duration::ZERO).is_some() {});
        while first.next_within(Duration::from_millis(5)).is_some() {
            count += 1;
        }
    }
    let most = MAX_CONNECTIONS_AT_ONCE + u32::try_from(start.elapsed().as_secs()).expect("soon") + 1;
    assert!((1..=most).contains(&count), "{count}");
    first.wait_for("too many connections with router");
    let lines = first.notices().iter().filter(|line| line.contains("too many connections with")).count();
    assert_eq!(lines, 1);
}
