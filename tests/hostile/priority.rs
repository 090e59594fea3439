//! The router's share of processor time, which no other process of the instance gets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use tempfile::TempDir;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::probe::pings_answered;
use crate::common::processes::send;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::handed::Handed;
use crate::world::{emperor, start_attached};

/// The nice value of the thread that gives way to all others: what is asked of the router is never more urgent than packets.
const CONTROL_NICE: i8 = 19;

/// Names and nice values of a process's threads, the main thread first.
#[track_caller]
fn threads(pid: i32) -> Vec<(String, i8)> {
    let mut threads: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("the process runs")
        .filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    threads.sort_unstable();
    let of_thread = |thread: i32| -> Option<(String, i8)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?;
        // The 19th field of proc_pid_stat(5); the second one, the name, is in parentheses.
        let (start, fields) = stat.rsplit_once(')')?;
        Some((start.split_once('(')?.1.to_owned(), fields.split_whitespace().nth(16)?.parse().ok()?))
    };
    threads.into_iter().map(|thread| of_thread(thread).expect("a running thread has a nice value")).collect()
}

/// The nice value of the tests, which all that they start begins with.
fn own_nice() -> i8 {
    threads(Pid::this().as_raw())[0].1
}

/// Fails unless the router's main thread has this nice value, and those that watch scripts and close devices have the other one.
#[track_caller]
fn assert_threads(router: i32, main: i8, others: i8) {
    wait::until_true("the router's threads run", wait::SHORT, || threads(router).len() == 4);
    let threads = threads(router);
    assert_eq!(threads[0].1, main, "{threads:?}");
    for (name, nice) in [("script-watch", others), ("closer", others), ("control", CONTROL_NICE)] {
        assert!(threads[1..].contains(&(name.to_owned(), nice)), "{name}: {threads:?}");
    }
}

/// Number and nice value of a process's autogroup, or `None` where the kernel has no autogroups.
fn autogroup(pid: i32) -> Option<(String, i8)> {
    let enabled = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").ok()?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/autogroup")).ok().filter(|_| enabled.trim() == "1")?;
    let (group, nice) = text.trim().rsplit_once(" nice ")?;
    Some((group.to_owned(), nice.parse().ok()?))
}

fn session(pid: i32) -> Option<Pid> {
    getsid(Some(Pid::from_raw(pid))).ok()
}

/// Fails unless the router has this nice value, and master, Emperor and vassal have that of the test.
#[track_caller]
fn assert_priorities(emperor: &Emperor, router: i8, others: i8) {
    let stats = emperor.stats_eventually();
    let pid = stats.router_pid();
    assert_threads(pid, router, router.max(0));
    assert_eq!(stats.0["priority"]["nice"], router);
    let vassal = emperor.vassal_pid("v1").expect("it runs");
    for pid in [emperor.master_pid(), emperor.emperor_pid(), vassal] {
        assert!(threads(pid).iter().all(|(_, nice)| *nice == others), "{pid}: {:?}", threads(pid));
        assert_ne!(session(pid), session(stats.router_pid()), "the router's session is its own");
    }
    if let Some((group, nice)) = autogroup(pid) {
        assert_eq!((nice, &stats.0["priority"]["autogroup"]), (router, &router.into()));
        // Sessions as old as the machine's own have no group at all.
        let others = [emperor.master_pid(), vassal].map(autogroup).into_iter().flatten();
        assert!(others.into_iter().all(|(other, _)| other != group), "the router shares its group");
    }
}

#[test]
fn router_alone_is_favoured_also_after_its_death() {
    let emperor = emperor().start();
    let net = start_attached(&emperor, "v1", V1);
    assert_priorities(&emperor, -20, own_nice());
    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until_true("there is a new router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    assert_eq!(pings_answered(&net, EMPEROR, 3, &[]), 3);
    assert_priorities(&emperor, -20, own_nice());
    assert!(!emperor.log.text().contains("works without the priority"), "{}", emperor.log.tail());
}

/// uWSGI's own option is for the whole instance, its vassals included.
#[test]
fn options_set_the_nice_value() {
    let emperor = emperor().line("prio = 5").line("tuntap-router-priority = -3").start();
    start_attached(&emperor, "v1", V1);
    assert_priorities(&emperor, -3, 5);
}

#[test]
fn priority_can_be_left_as_it_is() {
    let emperor = emperor().line("prio = 2").line("tuntap-router-priority = off").start();
    let (router, master) = (emperor.router_pid(), emperor.master_pid());
    assert_threads(router, 2, 2);
    assert_eq!((session(router), autogroup(router)), (session(master), autogroup(master)));
}

#[test]
fn router_without_the_capability_goes_on() {
    // The thread gives the capability up, so that what it starts can't have it either.
    let without = thread::spawn(|| {
        caps::drop(None, CapSet::Bounding, Capability::CAP_SYS_NICE).expect("root may give it up");
        let emperor = emperor().start();
        let net = start_attached(&emperor, "v1", V1);
        let line = "[tuntap-router] emperor0: works without the priority -20 (tuntap-router-priority): ";
        assert_eq!(emperor.log.text().matches(line).count(), 1, "{}", emperor.log.tail());
        assert_eq!(emperor.stats().0["priority"]["nice"], own_nice());
        assert_eq!(pings_answered(&net, EMPEROR, 3, &[]), 3);
    });
    without.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn instance_without_privileges_has_a_router_all_the_same() {
    let emperor = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .router("emperor0 {dir}/t.sock {dir}/stats.sock")
        .lines(&["master = true", "socket = 127.0.0.1:3031", "uid = 65534", "gid = 65534"])
        .start();
    emperor.log.wait_for("emperor0: works without the priority -20", wait::SHORT);
    assert!(emperor.peer(V1).echo(V1, EMPEROR, wait::SHORT));
}

/// Sends datagrams of 64 bytes, in turn to all addresses, for as long as the file is there.
const FLOOD: &str = r"
#include <arpa/inet.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_in to[2];
    char bytes[64] = {0};
    memset(to, 0, sizeof to);
    for (int i = 0; i < 2; i++) {
        to[i].sin_family = AF_INET;
        to[i].sin_port = htons(9);
        inet_pton(AF_INET, words[2 + i], &to[i].sin_addr);
    }
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (unsigned turn = 0;; turn++) {
        if (turn % 1024 == 0) while (access(words[1], F_OK)) usleep(10000);
        sendto(fd, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *) &to[turn % 2], sizeof to[0]);
    }
}
";

/// Programs that send as fast as they can while a file is there.
struct Flooders {
    folder: TempDir,
    children: Vec<Child>,
}

impl Flooders {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("flood.c");
        std::fs::write(&source, FLOOD).expect("own folder");
        let compiled = Command::new("cc").args(["-O2", "-o"]).args([folder.path().join("flood"), source]).status();
        assert!(compiled.expect("a C compiler is installed").success());
        Self { folder, children: Vec::new() }
    }

    fn switch(&self) -> PathBuf {
        self.folder.path().join("go")
    }

    /// In a session of its own, as programs that a vassal's `attach-daemon` starts, or in the test's.
    fn add(&mut self, net: &Net, own_session: bool, to: [Ipv4Addr; 2]) {
        let program: &[&Path] = &[&self.folder.path().join("flood"), &self.switch()];
        let words: &[&str] = if own_session { &["setsid"] } else { &[] };
        let mut all = vec!["setpriv".to_owned(), "--reuid=65534".to_owned(), "--clear-groups".to_owned()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all.extend(program.iter().map(|path| path.display().to_string()));
        all.extend(to.iter().map(ToString::to_string));
        std::fs::set_permissions(self.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("own folder");
        let child = net.run(|| Command::new(&all[0]).args(&all[1..]).stdin(Stdio::null()).spawn());
        self.children.push(child.expect("setpriv can be started"));
    }
}

impl Drop for Flooders {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bytes in a second that a vassal gets to the Emperor over TCP.
fn bytes_in_a_second(emperor: &Emperor, vassal: &Net) -> u64 {
    const WARM_UP: Duration = Duration::from_millis(500);
    const WINDOW: Duration = Duration::from_millis(1500);
    // Any port: a program that another test is just starting may have a copy of an earlier listener.
    let listener = emperor.netns.run(|| TcpListener::bind((EMPEROR, 0))).expect("the Emperor has its address");
    let target = listener.local_addr().expect("it is bound");
    let (is_over, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let connect = || TcpStream::connect_timeout(&target, wait::LONG);
            let Ok(mut stream) = vassal.run(connect) else { return };
            let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
            while !is_over.load(Ordering::Relaxed) {
                let _ = stream.write(&[0x5a; 256 * 1024]);
            }
        });
        let (mut stream, _) = listener.accept().expect("the connection");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
        let mut buffer = vec![0; 256 * 1024];
        let mut read_for = |time: Duration| {
            let start = Instant::now();
            while start.elapsed() < time {
                received.fetch_add(stream.read(&mut buffer).unwrap_or(0) as u64, Ordering::Relaxed);
            }
            start.elapsed()
        };
        read_for(WARM_UP);
        received.store(0, Ordering::Relaxed);
        let took = read_for(WINDOW);
        is_over.store(true, Ordering::Relaxed);
        received.load(Ordering::Relaxed) * 1000 / u64::try_from(took.as_millis()).expect("some seconds")
    })
}

/// An honest vassal beside ten that flood has four fifths of an eleventh of what it has without them. Both are measured
/// one after the other, up to six times: the machine may have other things to do. Two such floods at a time would be twenty.
#[track_caller]
fn assert_share_beside_flooders(own_session: bool) {
    const FLOODERS: u8 = 10;
    const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let emperor = emperor().start();
    let honest = start_attached(&emperor, "v1", V1);
    let address = |number: u8| Ipv4Addr::new(192, 168, 0, 100 + number % FLOODERS);
    let mut flooders = Flooders::new();
    let peers: Vec<_> = (0..FLOODERS)
        .map(|number| {
            let peer = Handed::attach(&emperor, address(number));
            peer.netns.sh("ip route replace default dev uwsgi0");
            flooders.add(&peer.netns, own_session, [NOWHERE, address(number + 1)]);
            peer
        })
        .collect();
    let mut shares = Vec::new();
    for _ in 0..6 {
        let alone = bytes_in_a_second(&emperor, &honest);
        std::fs::write(flooders.switch(), "").expect("own folder");
        thread::sleep(Duration::from_millis(300));
        let beside = bytes_in_a_second(&emperor, &honest);
        std::fs::remove_file(flooders.switch()).expect("own file");
        shares.push((beside, alone));
        let fair = alone / u64::from(FLOODERS + 1);
        if beside >= fair * 4 / 5 {
            assert!(
                peers.len() == usize::from(FLOODERS)
                    && emperor.stats().0["totals"]["tun_tx_packets"].as_u64() > Some(50_000)
            );
            return;
        }
    }
    panic!("bytes in a second beside flooders, and alone: {shares:?}");
}

#[test]
fn honest_vassal_beside_flooders_of_its_emperors_session() {
    assert_share_beside_flooders(false);
}

#[test]
fn honest_vassal_beside_flooders_of_own_sessions() {
    assert_share_beside_flooders(true);
}
