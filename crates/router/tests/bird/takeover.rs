//! A router is killed, and BIRD doesn't notice.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tuntap_core::routes::bird_config::bird_config;

use super::claims::host;
use super::daemon::{Bird, config};
use super::shell::{Router, nth, until, until_established};

const SINCE: u64 = 1_700_000_000_000;

fn claims(numbers: std::ops::Range<u16>) -> Vec<(IpAddr, u64)> {
    numbers.map(|number| (nth(number), SINCE + u64::from(number))).collect()
}

fn begin(claims: &[(IpAddr, u64)]) -> (Router, Bird) {
    let mut router = Router::listen(1, "127.0.0.1", None);
    claims.iter().for_each(|(address, since)| router.claim(*address, *since));
    let bird = Bird::start(&bird_config(&config(router.address())).expect("valid"));
    until_established(&mut [&mut router]);
    until("all routes", &mut [&mut router], |_| bird.routes("tuntap") == claims.len());
    (router, bird)
}

#[test]
fn successor_keeps_routes_and_prunes_what_is_gone() {
    host().run(|| {
        let (mut router, bird) = begin(&claims(0..1_000));
        for start in (100..600).step_by(100) {
            let kept = claims(start..start + 1_000);
            router = Router::succeed(router.kill(), &kept);
            let both: HashSet<_> = (start..start + 900).map(|number| nth(number).to_string()).collect();
            // Those that both have are never gone, and in the end there is nothing else.
            until("the new routes", &mut [&mut router], |_| {
                let count = bird.routes("tuntap");
                let text = bird.ask("show route protocol tuntap");
                let present: HashSet<_> = text.lines().filter_map(|line| line.split('/').next()).collect();
                let gone: Vec<_> = both.iter().filter(|address| !present.contains(address.as_str())).collect();
                assert!(gone.is_empty() && count <= 1_100, "{count} routes, gone: {gone:?}");
                bird.ask("show route for fd00:77::3e7").contains("tuntap") && count == 1_000
            });
            assert!(router.speaker.status(Instant::now()).is_complete, "it has asked BIRD for what that knows");
        }
        assert_eq!(router.speaker.status(Instant::now()).sessions, 1, "{:?}", router.heard.lines);
        let status = bird.ask("show protocols all tuntap");
        assert!(status.contains("Established"), "{status}");
    });
}

/// BIRD hangs while a router writes, so that half a message is sent when the router dies.
#[test]
fn half_a_message_is_no_loss() {
    host().run(|| {
        let (mut router, bird) = begin(&claims(0..100));
        bird.signal(Signal::SIGSTOP);
        let many = claims(0..40_000);
        many.iter().for_each(|(address, since)| router.claim(*address, since + 1_000_000));
        let started = Instant::now();
        while router.speaker.status(Instant::now()).waiting_bytes == 0 || started.elapsed() < Duration::from_millis(300)
        {
            router.turn();
            assert!(started.elapsed() < Duration::from_secs(60), "its socket takes everything");
        }
        let kept = claims(0..39_000);
        router = Router::succeed(router.kill(), &kept);
        bird.signal(Signal::SIGCONT);
        until("all routes of the successor", &mut [&mut router], |_| {
            let text = bird.ask("show route count");
            assert!(bird.routes("tuntap") >= 100, "{text}");
            bird.routes("tuntap") == kept.len()
                && bird.ask("show route for 10.77.0.1 all").contains("BGP.med: 1700000000")
        });
        assert_eq!(router.speaker.status(Instant::now()).sessions, 1);
    });
}
