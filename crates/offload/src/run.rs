//! The process that makes pairs. It is the one of a router's processes that keeps capabilities, so that it does little: it answers
//! messages of one length from the router's process, and looks after the pairs that it has made.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use thiserror::Error;
use tuntap_sys::socket::{recv_with_descriptor, send};

use super::guard::Guard;
use super::maps::{MAX_PAIRS, Maps};
use super::pairs::{Damage, Hooks, Pair, PairError, Pairs};
use super::programs::Programs;
use super::protocol::{Loss, MESSAGE_LEN, Reply, Request, Run, Token};

/// How many messages are taken at once. Pairs that are to be removed are removed together.
const MESSAGES: usize = 64;

/// How long notices about a namespace are left alone after its pair was looked at: whoever is root there can cause as many as he likes, also
/// about the end at the host.
const QUIET: Duration = Duration::from_secs(1);

/// After how long a new pair is looked at again that doesn't send packets yet: at first, and at the longest. Each time it is twice as long.
const FIRST_START_POLL: Duration = Duration::from_millis(1);
const LONGEST_START_POLL: Duration = Duration::from_secs(1);

/// How long after a fault is told the next one isn't told, of those that peers can cause.
const FAULT_PERIOD: Duration = Duration::from_secs(60);

/// The interval of looking whether the router's process takes messages again.
const SEND_POLL: Duration = Duration::from_millis(20);

/// What the process needs.
#[derive(Debug)]
pub struct Config {
    /// The maps.
    pub maps: Arc<Maps>,
    /// The programs.
    pub programs: Programs,
    /// How programs are attached.
    pub hooks: Hooks,
    /// The name of the router's device.
    pub device: String,
    /// What guards pairs beside the programs, if the kernel has it.
    pub guard: Option<Guard>,
    /// Where the router's process asks.
    pub socket: OwnedFd,
    /// Readable when the master has ended.
    pub master: OwnedFd,
}

/// Why the process ends.
#[derive(Debug, Error)]
pub enum End {
    /// The master has ended. The pairs are removed.
    #[error("the master has ended")]
    Master,
    /// The router's end of the socket is closed everywhere.
    #[error("the router's end is closed")]
    Router,
    /// The kernel refuses what it needs.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for End {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A line for the log.
#[derive(Debug)]
pub enum Notice {
    /// There can be no pairs.
    Unable(PairError),
    /// A peer has no pair.
    NoPair(String, u64),
    /// Pairs were not removed.
    NotRemoved(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unable(error) => write!(formatter, "there is no path in the kernel: {error}"),
            Self::NoPair(why, others) => {
                write!(formatter, "no pair of devices for a vassal, whose packets go by the router: {why}")?;
                if *others == 0 { Ok(()) } else { write!(formatter, " ({others} more since the last such line)") }
            }
            Self::NotRemoved(error) => write!(formatter, "pairs of devices are left: {error}"),
        }
    }
}

/// What epoll tells of; all other numbers are indexes of pairs, which are above these.
const ROUTER: u64 = 0;
const MASTER: u64 = 1;
const HOST: u64 = 2;

/// Does its work until the master ends, or the router's end of the socket is closed. `confine` is called once, when everything is open that
/// a file leads to; `beat` in each turn, and says when at the latest the next one begins.
pub fn run(
    config: Config,
    confine: impl FnOnce(),
    log: impl Fn(&Notice),
    beat: impl FnMut() -> Option<Duration>,
) -> End {
    let Config { maps, programs, hooks, device, guard, socket, master } = config;
    let begin = || {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, ROUTER))?;
        epoll.add(&master, EpollEvent::new(EpollFlags::EPOLLIN, MASTER))?;
        let pairs = Pairs::new(&maps, &programs, hooks, &device, guard)?;
        epoll.add(&pairs, EpollEvent::new(EpollFlags::EPOLLIN, HOST))?;
        Ok::<_, io::Error>((epoll, pairs))
    };
    let (epoll, pairs) = match begin() {
        Ok(begun) => begun,
        Err(error) => return error.into(),
    };
    confine();
    let mut maker = Maker {
        pairs,
        epoll,
        socket,
        master,
        run: None,
        known: HashMap::new(),
        tokens: HashMap::new(),
        quiet: Vec::new(),
        is_host_suspect: false,
        suspects: BTreeSet::new(),
        suspects_from: Instant::now(),
        starting: Vec::new(),
        log,
        unable: None,
        told: None,
        untold: 0,
    };
    let end = maker.work(beat);
    maker.leave();
    end
}

/// A pair that doesn't send packets yet.
struct Starting {
    token: Token,
    /// When it is looked at again.
    next_look: Instant,
    pause: Duration,
}

struct Maker<'a, L> {
    pairs: Pairs<'a>,
    epoll: Epoll,
    socket: OwnedFd,
    master: OwnedFd,
    /// The router's process, once it has begun.
    run: Option<Run>,
    known: HashMap<Token, Pair>,
    /// Whose pair an index is.
    tokens: HashMap<u64, Token>,
    /// Pairs whose notices are left alone, and until when; the first ones first.
    quiet: Vec<(Instant, Token)>,
    /// True if something was done to the router's device.
    is_host_suspect: bool,
    /// Indexes of pairs whose ends at the host have changed, and from when on they are looked at.
    suspects: BTreeSet<u64>,
    suspects_from: Instant,
    /// New pairs that don't send packets yet.
    starting: Vec<Starting>,
    log: L,
    /// Why there can be no pairs, as it was told.
    unable: Option<String>,
    told: Option<Instant>,
    untold: u64,
}

impl<L: Fn(&Notice)> Maker<'_, L> {
    fn work(&mut self, mut beat: impl FnMut() -> Option<Duration>) -> End {
        if let Err(end) = self.reply(Reply::Started) {
            return end;
        }
        let mut events = [EpollEvent::empty(); MESSAGES];
        loop {
            let next_beat = beat();
            let quiet = self.quiet.first().map(|(until, _)| *until);
            let suspects = (!self.suspects.is_empty()).then_some(self.suspects_from);
            let next_look = quiet.into_iter().chain(suspects).chain(self.starting.iter().map(|it| it.next_look)).min();
            let next_look = next_look.map(|next| next.saturating_duration_since(Instant::now()));
            let timeout = [next_beat, next_look].into_iter().flatten().min();
            // One millisecond is added, so that the time has come at the wake-up.
            let timeout = timeout.map_or(EpollTimeout::NONE, |rest| {
                EpollTimeout::try_from(rest.as_millis() + 1).unwrap_or(EpollTimeout::MAX)
            });
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return errno.into(),
            };
            for event in &events[..count] {
                let result = match event.data() {
                    ROUTER => self.take_messages(),
                    MASTER => return End::Master,
                    HOST => {
                        self.hear_of_host();
                        Ok(())
                    }
                    index => self.look_at(index),
                };
                if let Err(end) = result {
                    return end;
                }
            }
            if let Err(end) = self.look_around() {
                return end;
            }
        }
    }

    /// Takes what the router's process asks for, and makes one pair at most: that takes a while, and the master wants a beat.
    fn take_messages(&mut self) -> Result<(), End> {
        let mut removed = Vec::new();
        for _ in 0..MESSAGES {
            let mut bytes = [0; MESSAGE_LEN + 1];
            let (len, descriptor) = match recv_with_descriptor(self.socket.as_fd(), &mut bytes) {
                Ok((0, _)) => return Err(End::Router),
                Ok(received) => received,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            // The router's process may be taken over by what it reads. It gets no answer to what is no request.
            let Some(request) = Request::decode(&bytes[..len]) else { continue };
            match (request, descriptor) {
                (Request::Begin(run), _) => {
                    removed.clear();
                    self.begin(run)?;
                }
                (Request::Make(run, token), Some(device)) if Some(run) == self.run => {
                    // In the order of the messages: this peer's pair of before may be among them.
                    self.remove(std::mem::take(&mut removed));
                    self.make(run, token, device)?;
                    break;
                }
                (Request::Remove(run, token), _) if Some(run) == self.run => removed.extend(self.forget(token)),
                _ => {}
            }
        }
        self.remove(removed);
        Ok(())
    }

    /// A router's process has begun.
    fn begin(&mut self, run: Run) -> Result<(), End> {
        self.run = Some(run);
        let earlier = self.forget_all();
        // What an earlier process has left in the maps goes, too: this one changes them only when it has heard that pairs can be made.
        let result =
            self.pairs.clear(earlier).and_then(|()| self.pairs.clear_maps()).and_then(|()| self.pairs.open_host());
        match result {
            Ok(()) => {
                self.unable = None;
                self.reply(Reply::Ready(run))
            }
            Err(error) => {
                // Each router's process asks, and once more if this process has begun after it.
                let why = error.to_string();
                if self.unable.as_ref() != Some(&why) {
                    (self.log)(&Notice::Unable(error));
                    self.unable = Some(why);
                }
                self.reply(Reply::Unable(run))
            }
        }
    }

    fn make(&mut self, run: Run, token: Token, device: OwnedFd) -> Result<(), End> {
        let earlier = self.forget(token);
        self.remove(earlier);
        if self.known.len() >= MAX_PAIRS as usize {
            return self.reply(Reply::Lost(run, token, Loss::Full));
        }
        let made = self.pairs.make(device).and_then(|pair| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, pair.index().into());
            match self.epoll.add(&pair, event) {
                Ok(()) => Ok(pair),
                Err(errno) => {
                    self.remove([pair]);
                    Err(PairError::Watch(errno))
                }
            }
        });
        match made {
            Ok(pair) => {
                // What this has caused itself is no news.
                self.hear_of_host();
                self.tokens.insert(pair.index().into(), token);
                self.known.insert(token, pair);
                self.starting.push(Starting { token, next_look: Instant::now(), pause: FIRST_START_POLL });
                Ok(())
            }
            Err(error) => {
                self.tell_of_peer(&error.to_string());
                self.reply(Reply::Lost(run, token, Loss::Refused))
            }
        }
    }

    /// Looks at everything whose time has come.
    fn look_around(&mut self) -> Result<(), End> {
        self.look_at_host()?;
        self.end_quiet()?;
        self.look_at_starting()?;
        self.look_at_suspects()
    }

    /// Notes what has changed at the host: of most of this, the peers' namespaces tell nothing.
    fn hear_of_host(&mut self) {
        let Some(changed) = self.pairs.take_host_notices() else {
            self.is_host_suspect = true;
            self.suspects.extend(self.tokens.keys());
            return;
        };
        self.is_host_suspect |= self.pairs.may_be_about_host(&changed);
        self.suspects.extend(changed.into_iter().map(u64::from).filter(|index| self.tokens.contains_key(index)));
    }

    /// Looks at the router's device, if something was done to it. Nobody but the host's administrators can cause that.
    fn look_at_host(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.is_host_suspect) || self.run.is_none() || !self.pairs.has_host_changed() {
            return Ok(());
        }
        // The router's process begins anew then, and takes back its verdicts before the pairs go.
        self.run = None;
        self.reply(Reply::Started)
    }

    /// Looks at some pairs whose ends at the host have changed, if their time has come.
    fn look_at_suspects(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.suspects.is_empty() || now < self.suspects_from {
            return Ok(());
        }
        for _ in 0..MESSAGES {
            let Some(index) = self.suspects.pop_first() else { break };
            self.look_at(index)?;
        }
        if self.suspects.is_empty() {
            self.suspects_from = now + QUIET;
        }
        Ok(())
    }

    /// Looks at a pair after notices about its namespace.
    fn look_at(&mut self, index: u64) -> Result<(), End> {
        let Some(token) = self.tokens.get(&index).copied() else { return Ok(()) };
        let Some(pair) = self.known.get(&token) else { return Ok(()) };
        pair.take_notices();
        match self.pairs.check(pair) {
            Ok(()) => {
                self.quiet.push((Instant::now() + QUIET, token));
                Ok(())
            }
            Err(damage) => self.lose(token, &damage),
        }
    }

    /// Looks at new pairs whose time has come, and says of those that send packets that they are made.
    fn look_at_starting(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let due: Vec<_> = self.starting.extract_if(.., |it| it.next_look <= now).collect();
        for Starting { token, pause, .. } in due {
            let Some(pair) = self.known.get(&token) else { continue };
            let index = pair.index();
            match (self.pairs.has_started(pair), self.run) {
                (Ok(true), Some(run)) => self.reply(Reply::Made(run, token, index))?,
                (Ok(_), _) => self.starting.push(Starting {
                    token,
                    next_look: now + pause,
                    pause: (pause * 2).min(LONGEST_START_POLL),
                }),
                (Err(damage), _) => self.lose(token, &damage)?,
            }
        }
        Ok(())
    }

    /// A pair is damaged.
    fn lose(&mut self, token: Token, damage: &Damage) -> Result<(), End> {
        // Of a device that has gone, the router's process tells.
        if !matches!(damage, Damage::NoDevice) {
            self.tell_of_peer(&damage.to_string());
        }
        // The router's process takes back its verdicts before the pair goes.
        if let Some(run) = self.run {
            self.reply(Reply::Lost(run, token, Loss::Damaged))?;
        }
        let damaged = self.forget(token);
        self.remove(damaged);
        Ok(())
    }

    /// Listens again to notices about namespaces that were quiet long enough.
    fn end_quiet(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let over = self.quiet.iter().take_while(|(until, _)| *until <= now).count();
        for (_, token) in self.quiet.drain(..over) {
            if let Some(pair) = self.known.get(&token) {
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
                self.epoll.modify(pair, &mut EpollEvent::new(flags, pair.index().into()))?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, token: Token) -> Option<Pair> {
        let pair = self.known.remove(&token)?;
        self.tokens.remove(&pair.index().into());
        self.suspects.remove(&pair.index().into());
        self.starting.retain(|it| it.token != token);
        Some(pair)
    }

    fn forget_all(&mut self) -> Vec<Pair> {
        self.tokens.clear();
        self.quiet.clear();
        self.suspects.clear();
        self.starting.clear();
        self.known.drain().map(|(_, pair)| pair).collect()
    }

    fn remove(&mut self, pairs: impl IntoIterator<Item = Pair>) {
        if let Err(error) = self.pairs.remove(pairs) {
            (self.log)(&Notice::NotRemoved(error.to_string()));
        }
    }

    /// Leaves nothing behind.
    fn leave(&mut self) {
        let pairs = self.forget_all();
        if let Err(error) = self.pairs.clear(pairs) {
            (self.log)(&Notice::NotRemoved(error.to_string()));
        }
    }

    /// Answers. Waits while the router's process has many answers to read, but not beyond the master's end.
    fn reply(&mut self, reply: Reply) -> Result<(), End> {
        loop {
            match send(self.socket.as_fd(), &reply.encode()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    if tuntap_sys::socket::wait_readable(self.master.as_fd(), SEND_POLL) {
                        return Err(End::Master);
                    }
                }
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(End::Router),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Writes a line that peers can cause, but seldom.
    fn tell_of_peer(&mut self, why: &str) {
        if self.told.is_some_and(|told| told.elapsed() < FAULT_PERIOD) {
            self.untold += 1;
            return;
        }
        self.told = Some(Instant::now());
        (self.log)(&Notice::NoPair(why.to_owned(), std::mem::take(&mut self.untold)));
    }
}
