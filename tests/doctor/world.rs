//! A namespace that stands for a host, with files that are examined in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};
use tempfile::TempDir;

use crate::common::netns::Netns;
use crate::common::starter::{self, Finished, Starter, in_dir};
use crate::common::uwsgi::{MOUNT, Subject, Uwsgi};

/// A router's file and a vassal's, as the README has them.
pub const ROUTER: &str = "tuntap-router = emperor0 {dir}/t.sock\n\
    emperor = {dir}/vassals\nemperor-use-clone = net\nmaster = true\n";
pub const VASSAL: &str =
    "jailed = true\ntuntap-device = uwsgi0 {dir}/t.sock\nuid = 20001\ngid = 20001\nmaster = true\n";

/// The output of an examination.
#[derive(Debug)]
pub struct Verdict {
    pub text: String,
    pub code: Option<i32>,
}

impl Verdict {
    pub fn of(finished: &Finished) -> Self {
        Self { text: finished.text(), code: finished.output.status.code() }
    }

    /// Fails if anything is wrong, or if there is a warning.
    #[track_caller]
    pub fn is_well(&self) {
        assert_eq!((self.code, self.text.lines().last()), (Some(0), Some("nothing is wrong")), "{}", self.text);
        assert!(!self.text.contains("WRONG"), "{}", self.text);
    }

    /// Fails unless exactly this is wrong, with this remedy.
    #[track_caller]
    pub fn is_wrong(&self, what: &str, remedy: &str) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        self.has("WRONG", what, remedy);
        assert_eq!(self.text.matches("  WRONG ").count(), 1, "nothing else is wrong: {}", self.text);
    }

    /// Fails unless nothing is wrong and this is the only warning.
    #[track_caller]
    pub fn warns(&self, what: &str, remedy: &str) {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self.has("warning", what, remedy);
        assert_eq!(self.text.matches("  warning ").count(), 1, "no other warning: {}", self.text);
    }

    #[track_caller]
    pub fn has(&self, label: &str, what: &str, remedy: &str) {
        let mut lines =
            self.text.lines().skip_while(|line| !(line.trim_start().starts_with(label) && line.contains(what)));
        assert!(lines.next().is_some(), "no line `{label} {what}`: {}", self.text);
        let found = lines.take_while(|line| line.trim_start().starts_with("->")).any(|line| line.contains(remedy));
        assert!(found || remedy.is_empty(), "no remedy `{remedy}` behind `{what}`: {}", self.text);
    }
}

/// A host that forwards and has a default route, and a folder.
pub struct World {
    pub uwsgi: Uwsgi,
    pub netns: Netns,
    dir: TempDir,
    /// How the examination is started.
    starting: Box<dyn Fn(Starter) -> Starter>,
}

impl World {
    pub fn new(uwsgi: Uwsgi) -> Self {
        let netns = Netns::new();
        netns.sh("ip link add eth0 type veth peer name eth1");
        netns.sh("ip addr add 203.0.113.2/24 dev eth0");
        netns.sh("ip link set eth0 up");
        netns.sh("ip route add default via 203.0.113.1");
        let world = Self { uwsgi, netns, dir: starter::folder(), starting: Box::new(|starter| starter) };
        fs::create_dir(world.path("vassals")).expect("own folder");
        fs::create_dir(world.in_dir(MOUNT)).expect("own folder");
        world
    }

    pub fn usual() -> Self {
        Self::new(Uwsgi::usual())
    }

    /// Has IPv6, forwards it, and has a default route for it.
    pub fn with_ipv6(self) -> Self {
        self.netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.all.forwarding=1");
        self.netns.sh("ip addr add 2001:db8::2/64 dev eth0 nodad");
        self.netns.sh("ip -6 route add default via 2001:db8::1");
        self
    }

    /// Changes how examinations are started.
    pub fn starting(self, change: impl Fn(Starter) -> Starter + 'static) -> Self {
        let before = self.starting;
        Self { starting: Box::new(move |starter| change(before(starter))), ..self }
    }

    /// A shell line that changes what the examination sees, in a mount namespace of its own.
    pub fn before(self, line: &str) -> Self {
        let line = line.to_owned();
        self.starting(move |starter| starter.shell(&line))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn in_dir(&self, text: &str) -> String {
        in_dir(text, self.dir.path())
    }

    /// The lines that load the plugin.
    pub fn plugin(&self) -> String {
        self.uwsgi.plugin_lines(Subject::Ours)
    }

    /// Writes a file with nothing but these lines.
    pub fn raw_file(&self, name: &str, lines: &str) -> String {
        let path = self.path(name);
        fs::write(&path, self.in_dir(&format!("[uwsgi]\n{lines}"))).expect("own folder");
        path.to_string_lossy().into_owned()
    }

    /// Writes a file that loads the plugin.
    pub fn file(&self, name: &str, lines: &str) -> String {
        self.raw_file(name, &(self.plugin() + lines))
    }

    /// Examines one file with these lines, which loads the plugin.
    pub fn examine_lines(&self, lines: &str) -> Verdict {
        self.examine(&[&self.file("file.ini", lines)])
    }

    /// Examines an Emperor's file and a vassal's.
    pub fn examine_pair(&self, emperor: &str, vassal: &str) -> Verdict {
        self.examine(&[&self.file("emperor.ini", emperor), &self.file("vassals/app.ini", vassal)])
    }

    /// Examines files, and fails if a process, a file or a device is left behind.
    #[track_caller]
    pub fn examine(&self, files: &[&str]) -> Verdict {
        let before = self.inventory();
        let starter =
            Starter::mounted(self.uwsgi, self.dir.path(), &self.netns).arguments(arguments(self.uwsgi, files));
        let finished = (self.starting)(starter).output();
        assert!(finished.left.is_empty(), "{:?}", finished.left);
        assert_eq!(self.inventory(), before, "an examination leaves nothing behind");
        Verdict::of(&finished)
    }

    /// All files and network devices.
    fn inventory(&self) -> (BTreeSet<PathBuf>, String) {
        let devices = self.netns.sh("ip -o link");
        let mut files = BTreeSet::new();
        collect(self.dir.path(), &mut files);
        (files, devices)
    }
}

/// What an operator types behind the name of a uWSGI.
pub fn arguments(uwsgi: Uwsgi, files: &[&str]) -> Vec<String> {
    let plugins = uwsgi.mounted_plugins(Subject::Ours);
    let mut words: Vec<String> =
        ["--plugins-dir", &plugins, "--plugin", "tuntap"].iter().map(|word| (*word).to_owned()).collect();
    words.extend(files.iter().flat_map(|file| ["--tuntap-doctor".to_owned(), (*file).to_owned()]));
    words
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("own folder").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), files);
        }
        files.insert(entry.path());
    }
}

/// Has a syscall fail in the calling thread and in what it starts, as on a kernel that lacks what it is for.
pub fn hide(call: libc::c_long, when: Vec<SeccompRule>, errno: Errno) {
    let answer = SeccompAction::Errno((errno as i32).cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp");
    let rules = BTreeMap::from([(call, when)]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch).expect("two actions");
    let program: BpfProgram = filter.try_into().expect("a short filter");
    seccompiler::apply_filter(&program).expect("a process may filter itself");
}
