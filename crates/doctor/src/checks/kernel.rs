//! The router's sandbox, and limits of the kernel.

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::Sandbox;

/// Descriptors for one peer: its connection, and its device.
const DESCRIPTORS_PER_PEER: u64 = 2;

/// Descriptors that the router has besides those of its peers, estimated generously.
const OWN_DESCRIPTORS: u64 = 64;

/// How many vassals there should be room for if the file names no limit.
const FAIR_NUMBER_OF_PEERS: u64 = 1024;

/// The queue of uWSGI's sockets without the option `listen`, in connections.
const DEFAULT_LISTEN: u64 = 100;

/// Checks that the kernel has all parts of the sandbox. `landlock` is the version of its interface.
pub fn sandbox(instance: &Instance, landlock: Option<u32>, seccomp: bool) -> Vec<Finding> {
    if instance.config.sandbox == Sandbox::Off {
        return vec![Finding::warning(
            "tuntap-router-sandbox = off: the router keeps all privileges",
            "leave the line out, unless something doesn't work without it",
        )];
    }
    let mut findings = Vec::new();
    if landlock.is_none() {
        findings.push(Finding::warning(
            "kernel without landlock: the router could open files",
            "boot with lsm=landlock,... if the kernel has CONFIG_SECURITY_LANDLOCK (Linux 5.13); it works without",
        ));
    }
    if !seccomp {
        findings.push(Finding::warning(
            "kernel without seccomp filters: the router could make any system call",
            "a kernel with CONFIG_SECCOMP_FILTER; it works without",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("sandbox: landlock and seccomp"));
    }
    findings
}

/// Checks that the limit on descriptors leaves room for all vassals. `most`: the limit that the start finds.
pub fn descriptors(instance: &Instance, most: u64) -> Finding {
    let raised = instance.last("max-fd").and_then(|value| value.parse().ok()).unwrap_or(most);
    let room = raised.saturating_sub(OWN_DESCRIPTORS) / DESCRIPTORS_PER_PEER;
    let limit = u64::try_from(instance.config.limits.peers).unwrap_or(u64::MAX);
    let asked = instance.last("tuntap-router-max-peers").is_some();
    let wanted = if asked { limit } else { FAIR_NUMBER_OF_PEERS.min(limit) };
    if room >= wanted {
        return Finding::fine(format!("descriptors: room for {} vassals", room.min(limit)));
    }
    let needed = wanted * DESCRIPTORS_PER_PEER + OWN_DESCRIPTORS;
    Finding::warning(
        format!("descriptors: {raised} at most, room for {room} vassals of {wanted}"),
        format!("max-fd = {needed} here, ulimit -Hn {needed} before the start, or LimitNOFILE={needed} (systemd)"),
    )
}

/// Checks that the kernel allows the queue that `listen` asks for. Otherwise uWSGI refuses to start.
pub fn queue(instance: &Instance, longest: Option<u64>) -> Option<Finding> {
    let longest = longest?;
    let listen = instance.last("listen").or_else(|| instance.last("l"));
    let wanted = listen.and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_LISTEN);
    (wanted > longest).then(|| {
        Finding::wrong(
            format!("listen = {wanted}, but net.core.somaxconn is {longest}: uWSGI refuses to start"),
            format!("sysctl -w net.core.somaxconn={wanted}; or listen = {longest}"),
        )
    })
}

/// Checks that the router may raise its priority. `may`: true if this process, and so probably the instance, has CAP_SYS_NICE;
/// `None` if that isn't known.
pub fn priority(instance: &Instance, may: Option<bool>) -> Option<Finding> {
    let wanted = instance.config.priority.filter(|nice| *nice < 0)?;
    (may == Some(false)).then(|| {
        let what = format!(
            "tuntap-router-priority {wanted}: CAP_SYS_NICE is missing here; without it, vassals that flood the router may leave \
             it little processor time"
        );
        // Without the option the raised priority is only the default.
        if instance.last("tuntap-router-priority").is_some() {
            Finding::warning(what, "start uWSGI with CAP_SYS_NICE (docker: --cap-add SYS_NICE), or set it to off")
        } else {
            Finding::fine(what)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    #[test]
    fn missing_parts_of_the_sandbox_are_warnings() {
        let it = instance(&[]);
        assert_eq!(sandbox(&it, Some(4), true)[0].severity, Severity::Fine);
        assert_eq!(sandbox(&it, None, false).len(), 2);
        assert_eq!(sandbox(&it, None, true)[0].severity, Severity::Warning);
        assert_eq!(
            sandbox(&instance(&[("tuntap-router-sandbox", "off")]), Some(4), true)[0].severity,
            Severity::Warning
        );
    }

    #[test]
    fn room_is_counted_in_vassals() {
        assert_eq!(descriptors(&instance(&[]), 524_288).severity, Severity::Fine);
        let tight = descriptors(&instance(&[]), 1024);
        assert_eq!(tight.what, "descriptors: 1024 at most, room for 480 vassals of 1024");
        assert_eq!(descriptors(&instance(&[("tuntap-router-max-peers", "400")]), 1024).severity, Severity::Fine);
        assert_eq!(descriptors(&instance(&[("tuntap-router-max-peers", "4000")]), 4096).severity, Severity::Warning);
        assert_eq!(descriptors(&instance(&[("max-fd", "100000")]), 1024).severity, Severity::Fine);
    }

    #[test]
    fn queue_must_fit() {
        assert_eq!(queue(&instance(&[]), Some(4096)), None);
        assert_eq!(queue(&instance(&[("listen", "5000")]), Some(4096)).map(|it| it.severity), Some(Severity::Wrong));
        assert_eq!(queue(&instance(&[("listen", "5000")]), None), None);
    }
    #[test]
    fn priority_that_is_not_given_is_a_note_unless_it_was_asked_for() {
        let look = |lines: &[(&str, &str)], may| priority(&instance(lines), may).map(|finding| finding.severity);
        assert_eq!(look(&[], Some(false)), Some(Severity::Fine));
        assert_eq!((look(&[], Some(true)), look(&[], None)), (None, None));
        let asked = |value| [("tuntap-router-priority", value)];
        assert_eq!(look(&asked("-10"), Some(false)), Some(Severity::Warning));
        assert_eq!((look(&asked("off"), Some(false)), look(&asked("5"), Some(false))), (None, None));
    }
}
