//! Whether TUN devices can be made, and whether the name of a router's device is free.

use nix::errno::Errno;

use crate::finding::Finding;
use tuntap_survey::interface::{Interface, Process};
use tuntap_survey::tun::{Abilities, ControlDevice, Trial};

/// Who runs the examination, and what the instances need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// True for root. Others may be refused what the instances, which root starts, may do.
    pub is_root: bool,
    /// True if this process may make devices (CAP_NET_ADMIN).
    pub may_make_devices: bool,
    /// True if any of the instances makes network namespaces.
    pub needs_namespaces: bool,
}

/// Checks the control device, and what became of a device that was made to see what the kernel can do.
pub fn devices(control: ControlDevice, trial: &Trial, asker: Asker) -> Vec<Finding> {
    const NODE: &str = "mkdir -p /dev/net; mknod -m 666 /dev/net/tun c 10 200";
    let wrong = |what: &str, remedy: &str| vec![Finding::wrong(what, remedy)];
    match control {
        ControlDevice::Missing => wrong(
            "/dev/net/tun is missing",
            &format!("modprobe tun\nin a container: give it the device (--device /dev/net/tun), or {NODE}"),
        ),
        ControlDevice::Foreign => {
            wrong("/dev/net/tun is not the character device 10:200", &format!("rm /dev/net/tun; {NODE}"))
        }
        ControlDevice::Closed(Errno::ENODEV | Errno::ENXIO) => wrong(
            "the kernel has no TUN driver (CONFIG_TUN)",
            "modprobe tun; if there is no such module, another kernel",
        ),
        ControlDevice::Closed(errno @ (Errno::EACCES | Errno::EPERM)) => vec![refused(
            format!("/dev/net/tun can't be opened: {errno}"),
            "start uWSGI as root; as root in a container: allow it the device (--device /dev/net/tun)\n\
             chmod 666 /dev/net/tun",
            asker,
        )],
        ControlDevice::Closed(errno) => wrong(&format!("/dev/net/tun can't be opened: {errno}"), "modprobe tun"),
        ControlDevice::Open => trial_result(trial, asker),
    }
}

fn trial_result(trial: &Trial, asker: Asker) -> Vec<Finding> {
    const PRIVILEGES: &str = "start uWSGI as root, or with CAP_NET_ADMIN (docker: --cap-add NET_ADMIN)";
    match trial {
        Trial::Made(abilities) => {
            let mut findings = vec![Finding::fine("TUN devices can be made")];
            findings.extend(missing(*abilities));
            findings
        }
        Trial::Refused(reason) => vec![refused(format!("no TUN device can be made: {reason}"), PRIVILEGES, asker)],
        Trial::NoNamespace(errno) if asker.is_root && !asker.needs_namespaces => vec![if asker.may_make_devices {
            Finding::fine(format!(
                "TUN devices can be made; what they can do was not tried out, for there is no network namespace to do it in \
                 ({errno})"
            ))
        } else {
            Finding::wrong("no TUN device can be made: CAP_NET_ADMIN is missing", PRIVILEGES)
        }],
        Trial::NoNamespace(errno) => vec![refused(
            format!("no network namespace can be made: {errno}"),
            "start uWSGI, and this check, as root, with CAP_SYS_ADMIN (docker: --cap-add SYS_ADMIN; in a unit of systemd, \
             RestrictNamespaces must not forbid net)",
            asker,
        )],
    }
}

/// A finding about something that was refused: wrong for root; a warning for others, since it may be allowed to the instances.
fn refused(what: String, remedy: &str, asker: Asker) -> Finding {
    if asker.is_root { Finding::wrong(what, remedy) } else { Finding::warning(what, remedy) }
}

/// Warnings about what the kernel lacks, and what that costs.
fn missing(abilities: Abilities) -> Vec<Finding> {
    const REMEDY: &str = "nothing has to be done; a newer kernel is faster";
    if !abilities.header {
        return vec![Finding::warning(
            "kernel without IFF_VNET_HDR: packets travel one by one and in frames, at a small part of the speed",
            REMEDY,
        )];
    }
    let parts = [
        (
            abilities.nowait,
            "RWF_NOWAIT on TUN (Linux 6.4): a vassal that clears O_NONBLOCK of its device can hold the router up, for 10 ms at a time",
        ),
        (abilities.checksum, "TUN_F_CSUM: the kernel sums each packet, and cuts TCP and UDP itself"),
        (abilities.tcp4, "TUN_F_TSO4: TCP over IPv4 travels in single packets, at a small part of the speed"),
        (abilities.tcp6, "TUN_F_TSO6: TCP over IPv6 travels in single packets, at a small part of the speed"),
        (abilities.udp, "TUN_F_USO4 and USO6 (Linux 6.2): large sends over UDP, as QUIC's, travel in single packets"),
    ];
    let lacking = parts.into_iter().filter(|(is_there, _)| !is_there);
    lacking.map(|(_, what)| Finding::warning(format!("kernel without {what}"), REMEDY)).collect()
}

/// Checks that a router can have the device that it names. `is_running`: the process that holds it is the router itself.
pub fn router_device(name: &str, found: Option<&Interface>, holders: &[Process], is_running: bool) -> Finding {
    match found {
        None if is_running => Finding::wrong(
            format!("device {name}: it isn't in this network namespace, though its router runs: somebody has moved it"),
            match holders.first() {
                Some(master) => format!("kill -HUP {} reloads the instance, which makes it anew", master.pid),
                None => "reload the instance, which makes it anew".to_owned(),
            },
        ),
        None => Finding::fine(format!("device {name}: free")),
        Some(Interface::Tun { is_held: true }) if is_running => Finding::fine(format!("device {name}: the router's")),
        Some(Interface::Tun { is_held: true }) => {
            let who = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let who = if who.is_empty() { "a process that can't be seen from here".to_owned() } else { who };
            Finding::wrong(
                format!("device {name}: exists, and is held by {who}"),
                "stop that process, or name another device in tuntap-router",
            )
        }
        Some(Interface::Tun { is_held: false }) => {
            Finding::fine(format!("device {name}: exists, and nobody has it open; the router takes it"))
        }
        Some(Interface::Other(kind)) => {
            let kind = if kind.is_empty() { String::new() } else { format!(" ({kind})") };
            Finding::wrong(
                format!("device {name}: exists, and is no TUN device{kind}"),
                format!("ip link delete {name}; or name another device in tuntap-router"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    const ALL: Abilities = Abilities { header: true, checksum: true, tcp4: true, tcp6: true, udp: true, nowait: true };

    const ROOT: Asker = Asker { is_root: true, may_make_devices: true, needs_namespaces: true };

    #[test]
    fn refusals_depend_on_who_asks_and_for_what() {
        let no_namespace = Trial::NoNamespace(Errno::EPERM);
        let severity = |asker| devices(ControlDevice::Open, &no_namespace, asker)[0].severity;
        assert_eq!(severity(ROOT), Severity::Wrong);
        assert_eq!(severity(Asker { needs_namespaces: false, ..ROOT }), Severity::Fine, "a router alone");
        let powerless = Asker { needs_namespaces: false, may_make_devices: false, ..ROOT };
        assert_eq!(severity(powerless), Severity::Wrong);
        let somebody = Asker { is_root: false, ..powerless };
        assert_eq!(severity(somebody), Severity::Warning);
        let closed = devices(ControlDevice::Closed(Errno::EACCES), &no_namespace, somebody);
        assert_eq!(closed[0].severity, Severity::Warning);
    }

    #[test]
    fn each_state_of_the_control_device_has_its_line() {
        let made = Trial::Made(ALL);
        for (control, words) in [
            (ControlDevice::Missing, "missing"),
            (ControlDevice::Foreign, "10:200"),
            (ControlDevice::Closed(Errno::ENODEV), "CONFIG_TUN"),
            (ControlDevice::Closed(Errno::EACCES), "can't be opened"),
        ] {
            let findings = devices(control, &made, ROOT);
            assert_eq!(findings[0].severity, Severity::Wrong);
            assert!(findings[0].what.contains(words), "{findings:?}");
        }
        assert_eq!(devices(ControlDevice::Open, &made, ROOT), [Finding::fine("TUN devices can be made")]);
        let refused = Trial::Refused("EPERM".to_owned());
        assert_eq!(devices(ControlDevice::Open, &refused, ROOT)[0].severity, Severity::Wrong);
    }

    #[test]
    fn what_the_kernel_lacks_is_a_warning() {
        let without_udp = Trial::Made(Abilities { udp: false, ..ALL });
        let findings = devices(ControlDevice::Open, &without_udp, ROOT);
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[1].severity, Severity::Warning);
        assert!(findings[1].what.contains("USO4"), "{findings:?}");
        let bare = Trial::Made(Abilities { header: false, tcp4: false, ..ALL });
        assert_eq!(devices(ControlDevice::Open, &bare, ROOT).len(), 2, "the one reason");
    }

    #[test]
    fn device_is_free_or_taken() {
        let severity = |found, is_running| router_device("emperor0", found, &[], is_running).severity;
        assert_eq!(severity(None, false), Severity::Fine);
        assert_eq!(severity(Some(&Interface::Tun { is_held: false }), false), Severity::Fine);
        assert_eq!(severity(Some(&Interface::Tun { is_held: true }), false), Severity::Wrong);
        assert_eq!(severity(Some(&Interface::Tun { is_held: true }), true), Severity::Fine);
        assert_eq!(severity(Some(&Interface::Other("veth".to_owned())), false), Severity::Wrong);
    }
}
