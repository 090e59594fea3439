//! A router with honest peers, and checks of all that an attack must leave as it is.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::log::Mark;
use crate::common::netns::Net;
use crate::common::probe::pings_answered;
use crate::common::processes::{cpu_time, descriptors, memory};
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::conversation::Conversation;
use crate::world::{emperor, is_attached, start_attached, vassal};

/// The honest peer in frames. The honest vassal, which is attached, has V1.
pub const STREAM: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 4);

/// Addresses that attackers may claim.
pub const A1: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 11);
pub const A2: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 12);

/// What the router may keep of an attack for the next one: sixteen buffers for queues, longer tables, the allocator's
/// reserve.
const KEPT: u64 = 12 << 20;

/// Growth of memory from one round to the next that counts as none, and how many rounds may show more.
const GROWN: u64 = 1 << 20;
const ROUNDS: usize = 4;

/// CPU time in a second in which only the honest peers send. A router that spins takes all of it.
const CALM: Duration = Duration::from_millis(300);

/// The longest that an honest message may take to the vassal and back. TCP sends again after lost packets, and the
/// machine may have much to do; a router that serves nobody takes longer.
const LONGEST: Duration = Duration::from_secs(20);

/// Lines that the router writes on what happens once, or a few times.
const LINES: usize = 150;

/// Lines that it writes at most in two of the log's periods.
pub const MANY_LINES: usize = 1300;

#[derive(Debug)]
pub struct Watch {
    // Dropped first, while its packets still pass.
    conversation: Conversation,
    stream: RawPeer,
    honest: Net,
    pub emperor: Emperor,
    router: i32,
    vassal: i32,
    descriptors: usize,
    memory: u64,
    lines: usize,
}

impl Watch {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(emperor())
    }

    #[track_caller]
    pub fn start_with(ini: EmperorIni) -> Self {
        let emperor = ini.start();
        let honest = start_attached(&emperor, "v1", V1);
        let stream = emperor.connect();
        Self::over(emperor, honest, stream)
    }

    /// Honest peers of a router that asks for credentials.
    #[track_caller]
    pub fn start_with_credentials() -> Self {
        const OPTION: &str = "tuntap-use-credentials = true";
        let emperor = emperor().line(OPTION).start();
        let honest = emperor.start_vassal(&vassal("v1", V1).line(OPTION));
        let mut stream = emperor.connect();
        stream.send_credentials(0, 0);
        Self::over(emperor, honest, stream)
    }

    #[track_caller]
    fn over(emperor: Emperor, honest: Net, mut stream: RawPeer) -> Self {
        assert!(stream.echo(STREAM, EMPEROR, wait::SHORT), "the honest stream gets its address");
        let conversation = Conversation::start(&emperor.netns, &honest, V1);
        wait::until_true("honest messages pass", wait::SHORT, || conversation.round_trips() > 10);
        let router = emperor.router_pid();
        let vassal = emperor.vassal_pid("v1").expect("the vassal runs");
        let open = descriptors(router).len();
        let memory = memory(router);
        Self { conversation, stream, honest, emperor, router, vassal, descriptors: open, memory, lines: LINES }
    }

    /// Allows an attack about which the router writes many lines.
    pub fn allowing_lines(mut self, lines: usize) -> Self {
        self.lines = lines;
        self
    }

    pub fn honest(&self) -> &Net {
        &self.honest
    }

    pub fn router(&self) -> i32 {
        self.router
    }

    /// Runs an attack twice: what the router keeps of the first one, it reuses for the second. The attack runs more
    /// often only if memory grew, because the allocator can't give back every page at once.
    #[track_caller]
    pub fn endure(&mut self, what: &str, mut attack: impl FnMut(&Self)) {
        let mark = self.emperor.log.mark();
        let mut used = Vec::new();
        for round in 1..=ROUNDS {
            let what = format!("{what}, round {round}");
            self.conversation.take_longest();
            attack(self);
            self.assert_unharmed(&what, mark);
            self.assert_memory(&what);
            let now = memory(self.router);
            if used.last().is_some_and(|before| now <= before + GROWN) {
                return;
            }
            used.push(now);
        }
        panic!("{what}: memory grew with every round: {used:?}");
    }

    /// Fails if honest messages are not passed on while something goes on.
    #[track_caller]
    pub fn assert_conversation(&self, what: &str) {
        let before = self.conversation.round_trips();
        wait::until_true(&format!("{what}: honest messages pass"), wait::LONG, || {
            assert!(self.conversation.is_alive(), "{what}: the honest connection ended");
            self.conversation.round_trips() >= before + 10
        });
        let longest = self.conversation.take_longest();
        assert!(longest < LONGEST, "{what}: an honest message took {longest:?}");
    }

    #[track_caller]
    fn assert_unharmed(&mut self, what: &str, mark: Mark) {
        self.assert_conversation(what);
        assert_eq!(self.emperor.router_pid(), self.router, "{what}: the router's process");
        assert_eq!(self.emperor.vassal_pid("v1"), Some(self.vassal), "{what}: the honest vassal's process");
        let stats =
            self.emperor.wait_for_stats(&format!("{what}: the attackers are gone"), |stats| stats.peers().len() == 2);
        assert!(is_attached(&stats, V1), "{what}: the honest vassal is attached: {}", stats.0);
        assert!(stats.peer(STREAM).is_some(), "{what}: the honest stream has its address: {}", stats.0);
        wait::until_true(&format!("{what}: descriptors are closed"), wait::SHORT, || {
            descriptors(self.router).len() == self.descriptors
        });
        self.assert_calm(what);
        assert_eq!(pings_answered(&self.honest, EMPEROR, 5, &[]), 5, "{what}: the honest vassal's pings");
        assert!(self.stream.echo(STREAM, EMPEROR, wait::SHORT), "{what}: the honest stream's echo");
        let lines = self.emperor.log.since(mark).lines().count();
        assert!(lines <= self.lines, "{what}: {lines} lines in the log");
    }

    #[track_caller]
    fn assert_calm(&self, what: &str) {
        let before = cpu_time(self.router);
        sleep(Duration::from_secs(1));
        let used = cpu_time(self.router).saturating_sub(before);
        assert!(used < CALM, "{what}: the router used {used:?} of CPU time in a calm second");
    }

    #[track_caller]
    fn assert_memory(&self, what: &str) {
        let bound = self.memory + KEPT;
        let used = || memory(self.router);
        let within = wait::try_until(wait::SHORT, || (used() <= bound).then_some(()));
        assert!(within.is_some(), "{what}: {} bytes of memory, expected {bound} at most", used());
    }
}
