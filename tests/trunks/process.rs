//! The trunk process: what it alone has, and what it has given up.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;

use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::processes;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{
    Keys, PORT, agent_pid, emperor, host, inside, number, peer, reload, start_vassal, two_hosts, two_routers,
    wait_for_pings, wait_open,
};

/// How much of a process's memory is looked at in one piece.
const PIECE: usize = 1024 * 1024;

/// A private key in the forms in which a process may have it: as it is, in the text of its file, and the two parts that
/// signing takes (RFC 8032, section 5.1.5).
struct Secret {
    forms: [Vec<u8>; 4],
}

impl Secret {
    fn in_file(path: &str) -> Self {
        let text = std::fs::read_to_string(path).expect("the key's file");
        let line = text.lines().nth(1).expect("PEM");
        let der = STANDARD.decode(line).expect("base64");
        let seed = der[der.len() - 32..].to_vec();
        let mut digest = sha512(&seed);
        let prefix = digest.split_off(32);
        digest[0] &= 248;
        digest[31] = digest[31] & 127 | 64;
        Self { forms: [seed, line.as_bytes()[24..].to_vec(), digest, prefix] }
    }

    /// Which of the forms a process has in its memory. Read-only mappings of files are as the files are.
    fn forms_in(&self, pid: i32) -> [bool; 4] {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs");
        let memory = File::open(format!("/proc/{pid}/mem")).expect("root may");
        let mut found = [false; 4];
        let mut bytes = 0;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, permissions) = (words.next().expect("addresses"), words.next().expect("permissions"));
            let is_file = line.split_whitespace().nth(4) != Some("0");
            if !permissions.starts_with('r') || !permissions.ends_with('p') || is_file && &permissions[1..2] != "w" {
                continue;
            }
            let (start, end) = range.split_once('-').expect("a range");
            let address = |text| u64::from_str_radix(text, 16).expect("a number");
            let (mut at, end) = (address(start), address(end));
            let mut piece = vec![0; PIECE + 64];
            while at < end {
                let len = usize::try_from(end - at).expect("64 bits").min(piece.len());
                // Special mappings can't be read.
                let Ok(len) = memory.read_at(&mut piece[..len], at) else { break };
                bytes += len;
                for (found, form) in found.iter_mut().zip(&self.forms) {
                    *found |= contains(&piece[..len], form);
                }
                at += u64::try_from(PIECE).expect("small");
            }
        }
        assert!(bytes > 100_000, "{bytes} bytes of memory");
        found
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == wanted[0]) {
        if rest[at..].starts_with(wanted) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

fn sha512(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sha512sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils are installed");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends").stdout;
    let hex = str::from_utf8(&output).expect("text").split(' ').next().expect("a digest");
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[track_caller]
fn assert_only_the_trunk_process_has(secret: &Secret, emperor: &Emperor, when: &str) {
    for (name, pid) in
        [("router", emperor.router_pid()), ("master", emperor.master_pid()), ("Emperor", emperor.emperor_pid())]
    {
        assert_eq!(secret.forms_in(pid), [false; 4], "{name} {when}");
    }
    wait::until_true("the trunk process has read the key", wait::LONG, || {
        let [_, _, scalar, prefix] = secret.forms_in(agent_pid(emperor));
        scalar && prefix
    });
}

#[test]
fn nobody_but_the_trunk_process_has_the_key() {
    let keys = Keys::new();
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .line(format!("tuntap-router-key = {}", keys.file(1)))
        .line("tuntap-router-trunk = 127.0.0.1:4000")
        .start();
    assert!(emperor.log.text().contains("(new)"), "the key is made at this start");
    let secret = Secret::in_file(&keys.file(1));
    assert_only_the_trunk_process_has(&secret, &emperor, "after a key was made");
    emperor.kill_router();
    assert_only_the_trunk_process_has(&secret, &emperor, "after the router's death");
    reload(&emperor);
    assert_only_the_trunk_process_has(&secret, &emperor, "after a reload");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert!(secret.forms_in(own)[0], "this test finds what is there");
}

/// An instance with workers that isn't root once it has started: its trunk process reads a file that its user can't open, and its
/// workers, which run applications, don't have that file.
#[test]
fn instance_that_gives_up_root_keeps_its_trunks_and_its_workers_get_no_key() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    keys.public(1);
    let here = EmperorIni::bare(Uwsgi::usual(), Subject::Ours)
        .router(&format!("emperor0 {address} {{dir}}/stats.sock"))
        .lines(&["master = true", "socket = 127.0.0.1:3031", "processes = 2"])
        .lines(&["uid = 65534", "gid = 65534"])
        .line(format!("tuntap-router-key = {}", keys.file(1)))
        .line(peer(&keys, 2, "10.77.0.0/16", ""))
        .start_in(first);
    let there = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    wait_open(&here, 1);
    let has_key = |pid: i32| processes::descriptors(pid).contains(&keys.file(1));
    let others =
        || here.family().members().into_iter().map(|process| process.pid).filter(|pid| *pid != here.master_pid());
    // Two workers, the router and the trunk process.
    wait::until_true("all processes are there", wait::LONG, || others().count() == 4);
    wait::until_true("nobody has the key's file open", wait::LONG, || !others().any(has_key));
    assert!(has_key(here.master_pid()), "this test would see it");
    let opened = number(&there, "/opened");
    let agent = agent_pid(&here);
    assert_eq!(status(agent, "Uid"), ["65534\t65534\t65534\t65534"]);
    processes::send(agent, Signal::SIGKILL);
    wait::until_true("the next trunk process has the key", wait::LONG, || number(&there, "/opened") > opened);
    wait_open(&here, 1);
}

/// An image that is not root any more can't open the file, and has the one of the image before.
#[test]
fn key_outlives_the_loss_of_its_file_over_a_reload() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    std::fs::rename(keys.file(1), keys.file(9)).expect("own files");
    std::fs::create_dir(keys.file(1)).expect("own folder");
    let opened = number(&there, "/opened");
    reload(&here);
    wait::until_true("the trunk is open again", wait::LONG, || number(&there, "/opened") > opened);
    wait_open(&here, 1);
}

#[test]
fn key_that_changes_in_its_file_waits_for_a_reload() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    keys.public(9);
    std::fs::copy(keys.file(9), keys.file(2)).expect("own files");
    processes::send(agent_pid(&there), Signal::SIGKILL);
    there.log.wait_for("has another key than at the start; a reload takes it", wait::LONG);
    // The neighbour doesn't know the new one.
    reload(&there);
    here.log.wait_for("refused a connection from", wait::LONG);
    there.log.wait_for("can't connect with router", wait::LONG);
}

fn status(pid: i32, key: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    // A thread may end meanwhile.
    let files = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let value = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.expect("the kernel tells it").trim().to_owned()
    };
    let mut values: Vec<String> = files.map(value).collect();
    values.sort();
    values.dedup();
    values
}

#[test]
fn trunk_processes_are_confined() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let (near, _far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    // One has accepted, the other one has dialled.
    for emperor in [&here, &there] {
        let agent = agent_pid(emperor);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(agent, set), ["0000000000000000"], "{set}");
        }
        assert_eq!((status(agent, "NoNewPrivs"), status(agent, "Seccomp")), (vec!["1".into()], vec!["2".into()]));
        let log = emperor.log.text();
        assert!(!log.contains("the sandbox denied") && !log.contains("the trunk process keeps"), "{log}");
    }
}

#[test]
fn trunk_process_is_as_open_as_its_router() {
    let keys = Keys::new();
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .line(format!("tuntap-router-key = {}", keys.file(1)))
        .line("tuntap-router-trunk = 127.0.0.1:4000")
        .line("tuntap-router-sandbox = off")
        .start();
    assert_eq!(status(agent_pid(&emperor), "Seccomp"), status(emperor.router_pid(), "Seccomp"));
}
