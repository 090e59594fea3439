//! Asks routers again and again, each in a thread of its own: one that hangs, dies or starts again holds up neither the others
//! nor the screen.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::sample::{self, Sample, Wanted};
use super::view::View;
use crate::client::Client;
use crate::failure::Failed;
use crate::find;

/// Most routers that are asked. All are root's or one's own.
const MAX_ROUTERS: usize = 64;

/// How often routers are looked for.
const SEARCH_INTERVAL: Duration = Duration::from_secs(2);

/// Answers that wait to be taken. An asker waits while there are more.
const MAX_WAITING: usize = 64;

/// What a router has said, or why it hasn't.
#[derive(Debug)]
pub struct Update {
    /// The name of its control socket.
    pub socket: String,
    /// The answer.
    pub result: Result<Sample, String>,
}

/// What is looked at, which says what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Focus {
    /// The router that is looked at; without one, all are asked.
    pub socket: Option<String>,
    /// What of it.
    pub wanted: Wanted,
}

impl Focus {
    /// What to ask this router, if anything. The list of routers is about all of them.
    fn of(&self, socket: &str) -> Option<Wanted> {
        let is_asked = self.wanted.view == View::Routers || self.socket.as_deref().is_none_or(|it| it == socket);
        is_asked.then_some(self.wanted)
    }
}

/// The focus, where all threads see it.
#[derive(Debug)]
pub struct SharedFocus {
    focus: Mutex<Focus>,
    changed: Condvar,
}

impl SharedFocus {
    fn lock(&self) -> MutexGuard<'_, Focus> {
        // The focus is valid at any time.
        self.focus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it. Who is to be asked now is asked at once.
    pub fn set(&self, focus: Focus) {
        let mut current = self.lock();
        if *current != focus {
            *current = focus;
            self.changed.notify_all();
        }
    }

    /// What to ask this router, if anything.
    fn wanted(&self, socket: &str) -> Option<Wanted> {
        self.lock().of(socket)
    }

    /// Waits until it is time, or this router is to be asked for something else than `wanted`.
    fn wait_until(&self, time: Instant, wanted: Option<Wanted>, socket: &str) {
        let mut focus = self.lock();
        loop {
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() || focus.of(socket).is_some_and(|now| wanted != Some(now)) {
                return;
            }
            focus = self.changed.wait_timeout(focus, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Which routers are asked.
#[derive(Debug, Clone)]
pub enum Sources {
    /// The one with this socket.
    Socket(String),
    /// All that are found, or the one with this device.
    Found(Option<String>),
}

impl Sources {
    /// What `--control` names.
    pub fn new(wanted: Option<&str>) -> Self {
        match wanted {
            Some(name) if name.starts_with('@') || name.contains('/') => Self::Socket(name.to_owned()),
            device => Self::Found(device.map(str::to_owned)),
        }
    }

    /// The device that the router must have.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Found(device) => device.as_deref(),
            Self::Socket(_) => None,
        }
    }

    /// The sockets as they are now.
    pub fn sockets(&self) -> Result<Vec<String>, Failed> {
        self.new_sockets(|_| false)
    }

    /// Those that aren't known.
    fn new_sockets(&self, is_known: impl Fn(&str) -> bool) -> Result<Vec<String>, Failed> {
        match self {
            Self::Socket(name) => Ok(Some(name.clone()).into_iter().filter(|name| !is_known(name)).collect()),
            Self::Found(_) => find::trusted_names(is_known),
        }
    }

    /// Connects to one of them.
    pub fn connect(&self, socket: &str, timeout: Duration) -> Result<Client, Failed> {
        match self {
            Self::Socket(_) => Client::connect(socket, timeout),
            Self::Found(_) => find::connect_trusted(socket, timeout),
        }
    }
}

/// Starts to ask: each `interval`, with answers that may take `timeout`. Returns what says what to ask for, and where the answers
/// come out.
pub fn start(
    sources: Sources,
    focus: Focus,
    interval: Duration,
    timeout: Duration,
) -> (Arc<SharedFocus>, Receiver<Update>) {
    let shared = Arc::new(SharedFocus { focus: Mutex::new(focus), changed: Condvar::new() });
    let (updates, receiver) = sync_channel(MAX_WAITING);
    let focus = Arc::clone(&shared);
    thread::spawn(move || search(&sources, &focus, &updates, interval, timeout));
    (shared, receiver)
}

/// Looks for routers, and has each asked. All threads end with the process.
fn search(
    sources: &Sources,
    focus: &Arc<SharedFocus>,
    updates: &SyncSender<Update>,
    interval: Duration,
    timeout: Duration,
) {
    let mut known: HashSet<String> = HashSet::new();
    loop {
        // Without a list there is nobody new; those that are known are still asked.
        for socket in sources.new_sockets(|name| known.contains(name)).unwrap_or_default() {
            if known.len() < MAX_ROUTERS && known.insert(socket.clone()) {
                let asker = Asker {
                    sources: sources.clone(),
                    socket,
                    focus: Arc::clone(focus),
                    updates: updates.clone(),
                    interval,
                    timeout,
                };
                thread::spawn(move || asker.run());
            }
        }
        thread::sleep(SEARCH_INTERVAL);
    }
}

/// Asks one router.
struct Asker {
    sources: Sources,
    socket: String,
    focus: Arc<SharedFocus>,
    updates: SyncSender<Update>,
    interval: Duration,
    timeout: Duration,
}

impl Asker {
    fn run(&self) {
        let (mut client, mut was_asked) = (None, false);
        loop {
            let start = Instant::now();
            let wanted = self.focus.wanted(&self.socket);
            // Each is asked once, so that it is known.
            let unknown = (!was_asked).then_some(Wanted { view: View::Routers, pid: None });
            if let Some(wanted) = wanted.or(unknown) {
                was_asked = true;
                let result = self.ask(&mut client, wanted).map_err(|failed| failed.to_string());
                if result.is_err() {
                    // The next answer must not be one to this question.
                    client = None;
                }
                // Another router's device is known as soon as it has answered once.
                let is_other = |sample: &Sample| self.sources.device().is_some_and(|it| it != sample.snapshot.device);
                if result.as_ref().is_ok_and(is_other) {
                    return;
                }
                if self.updates.send(Update { socket: self.socket.clone(), result }).is_err() {
                    return;
                }
            }
            self.focus.wait_until(start + self.interval, wanted, &self.socket);
        }
    }

    fn ask(&self, client: &mut Option<Client>, wanted: Wanted) -> Result<Sample, Failed> {
        let client = match client {
            Some(client) => client,
            None => client.insert(self.sources.connect(&self.socket, self.timeout)?),
        };
        sample::take(client, wanted)
    }
}
