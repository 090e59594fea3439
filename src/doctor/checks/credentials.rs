//! Whether routers and their vassals agree on who shows what, and whether leases are for anybody.

use crate::config::Credentials;
use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
use crate::policy::lease::{Holder, Lease};

/// A router and one of its vassals. `leases` are the router's.
pub fn pair(router: &Instance, vassal: &Instance, leases: &[Lease]) -> Vec<Finding> {
    let expects = router.config.credentials != Credentials::Off;
    let shows = vassal.config.credentials != Credentials::Off;
    match (expects, shows) {
        (true, false) => vec![Finding::wrong(
            format!("{} has tuntap-use-credentials, and this file hasn't", router.file),
            "tuntap-use-credentials = true here; the router waits for them and passes nothing until then",
        )],
        (false, true) => vec![Finding::wrong(
            format!("this file has tuntap-use-credentials, and {} hasn't", router.file),
            format!("tuntap-use-credentials = true in {}; it takes them for a damaged frame otherwise", router.file),
        )],
        (false, false) if !leases.is_empty() && vassal.account().is_some() => vec![Finding::wrong(
            format!("{} has leases, and this vassal, which connects as root, doesn't show who it is", router.file),
            format!("tuntap-use-credentials = true here and in {}", router.file),
        )],
        _ => lease(vassal, leases).into_iter().collect(),
    }
}

/// Whether any lease is for the vassal.
fn lease(vassal: &Instance, leases: &[Lease]) -> Option<Finding> {
    if leases.is_empty() {
        return None;
    }
    let (uid, gid) = vassal.account().map_or((0, 0), |account| (account.uid, account.gid));
    let own = |lease: &&Lease| lease.holder == Holder::User(uid) || lease.holder == Holder::Group(gid);
    let prefixes: Vec<String> = leases.iter().filter(own).map(|lease| lease.prefix.to_string()).collect();
    Some(if prefixes.is_empty() {
        Finding::wrong(
            format!("no tuntap-router-lease is for uid {uid}, gid {gid}: this vassal may have no leased address"),
            format!("in the router's file: tuntap-router-lease = <addr> {uid}; or uid = <the lease's user> here"),
        )
    } else {
        Finding::fine(format!("leases for uid {uid}, gid {gid}: {}", prefixes.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::instance::tests::instance;

    const SHOWN: (&str, &str) = ("tuntap-use-credentials", "true");
    const UID: (&str, &str) = ("uid", "20001");

    fn verdict(router: &[(&str, &str)], vassal: &[(&str, &str)], holders: &[Holder]) -> Option<Severity> {
        let lease = |holder: &Holder| Lease { prefix: "10.0.0.2/32".parse().expect("a prefix"), holder: *holder };
        let leases: Vec<Lease> = holders.iter().map(lease).collect();
        pair(&instance(router), &instance(vassal), &leases).first().map(|finding| finding.severity)
    }

    #[test]
    fn both_sides_or_none() {
        assert_eq!(verdict(&[], &[], &[]), None);
        assert_eq!(verdict(&[SHOWN], &[SHOWN], &[]), None);
        assert_eq!(verdict(&[SHOWN], &[], &[]), Some(Severity::Wrong));
        assert_eq!(verdict(&[], &[SHOWN], &[]), Some(Severity::Wrong));
    }

    #[test]
    fn lease_needs_an_identity_and_the_identity_a_lease() {
        let (own, group, other) = (Holder::User(20001), Holder::Group(20002), Holder::User(20009));
        assert_eq!(verdict(&[], &[UID], &[own]), Some(Severity::Wrong));
        assert_eq!(verdict(&[], &[], &[Holder::User(0)]), Some(Severity::Fine), "root stays root");
        assert_eq!(verdict(&[SHOWN], &[SHOWN, UID], &[other, own]), Some(Severity::Fine));
        assert_eq!(verdict(&[SHOWN], &[SHOWN, UID], &[other]), Some(Severity::Wrong));
        assert_eq!(verdict(&[SHOWN], &[SHOWN, UID, ("gid", "20002")], &[other, group]), Some(Severity::Fine));
    }
}
