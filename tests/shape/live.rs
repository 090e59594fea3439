//! Limits that change while packets wait.

use tuntap_api::control::{Chain, Change, Changed};

use crate::common::control::{Control, add, commit};
use crate::common::emperor::V1;
use crate::flood::rate;
use crate::world::{assert_rate, emperor, host, start};

#[test]
fn limit_comes_changes_and_goes_while_the_router_runs() {
    let address = V1;
    let emperor = emperor(&[]).start();
    let net = start(&emperor, "one", address, 20001);
    let (end, host) = ((&net, address.into()), host(&emperor));
    let free = rate(end, host);
    let mut control = Control::open(&emperor);
    let id = control.add(Chain::Shape, "both 192.168.0.2 2M");
    assert_rate("added", rate(end, host), 2e6, free);
    control.commit(&[Change::RuleDelete { id }]);
    control.add(Chain::Shape, "out any 4M");
    assert_rate("changed", rate(end, host), 4e6, free);
    let rules = control.rules();
    let last = rules.iter().find(|rule| rule.chain == Chain::Shape).expect("it is listed");
    control.commit(&[Change::RuleDelete { id: last.id }]);
    let after = rate(end, host);
    assert!(after > 6e6_f64.min(free / 2.0), "lifted: {after:.0} bit/s, before {free:.0}");
}

#[test]
fn limit_that_cannot_be_read_is_refused_and_changes_nothing() {
    let emperor = emperor(&["both any 2M"]).start();
    let mut control = Control::open(&emperor);
    for (line, part) in [
        ("both any", "rate"),
        ("both any 2X", "2X"),
        ("sideways any 2M", "sideways"),
        ("in nobody-here 2M", "nobody-here"),
    ] {
        let failure = control.try_ask::<Changed>(&commit(&[add(Chain::Shape, line)])).expect_err(line);
        assert!(failure.message.contains(part), "{line}: {}", failure.message);
    }
    assert!(control.rules().iter().any(|rule| rule.chain == Chain::Shape && rule.rule.contains("2M")));
}
