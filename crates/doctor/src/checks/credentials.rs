//! Whether routers and their vassals agree on credentials, and whether vassals may have their addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::{Credentials, DeviceSpec, RouterSpec};
use tuntap_core::policy::Policy;
use tuntap_core::policy::grant::{Grant, Holder, Identity};
use tuntap_core::policy::pattern::{Action, PolicyRules};

/// How many addresses of a network are tried at most, to find one that the chain `out` lets pass.
const MAX_SOURCES: usize = 1024;

/// Checks a router and one of its vassals. `leases` are the router's.
pub fn pair(router: &Instance, vassal: &Instance, leases: &[Grant]) -> Vec<Finding> {
    let expects = router.config.credentials != Credentials::Off;
    let shows = vassal.config.credentials != Credentials::Off;
    match (expects, shows) {
        (true, false) => {
            return vec![Finding::wrong(
                format!("{} has tuntap-use-credentials, and this file hasn't", router.file),
                "tuntap-use-credentials = true here; the router waits for them and passes nothing until then",
            )];
        }
        (false, true) => {
            return vec![Finding::wrong(
                format!("this file has tuntap-use-credentials, and {} hasn't", router.file),
                format!(
                    "tuntap-use-credentials = true in {}; it takes them for a damaged frame otherwise",
                    router.file
                ),
            )];
        }
        _ => {}
    }
    let of_device = |device: &DeviceSpec| {
        let spec = router.config.routers.iter().find(|spec| spec.socket.is_some() && spec.socket == device.socket)?;
        Some(Meeting { router, spec, vassal, device, leases, is_shown: shows }.findings())
    };
    vassal.config.devices.iter().filter_map(of_device).flatten().collect()
}

/// A device and the router that it joins.
struct Meeting<'a> {
    router: &'a Instance,
    spec: &'a RouterSpec,
    vassal: &'a Instance,
    device: &'a DeviceSpec,
    leases: &'a [Grant],
    is_shown: bool,
}

impl Meeting<'_> {
    fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.network().into_iter().collect();
        findings.extend(self.places());
        findings.extend(self.lease());
        findings
    }

    /// What the router forwards by.
    fn policy(&self) -> Policy {
        self.router.policy(self.spec, self.leases)
    }

    /// Returns true if there is anything that a device with `auto` could get.
    fn network(&self) -> Option<Finding> {
        if !self.device.auto {
            return None;
        }
        let (name, file) = (&self.device.name, &self.router.file);
        if self.spec.addresses.is_empty() {
            return Some(Finding::wrong(
                format!("{name}: auto, but the router of {file} has no network: the vassal ends when it starts"),
                "in the router's file: tuntap-router-address = <addr/len>; or tuntap-device-address = <addr/len> here, \
                 without auto",
            ));
        }
        let chain = self.policy().firewall_out;
        self.spec.ranges().iter().all(|net| passes_nothing_of(&chain, net)).then(|| {
            Finding::wrong(
                format!("{name}: auto, but the chain out of {file} lets nothing pass from the router's networks: the vassal ends when it starts"),
                "in the router's file: tuntap-router-firewall-out = allow <the network> any, before the rule that denies",
            )
        })
    }

    /// Checks that the host has a route to the addresses in the vassal's file.
    fn places(&self) -> Vec<Finding> {
        // The host may have a route to more than the router's own networks.
        if self.router.hooks_mention(&["route", &self.spec.device]) {
            return Vec::new();
        }
        let of_family = |address: &IpAddr| {
            let address = *address;
            self.spec.addresses.iter().filter(move |net| net.addr().is_ipv4() == address.is_ipv4())
        };
        let is_outside = |address: &IpAddr| {
            of_family(address).next().is_some() && !of_family(address).any(|net| net.contains(address))
        };
        let outside = self.device.addresses.iter().map(IpNet::addr).filter(is_outside);
        outside
            .map(|address| {
                Finding::wrong(
                    format!(
                        "tuntap-device-address {address}: in none of the networks of {}, so that this host finds no way to it",
                        self.router.file
                    ),
                    format!(
                        "an address of {} here; or another tuntap-router-address = <addr/len> in the router's file",
                        list(of_family(&address).map(IpNet::trunc))
                    ),
                )
            })
            .collect()
    }

    /// Checks that the device may have what it wants, and that it has what it should.
    fn lease(&self) -> Option<Finding> {
        if self.leases.is_empty() {
            return None;
        }
        let (uid, gid) = self.vassal.account().map_or((0, 0), |account| (account.uid, account.gid));
        let prefixes_of = |uid, gid| {
            let is_own = move |lease: &&Grant| lease.holder == Holder::User(uid) || lease.holder == Holder::Group(gid);
            self.leases.iter().filter(is_own).map(|lease| lease.prefix)
        };
        // Without credentials the router sees who connects, which is root.
        let (seen_uid, seen_gid) = if self.is_shown { (uid, gid) } else { (0, 0) };
        if let Some(address) = self.refused(seen_uid, seen_gid) {
            return Some(self.refusal(address, uid, gid));
        }
        let (meant, own) = (list(prefixes_of(uid, gid)), list(prefixes_of(seen_uid, seen_gid)));
        if !meant.is_empty() && own.is_empty() {
            let what = format!(
                "{meant} is leased to uid {uid}, gid {gid}, but this vassal, which connects as root, doesn't show who it is"
            );
            return Some(Finding::warning(what, self.show_remedy()));
        }
        Some(Finding::fine(match (own.is_empty(), self.device.auto) {
            (false, _) => format!("leases for uid {seen_uid}, gid {seen_gid}: {own}"),
            (true, true) => {
                format!("{}: an address that is leased to nobody, since none is to this vassal", self.device.name)
            }
            (true, false) => format!(
                "no tuntap-router-lease is for uid {seen_uid}, and none is needed (tuntap-router-lease-default)"
            ),
        }))
    }

    /// The finding about what [`Meeting::refused`] has found. `uid` and `gid` are those of the vassal.
    fn refusal(&self, address: Option<IpAddr>, uid: u32, gid: u32) -> Finding {
        if !self.is_shown && self.vassal.account().is_some() {
            let what = format!(
                "{} has leases, and this vassal, which connects as root, doesn't show who it is",
                self.router.file
            );
            return Finding::wrong(what, self.show_remedy());
        }
        let what = match address {
            Some(address) => format!("{address}: no tuntap-router-lease gives it to uid {uid}, gid {gid}"),
            None => {
                format!("no tuntap-router-lease is for uid {uid}, gid {gid}: this vassal may have no leased address")
            }
        };
        let remedy = format!(
            "in the router's file: tuntap-router-lease = <addr> {uid}; or uid = <the lease's user> here\n\
             or tuntap-device = {} <socket> auto here: the router chooses an address that is nobody's",
            self.device.name
        );
        Finding::wrong(what, remedy)
    }

    fn show_remedy(&self) -> String {
        format!("tuntap-use-credentials = true here and in {}", self.router.file)
    }

    /// What the router refuses to the device: one of its addresses, or all of them.
    fn refused(&self, uid: u32, gid: u32) -> Option<Option<IpAddr>> {
        if self.device.auto {
            return None;
        }
        let identity = Identity { uid, gid, groups: Vec::new() };
        let leases = self.policy().grants;
        let mut fixed = self.device.addresses.iter().map(IpNet::addr);
        if let Some(address) = fixed.find(|address| !leases.allow(*address, &identity)) {
            return Some(Some(address));
        }
        // It will claim its address by a packet, and nobody knows which.
        let may_have_none = leases.bind_addresses() && leases.prefixes_of(&identity).next().is_none();
        (self.device.addresses.is_empty() && may_have_none).then_some(None)
    }
}

fn passes_nothing_of(rules: &PolicyRules<Action>, net: &IpNet) -> bool {
    net.hosts().take(MAX_SOURCES).all(|address| match address {
        IpAddr::V4(address) => rules.v4.pass_nothing_from(address.to_bits()),
        IpAddr::V6(address) => rules.v6.pass_nothing_from(address.to_bits()),
    })
}

fn list(prefixes: impl Iterator<Item = IpNet>) -> String {
    prefixes.map(|prefix| prefix.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    const ROUTER: (&str, &str) = ("tuntap-router", "emperor0 /run/t.socket");
    const NETWORK: (&str, &str) = ("tuntap-router-address", "10.0.0.1/24");
    const DEVICE: (&str, &str) = ("tuntap-device", "uwsgi0 /run/t.socket");
    const AUTO: (&str, &str) = ("tuntap-device", "uwsgi0 /run/t.socket auto");
    const ALLOW: (&str, &str) = ("tuntap-router-lease-default", "allow");
    const SHOWN: (&str, &str) = ("tuntap-use-credentials", "true");
    const UID: (&str, &str) = ("uid", "20001");

    const OWN: Holder = Holder::User(20001);
    const OTHER: Holder = Holder::User(20009);

    /// The severity of the worst finding, if all leases are of 10.0.0.2.
    fn verdict(router: &[(&str, &str)], vassal: &[(&str, &str)], holders: &[Holder]) -> Option<Severity> {
        let lease = |holder: &Holder| Grant { prefix: "10.0.0.2/32".parse().expect("a prefix"), holder: *holder };
        let leases: Vec<Grant> = holders.iter().map(lease).collect();
        let router = instance(&[&[ROUTER], router].concat());
        pair(&router, &instance(vassal), &leases).iter().map(|finding| finding.severity).max()
    }

    #[test]
    fn both_sides_or_none() {
        assert_eq!(verdict(&[], &[DEVICE], &[]), None);
        assert_eq!(verdict(&[SHOWN], &[DEVICE, SHOWN], &[]), None);
        assert_eq!(verdict(&[SHOWN], &[DEVICE], &[]), Some(Severity::Wrong));
        assert_eq!(verdict(&[], &[DEVICE, SHOWN], &[]), Some(Severity::Wrong));
    }

    #[test]
    fn lease_needs_an_identity_and_the_identity_a_lease() {
        let group = Holder::Group(20002);
        assert_eq!(verdict(&[], &[DEVICE, UID], &[OWN]), Some(Severity::Wrong));
        assert_eq!(verdict(&[], &[DEVICE], &[Holder::User(0)]), Some(Severity::Fine), "root stays root");
        assert_eq!(verdict(&[SHOWN], &[DEVICE, SHOWN, UID], &[OTHER, OWN]), Some(Severity::Fine));
        assert_eq!(verdict(&[SHOWN], &[DEVICE, SHOWN, UID], &[OTHER]), Some(Severity::Wrong));
        assert_eq!(verdict(&[SHOWN], &[DEVICE, SHOWN, UID, ("gid", "20002")], &[OTHER, group]), Some(Severity::Fine));
    }

    #[test]
    fn address_without_a_lease_is_for_those_who_let_the_router_choose() {
        assert_eq!(verdict(&[SHOWN, NETWORK], &[AUTO, SHOWN, UID], &[OTHER]), Some(Severity::Fine));
        assert_eq!(verdict(&[NETWORK], &[AUTO, UID], &[OTHER]), Some(Severity::Fine));
        assert_eq!(verdict(&[NETWORK], &[AUTO, UID], &[OWN]), Some(Severity::Warning), "it won't get its own");
    }

    #[test]
    fn address_without_a_lease_is_for_everybody_if_the_default_says_so() {
        assert_eq!(verdict(&[SHOWN, ALLOW], &[DEVICE, SHOWN, UID], &[OTHER]), Some(Severity::Fine));
        let fixed = |address| [DEVICE, ("tuntap-device-address", address), SHOWN, UID];
        assert_eq!(verdict(&[SHOWN, ALLOW], &fixed("10.0.0.3/24"), &[OTHER]), Some(Severity::Fine));
        assert_eq!(verdict(&[SHOWN, ALLOW], &fixed("10.0.0.2/24"), &[OTHER]), Some(Severity::Wrong), "somebody's");
        assert_eq!(verdict(&[SHOWN], &fixed("10.0.0.3/24"), &[OWN]), Some(Severity::Wrong), "not the leased one");
        assert_eq!(verdict(&[SHOWN], &fixed("10.0.0.2/24"), &[OWN]), Some(Severity::Fine));
    }

    #[test]
    fn router_must_have_something_to_choose_from() {
        assert_eq!(verdict(&[], &[AUTO], &[]), Some(Severity::Wrong));
        assert_eq!(verdict(&[NETWORK], &[AUTO], &[]), None);
        let out = |rule| ("tuntap-router-firewall-out", rule);
        assert_eq!(verdict(&[NETWORK, out("deny")], &[AUTO], &[]), Some(Severity::Wrong));
        let few = [NETWORK, out("allow 10.0.0.200 any"), out("deny")];
        assert_eq!(verdict(&few, &[AUTO], &[]), None, "an address is enough");
        let both = [NETWORK, ("tuntap-router-address", "fd00:77::1/64"), out("deny 10.0.0.0/8 any"), out("allow")];
        assert_eq!(verdict(&both, &[AUTO], &[]), None, "a family is enough");
    }

    #[test]
    fn address_must_be_in_the_routers_network() {
        let fixed = |address| [DEVICE, ("tuntap-device-address", address)];
        assert_eq!(verdict(&[NETWORK], &fixed("10.0.0.9/24"), &[]), None);
        assert_eq!(verdict(&[NETWORK], &fixed("10.0.1.9/24"), &[]), Some(Severity::Wrong));
        assert_eq!(verdict(&[], &fixed("10.0.1.9/24"), &[]), None, "hooks see to the host");
        let route = ("exec-as-root", "ip route replace 10.0.1.0/24 dev emperor0");
        assert_eq!(verdict(&[NETWORK, route], &fixed("10.0.1.9/24"), &[]), None);
        assert_eq!(verdict(&[NETWORK], &fixed("fd00::9/64"), &[]), None);
    }
}
