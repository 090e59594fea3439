//! Limits on traffic.

use tuntap_config::{ConfigErrors, Rate, RouterSpec};
use tuntap_core::policy::shape::{Shape, ShapeSelector, Shapes};
use tuntap_wire::rule::Direction;

use crate::finding::Finding;
use crate::instance::Instance;

/// Finds limits for users and groups that aren't there, and guarantees that can't be kept or that nobody contests. Limits of
/// rules files count, too.
pub fn limits(instance: &Instance) -> Vec<Finding> {
    let routers = instance.config.routers.iter();
    routers
        .flat_map(|router| {
            let shapes = instance.policy(router, &[]).shapes;
            let mut findings = nobodys(&instance.shapes(router).1);
            for direction in [Direction::Out, Direction::In] {
                findings.extend(guarantees(router, &shapes, direction));
            }
            findings
        })
        .collect()
}

fn nobodys(errors: &ConfigErrors) -> Vec<Finding> {
    let line = |error: &tuntap_config::ConfigError| {
        Finding::warning(
            format!("{} = {}: {}: nobody is limited by it until it is there", error.option, error.value, error.problem),
            "is it misspelt? adduser --system makes a user, addgroup a group",
        )
    };
    errors.0.iter().map(line).collect()
}

/// Compares the rates that are guaranteed with the uplink's.
fn guarantees(router: &RouterSpec, shapes: &Shapes, direction: Direction) -> Vec<Finding> {
    let is_of = |shape: &&Shape| if direction == Direction::Out { shape.out } else { shape.inn };
    let guaranteed: Vec<&Shape> = shapes.iter().filter(is_of).filter(|shape| shape.limit.ceil.is_some()).collect();
    let word = if direction == Direction::Out { "out" } else { "in" };
    let Some(uplink) = shapes.uplink(direction) else {
        return uncontested(router, shapes, &guaranteed, word).into_iter().collect();
    };
    let above = |what: &str, rate: u64| {
        Finding::warning(
            format!(
                "{}: {what} {}bit/s {word} guaranteed, and the uplink has {}bit/s",
                router.device,
                Rate(rate),
                Rate(uplink.rate)
            ),
            "guarantee less, or say a higher rate for uplink in tuntap-router-shape",
        )
    };
    let too_much = guaranteed.iter().filter(|shape| shape.limit.rate > uplink.rate);
    let mut findings: Vec<_> =
        too_much.map(|shape| above(&format!("the limit \"{shape}\" has"), shape.limit.rate)).collect();
    // A vassal's rate is a part of its user's, so they are not added up.
    let users = |shape: &Shape| matches!(shape.selector, ShapeSelector::User(_));
    let single = |shape: &Shape| matches!(shape.selector, ShapeSelector::Network(net) if is_single(net));
    for (what, belongs) in [("users have", &users as &dyn Fn(&Shape) -> bool), ("addresses have", &single)] {
        let rates: Vec<u64> = guaranteed.iter().filter(|shape| belongs(shape)).map(|shape| shape.limit.rate).collect();
        let sum = rates.iter().fold(0, |sum: u64, rate| sum.saturating_add(*rate));
        if rates.len() > 1 && sum > uplink.rate {
            findings.push(above(what, sum));
        }
    }
    findings
}

fn is_single(net: ipnet::IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// A guarantee needs others that leave something: those with whom a limit is shared.
fn uncontested(router: &RouterSpec, shapes: &Shapes, guaranteed: &[&Shape], word: &str) -> Option<Finding> {
    let is_users = |shape: &Shape| matches!(shape.selector, ShapeSelector::User(_) | ShapeSelector::Group(_));
    let has_users = shapes.iter().any(is_users);
    let shape = guaranteed.iter().find(|shape| is_users(shape) || !has_users)?;
    Some(Finding::fine(format!(
        "{}: \"{shape}\" guarantees a rate {word}, but there is no limit for uplink: all may have their second rate",
        router.device
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    fn found(shapes: &[&str]) -> Vec<(Severity, String)> {
        let options = [("tuntap-router", "tun0 /s")];
        let shapes = shapes.iter().map(|shape| ("tuntap-router-shape", *shape));
        let options: Vec<_> = options.into_iter().chain(shapes).collect();
        limits(&instance(&options)).into_iter().map(|finding| (finding.severity, finding.what)).collect()
    }

    #[test]
    fn guarantees_fit_the_uplink() {
        for good in [
            &[][..],
            &["both any 20M"],
            &["both uplink 100M", "both any 20M/50M", "both 1000 60M/100M", "both 1001 40M", "both 10.0.0.2 50M/60M"],
            &["out uplink 100M", "out 1000 60M/100M", "out 10.0.0.2 60M/100M"],
            &["both 1000 50M", "both any 5M/50M"],
        ] {
            assert_eq!(found(good), [], "{good:?}");
        }
    }

    #[test]
    fn guarantees_that_can_not_be_kept_are_warnings() {
        let users = found(&["both uplink 100M", "out 1000 60M/100M", "both 1001 41M/50M"]);
        assert_eq!(
            users,
            [(Severity::Warning, "tun0: users have 101Mbit/s out guaranteed, and the uplink has 100Mbit/s".to_owned())]
        );
        let addresses =
            found(&["in uplink 100M", "in 10.0.0.2 60M/100M", "in fd00::2 41M/50M", "in 10.0.0.0/24 90M/95M"]);
        assert!(addresses.len() == 1 && addresses[0].1.starts_with("tun0: addresses have 101Mbit/s in guaranteed"));
        let alone = found(&["in uplink 100M", "both any 1G/2G"]);
        assert!(alone[0].1.starts_with("tun0: \"both any 1G/2G\"") && alone[0].0 == Severity::Fine, "{alone:?}");
        assert!(alone[1].1.starts_with("tun0: the limit \"both any 1G/2G\" has 1Gbit/s in guaranteed"), "{alone:?}");
    }

    #[test]
    fn guarantee_that_nobody_contests_is_told() {
        let found = found(&["out any 20M/50M"]);
        assert_eq!(found.len(), 1);
        assert!(found[0].0 == Severity::Fine && found[0].1.contains("there is no limit for uplink"), "{found:?}");
    }

    #[test]
    fn limit_of_nobody_stops_no_start() {
        let found = found(&["in no-user-of-this-name 1M"]);
        assert_eq!(found.len(), 1);
        assert!(found[0].0 == Severity::Warning && found[0].1.contains("there is no user \"no-user-of-this-name\""));
    }
}
