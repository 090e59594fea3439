//! Rules that know the state of connections, compared with the fuzzer's oracle: any rules, any packets.
#![allow(missing_docs)] // the fuzzer's modules

#[path = "../../../../fuzz/src/flows/mod.rs"]
mod flows;
#[allow(dead_code)] // the other checks use the rest of it
#[path = "../../../../fuzz/src/input.rs"]
mod input;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

proptest! {
    // The same cases each time. The fuzz target `flows` finds others.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn verdicts_are_those_of_the_oracle(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        flows::check(&bytes);
    }
}
