//! Values of options that a start would refuse.

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::{ConfigError, OptionName};

/// Finds values that can't be used, and files that don't use the plugin at all. `names` are the errors about users and groups
/// of leases, which stop no start.
pub fn values(instance: &Instance, names: &[ConfigError]) -> Vec<Finding> {
    let wrong = instance.errors.iter();
    let mut findings: Vec<Finding> = wrong
        .map(|error| Finding::wrong(format!("{} = {}", error.option, error.value), error.problem.to_string()))
        .collect();
    findings.extend(names.iter().map(|error| {
        Finding::warning(
            format!(
                "{} = {}: {}: the addresses are nobody's until it is there",
                error.option, error.value, error.problem
            ),
            "is it misspelt? adduser --system makes a user, addgroup a group",
        )
    }));
    let names = instance.reading.options.iter().map(|(name, _)| name.as_str());
    findings.extend(OptionName::misspelt(names).into_iter().map(|(name, option)| {
        Finding::wrong(format!("{name}: there is no such option, and nobody reads it"), format!("is {option} meant?"))
    }));
    if findings.is_empty() {
        let count = instance.reading.values.len();
        let has_none = instance.config.routers.is_empty() && instance.config.devices.is_empty();
        if has_none && instance.is_emperor() {
            findings.push(Finding::fine(
                "no tuntap-router here: this Emperor's vassals meet the router of another instance",
            ));
        } else if has_none {
            findings.push(Finding::wrong(
                "no tuntap-router and no tuntap-device",
                "is this the right file, and are the lines in its section [uwsgi]?",
            ));
        } else {
            findings.push(Finding::fine(format!("tuntap-* options: {count}, all values can be used")));
        }
    }
    if let Err(line) = &instance.account {
        findings.push(Finding::wrong(
            format!("{line}: not on this machine; uWSGI starts, and ends when it drops its privileges"),
            "is it misspelt? adduser --system makes a user, addgroup a group",
        ));
    }
    if instance.reading.symbol_is_missing {
        findings.push(Finding::wrong(
            format!(
                "tuntap-use-credentials = {}: no plugin and no library has this symbol",
                instance.last("tuntap-use-credentials").unwrap_or_default()
            ),
            "load what has it, before or behind: plugin = <file>, or dlopen = <file>; C++ and Rust must export it unmangled",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;
    use tuntap_config::Problem;

    #[test]
    fn name_of_no_option_has_a_line() {
        let mut it = instance(&[("tuntap-router", "emperor0 /run/t.sock")]);
        it.reading.options.extend([
            ("tuntap-router-firewal-out".to_owned(), "deny".to_owned()),
            ("tuntap-net".to_owned(), "10.137.0".to_owned()),
        ]);
        let findings = values(&it, &[]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].severity == Severity::Wrong && findings[0].what.starts_with("tuntap-router-firewal-out: "));
        assert_eq!(findings[0].remedy, ["is tuntap-router-firewall-out meant?"]);
    }

    #[test]
    fn every_wrong_value_has_a_line() {
        let it = instance(&[("tuntap-router", "emperor0"), ("tuntap-router-firewall-in", "deyn")]);
        let findings = values(&it, &[]);
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[1].what, "tuntap-router-firewall-in = deyn");
        assert!(findings[1].remedy[0].contains("unknown action"), "{findings:?}");
    }

    #[test]
    fn lease_for_nobody_stops_no_start() {
        let problem = Problem::NoAccount { kind: "user", name: "gone".to_owned() };
        let error = ConfigError { option: "tuntap-router-lease", value: "10.0.0.2 gone".to_owned(), problem };
        let findings = values(&instance(&[("tuntap-device", "uwsgi0")]), &[error]);
        assert_eq!(findings[0].severity, Severity::Warning);
        assert!(findings[0].what.contains("there is no user \"gone\" on this machine"), "{findings:?}");
    }

    #[test]
    fn file_without_anything_is_the_wrong_one() {
        assert_eq!(values(&instance(&[("master", "true")]), &[])[0].severity, Severity::Wrong);
        assert_eq!(values(&instance(&[("tuntap-device", "uwsgi0")]), &[])[0].severity, Severity::Fine);
        assert_eq!(values(&instance(&[("emperor", "/vassals")]), &[])[0].severity, Severity::Fine, "an Emperor alone");
    }

    #[test]
    fn user_that_is_nobody_is_told() {
        let it = instance(&[("tuntap-device", "uwsgi0"), ("gid", "nobodies-of-this-name")]);
        let findings = values(&it, &[]);
        assert!(
            findings.iter().any(|finding| finding.what.starts_with("gid = nobodies-of-this-name: not on")),
            "{findings:?}"
        );
    }
}
