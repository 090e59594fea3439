//! The router's sandbox: the privileges that its process gives up between set-up and the first packet. Vassals run
//! customers' code. If one of them takes over the router by what it sends, it should be able to do nothing else.

use std::fmt::Display;
use std::path::Path;

use syscalls::Sysno;

use super::control::Control;
use super::event_loop::EventLoop;
use super::script::LoopScript;
use super::{CredentialsCheck, KernelEndpoint, Setup};
use tuntap_api::Confinement;
use tuntap_config::Sandbox;
use tuntap_sys::bpf::MEMBARRIER_GLOBAL;
use tuntap_sys::log::Event;
use tuntap_sys::process::pin_time_zone;
use tuntap_sys::sandbox::common::{
    CLOCKS, END, FILES, MEMORY, OWN, RANDOM, SOCKET_KIND, WAITING, is, masked, own_process, request,
};
use tuntap_sys::sandbox::{self, Condition, SyscallPolicy};
use tuntap_sys::socket::IPV6_2292PKTOPTIONS;
use tuntap_sys::tun::KCMP_FILE;

/// Packets, frames, datagrams, statistics, log lines, requests on the control socket, the descriptors by which the control thread
/// and the event loop wake each other, and the live policy, which is read from and written to memory that the master has made
/// (preadv2 and pwritev2 with an offset).
const TRAFFIC: &[Sysno] = &[
    Sysno::read,
    Sysno::preadv2,
    Sysno::write,
    Sysno::writev,
    Sysno::pwritev2,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::sendto,
    Sysno::sendmsg,
];

/// Connections that come and go. [`CONDITIONAL`] restricts the kinds of sockets, so that `bind` and `connect` only serve
/// the probe for the path MTU to another router.
const SOCKETS: &[Sysno] = &[Sysno::accept4, Sysno::bind, Sysno::connect, Sysno::shutdown, Sysno::close];

/// Waiting for events: the event loop, the control thread, and the check that a peer has not hung up; and the alarm that ends a wait
/// for a vassal's device, whose timer is made before.
const EVENTS: &[Sysno] = &[
    Sysno::epoll_ctl,
    Sysno::epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    Sysno::epoll_wait,
    Sysno::timer_settime,
];

/// The facts in the statistics, the addresses of their clients, and the device of a vassal's descriptor.
const IDENTITY: &[Sysno] = &[
    Sysno::getpid,
    Sysno::gettid,
    Sysno::getuid,
    Sysno::getgid,
    Sysno::getpeername,
    Sysno::getcwd,
    Sysno::fstat,
    #[cfg(target_arch = "x86_64")]
    Sysno::newfstatat,
    #[cfg(target_arch = "aarch64")]
    Sysno::fstatat,
];

/// The files of its sockets, which it removes after checking that they are still its own. Landlock restricts the
/// directories.
const REMOVAL: &[Sysno] = &[
    Sysno::statx,
    Sysno::unlinkat,
    #[cfg(target_arch = "x86_64")]
    Sysno::unlink,
];

/// Calls that are allowed only with certain arguments.
const CONDITIONAL: &[(Sysno, &[Condition])] = &[
    // Attaching, detaching and checking a vassal's device, the MTU in a vassal's configuration, and the interface by which
    // a datagram came. No request that makes a device, renames it or changes its owner.
    (
        Sysno::ioctl,
        &[
            &[request(libc::TUNGETIFF)],
            &[request(libc::TUNGETVNETHDRSZ)],
            &[request(libc::TUNSETOFFLOAD)],
            &[request(libc::SIOCGIFMTU)],
            &[request(libc::SIOCGIFNAME)],
        ],
    ),
    // The probe for the path MTU to another router.
    (
        Sysno::socket,
        &[
            &[is(0, libc::AF_INET.cast_unsigned()), masked(1, SOCKET_KIND, libc::SOCK_DGRAM.cast_unsigned())],
            &[is(0, libc::AF_INET6.cast_unsigned()), masked(1, SOCKET_KIND, libc::SOCK_DGRAM.cast_unsigned())],
        ],
    ),
    // A peer's credentials, the answer to that probe, and the interface by which a statistics client came. No packet
    // filters.
    (Sysno::setsockopt, &[&[is(1, libc::SOL_SOCKET.cast_unsigned())]]),
    (
        Sysno::getsockopt,
        &[
            &[is(1, libc::SOL_SOCKET.cast_unsigned())],
            &[is(1, libc::IPPROTO_IP.cast_unsigned())],
            &[is(1, libc::IPPROTO_IPV6.cast_unsigned()), is(2, libc::IPV6_MTU.cast_unsigned())],
            &[is(1, libc::IPPROTO_IPV6.cast_unsigned()), is(2, IPV6_2292PKTOPTIONS.cast_unsigned())],
        ],
    ),
    // The flags of a descriptor: non-blocking and close-on-exec.
    (
        Sysno::fcntl,
        &[
            &[is(1, libc::F_GETFL.cast_unsigned())],
            &[is(1, libc::F_SETFL.cast_unsigned())],
            &[is(1, libc::F_GETFD.cast_unsigned())],
            &[is(1, libc::F_SETFD.cast_unsigned())],
            &[is(1, libc::F_DUPFD_CLOEXEC.cast_unsigned())],
        ],
    ),
    // The context switches of the thread, which show if it had to wait in a long write.
    (Sysno::getrusage, &[&[is(0, libc::RUSAGE_THREAD.cast_unsigned())]]),
    // The check that a vassal's device is not the router's own.
    (Sysno::kcmp, &[&[own_process(0), own_process(1), is(2, KCMP_FILE)]]),
];

/// Waiting for the programs of the path in the kernel. Its maps are changed by messages.
const BARRIER: &[(Sysno, &[Condition])] = &[(Sysno::membarrier, &[&[is(0, MEMBARRIER_GLOBAL)]])];

/// The command of bpf(2) that sets an element of a map (`enum bpf_cmd`). It makes and loads nothing.
const BPF_MAP_UPDATE_ELEM: u32 = 2;

/// The same where membarrier(2) can't.
const TURNSTILE: &[(Sysno, &[Condition])] = &[(Sysno::bpf, &[&[is(0, BPF_MAP_UPDATE_ELEM)]])];

/// What a router with a path in the kernel may use.
const POLICY_WITH_BARRIER: SyscallPolicy = SyscallPolicy { conditional: &[CONDITIONAL, OWN, BARRIER], ..POLICY };
const POLICY_WITH_TURNSTILE: SyscallPolicy = SyscallPolicy { conditional: &[CONDITIONAL, OWN, TURNSTILE], ..POLICY };

const POLICY: SyscallPolicy = SyscallPolicy {
    allowed: &[TRAFFIC, SOCKETS, WAITING, EVENTS, MEMORY, CLOCKS, IDENTITY, RANDOM, REMOVAL, END],
    conditional: &[CONDITIONAL, OWN],
    refused: FILES,
    unknown: &[],
};

/// What a router with or without a path in the kernel may use.
fn policy(kernel_path: Option<&KernelEndpoint>) -> &'static SyscallPolicy {
    match kernel_path {
        None => &POLICY,
        Some(path) if path.maps.waits_by_bpf() => &POLICY_WITH_TURNSTILE,
        Some(_) => &POLICY_WITH_BARRIER,
    }
}

/// Returns the restrictions that the process already has.
pub fn found() -> Confinement {
    Confinement {
        capabilities: sandbox::permitted_capabilities(),
        no_new_privs: sandbox::has_no_new_privileges(),
        seccomp: false,
        landlock: None,
    }
}

impl EventLoop<'_> {
    /// Gives up all privileges that forwarding doesn't need. If the kernel doesn't support a restriction, this is logged,
    /// and the others still apply.
    pub fn confine(&mut self) {
        let (setup, closer, control) = (self.io.setup, &mut self.io.closer, &mut self.control);
        let (script, sources) = (&mut self.io.script, &self.script_sources);
        self.confinement = confine(setup, || {
            // Without a control socket, no script comes later.
            if control.is_some() || sources.text.is_some() {
                *script = Some(LoopScript::start(setup, self.router.forwarder().counters(), sources));
            }
            for result in [closer.start(), control.as_mut().map_or(Ok(()), Control::start)] {
                if let Err(error) = result {
                    let name = setup.tun.name();
                    setup.logger.line(
                        Event::RouterIncomplete,
                        format_args!("[tuntap-router] {name}: can't start a thread: {error}"),
                    );
                }
            }
        });
    }
}

/// Calls `start_threads` at the last moment at which threads can be started. The restrictions so far apply to them, too.
fn confine(setup: &Setup, start_threads: impl FnOnce()) -> Confinement {
    let line = |text: &dyn Display| {
        setup.logger.line(Event::Sandbox, format_args!("[tuntap-router] {}: sandbox: {text}", setup.tun.name()));
    };
    if setup.sandbox == Sandbox::Off {
        line(&"off");
        start_threads();
        return found();
    }
    pin_time_zone();
    if let Err(errno) = sandbox::set_no_new_privileges() {
        line(&format_args!("without no_new_privs: {errno}"));
    }
    if let Err(error) = sandbox::drop_capabilities() {
        line(&format_args!("with capabilities: {error}"));
    }
    let found = found();
    if matches!(setup.credentials, CredentialsCheck::Hook(_)) && setup.sandbox != Sandbox::Strict {
        line(&"without landlock and seccomp for the function of tuntap-use-credentials; \"strict\" puts it inside");
        start_threads();
        return found;
    }
    let landlock = sandbox::restrict_files(setup.socket_files.iter().map(|file| folder(file.path())))
        .inspect_err(|error| line(&format_args!("without landlock: {error}")))
        .ok();
    start_threads();
    let policy = policy(setup.kernel_path.as_ref());
    let seccomp = sandbox::restrict_syscalls(policy, format!("[tuntap-router] {}", setup.tun.name()))
        .inspect_err(|error| line(&format_args!("without seccomp: {error}")))
        .is_ok();
    Confinement { seccomp, landlock, ..found }
}

/// Returns the directory of a file.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;
    use std::process::Command;

    use nix::errno::Errno;
    use tuntap_core::policy::Policy;
    use tuntap_core::policy::flows::Owner;
    use tuntap_core::policy::pattern::Action;
    use tuntap_core::policy::registry::PeerId;
    use tuntap_core::policy::script::{Script, ScriptQuery};
    use tuntap_script::Runtime;
    use tuntap_sys::bpf::{Map, MapKind};
    use tuntap_sys::process::exit_at_once;
    use tuntap_wire::credentials::PeerCredentials;
    use tuntap_wire::rule::Direction;

    use super::*;

    #[test]
    fn no_syscall_is_listed_twice() {
        let allowed = POLICY.allowed.iter().copied().flatten().copied();
        let mut all: Vec<Sysno> = allowed
            .chain([CONDITIONAL, OWN, BARRIER, TURNSTILE].into_iter().flatten().map(|(call, _)| *call))
            .chain(POLICY.refused.iter().copied())
            .collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    /// Runs what a test does in a process of its own. `test` is the test's full name.
    pub fn in_own_process(test: &str, work: impl FnOnce()) {
        const CONFINED: &str = "TUNTAP_TEST_CONFINED";
        // What that process, which runs one test and ends with 0, doesn't end with.
        const SUCCESS: i32 = 77;
        if std::env::var_os(CONFINED).is_some() {
            work();
            exit_at_once(SUCCESS);
        }
        let status = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", test, "--nocapture"])
            .env(CONFINED, "1")
            .status()
            .expect("it starts");
        assert_eq!(status.code(), Some(SUCCESS), "{status}");
    }

    /// Takes from this thread what the router's process doesn't have, and from all threads of the process the system calls.
    pub fn confine_to(policy: &SyscallPolicy) {
        pin_time_zone();
        sandbox::set_no_new_privileges().expect("always possible");
        sandbox::drop_capabilities().expect("always possible");
        sandbox::restrict_syscalls(policy, "test".to_owned()).expect("a filter");
    }

    pub fn confine_as_with(kernel_path: &KernelEndpoint) {
        confine_to(policy(Some(kernel_path)));
    }

    #[test]
    fn turnstile_turns_inside() {
        in_own_process("sandbox::tests::turnstile_turns_inside", || {
            let map = Map::new(c"tuntap_test", MapKind::Words, 4, 8, 1).expect("needs root");
            let turnstile = Map::holding(c"tuntap_test", &map).expect("needs root");
            // Where it doesn't serve, there is no path that needs it.
            let serves = Map::serves_without_capabilities().expect("needs root");
            confine_to(&POLICY_WITH_TURNSTILE);
            assert_eq!(turnstile.hold(&map), if serves { Ok(()) } else { Err(Errno::EPERM) });
        });
    }

    /// A script that does all that costs memory, and all that fails.
    #[test]
    fn scripts_run_inside() {
        in_own_process("sandbox::tests::scripts_run_inside", run_script_confined);
    }

    const SCRIPT: &str = "
        function policy(flow)
            local time = clock()
            assert(time.year > 2000 and now() > 0)
            if flow.dst_port == 1 then while true do end end
            if flow.dst_port == 2 then error('no') end
            if flow.dst_port == 3 then table.create(2000000, 1) end
            if flow.dst_port == 4 then for i = 1, 100 do state[i] = table.create(1000, string.rep('x', i)) end end
            log('a line')
            return 'reject'
        end";

    /// Compiles, loads and asks a script with the filter on.
    fn run_script_confined() {
        let watchdog = tuntap_script::Watchdog::start().expect("a thread");
        confine_to(&POLICY);
        let mut runtime = Runtime::new(tuntap_script::Host::default(), Some(watchdog));
        assert!(tuntap_script::check("function policy(", "test").is_err());
        let script = tuntap_script::check(SCRIPT, "test").expect("a good script");
        runtime.load(Some(&script), None).expect("it loads");
        let policy = Policy::default();
        let address = IpAddr::from([10, 0, 0, 2]);
        let mut action = |port: u16| {
            let query = ScriptQuery {
                direction: Direction::Out,
                src: address,
                dst: address,
                protocol: 6,
                src_port: Some(1),
                dst_port: Some(port),
                peer: PeerId { index: port.into(), generation: 0 },
                owner: Owner::User(port.into()),
                credentials: PeerCredentials { pid: 1, uid: 1, gid: 1 },
                addresses: &[],
                policy: &policy,
            };
            (runtime.decide(&query).map(|verdict| verdict.action), runtime.status().last_failure)
        };
        const TIME: &str = "it takes too long";
        const MEMORY: &str = "it needs more memory than a script may have";
        for (port, expected, text) in
            [(9, Action::Reject, None), (1, Action::Deny, Some(TIME)), (2, Action::Deny, Some("test:6: no"))]
        {
            let (action, failure) = action(port);
            assert_eq!((action, failure.as_deref()), (Some(expected), text), "port {port}");
        }
        // Memory and time are a race where a script takes much of both: fresh pages cost more on some machines than on others.
        let (denied, failure) = action(3);
        assert_eq!(denied, Some(Action::Deny));
        assert!(matches!(failure.as_deref(), Some(MEMORY | TIME)), "{failure:?}");
        let (answer, failure) = action(4);
        match (answer, failure.as_deref()) {
            (Some(Action::Reject), Some(MEMORY)) | (Some(Action::Deny), Some(TIME)) => {}
            other => panic!("port 4: {other:?}"),
        }
        assert_eq!(action(9).0, Some(Action::Reject));
        runtime.load(Some(&script), None).expect("it loads again");
    }

    #[test]
    fn file_is_removed_from_its_folder() {
        assert_eq!(folder(Path::new("/run/router.sock")), Path::new("/run"));
        assert_eq!(folder(Path::new("router.sock")), Path::new("."));
    }
}
