//! Can flows pass in the kernel (`tuntap-router-offload`), and if not, why?

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_api::Snapshot;
use tuntap_config::{Offload, RouterSpec};
use tuntap_survey::kernel_path::{BTF, BpfFacts};
use tuntap_sys::netlink::Queueing;

/// The first kernel whose programs can be attached to devices by links (TCX), and the first one with all that programs need
/// otherwise: a clsact filter that redirects into a device without a link layer, and maps that are mapped into memory (Linux 5.5).
const FIRST_TCX: (u32, u32) = (6, 6);
const FIRST: (u32, u32) = (5, 10);

/// From this kernel on, a process without a capability may use maps whose descriptors it has, whatever
/// `kernel.unprivileged_bpf_disabled` says. Where membarrier(2) can't, the router waits for programs by such a map.
const FIRST_MAPS_WITHOUT_CAPABILITY: (u32, u32) = (5, 19);

/// Checks that the kernel and the instance have what is needed. `missing`: the capabilities that this process, and so probably the
/// instance, lacks; `None` if that isn't known. `queueing`: what is at the routers' devices that packets in the kernel would pass by.
pub fn kernel_path(
    instance: &Instance,
    facts: &BpfFacts,
    missing: Option<&[&str]>,
    queueing: &[Queueing],
) -> Vec<Finding> {
    let wish = instance.config.offload;
    if wish == Offload::Off || instance.config.routers.is_empty() {
        return Vec::new();
    }
    let obstacles = obstacles(facts, missing);
    if obstacles.is_empty() && !queueing.is_empty() {
        let finding = |what: &Queueing| {
            Finding::warning(
                format!("tuntap-router-offload: {what}: all packets pass the router"),
                "tuntap-router-shape in place of tc(8), or tuntap-router-offload = off",
            )
        };
        return queueing.iter().map(finding).collect();
    }
    if obstacles.is_empty() {
        let by = if facts.version.is_some_and(|version| version >= FIRST_TCX) { "TCX" } else { "clsact" };
        return vec![Finding::fine(format!("tuntap-router-offload: decided flows can pass in the kernel ({by})"))];
    }
    let finding = |(what, remedy): (String, &str)| {
        if wish == Offload::On {
            Finding::wrong(format!("tuntap-router-offload = on: {what}: the instance doesn't start"), remedy)
        } else {
            Finding::warning(format!("tuntap-router-offload = auto: {what}: all packets pass the router"), remedy)
        }
    };
    obstacles.into_iter().map(finding).collect()
}

/// Checks that a router that runs has the path that its file asks for.
pub fn standing(router: &RouterSpec, wish: Offload, found: &Snapshot) -> Option<Finding> {
    (wish != Offload::Off && found.kernel_path.is_none()).then(|| {
        Finding::warning(
            format!(
                "router of {}: it runs without a path in the kernel, so that it passes on all packets itself",
                router.device
            ),
            "the log says why, unless tuntap-router-offload was added after the start: then reload the instance",
        )
    })
}

/// What is in the way, and what to do about it.
fn obstacles(facts: &BpfFacts, missing: Option<&[&str]>) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    if let Some((major, minor)) = facts.version.filter(|version| *version < FIRST) {
        found.push((format!("Linux {major}.{minor} is too old"), "Linux 5.10 or later, better 6.6"));
    }
    let Some(disabled) = facts.unprivileged_disabled else {
        found.push(("the kernel has no bpf(2)".to_owned(), "a kernel with CONFIG_BPF_SYSCALL"));
        return found;
    };
    let keeps_maps = facts.version.is_some_and(|version| version < FIRST_MAPS_WITHOUT_CAPABILITY) && disabled != 0;
    if !facts.has_barrier && keeps_maps {
        let what = format!(
            "membarrier(2) can't wait for BPF programs, and kernel.unprivileged_bpf_disabled = {disabled} keeps the router, which has no \
             capability, from bpf(2)"
        );
        found.push((what, "boot without nohz_full, or Linux 5.19"));
    }
    if !facts.has_btf {
        found.push((format!("{BTF} is missing"), "a kernel with CONFIG_DEBUG_INFO_BTF, and /sys in the container"));
    }
    if facts.is_locked {
        let what = "the kernel is locked down (confidentiality): no BPF program may read its memory".to_owned();
        found.push((what, "boot with lockdown=integrity, or without it"));
    }
    match (missing, facts.refusal) {
        (Some([]), Some(errno)) => found.push((
            format!("bpf(2) makes no map here ({errno})"),
            "start uWSGI outside of user namespaces (rootless containers have one), and without a filter of system calls that refuses \
             bpf(2): the service's drop-in kernel-path.conf allows it",
        )),
        (Some(missing @ [_, ..]), _) => found.push((
            format!("{} missing here", missing.join(", ")),
            "start uWSGI with these (docker: --cap-add NET_ADMIN --cap-add SYS_ADMIN)",
        )),
        // Without root, nothing is known of what the instance may do.
        (Some([]), None) | (None, _) => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use tuntap_api::KernelPathStats;

    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    fn good() -> BpfFacts {
        BpfFacts {
            version: Some((6, 12)),
            has_btf: true,
            is_locked: false,
            has_barrier: true,
            unprivileged_disabled: Some(2),
            refusal: None,
        }
    }

    fn look(wish: &str, facts: &BpfFacts, missing: Option<&[&str]>) -> Vec<Finding> {
        let lines = [("tuntap-router", "emperor0 /run/tuntap.socket"), ("tuntap-router-offload", wish)];
        kernel_path(&instance(&lines), facts, missing, &[])
    }

    #[test]
    fn who_does_not_want_it_hears_nothing() {
        let none = BpfFacts::default();
        assert!(look("off", &none, Some(&["CAP_NET_ADMIN"])).is_empty());
        assert!(kernel_path(&instance(&[("tuntap-router-offload", "on")]), &none, None, &[]).is_empty());
    }

    #[test]
    fn queueing_that_would_be_passed_by_is_named() {
        let lines = [("tuntap-router", "emperor0 /run/tuntap.socket"), ("tuntap-router-offload", "on")];
        let queueing = [Queueing::Discipline("emperor0".to_owned(), "tbf".to_owned())];
        let [finding] = &kernel_path(&instance(&lines), &good(), None, &queueing)[..] else { panic!("one finding") };
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.what.contains("emperor0 has the queueing discipline tbf"), "{}", finding.what);
    }

    #[test]
    fn good_machine_is_fine() {
        for (version, has_barrier, by) in
            [((6, 12), true, "TCX"), ((6, 5), true, "clsact"), ((5, 19), false, "clsact"), ((5, 10), true, "clsact")]
        {
            let facts = BpfFacts { version: Some(version), has_barrier, ..good() };
            let [finding] = &look("auto", &facts, Some(&[]))[..] else { panic!("one finding") };
            assert_eq!(finding.severity, Severity::Fine);
            assert!(finding.what.contains(by), "{}", finding.what);
        }
    }

    /// Who isn't root gets no map, and the instance does.
    #[test]
    fn refusal_says_nothing_about_an_instance_of_root() {
        let [finding] = &look("on", &BpfFacts { refusal: Some(Errno::EPERM), ..good() }, None)[..] else {
            panic!("one finding")
        };
        assert_eq!(finding.severity, Severity::Fine);
    }

    #[test]
    fn running_router_without_the_path_that_it_is_to_have_is_a_warning() {
        let with = Snapshot { kernel_path: Some(KernelPathStats::default()), ..Snapshot::default() };
        let instance = instance(&[("tuntap-router", "emperor0 /run/tuntap.socket")]);
        let router = &instance.config.routers[0];
        for (wish, found, is_told) in [
            (Offload::On, &Snapshot::default(), true),
            (Offload::Auto, &Snapshot::default(), true),
            (Offload::Off, &Snapshot::default(), false),
            (Offload::On, &with, false),
        ] {
            let severity = standing(router, wish, found).map(|finding| finding.severity);
            assert_eq!(severity, is_told.then_some(Severity::Warning), "{wish:?}");
        }
    }

    #[test]
    fn each_obstacle_is_named() {
        let old = BpfFacts { version: Some((4, 19)), unprivileged_disabled: Some(0), ..good() };
        let kept = BpfFacts { version: Some((5, 10)), has_barrier: false, ..good() };
        let without_bpf = BpfFacts { unprivileged_disabled: None, ..good() };
        let refused = BpfFacts { refusal: Some(Errno::EPERM), ..good() };
        let cases = [
            (old, None, "Linux 4.19 is too old"),
            (kept, None, "kernel.unprivileged_bpf_disabled = 2"),
            (without_bpf, None, "no bpf(2)"),
            (BpfFacts { has_btf: false, ..good() }, None, "/sys/kernel/btf/vmlinux"),
            (BpfFacts { is_locked: true, ..good() }, None, "confidentiality"),
            (good(), Some(&["CAP_NET_ADMIN", "CAP_SYS_ADMIN"][..]), "CAP_NET_ADMIN, CAP_SYS_ADMIN"),
            (refused.clone(), Some(&["CAP_SYS_ADMIN"][..]), "CAP_SYS_ADMIN"),
            (refused, Some(&[][..]), "bpf(2) makes no map here (EPERM"),
        ];
        for (facts, missing, word) in cases {
            for (wish, severity) in [("on", Severity::Wrong), ("auto", Severity::Warning)] {
                let [finding] = &look(wish, &facts, missing)[..] else { panic!("one finding about {word}") };
                assert!(finding.what.contains(word), "{}", finding.what);
                assert_eq!(finding.severity, severity, "{word}");
            }
        }
    }
}
