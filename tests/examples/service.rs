//! The unit of systemd in `packaging/systemd` and its drop-ins: systemd understands them, and an Emperor and its vassals work
//! within their restrictions, which `confine.py` makes of the files themselves.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt};
use tempfile::TempDir;

use crate::common::instance::Instance;
use crate::common::netns::Netns;
use crate::common::probe::is_reachable;
use crate::common::processes::send;
use crate::common::starter::Starter;
use crate::common::wait;
use crate::example::{Example, addresses_of, net_of, wait_for_answer};
use crate::world::{INTERNET, INTERNET_V6, World};

/// The highest exposure that passes with the restrictions, in tenths of what `systemd-analyze security` says. The unit alone
/// has 96.
const MOST_EXPOSURE: &str = "45";

/// The drop-in with the restrictions.
const HARDENING: &str = "hardening.conf";

/// The drop-in for hosts that turn forwarding on by themselves.
const READ_ONLY: &str = "read-only-sysctl.conf";

/// The drop-in for routers with a path in the kernel.
const KERNEL_PATH: &str = "kernel-path.conf";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The words before a command that has to live within the unit's restrictions.
fn confined(example: &Example, drop_ins: &[&str]) -> Vec<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples/confine.py");
    let mut words = vec!["python3".into(), script, example.path(""), file("uwsgi-emperor.service")];
    words.extend(drop_ins.iter().map(|name| file(&format!("uwsgi-emperor.service.d/{name}"))));
    words.push("--".into());
    words
}

fn start(example: &Example, netns: &Netns, drop_ins: &[&str]) -> Instance {
    example
        .starter(netns)
        .wrapper(confined(example, drop_ins))
        .environment("NOTIFY_SOCKET", example.path("notify"))
        .ini(&example.root().join("emperor.ini"))
        .start()
}

/// The messages that systemd would read, with the processes that send them.
struct Notifications(UnixDatagram);

impl Notifications {
    fn of(example: &Example) -> Self {
        let socket = UnixDatagram::bind(example.path("notify")).expect("own folder");
        setsockopt(&socket, sockopt::PassCred, &true).expect("a unix socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time");
        Self(socket)
    }

    /// Waits until a process says that the service is ready, and returns that process.
    fn wait_until_ready(&self) -> i32 {
        wait::until("the service is ready", wait::LONG, || {
            let mut bytes = [0; 4096];
            let mut control = nix::cmsg_space!(nix::libc::ucred);
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let message =
                recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()).ok()?;
            let sender = message.cmsgs().ok()?.find_map(|it| match it {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                _ => None,
            });
            let count = message.bytes;
            let is_ready = String::from_utf8_lossy(&bytes[..count]).lines().any(|line| line == "READY=1");
            sender.filter(|_| is_ready)
        })
    }
}

/// A line of /proc/<pid>/status.
fn status(pid: i32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.expect("the kernel tells it").trim().to_owned()
}

/// The unit with these drop-ins in a folder of their own, as they are installed.
fn installed(drop_ins: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let unit = folder.path().join("uwsgi-emperor.service");
    std::fs::copy(file("uwsgi-emperor.service"), &unit).expect("own folder");
    std::fs::create_dir(folder.path().join("uwsgi-emperor.service.d")).expect("own folder");
    for name in drop_ins.iter().map(|name| format!("uwsgi-emperor.service.d/{name}")) {
        std::fs::copy(file(&name), folder.path().join(&name)).expect("own folder");
    }
    (folder, unit)
}

#[test]
fn unit_is_understood_by_systemd() {
    for drop_ins in [&[][..], &[HARDENING], &[HARDENING, READ_ONLY], &[HARDENING, KERNEL_PATH]] {
        let (_folder, unit) = installed(drop_ins);
        let analyze = |words: &[&str]| {
            let output = Command::new("systemd-analyze").args(words).arg(&unit).output();
            output.expect("systemd-analyze can be started (scripts/setup test)")
        };
        let verified = analyze(&["verify", "--man=no"]);
        assert!(verified.status.success() && text(&verified).is_empty(), "{drop_ins:?}: {}", text(&verified));
        let exposure = analyze(&["security", "--offline=true", "--no-pager", &format!("--threshold={MOST_EXPOSURE}")]);
        // Without the restrictions it doesn't pass, so that it is these that are judged.
        assert_eq!(exposure.status.success(), !drop_ins.is_empty(), "{drop_ins:?}: {}", text(&exposure));
    }
}

#[test]
fn drop_ins_and_settings_are_for_this_unit() {
    let example = std::fs::read_to_string(file("uwsgi-emperor.service")).expect("the package has it");
    for line in ["KillSignal=SIGQUIT", "RuntimeDirectory=uwsgi", "tuntap-router = emperor0 /run/uwsgi/tuntap.socket"] {
        assert!(example.contains(line), "{line}");
    }
    let operations = include_str!("../../docs/OPERATIONS.md");
    let mut settings = example.clone();
    for name in [HARDENING, READ_ONLY, KERNEL_PATH].map(|name| format!("uwsgi-emperor.service.d/{name}")) {
        assert!(operations.contains(&name), "{name}");
        settings += &std::fs::read_to_string(file(&name)).expect("the package has it");
    }
    assert!(file("60-uwsgi-tuntap.conf").exists() && operations.contains("60-uwsgi-tuntap.conf"));
    // Every setting is explained.
    let settings = settings.lines().skip_while(|line| *line != "[Service]").filter(|line| !line.starts_with('#'));
    for name in settings.filter_map(|line| Some(line.split_once('=')?.0)).filter(|name| *name != "WantedBy") {
        assert!(operations.contains(&format!("`{name}")), "{name} is explained");
    }
}

#[test]
fn restrictions_hold_in_the_test() {
    let (world, example) = (World::new(), Example::copy("minimal"));
    // What each line forbids, tried out; `0` is what succeeds.
    let script = "
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(do):
    try: return bool(do())
    except OSError: return False
opened = lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT)) or True
print(tried(lambda: libc.unshare(0x10000000) == 0), tried(lambda: socket.socket(17, 3)), tried(lambda: opened('/usr/x')),
      tried(lambda: os.open('/dev/net/tun', os.O_RDWR)), tried(lambda: os.stat('/dev/kmsg')), tried(lambda: opened('/etc/x')),
      tried(lambda: libc.syscall(101, 0, 0, 0, 0) == 0), tried(lambda: libc.unshare(0x40000000) == 0),
      tried(lambda: opened('x')))
";
    let starter = Starter::program("python3", &example.path("")).netns(&world.host);
    let mut tried = starter.wrapper(confined(&example, &[HARDENING])).arguments(["-c", script]).start();
    assert_eq!(tried.wait_for_exit().code(), Some(0), "{}", tried.log.text());
    let said = tried.log.text();
    assert_eq!(
        said.trim(),
        "False False False True False False False True True",
        "user namespace, AF_PACKET, /usr, TUN, /dev/kmsg, /etc, ptrace; network namespace, own folder"
    );
}

#[test]
fn emperor_and_vassals_live_within_the_restrictions() {
    let (world, example) = (World::new(), Example::copy("minimal"));
    let notifications = Notifications::of(&example);
    let mut emperor = start(&example, &world.host, &[HARDENING]);
    assert_eq!(notifications.wait_until_ready(), emperor.pid(), "NotifyAccess=main");
    // Before and after a reload, as ExecReload does it.
    for round in 0..2 {
        let addresses = addresses_of(&emperor, "app.ini");
        assert!(matches!(addresses[..], [v4, v6] if v4.is_ipv4() && v6.is_ipv6()), "{addresses:?}");
        for address in addresses {
            wait_for_answer(&world.host, address, 20001);
        }
        let net = net_of(&emperor, "app.ini");
        assert!(is_reachable(&net, INTERNET) && is_reachable(&net, INTERNET_V6));
        let vassal = emperor.family().master_of("app.ini").expect("the vassal runs");
        for pid in [emperor.pid(), vassal] {
            assert_eq!((status(pid, "NoNewPrivs"), status(pid, "Seccomp")), ("1".to_owned(), "2".to_owned()));
        }
        assert_eq!(status(vassal, "CapEff"), "0000000000000000");
        if round == 0 {
            let first = vassal;
            send(emperor.pid(), Signal::SIGHUP);
            wait::until_true("the vassal is another one", wait::LONG, || {
                emperor.family().master_of("app.ini").is_some_and(|pid| pid != first)
            });
        }
    }
    let log = emperor.log.text();
    assert!(!log.contains("not permitted") && !log.contains("denied"), "nothing is refused: {log}");
    // The unit has this as KillSignal.
    send(emperor.pid(), Signal::SIGQUIT);
    emperor.wait_for_exit();
    wait::until_true("its device is gone", wait::LONG, || !world.host.has_device("emperor0"));
}

#[test]
fn emperor_lives_without_writing_settings_where_the_host_forwards() {
    let (world, example) = (World::new(), Example::copy("minimal"));
    let settings = file("60-uwsgi-tuntap.conf");
    world.host.sh(&format!("sysctl -qp {}", settings.display()));
    let emperor = start(&example, &world.host, &[HARDENING, READ_ONLY]);
    for address in addresses_of(&emperor, "app.ini") {
        wait_for_answer(&world.host, address, 20001);
    }
    let net = net_of(&emperor, "app.ini");
    assert!(is_reachable(&net, INTERNET) && is_reachable(&net, INTERNET_V6));
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", emperor.pid())).expect("it runs");
    let is_read_only = |line: &str| line.contains(" /proc/sys ") && line.contains(" ro,");
    assert!(mounts.lines().any(is_read_only), "what the drop-in says is done: {mounts}");
}

/// The router loads its programs, and makes pairs of devices in the namespaces of vassals.
#[test]
fn kernel_path_works_within_the_restrictions_with_its_drop_in() {
    let (world, example) = (World::new(), Example::copy("minimal"));
    let ini = example.root().join("emperor.ini");
    let text = std::fs::read_to_string(&ini).expect("the example has it");
    std::fs::write(&ini, text + "\ntuntap-router-offload = on\n").expect("own folder");
    let mut without = start(&example, &world.host, &[HARDENING]);
    assert!(!without.wait_for_exit().success());
    assert!(without.log.text().contains("tuntap-router-offload = on: "), "{}", without.log.text());
    let emperor = start(&example, &world.host, &[HARDENING, KERNEL_PATH]);
    let address = addresses_of(&emperor, "app.ini")[0];
    // The host has an interface of that type before, and a flow needs some packets before it is worth a pair.
    wait::until_true("the vassal has a pair", wait::LONG, || {
        world.host.sh(&format!("ping -q -n -c 20 -i 0.05 -w 8 {address}"));
        world.host.sh("ip -o link show type veth").lines().count() > 1
    });
    let log = emperor.log.text();
    assert!(!log.contains("not permitted") && !log.contains("denied"), "nothing is refused: {log}");
}
