//! Limits that vassals share.

use crate::common::emperor::{V1, V2};
use crate::flood::rates;
use crate::world::{V3, assert_rate, emperor, host, start};

#[test]
fn vassals_of_a_user_share_its_limit_and_others_have_their_own() {
    let (first, second, third) = (V1, V2, V3);
    let emperor = emperor(&["out 20001 3M", "out any 2M"]).start();
    let one = start(&emperor, "one", first, 20001);
    let two = start(&emperor, "two", second, 20001);
    let other = start(&emperor, "other", third, 20002);
    let host = host(&emperor);
    let ends = [(&one, first), (&two, second), (&other, third)];
    let [a, b, c] = rates(ends.map(|(net, address)| ((net, address.into()), host)));
    assert_rate("both vassals of the user", a + b, 3e6, 3e6);
    assert!(a > b / 2.0 && b > a / 2.0, "{a:.0} and {b:.0} should be alike");
    assert_rate("the other user's", c, 2e6, 2e6);
}

#[test]
fn guarantee_is_kept_and_the_rest_is_shared_by_weight() {
    let (first, second, third) = (V1, V2, V3);
    let emperor =
        emperor(&["out uplink 8M", "out 20001 4M/8M", "out 20002 500k/8M weight=3", "out 20003 500k/8M"]).start();
    let one = start(&emperor, "one", first, 20001);
    let two = start(&emperor, "two", second, 20002);
    let three = start(&emperor, "three", third, 20003);
    let host = host(&emperor);
    let ends = [(&one, first), (&two, second), (&three, third)];
    let [a, b, c] = rates(ends.map(|(net, address)| ((net, address.into()), host)));
    let sum = a + b + c;
    assert_rate("all together", sum, 8e6, 8e6);
    // 3 Mbit/s are left, and shared 1:3:1.
    assert!(a > sum * 0.5, "guaranteed: {a:.0} of {sum:.0} bit/s");
    assert!(b > c * 1.4 && b < c * 3.0, "{b:.0} and {c:.0} should be 2.3 and 1.1 million");
}
