//! A process of a vassal's own user gets nothing of the vassal's tunnel. By ptrace(2), pidfd_getfd(2) and /proc it
//! could look into any process of its user that is not closed to it.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::common::emperor::{EmperorIni, V1};
use crate::common::processes::{catches, is_alive, send};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::{NOBODY, VassalIni};
use crate::common::wait;
use crate::site::{NAME, assert_traffic_passes, emperor, logged_pid, reload, request, unshared, vassal, write_app};
use crate::thief::{as_thief, refusal_to_list, take_descriptors};
use crate::tunnel::{TUN, neighbours, owner, router_connections};

/// The descriptors of a tunnel: TUN devices, and connections to a router.
fn of_the_tunnel(descriptors: &[OwnedFd], connections: &[String]) -> Vec<String> {
    let name = |descriptor: &OwnedFd| {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).expect("an own descriptor");
        link.to_string_lossy().into_owned()
    };
    descriptors.iter().map(name).filter(|name| name == TUN || connections.contains(name)).collect()
}

#[track_caller]
fn assert_closed(pid: i32) {
    assert!(is_alive(pid));
    let (taken, refusal) = as_thief(NOBODY, || (take_descriptors(pid), refusal_to_list(pid)));
    assert!(taken.is_empty(), "{} descriptors of {pid} were taken", taken.len());
    assert_eq!(refusal, Some(ErrorKind::PermissionDenied), "{pid}");
}

/// The thief works at all; otherwise the tests below would prove nothing.
#[test]
fn thief_takes_what_is_not_closed_to_it() {
    let mut victim = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL", "sleep", "60"])
        .stdin(Stdio::null())
        .spawn()
        .expect("setpriv can be started");
    let pid = i32::try_from(victim.id()).expect("a pid");
    let taken = wait::try_until(wait::SHORT, || {
        let taken = as_thief(NOBODY, || (take_descriptors(pid).len(), refusal_to_list(pid)));
        (taken.0 >= 3 && taken.1.is_none()).then_some(())
    });
    victim.kill().and_then(|()| victim.wait()).expect("an own child");
    assert!(taken.is_some());
}

/// Fails unless the vassal's master is closed before and after reloads, and its workers hold nothing.
#[track_caller]
fn assert_vassal_is_closed(change: impl Fn(VassalIni) -> VassalIni) {
    let emperor = emperor();
    let net = emperor.start_vassal(&change(vassal(&emperor)));
    for _ in 0..3 {
        assert_traffic_passes(&emperor, &net);
        let pid = emperor.vassal_pid(NAME).expect("the vassal runs");
        assert_closed(owner(&emperor, emperor.family(), pid));
        let connections = router_connections(&emperor, pid);
        for process in neighbours(emperor.family(), pid) {
            let taken = as_thief(NOBODY, || take_descriptors(process.pid));
            assert_eq!(of_the_tunnel(&taken, &connections), Vec::<String>::new(), "{process:?}");
        }
        reload(&emperor);
    }
}

#[test]
fn master_of_a_vassal_is_closed() {
    assert_vassal_is_closed(|vassal| vassal);
}

#[test]
fn master_of_a_vassal_with_late_privileges_is_closed() {
    assert_vassal_is_closed(|vassal| vassal.line("drop-after-apps = true"));
}

#[test]
fn master_of_a_vassal_that_forks_again_is_closed() {
    assert_vassal_is_closed(|vassal| vassal.line("refork = true"));
}

#[test]
fn master_of_a_vassal_that_forks_again_as_root_is_closed() {
    assert_vassal_is_closed(|vassal| vassal.line("refork-as-root = true"));
}

#[test]
fn instance_without_an_emperor_is_closed() {
    let emperor = emperor();
    let ini = unshared(&emperor).lines(&["master = true", "daemonize2 = {dir}/log", "uid = 65534", "gid = 65534"]);
    let mut instance = ini.launch();
    assert!(instance.wait_for_exit().success(), "the process that was started ends");
    let daemon = logged_pid(&instance.log, "uWSGI master process");
    for _ in 0..2 {
        // Until the workers have started, uWSGI loses the signal by which it tells them to end.
        wait::until_true("the worker has started", wait::LONG, || {
            let children = instance.family().children_of(daemon);
            !children.is_empty() && children.iter().all(|child| catches(child.pid, Signal::SIGUSR2))
        });
        assert_closed(daemon);
        let mark = instance.log.mark();
        send(daemon, Signal::SIGHUP);
        instance.log.wait_for_since(mark, "spawned uWSGI worker 1", wait::LONG);
    }
    assert_closed(daemon);
}

/// Master, router, and the worker, which inherits the router's device.
#[test]
fn router_without_privileges_is_closed() {
    let emperor = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .router("emperor0 {dir}/t.sock {dir}/stats.sock")
        .lines(&["master = true", "socket = 127.0.0.1:3031", "uid = 65534", "gid = 65534"])
        .start();
    emperor.log.wait_for("spawned uWSGI worker 1", wait::LONG);
    let family = emperor.family().members();
    assert!(family.len() >= 3, "{family:?}");
    family.iter().for_each(|process| assert_closed(process.pid));
}

/// `fs.suid_dumpable` aside, a router that stays root is closed to root without capabilities, too.
#[test]
fn router_of_root_is_closed() {
    let emperor = emperor();
    for pid in [emperor.router_pid(), emperor.master_pid(), emperor.emperor_pid()] {
        assert_closed(pid);
        let taken = thread::spawn(move || {
            caps::clear(None, caps::CapSet::Effective).expect("anybody may");
            caps::clear(None, caps::CapSet::Permitted).expect("anybody may");
            take_descriptors(pid).len()
        });
        assert_eq!(taken.join().expect("no panic"), 0);
    }
}

const CURIOUS_APP: &str = r#"
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        return [b"uid %d, %d descriptors" % (os.getuid(), len(os.listdir("/proc/self/fd")))]
    except OSError as error:
        return [b"uid %d, %s" % (os.getuid(), str(error).encode())]
"#;

/// Applications open /dev/stdout, and look at /proc/self. A reload makes workers that could without the plugin.
#[test]
fn workers_may_look_at_themselves_after_a_reload() {
    let emperor = emperor();
    let vassal = vassal(&emperor);
    write_app(&emperor, CURIOUS_APP);
    emperor.start_vassal(&vassal);
    for _ in 0..2 {
        reload(&emperor);
        let response = request(&emperor.netns, V1).expect("a response");
        assert!(response.contains("descriptors"), "{response}");
        assert_closed(emperor.vassal_pid(NAME).expect("the vassal runs"));
    }
}

/// The thief tries again and again while the vassal reloads, from before the new image exists.
#[test]
fn thief_that_never_rests_gets_nothing_of_a_reload() {
    let emperor = emperor();
    let net = emperor.start_vassal(&vassal(&emperor));
    let master = emperor.vassal_pid(NAME).expect("the vassal runs");
    let connections = router_connections(&emperor, master);
    let is_over = AtomicBool::new(false);
    let (tries, taken) = thread::scope(|scope| {
        let thief = scope.spawn(|| {
            as_thief(NOBODY, || {
                let (mut tries, mut taken) = (0, Vec::new());
                while !is_over.load(Ordering::Relaxed) {
                    tries += 1;
                    taken.extend(take_descriptors(master));
                }
                (tries, taken)
            })
        });
        for _ in 0..5 {
            reload(&emperor);
        }
        is_over.store(true, Ordering::Relaxed);
        thief.join().expect("no panic")
    });
    eprintln!("{tries} tries, {} descriptors taken", taken.len());
    assert_eq!(of_the_tunnel(&taken, &connections), Vec::<String>::new(), "in {tries} tries");
    assert_traffic_passes(&emperor, &net);
}
