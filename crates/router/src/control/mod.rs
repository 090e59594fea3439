//! The control socket (docs/PROTOCOL.md): a thread of the router's process that takes requests, checks and compiles policies,
//! and asks the event loop for what only that knows. A client can keep the thread busy, but never the loop.

mod access;
mod answers;
mod captured;
mod captures;
mod client;
mod documents;
mod drops;
mod filter;
mod flows;
mod question;
mod requests;
mod script;
mod server;
mod test_packet;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::getuid;

use self::access::Access;
use self::question::{Answerer, Asker};
use self::requests::{Origin, Requests, now};
use self::server::{Server, log};
use super::{RouterError, Setup};
use crate::grant_updates::Newcomers;
use tuntap_api::PolicyStats;
use tuntap_config::ControlAccess;
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::{RuleCounters, SharedMemory};
use tuntap_live::{Live, ScriptSources};
use tuntap_sys::log::Event;
use tuntap_sys::net::namespace_of;
use tuntap_sys::priority::set_nice;
use tuntap_sys::process::{exit_at_once, with_signals_blocked};

pub use self::captures::CaptureTeller;
pub use self::documents::{DocumentWriter, Documents};
pub use self::drops::{DropTeller, PER_SECOND};

/// The thread begins anew after so many panics within [`PANIC_INTERVAL`]. After more, the router ends.
const MAX_PANICS: usize = 5;

/// See [`MAX_PANICS`].
const PANIC_INTERVAL: Duration = Duration::from_secs(60);

/// The nice value of the thread: a large policy that is compiled takes no processor from packets and from those that send
/// them, neither as a thread nor, where the kernel divides processor time among sessions first, by what the router's
/// session has.
const NICE: i8 = 19;

/// Where requests come in.
#[derive(Debug)]
pub struct ControlEndpoint {
    /// The listening socket, non-blocking.
    pub listener: OwnedFd,
    /// Who may use it besides root and the router's own user.
    pub access: Vec<ControlAccess>,
}

/// What a router begins with.
#[derive(Debug)]
pub struct Opened {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The script, as text.
    pub script: ScriptSources,
    /// What the statistics say about it.
    pub stats: PolicyStats,
    /// Flows and counters of the router before.
    pub memory: SharedMemory,
    /// The event loop's part of the control thread, if there is a control socket.
    pub control: Option<Control>,
}

/// Makes the policy that a router begins with: that of the router before this one, if there was one.
pub fn open(setup: &Setup) -> Result<Opened, RouterError> {
    let memory = |error| RouterError::Memory(error);
    let counters = setup.memory.counters.map().map_err(|errno| memory(errno.into()))?;
    let flows = setup.memory.flows.map().map_err(|errno| memory(errno.into()))?;
    let origin = Origin::new(setup, RuleCounters::new(counters));
    let mut documents = setup.memory.documents.writer().map_err(memory)?;
    let mut live = origin.live(documents.latest());
    let now = now();
    // A commit whose time has passed while there was no router is undone before the first packet.
    if let Some(expired) = live.expire(now) {
        log(origin.logger, &origin.device, Event::PolicyChanged, expired.message);
    }
    requests::store(&live, &mut documents).map_err(|failure| memory(io::Error::other(failure.message)))?;
    let (policy, stats) = (origin.fit(live.policy()), requests::describe(&live, now));
    let script = live.script().clone();
    let control = setup.control.as_ref().map(|endpoint| Control::new(endpoint, origin, live, documents));
    let start = u32::try_from(now.monotonic.as_secs()).unwrap_or(u32::MAX);
    let shared = SharedMemory { counters, flows, start };
    Ok(Opened { policy, script, stats, memory: shared, control: control.transpose().map_err(memory)? })
}

/// The event loop's part of it.
#[derive(Debug)]
pub struct Control {
    pub(super) answerer: Answerer,
    /// Messages about newcomers that have come.
    welcomed: u64,
    /// Those that aren't in the policy of the control thread yet, with their numbers.
    newcomers: Vec<(u64, Newcomers)>,
    /// Tells the thread of dropped packets, and of captured ones.
    tellers: Option<(DropTeller, CaptureTeller)>,
    /// What the thread starts with.
    start: Option<Start>,
}

/// What the thread starts with.
#[derive(Debug)]
struct Start {
    asker: Asker,
    listener: OwnedFd,
    access: Access,
    origin: Origin,
    live: Live,
    documents: DocumentWriter,
}

impl Control {
    /// Makes what the thread needs. It is started later.
    pub fn new(endpoint: &ControlEndpoint, origin: Origin, live: Live, documents: DocumentWriter) -> io::Result<Self> {
        let (asker, answerer, tellers) = question::channel()?;
        let access = Access {
            rules: endpoint.access.clone(),
            own_uid: getuid().as_raw(),
            namespace: namespace_of(endpoint.listener.as_fd()),
        };
        let listener = endpoint.listener.try_clone()?;
        let start = Start { asker, listener, access, origin, live, documents };
        Ok(Self { answerer, welcomed: 0, newcomers: Vec::new(), tellers: Some(tellers), start: Some(start) })
    }

    /// Takes what tells the thread of dropped packets, and of captured ones.
    pub const fn take_tellers(&mut self) -> Option<(DropTeller, CaptureTeller)> {
        self.tellers.take()
    }

    /// Starts the thread, and waits until restrictions that apply to all threads can be made. The thread ends with the
    /// process.
    pub fn start(&mut self) -> io::Result<()> {
        let Some(start) = self.start.take() else { return Ok(()) };
        let (ready, is_ready) = mpsc::channel();
        let builder = thread::Builder::new().name("control".to_owned());
        let serve = move || {
            // The C library asks the kernel for the number of processors when a thread first needs memory.
            drop(vec![0_u8; 1 << 16]);
            // An error leaves it as it was, and packets wait a little longer for processors that are busy.
            let _ = set_nice(NICE);
            let _ = ready.send(());
            serve(start);
        };
        with_signals_blocked(|| builder.spawn(serve)).map_err(io::Error::from)??;
        // This fails only if the thread has already ended. Then its questions don't come.
        let _ = is_ready.recv();
        Ok(())
    }
}

/// Serves clients for ever. The sandbox doesn't allow the system calls of a thread that ends.
fn serve(start: Start) {
    let Start { asker, listener, access, origin, live, documents } = start;
    let (logger, device) = (origin.logger, origin.device.clone());
    let mut server = Server::new(listener, access, Requests::new(origin, live, asker, documents));
    let mut panics: Vec<Instant> = Vec::new();
    loop {
        let is_anew = !panics.is_empty();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if is_anew {
                server.start_anew();
            }
            server.run()
        }));
        let now = Instant::now();
        panics.retain(|panic| now.saturating_duration_since(*panic) < PANIC_INTERVAL);
        panics.push(now);
        if panics.len() > MAX_PANICS {
            log(logger, &device, Event::RouterEnded, "panic in the control thread again and again; this router ends");
            exit_at_once(1);
        }
        log(
            logger,
            &device,
            Event::RouterFault,
            "panic in the control thread: it goes on with the policy in use, and its clients are disconnected",
        );
    }
}
