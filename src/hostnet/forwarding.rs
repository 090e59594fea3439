//! Forwarding, for the interfaces that are meant and no others where the kernel can do that.

use std::io;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::RouterSpec;
use crate::log::Logger;
use crate::sys::sysctl::{Setting, Sysctl};

const ON: i32 = 1;

/// Advertisements are taken unless packets are forwarded.
const UNLESS_FORWARDING: i32 = 1;
/// Advertisements are taken although packets are forwarded.
const ALWAYS: i32 = 2;

/// A value that something shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    sysctl: Sysctl,
    value: i32,
    /// Only if it has this value.
    instead_of: Option<i32>,
}

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    sysctl: Sysctl,
    before: i32,
    after: i32,
}

/// What was changed, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Changes(Vec<Change>);

/// What routers with NAT or port mappings need.
pub fn wanted(routers: &[RouterSpec]) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for router in routers.iter().filter(|router| !(router.nat.is_empty() && router.ports.is_empty())) {
        let interfaces: Vec<_> = std::iter::once(&router.device).chain(&router.nat).map(String::as_str).collect();
        if router.addresses.iter().any(|net| matches!(net, IpNet::V4(_))) {
            wanted.extend(interfaces.iter().map(|name| Wanted::on(name, Setting::Ipv4Forwarding)));
        }
        if router.addresses.iter().any(|net| matches!(net, IpNet::V6(_))) {
            let one_by_one = Sysctl::new(&router.device, Setting::Ipv6ForceForwarding).exists();
            wanted.extend(ipv6(&interfaces, one_by_one));
        }
    }
    wanted
}

/// What the device of a router needs of that.
pub fn wanted_of_device(router: &RouterSpec) -> Vec<Wanted> {
    let mut wanted = wanted(std::slice::from_ref(router));
    wanted.retain(|wanted| wanted.sysctl.interface == router.device);
    wanted
}

/// Before Linux 6.17 IPv6 is forwarded by all interfaces or none. Those that forward forget the routes that they were
/// told by router advertisements, the default route among them, unless they are told to take them all the same.
fn ipv6(interfaces: &[&str], one_by_one: bool) -> Vec<Wanted> {
    if one_by_one {
        return interfaces.iter().map(|name| Wanted::on(name, Setting::Ipv6ForceForwarding)).collect();
    }
    let advertisements = interfaces.iter().skip(1).map(|name| Wanted {
        sysctl: Sysctl::new(name, Setting::Ipv6AcceptAdvertisements),
        value: ALWAYS,
        instead_of: Some(UNLESS_FORWARDING),
    });
    advertisements.chain([Wanted::on("all", Setting::Ipv6Forwarding)]).collect()
}

impl Wanted {
    fn on(interface: &str, setting: Setting) -> Self {
        Self { sysctl: Sysctl::new(interface, setting), value: ON, instead_of: None }
    }
}

impl Changes {
    /// Makes these the changes: what is not among them any more is put back.
    pub fn replace(&mut self, wanted: &[Wanted], logger: Logger) -> io::Result<()> {
        let (kept, ended) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|change| wanted.iter().any(|wanted| wanted.sysctl == change.sysctl));
        self.0 = kept;
        Self(ended).put_back(logger);
        wanted.iter().try_for_each(|wanted| self.make(wanted, logger))
    }

    fn make(&mut self, wanted: &Wanted, logger: Logger) -> io::Result<()> {
        let Wanted { sysctl, value, instead_of } = wanted;
        let before = sysctl.read()?;
        if before == *value || instead_of.is_some_and(|needed| needed != before) {
            return Ok(());
        }
        sysctl.write(*value)?;
        logger.line(format_args!("[tuntap-router] set {} from {before} to {value}", sysctl.path().display()));
        // A reloaded instance has a new device, while the others have kept what an earlier image has set.
        if !self.0.iter().any(|change| change.sysctl == *sysctl) {
            self.0.push(Change { sysctl: sysctl.clone(), before, after: *value });
        }
        Ok(())
    }

    /// Puts everything back that is still as it was set, the last first. An interface that is gone has taken its settings
    /// along.
    pub fn put_back(&mut self, logger: Logger) {
        for Change { sysctl, before, after } in self.0.drain(..).rev() {
            if sysctl.read().is_ok_and(|value| value == after)
                && let Err(error) = sysctl.write(before)
            {
                logger.line(format_args!("[tuntap-router] could not be set back to {before}: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::sys::tun::Tun;

    const SILENT: Logger = Logger(|_| ());

    fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn value(interface: &str, setting: Setting) -> i32 {
        Sysctl::new(interface, setting).read().expect("the kernel has it")
    }

    #[test]
    fn changes_are_put_back() {
        in_new_namespace(|| {
            let _devices = ["tun0", "tun1"].map(|name| Tun::create(name).expect("a device"));
            Sysctl::new("tun1", Setting::Ipv4Forwarding).write(0).expect("root");
            let wanted = ["tun0", "tun1"].map(|name| Wanted::on(name, Setting::Ipv4Forwarding));
            let before = ["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding));
            let mut changes = Changes::default();
            changes.replace(&wanted, SILENT).expect("root");
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding)), [1, 1]);
            // Another image, which wants less.
            changes.replace(&wanted[..1], SILENT).expect("root");
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding)), [1, 0]);
            changes.put_back(SILENT);
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding)), before);
        });
    }

    #[test]
    fn what_others_changed_meanwhile_stays() {
        in_new_namespace(|| {
            let _device = Tun::create("tun0").expect("a device");
            let sysctl = Sysctl::new("tun0", Setting::Ipv6AcceptAdvertisements);
            sysctl.write(UNLESS_FORWARDING).expect("root");
            let mut changes = Changes::default();
            changes.replace(&ipv6(&["lo", "tun0"], false)[..1], SILENT).expect("root");
            assert_eq!(sysctl.read().expect("it is there"), ALWAYS);
            sysctl.write(0).expect("root");
            changes.put_back(SILENT);
            assert_eq!(sysctl.read().expect("it is there"), 0);
        });
    }

    #[test]
    fn ipv6_keeps_its_advertised_routes_where_all_interfaces_forward() {
        in_new_namespace(|| {
            let _devices = ["tun0", "tun1", "tun2"].map(|name| Tun::create(name).expect("a device"));
            for (name, accepted) in [("tun1", UNLESS_FORWARDING), ("tun2", 0)] {
                Sysctl::new(name, Setting::Ipv6AcceptAdvertisements).write(accepted).expect("root");
            }
            Sysctl::new("all", Setting::Ipv6Forwarding).write(0).expect("root");
            let state = || {
                let accepted = ["tun1", "tun2"].map(|name| value(name, Setting::Ipv6AcceptAdvertisements));
                (value("all", Setting::Ipv6Forwarding), accepted)
            };
            let mut changes = Changes::default();
            changes.replace(&ipv6(&["tun0", "tun1", "tun2"], false), SILENT).expect("root");
            assert_eq!(state(), (1, [ALWAYS, 0]));
            changes.put_back(SILENT);
            assert_eq!(state(), (0, [UNLESS_FORWARDING, 0]));
        });
    }
}
