//! Whether devices get a network namespace of their own, and routers the privileges that they need.

use crate::finding::Finding;
use crate::instance::Instance;

/// Checks that the devices of an instance get into a network namespace of its own. `emperor` is the one that starts it, if its
/// file is known.
pub fn devices(instance: &Instance, emperor: Option<&Instance>) -> Vec<Finding> {
    if instance.config.devices.is_empty() {
        return Vec::new();
    }
    if instance.makes_namespace() {
        return vec![if instance.is_on("master-as-root") {
            Finding::wrong(
                "unshare = net with master-as-root: each worker would get a network namespace of its own",
                "leave master-as-root out; or run it under an Emperor with emperor-use-clone = net, and jailed = true here",
            )
        } else {
            Finding::fine("network namespace: unshare = net")
        }];
    }
    if !instance.is_on("jailed") {
        return vec![Finding::wrong(
            "no network namespace of its own, so no tuntap-device is made",
            "under an Emperor: jailed = true here, and emperor-use-clone = net in the Emperor's file\n\
             without an Emperor: unshare = net here",
        )];
    }
    let Some(emperor) = emperor else {
        return vec![Finding::fine(
            "network namespace: jailed = true (the Emperor's file must have emperor-use-clone = net)",
        )];
    };
    if emperor.is_on("emperor-tyrant") {
        return vec![Finding::wrong(
            format!("emperor-tyrant in {}: vassals start without the privileges to make a device", emperor.file),
            "leave emperor-tyrant out, and set uid and gid in the vassals' files",
        )];
    }
    vec![if emperor.gives_namespaces() {
        Finding::fine(format!("network namespace: jailed = true, and emperor-use-clone in {}", emperor.file))
    } else {
        Finding::wrong(
            format!("jailed = true, but {} gives its vassals no network namespace", emperor.file),
            format!("emperor-use-clone = net in {}; or unshare = net here in place of jailed", emperor.file),
        )
    }]
}

/// Checks that a router's instance still has its privileges when it needs them.
pub fn routers(instance: &Instance) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(account) = instance.account().filter(|_| !instance.is_on("master-as-root")) else {
        return findings;
    };
    let uid = account.uid;
    if instance.is_emperor() && instance.gives_namespaces() {
        findings.push(Finding::wrong(
            format!("uid = {uid}: without root the Emperor can't give its vassals network namespaces"),
            "leave uid and gid out of this file; vassals have their own",
        ));
    } else if !instance.config.routers.is_empty() {
        findings.push(Finding::warning(
            format!("uid = {uid}: after a reload this instance may not make the router's device any more"),
            "leave uid and gid out (the router's process gives up its privileges by itself), or never reload, restart",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    const DEVICE: (&str, &str) = ("tuntap-device", "uwsgi0 /run/t.socket");

    fn severity(vassal: &[(&str, &str)], emperor: Option<&[(&str, &str)]>) -> Severity {
        let emperor = emperor.map(instance);
        devices(&instance(vassal), emperor.as_ref())[0].severity
    }

    #[test]
    fn device_needs_a_namespace() {
        let emperor: &[(&str, &str)] = &[("emperor", "/vassals"), ("emperor-use-clone", "net,pid")];
        let jailed = ("jailed", "true");
        assert_eq!(severity(&[DEVICE], Some(emperor)), Severity::Wrong);
        assert_eq!(severity(&[DEVICE, jailed], Some(emperor)), Severity::Fine);
        assert_eq!(severity(&[DEVICE, jailed], None), Severity::Fine);
        assert_eq!(severity(&[DEVICE, jailed], Some(&emperor[..1])), Severity::Wrong);
        assert_eq!(
            severity(&[DEVICE, jailed], Some(&[emperor[0], emperor[1], ("emperor-tyrant", "")])),
            Severity::Wrong
        );
        assert_eq!(severity(&[DEVICE, ("unshare", "net")], None), Severity::Fine);
        assert_eq!(severity(&[DEVICE, ("unshare", "net"), ("master-as-root", "1")], None), Severity::Wrong);
    }

    #[test]
    fn emperor_stays_root() {
        let router = ("tuntap-router", "emperor0 /run/t.socket");
        let lines = [router, ("uid", "20001"), ("emperor", "/vassals"), ("emperor-use-clone", "net")];
        assert_eq!(routers(&instance(&lines))[0].severity, Severity::Wrong);
        assert_eq!(routers(&instance(&lines[..2]))[0].severity, Severity::Warning);
        assert_eq!(routers(&instance(&lines[..1])), []);
    }
}
