//! UDP of more than the limits, and how much of it arrives.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::netns::Net;
use crate::common::wait;

/// Bytes of a datagram, and of its IP packet.
const PAYLOAD: usize = 1200;
const PACKET: usize = PAYLOAD + 28;

/// Datagrams that are sent in each millisecond.
const PER_MILLISECOND: usize = 2;

/// Bits per second of IP packets that a flood offers on a machine that keeps up.
pub const OFFERED: f64 = (PER_MILLISECOND * 1000 * PACKET * 8) as f64;

/// For so long, nothing is counted: what is saved up for a burst passes first.
const WARM_UP: Duration = Duration::from_millis(500);

/// For so long it is.
const MEASURED: Duration = Duration::from_secs(3);

/// One end of a flood: a namespace, and an address there.
pub type End<'a> = (&'a Net, IpAddr);

/// Sends datagrams from each first end to its second one, all at the same time. Returns the bits per second of IP packets that
/// arrive, measured over the same time.
pub fn rates<const N: usize>(ways: [(End<'_>, End<'_>); N]) -> [f64; N] {
    measure(ways, |sender, receiver| sender.connect(receiver.local_addr().expect("bound")).expect("a target"))
}

/// The same for answers: each receiver has asked its sender before, which needn't know the receiver's address (NAT).
pub fn rates_of_answers<const N: usize>(ways: [(End<'_>, End<'_>); N]) -> [f64; N] {
    measure(ways, |sender, receiver| {
        sender.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let asked = sender.local_addr().expect("bound");
        let seen = wait::until("a question arrives", wait::LONG, || {
            receiver.send_to(b"?", asked).ok()?;
            sender.recv_from(&mut [0; PAYLOAD]).ok().map(|(_, seen)| seen)
        });
        sender.connect(seen).expect("a target");
    })
}

/// Measures the rates of senders once each has met its receiver.
fn measure<const N: usize>(ways: [(End<'_>, End<'_>); N], meet: impl Fn(&UdpSocket, &UdpSocket)) -> [f64; N] {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let pairs = ways.map(|(from, to)| {
            let receiver = bind(to);
            let sender = bind(from);
            meet(&sender, &receiver);
            (sender, receiver)
        });
        let receivers = pairs.map(|(sender, receiver)| {
            let is_over = &is_over;
            scope.spawn(move || send(&sender, is_over));
            scope.spawn(move || count(&receiver))
        });
        let rates = receivers.map(|receiver| receiver.join().expect("it counts"));
        is_over.store(true, Ordering::Relaxed);
        rates
    })
}

/// The same for one way.
pub fn rate(from: End<'_>, to: End<'_>) -> f64 {
    rates([(from, to)])[0]
}

fn bind((net, address): End<'_>) -> UdpSocket {
    net.run(|| UdpSocket::bind((address, 0))).expect("the address is there")
}

fn send(socket: &UdpSocket, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..PER_MILLISECOND {
            // A full queue is what limits are about.
            let _ = socket.send(&[7; PAYLOAD]);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn count(socket: &UdpSocket) -> f64 {
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    let start = Instant::now();
    let mut buffer = [0; PAYLOAD];
    let (mut begin, mut bytes) = (None, 0);
    while start.elapsed() < WARM_UP + MEASURED {
        let has_come = socket.recv(&mut buffer).is_ok();
        if start.elapsed() < WARM_UP {
            continue;
        }
        begin.get_or_insert_with(Instant::now);
        bytes += if has_come { PACKET } else { 0 };
    }
    let seconds = begin.expect("time has passed").elapsed().as_secs_f64();
    bytes as f64 * 8.0 / seconds
}
