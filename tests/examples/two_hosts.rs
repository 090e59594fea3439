use std::net::Ipv4Addr;

use crate::common::netns::Netns;
use crate::common::probe::is_reachable;
use crate::example::{Example, answer, net_of, wait_for_answer};

const IN_A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const IN_B: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

#[test]
fn vassals_of_two_hosts_reach_each_other() {
    let (a, b) = (Netns::new(), Netns::new());
    a.join("10.77.0.1/24", &b, "10.77.0.2/24");
    let example = Example::copy("two-hosts");
    let (emperor_a, emperor_b) = (example.start(&a, "a/emperor.ini"), example.start(&b, "b/emperor.ini"));
    wait_for_answer(&a, IN_A, 20001);
    wait_for_answer(&b, IN_B, 20001);
    for emperor in [&emperor_a, &emperor_b] {
        emperor.assert_all_mapped(&example.plugin());
    }
    let (vassal_a, vassal_b) = (net_of(&emperor_a, "app.ini"), net_of(&emperor_b, "app.ini"));
    assert!(is_reachable(&vassal_a, IN_B) && is_reachable(&vassal_b, IN_A));
    assert!(answer(&vassal_a, IN_B).starts_with("uid 20001 on "));
}
