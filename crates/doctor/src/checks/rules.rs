//! Rules files.

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::OptionName;

/// Most warnings about one file.
const MAX_WARNINGS: usize = 10;

/// Finds rules files that can't be used, and what is hardly meant in the others.
pub fn files(instance: &Instance) -> Vec<Finding> {
    let option = OptionName::RouterRules.as_str();
    let mut findings = Vec::new();
    for (router, file) in instance.config.routers.iter().zip(&instance.rules_files) {
        let (Some(path), Some(file)) = (&router.live.rules, file) else { continue };
        match file {
            Err(error) => findings.push(Finding::wrong(
                format!("{option} = {path}: {error}"),
                "correct the file; uwsgi-tuntap rules check <file> reads it, too",
            )),
            Ok(file) => {
                let count =
                    |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
                let (rules, groups, sets) = (file.rules(), file.groups.len(), file.sets.len());
                findings.push(Finding::fine(format!(
                    "rules file {path}: {} in {}, {}",
                    count(rules, "rule"),
                    count(groups, "group"),
                    count(sets, "set")
                )));
                let warnings = file.warnings.iter().take(MAX_WARNINGS);
                findings.extend(warnings.map(|warning| {
                    Finding::warning(
                        format!("rules file {path}, {warning}"),
                        "is that meant? the first rule that matches decides",
                    )
                }));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    fn found(text: &str) -> Vec<Finding> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("it can be written");
        let path = file.path().to_str().expect("a plain name");
        files(&instance(&[("tuntap-router", "tun0 /run/t.sock"), ("tuntap-router-rules", path)]))
    }

    #[test]
    fn file_that_can_be_used_is_counted() {
        let findings = found("set bad { 10.0.0.1 }\nchain in\ndeny @bad any\nallow established\n");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].severity, Severity::Fine);
        assert!(findings[0].what.ends_with(": 2 rules in 1 group, 1 set"), "{findings:?}");
    }

    #[test]
    fn line_that_is_wrong_is_named() {
        let findings = found("chain in\nalow any any\n");
        assert_eq!((findings.len(), findings[0].severity), (1, Severity::Wrong));
        assert!(findings[0].what.contains(": line 2: unknown action \"alow\""), "{findings:?}");
        let missing = files(&instance(&[("tuntap-router", "tun0 /s"), ("tuntap-router-rules", "/no/such/file")]));
        assert_eq!(missing[0].severity, Severity::Wrong);
        assert!(missing[0].what.starts_with("tuntap-router-rules = /no/such/file: it can't be read"), "{missing:?}");
    }

    #[test]
    fn what_is_hardly_meant_is_a_warning() {
        let findings = found("chain in\ndeny\nallow any any tcp 80\n");
        let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Fine, Severity::Warning, Severity::Warning], "{findings:?}");
        assert!(findings[2].what.contains("line 3: the rule is never reached"), "{findings:?}");
    }

    /// A vassal gets an address if the rules file lets its packets pass, whatever the options' chain denies.
    #[test]
    fn rules_of_the_file_come_first() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"chain out\nallow 10.0.0.0/8 any\n").expect("it can be written");
        let path = file.path().to_str().expect("a plain name");
        let lines =
            [("tuntap-router", "tun0 /s"), ("tuntap-router-firewall-out", "deny"), ("tuntap-router-rules", path)];
        let source = "10.0.0.2".parse().expect("an address");
        let nothing = |lines: &[(&str, &str)]| {
            let instance = instance(lines);
            instance.policy(&instance.config.routers[0], &[]).firewall_out.pass_nothing_from(source)
        };
        assert!(nothing(&lines[..2]) && !nothing(&lines));
    }
}
