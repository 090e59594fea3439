//! What the control thread asks the event loop, and what the loop tells it. The thread waits for each answer, so that there
//! are never more questions than one, and each question is a bounded piece of work between two packets.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::captures::{self, CaptureTeller, Captures};
use super::drops::{self, DropTeller, Drops};
use super::filter::Filter;
use super::test_packet::Described;
use crate::grant_updates::Newcomers;
use tuntap_api::TrunkStats;
use tuntap_api::control::{Code, Failure, FlowEntry, Routes, ScriptStatus, Tested};
use tuntap_api::{PeerStats, PolicyStats, Snapshot};
use tuntap_core::policy::Policy;
use tuntap_core::router::capture::CaptureFilter;
use tuntap_script::{Compiled, ScriptError};

/// Questions that may wait. The control thread asks one after the other.
const MAX_QUESTIONS: usize = 2;

/// Peers in one answer.
pub const PEERS_PER_PAGE: usize = 128;

/// Flows that are looked at for one answer.
pub const FLOWS_PER_PAGE: u32 = 512;

/// Where an answer is sent to.
pub type Reply<T> = SyncSender<T>;

/// A question.
#[derive(Debug)]
pub enum Question {
    /// Forward by this policy from the next packet on.
    Swap(Swap, Reply<Replaced>),
    /// How many flows there are.
    FlowCounts(Reply<FlowCounts>),
    /// Those of some flows, from this number on, that a filter wants.
    Flows(u32, Arc<Filter>, Reply<FlowPage>),
    /// The same, to be forgotten: how many these were, and where the next ones begin.
    KillFlows(u32, Arc<Filter>, Reply<(u64, Option<u32>)>),
    /// What would happen to a packet?
    Test(Described, Reply<Result<Tested, Failure>>),
    /// So many peers from this place on.
    Peers(usize, Reply<PeerPage>),
    /// How does the exchange of claims with other hosts stand, and who holds these addresses?
    Routes(Vec<IpAddr>, Reply<Routes>),
    /// The statistics without the peers.
    Statistics(Reply<Box<Snapshot>>),
    /// Have the counters of rules what has passed in the kernel.
    CountKernel(Reply<()>),
    /// How the trunks stand.
    Trunks(Reply<Vec<TrunkStats>>),
    /// Use this script, or none.
    LoadScript(Option<Compiled>, Reply<Result<(), ScriptError>>),
    /// The state of the script.
    ScriptStatus(Reply<ScriptStatus>),
    /// Say this about the policy in the statistics.
    Describe(PolicyStats),
    /// Tell which packets are dropped from now on, or tell it no longer.
    Watch(bool, Reply<()>),
    /// Begin the capture of this number, which takes so many bytes of each packet, or end it.
    Capture(usize, Option<(CaptureFilter, usize)>, Reply<()>),
}

/// A policy to use.
#[derive(Debug)]
pub struct Swap {
    /// The policy.
    pub policy: Arc<Policy>,
    /// So many messages about newcomers are in it.
    pub newcomers: u64,
}

/// The policy before. The control thread frees it, which takes long if it has many rules.
#[derive(Debug)]
pub struct Replaced(pub Arc<Policy>);

/// Flows of the router.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Those that are known.
    pub known: u64,
    /// Most that can be.
    pub max: u64,
}

/// Some of the flows.
#[derive(Debug, Default)]
pub struct FlowPage {
    /// Those that a filter wants.
    pub flows: Vec<FlowEntry>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<u32>,
}

/// Some of the peers.
#[derive(Debug, Default)]
pub struct PeerPage {
    /// Them.
    pub peers: Vec<PeerStats>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<usize>,
}

/// A descriptor by which one thread wakes the other one (eventfd(2)).
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// A bell that is silent.
    pub fn new() -> nix::Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Self)
    }

    /// Wakes the other thread.
    pub fn ring(&self) {
        // This fails only if it has rung 2^64 times.
        let _ = self.0.write(1);
    }

    /// Makes it silent again.
    fn silence(&self) {
        // An error means that it hasn't rung.
        let _ = self.0.read();
    }
}

/// All ends: that of the control thread, and those of the event loop.
pub fn channel() -> io::Result<(Asker, Answerer, (DropTeller, CaptureTeller))> {
    let (questions, asked) = mpsc::sync_channel(MAX_QUESTIONS);
    let (newcomers, welcomed) = mpsc::channel();
    let (to_loop, to_thread) = (Arc::new(Bell::new()?), Arc::new(Bell::new()?));
    let (drops, dropped) = drops::channel(Arc::clone(&to_thread));
    let (capture, captured) = captures::channel(Arc::clone(&to_thread));
    let has_reverted = Arc::new(AtomicBool::new(false));
    let asker = Asker {
        questions,
        welcomed,
        has_reverted: Arc::clone(&has_reverted),
        drops: dropped,
        captures: captured,
        to_loop: Arc::clone(&to_loop),
        to_thread: Arc::clone(&to_thread),
    };
    Ok((asker, Answerer { asked, newcomers, has_reverted, to_loop, to_thread }, (drops, capture)))
}

/// The control thread's end.
#[derive(Debug)]
pub struct Asker {
    questions: SyncSender<Question>,
    welcomed: Receiver<Newcomers>,
    has_reverted: Arc<AtomicBool>,
    /// What the event loop tells about dropped packets.
    pub drops: Drops,
    /// What it tells about captured packets.
    pub captures: Captures,
    to_loop: Arc<Bell>,
    to_thread: Arc<Bell>,
}

impl Asker {
    /// Asks a question, and waits for the answer. The event loop answers in its next turn.
    pub fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, Failure> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(question(reply))?;
        answer.recv().map_err(|_| no_answer())
    }

    /// Asks for something that has no answer.
    pub fn tell(&self, question: Question) -> Result<(), Failure> {
        self.questions.send(question).map_err(|_| no_answer())?;
        self.to_loop.ring();
        Ok(())
    }

    /// Becomes readable when the event loop has told something.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.to_thread.0.as_fd()
    }

    /// Makes that readable: this thread has more to do.
    pub fn ring(&self) {
        self.to_thread.ring();
    }

    /// Makes that unreadable. To be called before what was told is read.
    pub fn silence(&self) {
        self.to_thread.silence();
    }

    /// Returns true once if the event loop has brought back the script before.
    pub fn has_script_reverted(&self) -> bool {
        self.has_reverted.swap(false, Ordering::AcqRel)
    }

    /// Returns what the event loop has got about newcomers.
    pub fn next_newcomers(&self) -> Option<Newcomers> {
        self.welcomed.try_recv().ok()
    }
}

/// The event loop has ended, or its process ends.
fn no_answer() -> Failure {
    Failure::new(Code::Busy, "the router ends".to_owned())
}

/// The event loop's end. Nothing here ever blocks.
#[derive(Debug)]
pub struct Answerer {
    asked: Receiver<Question>,
    newcomers: Sender<Newcomers>,
    has_reverted: Arc<AtomicBool>,
    to_loop: Arc<Bell>,
    to_thread: Arc<Bell>,
}

impl Answerer {
    /// Becomes readable when there is a question.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.to_loop.0.as_fd()
    }

    /// Returns the next question. Without one, the bell is silent from then on.
    pub fn next(&self) -> Option<Question> {
        match self.asked.try_recv() {
            Ok(question) => Some(question),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                self.to_loop.silence();
                // One may have come in between.
                self.asked.try_recv().ok()
            }
        }
    }

    /// Tells the control thread that the script before is in use again.
    pub fn tell_revert(&self) {
        self.has_reverted.store(true, Ordering::Release);
        self.to_thread.ring();
    }

    /// Tells the control thread of newcomers.
    pub fn tell_newcomers(&self, newcomers: Newcomers) {
        // An error means that the thread has ended.
        let _ = self.newcomers.send(newcomers);
        self.to_thread.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tuntap_sys::socket::wait_readable;

    #[test]
    fn question_wakes_the_loop_and_its_answer_the_thread() {
        let (asker, answerer, _tellers) = channel().expect("descriptors");
        assert!(answerer.next().is_none());
        assert!(!wait_readable(answerer.bell(), Duration::ZERO));
        let thread = std::thread::spawn(move || {
            let page = asker.ask(|reply| Question::Peers(7, reply)).expect("an answer");
            (asker, page.next)
        });
        assert!(wait_readable(answerer.bell(), Duration::from_secs(60)));
        match answerer.next() {
            Some(Question::Peers(from, reply)) => {
                reply.send(PeerPage { peers: Vec::new(), next: Some(from + 1) }).expect("it waits");
            }
            other => panic!("{other:?}"),
        }
        let (asker, next) = thread.join().expect("no panic");
        assert_eq!(next, Some(8));
        assert!(answerer.next().is_none());
        assert!(!wait_readable(answerer.bell(), Duration::ZERO));
        drop(answerer);
        assert_eq!(asker.ask(Question::FlowCounts).expect_err("nobody answers").code, Code::Busy);
    }
}
