//! A running uWSGI instance: mostly an Emperor with a router.

use std::fs::File;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::instance::Instance;
use super::log::Mark;
use super::netns::{Net, Netns};
use super::processes;
use super::raw_peer::RawPeer;
use super::starter::{self, Starter, in_dir};
use super::stats::{Stats, is_attached};
use super::user::as_user;
use super::uwsgi::{Subject, Uwsgi};
use super::vassal::VassalIni;
use super::wait;

/// The Emperor's own address and the first addresses for vassals.
pub const EMPEROR: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
pub const V1: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
pub const V2: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);

/// The ini lines that load the plugin of an instance's folder.
pub const OWN_PLUGIN: &str = "plugins-dir = {dir}/plugin\nplugin = tuntap\n";

const ROUTER: &str = "emperor0 {dir}/t.sock {dir}/stats.sock";

/// An ini file in the making. `{dir}` in any line stands for the test's folder.
#[derive(Clone, Debug)]
pub struct EmperorIni {
    uwsgi: Uwsgi,
    plugin: Subject,
    address: Ipv4Addr,
    mtu: u32,
    router: String,
    basics: String,
    lines: Vec<String>,
    before: Option<String>,
    stats_over_http: bool,
    own_plugin: bool,
}

impl EmperorIni {
    /// An Emperor with a router on `emperor0`, whose vassals get network namespaces.
    pub fn new(uwsgi: Uwsgi, plugin: Subject) -> Self {
        let basics = "master = true\nemperor = {dir}/vassals\nemperor-freq = 1\nemperor-use-clone = net\n".to_owned();
        Self {
            uwsgi,
            plugin,
            address: EMPEROR,
            mtu: 1500,
            router: ROUTER.to_owned(),
            basics,
            lines: Vec::new(),
            before: None,
            stats_over_http: false,
            own_plugin: false,
        }
    }

    /// An instance with nothing but the plugin and the lines that are added.
    pub fn bare(uwsgi: Uwsgi, plugin: Subject) -> Self {
        Self { basics: String::new(), router: String::new(), ..Self::new(uwsgi, plugin) }
    }

    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    pub fn lines(self, lines: &[&str]) -> Self {
        lines.iter().fold(self, |ini, line| ini.line(*line))
    }

    /// Other arguments for the router than the usual ones.
    pub fn router(mut self, arguments: &str) -> Self {
        self.router = arguments.to_owned();
        self
    }

    pub fn stats_over_http(mut self) -> Self {
        self.stats_over_http = true;
        self.line("stats-http = true")
    }

    /// The plugin is a file in the instance's folder, which [`Emperor::replace_plugin`] replaces.
    pub fn own_plugin(mut self) -> Self {
        self.own_plugin = true;
        self
    }

    /// A shell line that runs first, in the instance's namespaces.
    pub fn before(mut self, command: &str) -> Self {
        self.before = Some(command.to_owned());
        self
    }

    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.address = address;
        self
    }

    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Starts it in a namespace of its own and waits until the router answers.
    #[track_caller]
    pub fn start(self) -> Emperor {
        self.start_in(Netns::new())
    }

    #[track_caller]
    pub fn start_in(self, netns: Netns) -> Emperor {
        let emperor = self.launch_in(netns);
        let pid = emperor.stats_eventually().router_pid();
        let plugin = if emperor.has_own_plugin() { emperor.own_plugin() } else { emperor.uwsgi.plugin(emperor.plugin) };
        assert!(processes::has_mapped(pid, &plugin), "the router runs {}", plugin.display());
        emperor
    }

    /// Starts it without waiting for anything.
    pub fn launch(self) -> Emperor {
        self.launch_in(Netns::new())
    }

    pub fn launch_in(self, netns: Netns) -> Emperor {
        let dir = starter::folder();
        std::fs::create_dir(dir.path().join("vassals")).expect("own folder");
        if self.own_plugin {
            install_plugin(&self.uwsgi.plugin(self.plugin), dir.path());
        }
        let ini = dir.path().join("emperor.ini");
        std::fs::write(&ini, in_dir(&self.render(), dir.path())).expect("own folder");
        let starter = Starter::mounted(self.uwsgi, dir.path(), &netns).ini(&ini).log("log");
        let instance = self.before.iter().fold(starter, |starter, line| starter.shell(line)).start();
        let stats_over_http = self.stats_over_http;
        Emperor { uwsgi: self.uwsgi, plugin: self.plugin, stats_over_http, instance, netns, dir }
    }

    fn render(&self) -> String {
        let plugin = if self.own_plugin { OWN_PLUGIN.to_owned() } else { self.uwsgi.plugin_lines(self.plugin) };
        let mut ini = format!("[uwsgi]\n{plugin}{}", self.basics);
        if !self.router.is_empty() {
            let device = self.router.split_whitespace().next().expect("a router has a device");
            ini += &format!("tuntap-router = {}\n", self.router);
            // exec-as-root lines of a root Emperor run several times, hence `replace`.
            ini += &format!("exec-as-root = ip addr replace {}/24 dev {device}\n", self.address);
            ini += &format!("exec-as-root = ip link set {device} mtu {} up\n", self.mtu);
        }
        for line in &self.lines {
            ini += line;
            ini.push('\n');
        }
        ini
    }
}

/// A uWSGI instance with all its descendants, ended on drop.
#[derive(Debug)]
pub struct Emperor {
    pub uwsgi: Uwsgi,
    plugin: Subject,
    stats_over_http: bool,
    instance: Instance,
    // Dropped after the processes are gone.
    pub netns: Netns,
    dir: TempDir,
}

impl Emperor {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("t.sock")
    }

    fn own_plugin(&self) -> PathBuf {
        self.path("plugin/tuntap_plugin.so")
    }

    fn has_own_plugin(&self) -> bool {
        self.own_plugin().exists()
    }

    /// Puts another build of the plugin in the place of the instance's own, as `make install` does.
    pub fn replace_plugin(&self, build: Subject) {
        assert!(self.has_own_plugin(), "others use it, too");
        install_plugin(&self.uwsgi.plugin(build), self.dir.path());
    }

    /// True if a process runs with the file that is the instance's own plugin now.
    pub fn runs_own_plugin(&self, pid: i32) -> bool {
        processes::has_mapped(pid, &self.own_plugin())
    }

    /// A registered peer, straight on the router's socket.
    #[track_caller]
    pub fn peer(&self, address: Ipv4Addr) -> RawPeer {
        RawPeer::registered(&self.socket(), address, EMPEROR)
    }

    /// A connection that has sent nothing yet.
    pub fn connect(&self) -> RawPeer {
        RawPeer::connect(&self.socket())
    }

    /// A connection of another user that has sent nothing yet. It needs `chmod-socket`.
    pub fn connect_as(&self, uid: u32) -> RawPeer {
        as_user(uid, || self.connect())
    }

    pub fn try_stats(&self) -> std::io::Result<Stats> {
        let socket = self.path("stats.sock");
        if self.stats_over_http { Ok(Stats::read_http(&socket)?.1) } else { Stats::read(&socket) }
    }

    #[track_caller]
    pub fn stats(&self) -> Stats {
        self.try_stats().expect("the router answers with its stats")
    }

    #[track_caller]
    pub fn stats_eventually(&self) -> Stats {
        wait::until("the router's stats", wait::LONG, || {
            assert!(processes::is_alive(self.master_pid()), "uWSGI ended");
            self.try_stats().ok()
        })
    }

    #[track_caller]
    pub fn wait_for_stats(&self, what: &str, wanted: impl Fn(&Stats) -> bool) -> Stats {
        wait::until(what, wait::SHORT, || self.try_stats().ok().filter(|stats| wanted(stats)))
    }

    pub fn router_pid(&self) -> i32 {
        self.stats_eventually().router_pid()
    }

    pub fn master_pid(&self) -> i32 {
        self.pid()
    }

    /// The process that spawns vassals: uWSGI starts it before the router's processes. Pids don't say that, for they begin anew at the end.
    #[track_caller]
    pub fn emperor_pid(&self) -> i32 {
        let router = self.router_pid();
        let children = self.family().children_of(self.master_pid());
        let others = children.iter().map(|child| child.pid).filter(|pid| *pid != router);
        others.min_by_key(|pid| processes::started(*pid)).expect("the master has an Emperor as its child")
    }

    /// Another uWSGI of the same binary, in the namespaces of this one.
    pub fn beside(&self) -> Starter {
        Starter::beside(self.uwsgi, self.dir.path(), self.master_pid())
    }

    /// Text of an ini file with this test's folder in it.
    pub fn in_dir(&self, text: &str) -> String {
        in_dir(text, self.dir.path())
    }

    /// Puts a vassal's ini file in place.
    pub fn add(&self, vassal: &VassalIni) {
        let draft = self.path("draft");
        std::fs::write(&draft, in_dir(&vassal.render(), self.dir.path())).expect("own folder");
        std::fs::rename(&draft, self.vassal_path(&vassal.name)).expect("own folder");
    }

    /// Adds a vassal and waits until it serves.
    #[track_caller]
    pub fn start_vassal(&self, vassal: &VassalIni) -> Net {
        let mark = self.log.mark();
        self.add(vassal);
        self.wait_until_ready(mark, &vassal.name);
        self.vassal_net(&vassal.name)
    }

    /// Adds a vassal and waits until the router has its device.
    #[track_caller]
    pub fn start_attached(&self, vassal: &VassalIni) -> Net {
        let net = self.start_vassal(vassal);
        self.wait_for_stats("the vassal is attached", |stats| is_attached(stats, vassal.address));
        net
    }

    /// Kills the router and waits for the next one.
    #[track_caller]
    pub fn kill_router(&self) -> Stats {
        let router = self.router_pid();
        processes::send(router, Signal::SIGKILL);
        wait::until("there is a new router", wait::LONG, || {
            self.try_stats().ok().filter(|stats| stats.router_pid() != router)
        })
    }

    #[track_caller]
    pub fn wait_until_ready(&self, mark: Mark, name: &str) {
        self.log.wait_for_since(mark, &format!("vassal {name}.ini is ready to accept requests"), wait::LONG);
    }

    /// Touches a vassal's file, as an operator does to reload the vassal. The Emperor compares whole seconds, so the
    /// file's time moves on by at least one.
    pub fn touch(&self, name: &str) {
        let file = File::options().append(true).open(self.vassal_path(name)).expect("the vassal's ini");
        let before = file.metadata().and_then(|metadata| metadata.modified()).expect("a file has a time");
        let after = SystemTime::now().max(before + Duration::from_secs(1));
        file.set_modified(after).expect("own file");
    }

    pub fn vassal_pid(&self, name: &str) -> Option<i32> {
        self.family().master_of(&format!("{name}.ini"))
    }

    /// The namespace that a vassal has now; a vassal that was started anew has a new one.
    #[track_caller]
    pub fn vassal_net(&self, name: &str) -> Net {
        wait::until("the vassal has a namespace", wait::LONG, || Net::of_process(self.vassal_pid(name)?).ok())
    }

    pub fn signal(&self, signal: Signal) {
        processes::send(self.master_pid(), signal);
    }

    fn vassal_path(&self, name: &str) -> PathBuf {
        self.path(&format!("vassals/{name}.ini"))
    }
}

/// Copies a plugin into a folder. A process that has one from there mapped keeps that.
fn install_plugin(plugin: &Path, dir: &Path) {
    let folder = dir.join("plugin");
    std::fs::create_dir_all(&folder).expect("own folder");
    std::fs::copy(plugin, folder.join("new")).expect("own folder");
    std::fs::rename(folder.join("new"), folder.join("tuntap_plugin.so")).expect("own folder");
}

impl Deref for Emperor {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Emperor {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

impl Drop for Emperor {
    /// Adds to what the instance says of itself when a test fails.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let stats = self.try_stats().map_or_else(|error| error.to_string(), |stats| stats.0.to_string());
            eprintln!("--- uWSGI {} with {:?}\n--- stats\n{stats}", self.uwsgi.version(), self.plugin);
        }
    }
}
