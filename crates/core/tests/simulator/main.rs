//! A whole router in a simulated world: peers, honest and hostile, devices, a store, a clock. After each call it is looked
//! at whether every address has one holder, whether each packet was delivered once or counted once, whether everything
//! stays within its bounds, and whether the store has what the next router needs.
//!
//! `TUNTAP_SIM_CASES` is the number of cases of each test, the same ones in each run. With `TUNTAP_SIM_SECONDS` each test runs for
//! so long, with other cases each time. `TUNTAP_SIM_SEED` makes it run the cases of a seed, which a failure names.

// The test looks at a clock; the router is told a simulated time.
#![allow(clippy::disallowed_methods)]

mod actions;
mod audit;
mod conservation;
mod kernel;
mod oracle;
mod packets;
mod peer;
mod restore;
mod setup;
mod simulation;
mod stream;
mod waiting;
mod world;

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use actions::{Action, Word, action};
use audit::Check;
use packets::{PacketSpec, Source};
use setup::{Setup, large_setup, setup};
use simulation::Simulation;
use tuntap_core::router::CredentialsCheck;

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs cases, and shrinks one that fails.
fn run<S: Strategy>(name: &str, cases: u32, strategy: &S, test: impl Fn(S::Value) -> Check) {
    let start = Instant::now();
    let end = number("TUNTAP_SIM_SECONDS").map(Duration::from_secs);
    let cases = number("TUNTAP_SIM_CASES").unwrap_or(cases);
    let first: u64 = number("TUNTAP_SIM_SEED").unwrap_or_else(|| if end.is_some() { rand_seed() } else { 1 });
    for seed in first.. {
        let config = Config { cases, max_shrink_iters: 5000, failure_persistence: None, ..Config::default() };
        let bytes = [seed.to_le_bytes(), (!seed).to_le_bytes()].concat();
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &bytes));
        let result = runner.run(strategy, |case| test(case).map_err(TestCaseError::fail));
        let took = start.elapsed();
        match result {
            Ok(()) => {}
            Err(TestError::Fail(reason, case)) => panic!("{reason}\nTUNTAP_SIM_SEED={seed} {name}, {took:?}: {case:?}"),
            Err(error) => panic!("{error}"),
        }
        if end.is_none_or(|end| start.elapsed() >= end) {
            break;
        }
    }
}

/// Another one for each run.
fn rand_seed() -> u64 {
    TestRunner::default().rng().next_u64()
}

fn simulate(setup: Setup, actions: &[Action]) -> Check {
    Simulation::new(setup).go_on(actions)
}

/// A few peers, in all set-ups.
#[test]
fn few_peers() {
    run("few_peers", 3000, &(setup(), vec(action(), 1..60)), |(setup, actions)| simulate(setup, &actions));
}

/// A set-up with a network, and without anything else.
fn plain_setup() -> Setup {
    Setup {
        is_strict: true,
        claims_own: false,
        denies_uncovered: false,
        has_grants: false,
        has_chains: false,
        has_gateway: false,
        names_sources: false,
        switch: false,
        tun_takes_gso: true,
        credentials: CredentialsCheck::Off,
        max_addresses: None,
        peers: 3,
        peers_per_uid: 0,
        unclaimed: 3,
        device_rules: 2,
        turn: 1,
        is_large: false,
        has_kernel_path: true,
    }
}

/// A peer is attached, and the router dies. To the next router the peer does not say hello at once, as only every second
/// peer does, but something else, before that router dies, too.
fn say_to_next_router(words: &[Word]) -> Check {
    let join = Action::Join { who: 2, rules: Vec::new(), attached: true };
    let send = Action::Send { peer: 0, words: words.to_vec(), piece: usize::MAX, left: 0 };
    simulate(plain_setup(), &[join, Action::Die(None), send, Action::Die(None)])
}

#[test]
fn peer_that_goes_on_in_frames_is_not_restored_again() {
    assert_eq!(say_to_next_router(&[Word::Packet(PacketSpec::plain(Source::Usual, 26))]), Ok(()));
}

#[test]
fn address_that_a_restored_peer_asks_for_is_stored() {
    assert_eq!(say_to_next_router(&[Word::Ask(false, true, 0)]), Ok(()));
}

#[test]
fn restored_peer_that_claims_what_it_holds_is_stored_as_bound() {
    assert_eq!(say_to_next_router(&[Word::Ask(false, false, 0), Word::Claim(vec![(1, false)])]), Ok(()));
}

/// Peers whose flows pass in the kernel when things begin to happen.
#[test]
fn flows_in_the_kernel() {
    let case = (setup(), vec(action(), 1..40));
    run("flows_in_the_kernel", 100, &case, |(setup, actions)| {
        let mut simulation = Simulation::new(Setup { has_kernel_path: true, turn: 1, ..setup });
        for who in 0..3 {
            simulation.join(who, &[], true)?;
        }
        // To each other, to addresses that nobody holds yet, and elsewhere.
        let open: Vec<_> = simulation.open().collect();
        for number in open {
            for to in [0, 1, 2, 3, 24] {
                simulation.stream(number, to, 9)?;
            }
        }
        // Some claim what flows go to.
        for who in 3..6 {
            simulation.join(who, &[], true)?;
        }
        simulation.go_on(&actions)
    });
}

/// Hundreds of peers at once.
#[test]
fn hundreds_of_peers() {
    let case = (large_setup(), 200..400_usize, vec(action(), 1..200));
    run("hundreds_of_peers", 6, &case, |(setup, peers, actions)| {
        let mut simulation = Simulation::new(setup);
        for who in 0..peers {
            simulation.join(who, &[], who % 2 == 0)?;
            if who % 32 == 0 {
                simulation.turn()?;
            }
        }
        // They come and go.
        let some: Vec<_> = simulation.open().step_by(3).collect();
        for number in some {
            simulation.ended(number)?;
        }
        for who in 0..peers / 3 {
            simulation.join(who, &[], who % 2 == 0)?;
        }
        simulation.go_on(&actions)
    });
}
