//! A large policy is replaced while packets pass.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::netns::Net;
use crate::common::wait;
use crate::world::{emperor, start_vassal};

const RULES: usize = 10_000;
const SWAPS: usize = 100;

/// A machine with much else to do may disturb one.
const ATTEMPTS: usize = 3;

/// A group of rules none of which matches, other ones for each number.
fn replace(number: usize) -> Value {
    let rules: String =
        (0..RULES).map(|rule| format!("deny any 203.{}.{}.{}\n", number % 2, rule / 250, rule % 250)).collect();
    let text = format!("chain out\n{rules}");
    json!({"verb": "commit", "changes": [{"change": "group-replace", "group": "big", "text": text}]})
}

/// Round trips by UDP, one after the other, until `is_over`. Returns the time of each.
fn round_trips(emperor: &Emperor, vassal: &Net, is_over: &AtomicBool) -> Vec<Duration> {
    let server = emperor.netns.run(|| UdpSocket::bind((EMPEROR, 7098))).expect("the address is there");
    let client = vassal.run(|| UdpSocket::bind((V1, 0))).expect("the address is there");
    client.connect((EMPEROR, 7098)).expect("a route");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(wait::SHORT)).expect("a socket");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while let Ok((count, from)) = server.recv_from(&mut buffer) {
                if count == 0 || server.send_to(&buffer[..count], from).is_err() {
                    break;
                }
            }
        });
        let mut times = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let start = Instant::now();
            client.send(b"ping").expect("room");
            client.recv(&mut [0; 64]).expect("an answer: no packet is lost");
            times.push(start.elapsed());
        }
        client.send(b"").expect("room");
        times
    })
}

/// Ends the round trips, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the longest round trip, and one that as many are longer than as there are swaps, halved: if each swap holds packets
/// up, then it is one of those.
fn longest(mut times: Vec<Duration>) -> (Duration, Duration) {
    assert!(times.len() > SWAPS, "{} round trips", times.len());
    times.sort_unstable_by(|one, other| other.cmp(one));
    (times[0], times[SWAPS / 2])
}

/// Long round trips are hardly longer beside swaps than beside requests of the same length that swap nothing. Both share the
/// processors with a thread that compiles, so that what is compared is what the swap itself costs.
#[test]
fn swap_of_a_large_policy_holds_no_packet_up() {
    let emperor = emperor().start();
    let vassal = start_vassal(&emperor, "v1", V1);
    let mut root = Client::root(&emperor);
    let requests = [replace(0), replace(1)];
    let mut measure = |is_dry: bool| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let trips = scope.spawn(|| round_trips(&emperor, &vassal, &is_over));
            let end = End(&is_over);
            for number in 0..SWAPS {
                let mut request = requests[number % 2].clone();
                request["dry_run"] = is_dry.into();
                root.ok(&request);
            }
            drop(end);
            trips.join().expect("no panic")
        })
    };
    let is_smooth = (0..ATTEMPTS).any(|_| {
        let (quiet, loud) = (longest(measure(true)), longest(measure(false)));
        eprintln!("longest round trip, and number {}: {loud:?} beside swaps, {quiet:?} without", SWAPS / 2 + 1);
        loud.0 < quiet.0 * 10 && loud.1 < quiet.1 * 10
    });
    assert!(is_smooth, "swaps hold packets up (see above)");
    assert_eq!(root.rules("big").len(), RULES);
}
