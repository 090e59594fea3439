//! Rules that know the state of connections, compared with the fuzzer's oracle: any rules, any packets.
#![allow(missing_docs)] // the fuzzer's modules

#[path = "../../../../fuzz/src/flows/mod.rs"]
mod flows;
#[allow(dead_code)] // the other checks use the rest of it
#[path = "../../../../fuzz/src/input.rs"]
mod input;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Cases in a test.
const CASES: u32 = 2000;

fn cases() -> u32 {
    number("PROPTEST_CASES").unwrap_or(CASES)
}

fn seed() -> RngSeed {
    RngSeed::Fixed(number("PROPTEST_RNG_SEED").unwrap_or(1))
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

proptest! {
    // The same cases each time. PROPTEST_RNG_SEED and PROPTEST_CASES have others, and more.
    #![proptest_config(ProptestConfig { rng_seed: seed(), ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn verdicts_are_those_of_the_oracle(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        flows::check(&bytes);
    }
}
