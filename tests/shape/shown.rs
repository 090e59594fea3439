//! What the operator sees.

use crate::common::emperor::V1;
use crate::flood::rate;
use crate::world::{emperor, host, start};

#[test]
fn limits_that_bite_are_counted_and_shown() {
    let address = V1;
    let emperor = emperor(&["out any 1M", "out uplink 50M"]).start();
    let net = start(&emperor, "one", address, 20001);
    let seen = rate((&net, address.into()), host(&emperor));
    let stats = emperor.stats();
    let peer = stats.peer(address).expect("it is there");
    let shape = &peer["shape"]["out"];
    assert_eq!(shape["rate"], 1_000_000, "{peer}");
    assert!(shape["held"].as_u64() > Some(0) && shape["sent_bytes"].as_u64() > Some(100_000), "{shape}");
    let lost = stats.drops_of(address, "shaped_full") + stats.drops_of(address, "shaped_late");
    assert!(lost > 0, "more came than {seen:.0} bit/s: {peer}");
    assert_eq!(shape["dropped_full"].as_u64().zip(shape["dropped_late"].as_u64()).map(|(a, b)| a + b), Some(lost));
    assert!(peer["shape"]["in"].is_null() || peer["shape"]["in"]["rate"].is_null(), "{peer}");
}
