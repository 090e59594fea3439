//! Forwarding, turned on only for the interfaces that need it where the kernel has such a setting.

use tuntap_config::RouterSpec;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::sysctl::{ALL, DEFAULT, Setting, Sysctl};

use super::changes::{Changes, MAX_INTERFACES, OFF, Wanted};

/// Router advertisements are accepted unless packets are forwarded.
const UNLESS_FORWARDING: i32 = 1;
/// Router advertisements are accepted even if packets are forwarded.
const ALWAYS: i32 = 2;

/// The settings that routers with NAT or port mappings need. `earlier` are the changes of an earlier image. `say` is called
/// with what an interface lacks; missing interfaces are left out.
pub fn wanted(routers: &[RouterSpec], earlier: &Changes, say: &mut impl FnMut(String)) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for router in routers.iter().filter(|router| !(router.nat.is_empty() && router.ports.is_empty())) {
        let interfaces = std::iter::once(&router.device).chain(&router.nat).map(String::as_str);
        let interfaces: Vec<_> = interfaces.filter(|name| exists(name)).collect();
        if router.addresses.iter().any(|net| net.addr().is_ipv4()) {
            wanted.extend(interfaces.iter().map(|name| Wanted::on(name, Setting::Ipv4Forwarding)));
        }
        if router.addresses.iter().any(|net| net.addr().is_ipv6()) {
            let interfaces: Vec<_> = interfaces.into_iter().filter(|name| has_ipv6(name, say)).collect();
            if !Sysctl::new(ALL, Setting::Ipv6ForceForwarding).exists() {
                let devices: Vec<_> = routers.iter().map(|router| router.device.as_str()).collect();
                wanted.extend(all_ipv6(&devices, &router.nat, earlier, say));
            } else if !all_forward_ipv6() {
                wanted.extend(interfaces.iter().map(|name| Wanted::on(name, Setting::Ipv6ForceForwarding)));
            }
        }
    }
    wanted
}

/// The settings that the device of a router needs.
pub fn wanted_of_device(router: &RouterSpec) -> Vec<Wanted> {
    let mut wanted = wanted(std::slice::from_ref(router), &Changes::default(), &mut |_| ());
    wanted.retain(|wanted| wanted.is_about(&router.device));
    wanted
}

/// Warns about mapped ports that can't be reached from outside. The router's device forwards, but so must the interface by
/// which connections come in, and only the operator knows which one that is.
pub fn warn_about_ports(router: &RouterSpec, logger: Logger) {
    if !router.nat.is_empty() {
        return;
    }
    let families = [(true, Setting::Ipv4Forwarding, "ipv4"), (false, Setting::Ipv6Forwarding, "ipv6")];
    for (is_ipv4, setting, family) in families {
        let has_ports = router.ports.iter().any(|port| port.target.is_ipv4() == is_ipv4);
        if has_ports && Sysctl::new(ALL, setting).read().is_ok_and(|value| value == OFF) {
            let device = &router.device;
            logger.line(Event::HostFault, format_args!(
                "[tuntap-router] {device}: its ports are for this host itself and for what comes by an interface that \
                 forwards, and net.{family}.conf.all.forwarding is off: tuntap-router-nat = {device} <interface> turns it on \
                 for one"
            ));
        }
    }
}

/// Returns true if an interface exists: every interface has settings of IPv4.
pub fn exists(interface: &str) -> bool {
    Sysctl::new(interface, Setting::Ipv4Forwarding).exists()
}

/// Returns true if all interfaces forward IPv6 already.
fn all_forward_ipv6() -> bool {
    Sysctl::new(ALL, Setting::Ipv6Forwarding).read().is_ok_and(|value| value != OFF)
}

/// Returns true if an interface has IPv6. One with an MTU below 1280 has none.
fn has_ipv6(interface: &str, say: &mut impl FnMut(String)) -> bool {
    let has_ipv6 = Sysctl::new(interface, Setting::Ipv6Forwarding).exists();
    if !has_ipv6 {
        say(format!("{interface} has no IPv6 (its MTU may be below 1280): IPv6 is not forwarded by it"));
    }
    has_ipv6
}

/// The settings that forward IPv6 before Linux 6.17, where all interfaces forward it or none. Interfaces that forward lose
/// the routes that they have from router advertisements, such as the default route, unless they are set to accept them
/// always. That is set for all interfaces, and for those that come later, but not for the routers' `devices`: vassals send
/// no advertisements to this host.
fn all_ipv6(devices: &[&str], nat: &[String], earlier: &Changes, say: &mut impl FnMut(String)) -> Vec<Wanted> {
    let all = Wanted::on(ALL, Setting::Ipv6Forwarding);
    if all_forward_ipv6() && !earlier.contain(&all.sysctl) {
        // Somebody else has turned it on.
        return vec![all];
    }
    let mut advertisements: Vec<_> = Setting::Ipv6AcceptAdvertisements
        .interfaces()
        .into_iter()
        .filter(|name| !devices.contains(&name.as_str()))
        .map(|name| Wanted {
            sysctl: Sysctl::new(&name, Setting::Ipv6AcceptAdvertisements),
            value: ALWAYS,
            instead_of: Some(UNLESS_FORWARDING),
        })
        .filter(|wanted| earlier.contain(&wanted.sysctl) || wanted.is_due())
        .collect();
    if advertisements.len() > MAX_INTERFACES {
        say(format!(
            "{} interfaces have accept_ra 1 while IPv6 is forwarded: all but {MAX_INTERFACES} lose the routes that they were \
             told by advertisements",
            advertisements.len()
        ));
        // The important ones come first.
        advertisements
            .sort_by_key(|wanted| !(wanted.is_about(DEFAULT) || nat.iter().any(|name| wanted.is_about(name))));
        advertisements.truncate(MAX_INTERFACES);
    }
    advertisements.push(all);
    advertisements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{SILENT, in_new_namespace, value};
    use tuntap_sys::tun::Tun;

    #[test]
    fn all_interfaces_keep_their_advertised_routes_where_all_forward() {
        in_new_namespace(|| {
            let names = ["default", "tun0", "tun1", "tun2"];
            let _devices: Vec<_> = names[1..].iter().map(|name| Tun::create(name).expect("a device")).collect();
            for (name, accepted) in names.into_iter().zip([UNLESS_FORWARDING, UNLESS_FORWARDING, UNLESS_FORWARDING, 0])
            {
                Sysctl::new(name, Setting::Ipv6AcceptAdvertisements).write(accepted).expect("root");
            }
            Sysctl::new(ALL, Setting::Ipv6Forwarding).write(0).expect("root");
            let state = || {
                (value(ALL, Setting::Ipv6Forwarding), names.map(|name| value(name, Setting::Ipv6AcceptAdvertisements)))
            };
            let before = state();
            let mut changes = Changes::default();
            // tun0 is the router's own. A reloaded image wants the same.
            for _ in 0..2 {
                let wanted = all_ipv6(&["tun0"], &[], &changes.clone(), &mut |_| ());
                assert!(changes.replace(&wanted, SILENT).is_empty());
                assert_eq!(state(), (1, [ALWAYS, UNLESS_FORWARDING, ALWAYS, 0]));
            }
            changes.put_back(SILENT);
            assert_eq!(state(), before);
        });
    }

    #[test]
    fn host_that_forwards_already_is_left_as_it_is() {
        in_new_namespace(|| {
            let _device = Tun::create("tun1").expect("a device");
            Sysctl::new("tun1", Setting::Ipv6AcceptAdvertisements).write(UNLESS_FORWARDING).expect("root");
            Sysctl::new(ALL, Setting::Ipv6Forwarding).write(1).expect("root");
            let mut changes = Changes::default();
            let wanted = all_ipv6(&["tun0"], &[], &changes.clone(), &mut |_| ());
            assert!(changes.replace(&wanted, SILENT).is_empty());
            changes.put_back(SILENT);
            assert_eq!(value("tun1", Setting::Ipv6AcceptAdvertisements), UNLESS_FORWARDING);
            assert_eq!(value(ALL, Setting::Ipv6Forwarding), 1);
        });
    }
}
