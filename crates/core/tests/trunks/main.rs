//! What a neighbour sends on a trunk: the fuzzer's properties, for any bytes.
#![allow(clippy::disallowed_methods, reason = "a test has no shell that tells the time")]
#![allow(missing_docs)] // the fuzzer's modules

#[allow(dead_code)] // the other checks use the rest of it
#[path = "../../../../fuzz/src/input.rs"]
mod input;
#[path = "../../../../fuzz/src/trunk.rs"]
mod trunk;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

proptest! {
    // The same cases each time. The fuzz target `trunk` finds others.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn neighbour_does_nothing_to_others(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        trunk::check(&bytes);
    }
}
