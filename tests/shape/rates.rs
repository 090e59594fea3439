//! What passes is what the limit says, whatever the way.

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::probe::is_reachable;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::flood::{rate, rates};
use crate::world::{assert_rate, emperor, host, plain_emperor, start};

#[test]
fn limit_holds_in_both_directions_and_for_the_named_vassal_alone() {
    let (limited, free) = (V1, V2);
    let emperor = emperor(&["out 192.168.0.2 2M", "in 192.168.0.2/32 4M"]).start();
    let (one, two) = (start(&emperor, "one", limited, 20001), start(&emperor, "two", free, 20002));
    let (one, two, host) = ((&one, limited.into()), (&two, free.into()), host(&emperor));
    let [out, free_out] = rates([(one, host), (two, host)]);
    assert_rate("out", out, 2e6, free_out);
    assert!(free_out > 2.0 * out, "{free_out:.0} without a limit, {out:.0} with one");
    let [inn, free_in] = rates([(host, one), (host, two)]);
    assert_rate("in", inn, 4e6, free_in);
    assert!(free_in > 2.0 * inn, "{free_in:.0} without a limit, {inn:.0} with one");
}

#[test]
fn packets_between_vassals_count_for_both() {
    let (limited, other) = (V1, V2);
    let emperor = emperor(&["out 192.168.0.2 2M", "in 192.168.0.2 4M"]).line("tuntap-router-switch = true").start();
    let (one, two) = (start(&emperor, "one", limited, 20001), start(&emperor, "two", other, 20002));
    let (one, two) = ((&one, limited.into()), (&two, other.into()));
    assert_rate("out", rate(one, two), 2e6, 2e6);
    assert_rate("in", rate(two, one), 4e6, 4e6);
}

#[test]
fn uplink_is_for_what_comes_and_goes_by_the_host() {
    let emperor = emperor(&["both uplink 2M"]).line("tuntap-router-switch = true").start();
    let (one, two) = (start(&emperor, "one", V1, 20001), start(&emperor, "two", V2, 20002));
    let (one, two, host) = ((&one, V1.into()), (&two, V2.into()), host(&emperor));
    let between = rate(one, two);
    let [a, b] = rates([(one, host), (two, host)]);
    assert_rate("both together", a + b, 2e6, between);
    assert!(between > 2.0 * (a + b), "between the vassals {between:.0}, to the host {a:.0} and {b:.0}");
}

#[test]
fn vassals_in_frames_have_the_same_limits() {
    let address = V1;
    let emperor = plain_emperor(&["both any 2M"]).start();
    let vassal = VassalIni::new(Uwsgi::usual(), Subject::C, "frames", address, EMPEROR);
    let net = emperor.start_vassal(&vassal);
    let (end, host) = ((&net, address.into()), host(&emperor));
    assert_rate("out", rate(end, host), 2e6, 2e6);
    assert_rate("in", rate(host, end), 2e6, 2e6);
}

#[test]
fn packets_are_limited_by_their_number() {
    let address = V1;
    let emperor = emperor(&["out any 1G pps=200"]).start();
    let net = start(&emperor, "one", address, 20001);
    // Each has 1228 bytes.
    assert_rate("200 packets a second", rate((&net, address.into()), host(&emperor)), 200.0 * 1228.0 * 8.0, 2e6);
}

#[test]
fn limit_outlives_the_router() {
    let address = V1;
    let emperor = emperor(&["both any 2M"]).start();
    let net = start(&emperor, "one", address, 20001);
    emperor.kill_router();
    let (end, host) = ((&net, address.into()), host(&emperor));
    wait::until_true("the vassal is there again", wait::LONG, || is_reachable(&emperor.netns, address));
    assert_rate("out", rate(end, host), 2e6, 2e6);
}
