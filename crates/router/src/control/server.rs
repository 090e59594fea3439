//! The control socket's clients: who is let in, whose turn it is, and who has to make room.

use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::access::Access;
use super::client::Client;
use super::requests::Requests;
use tuntap_api::control::{Code, Failure, Response};
use tuntap_live::Caller;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::socket;

/// Most clients at a time.
const MAX_CLIENTS: usize = 32;

/// Of these, so many are for root alone, so that nobody can keep root out.
const CLIENTS_FOR_ROOT: usize = 8;

/// Most clients of one user, except root.
const CLIENTS_PER_UID: usize = 8;

/// Most bytes of requests, and of answers, that wait for all users but root.
const MAX_WAITING: usize = 64 * 1024 * 1024;

/// A client that neither reads nor writes for so long is closed where another one needs its room.
const STUCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections that are accepted in one turn.
const ACCEPT_BUDGET: usize = 8;

/// How long the socket is left alone when no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Longest sleep: the clock of deadlines is not that of poll(2) on all kernels.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// How often clients that watch are told how many events were left out.
const LEFT_OUT_INTERVAL: Duration = Duration::from_secs(1);

/// The clients, and what they ask for.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    access: Access,
    clients: Vec<Client>,
    pub(super) requests: Requests,
    accept_again_at: Option<Instant>,
    told_left_out_at: Option<Instant>,
}

impl Server {
    /// A server without clients.
    pub const fn new(listener: OwnedFd, access: Access, requests: Requests) -> Self {
        Self { listener, access, clients: Vec::new(), requests, accept_again_at: None, told_left_out_at: None }
    }

    /// Disconnects all clients, and goes on with what is stored.
    pub fn start_anew(&mut self) {
        self.clients.clear();
        self.requests.start_anew();
    }

    /// Serves clients for ever.
    pub fn run(&mut self) -> ! {
        loop {
            self.turn();
        }
    }

    /// Waits for something to happen, and does it. Each client gets one answer at most.
    pub fn turn(&mut self) {
        let (listener_is_ready, ready) = self.wait();
        let now = Instant::now();
        self.requests.look_after();
        for (client, flags) in self.clients.iter_mut().zip(ready) {
            if flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) && !client.wants_input()
            {
                client.leave();
            }
            if flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) && client.wants_input() {
                client.read(now);
            }
            if flags.contains(PollFlags::POLLOUT) {
                client.send(now);
            }
        }
        if listener_is_ready {
            self.accept(now);
        }
        self.refuse_excess();
        self.answer(now);
        self.tell_watchers(now);
        self.clients.retain(|client| !client.is_over());
        // If the event loop has no time to answer, it is told again in the next turn.
        let watches_drops = |client: &Client| client.watch.as_ref().is_some_and(|watch| watch.capture().is_none());
        let _ = self.requests.watch(self.clients.iter().any(watches_drops));
        let _ = self.requests.end_captures(&self.clients);
    }

    /// Waits. Returns whether somebody wants to connect, and what the clients are ready for.
    fn wait(&mut self) -> (bool, Vec<PollFlags>) {
        let now = Instant::now();
        let accepts = self.accept_again_at.is_none_or(|time| time <= now);
        let listener_flags = if accepts { PollFlags::POLLIN } else { PollFlags::empty() };
        let timeout = self.timeout(now);
        let mut items = vec![
            PollFd::new(self.requests.bell(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), listener_flags),
        ];
        items.extend(self.clients.iter().map(|client| {
            let input = if client.wants_input() { PollFlags::POLLIN } else { PollFlags::empty() };
            let output = if client.has_output() { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(client.fd(), input | output)
        }));
        // An error is a signal, which this thread doesn't get, or want of memory, which passes.
        if poll(&mut items, timeout).is_err() {
            return (false, Vec::new());
        }
        let flags: Vec<_> = items.iter().map(|item| item.revents().unwrap_or(PollFlags::empty())).collect();
        (flags[1].contains(PollFlags::POLLIN), flags[2..].to_vec())
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        if self.clients.iter().any(|client| client.is_ready() && self.has_room_for(client)) {
            return PollTimeout::ZERO;
        }
        let later = |time: Instant| time.saturating_duration_since(now);
        let is_watched = self.clients.iter().any(|client| client.watch.is_some());
        let next = [
            self.requests.time_left(),
            self.accept_again_at.map(later),
            is_watched.then_some(LEFT_OUT_INTERVAL),
            // Somebody waits for room that others take.
            self.clients.iter().any(Client::is_ready).then_some(STUCK_TIMEOUT),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
        // One millisecond is added, so that the time has come at the wake-up.
        PollTimeout::try_from(next + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    fn accept(&mut self, now: Instant) {
        self.accept_again_at = None;
        for _ in 0..ACCEPT_BUDGET {
            match socket::accept(self.listener.as_fd()) {
                Ok(fd) => self.add(fd, now),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => {
                    self.accept_again_at = Some(now + ACCEPT_PAUSE);
                    return self
                        .requests
                        .line_now_and_then(Event::AcceptFailed, format_args!("can't accept requests: {errno}"));
                }
            }
        }
    }

    fn add(&mut self, fd: OwnedFd, now: Instant) {
        let result = self.access.caller(fd.as_fd()).and_then(|caller| {
            self.make_room(caller, now)?;
            Ok(caller)
        });
        match result {
            Ok(caller) => self.clients.push(Client::new(fd, caller, now)),
            Err(failure) => {
                let response = Response { id: serde_json::Value::Null, ok: None, event: None, error: Some(failure) };
                // Whatever doesn't fit the empty buffer of a new connection is lost, and the client sees its end.
                let _ = socket::send(fd.as_fd(), &line(&response));
            }
        }
    }

    /// Finds a place for a client. If there is none, the one that has been still for longest makes room, if that is long.
    fn make_room(&mut self, caller: Caller, now: Instant) -> Result<(), Failure> {
        let is_root = caller.uid == 0;
        let of_this_uid = |client: &Client| client.caller.uid == caller.uid;
        let count = |test: &dyn Fn(&Client) -> bool| self.clients.iter().filter(|client| test(client)).count();
        let full = |what: String| Failure::new(Code::Busy, what);
        let (competitors, message): (&dyn Fn(&Client) -> bool, _) =
            if !is_root && count(&of_this_uid) >= CLIENTS_PER_UID {
                (&of_this_uid, format!("uid {} has {CLIENTS_PER_UID} connections already", caller.uid))
            } else if !is_root && count(&|client| client.caller.uid != 0) >= MAX_CLIENTS - CLIENTS_FOR_ROOT {
                (&|client| client.caller.uid != 0, "too many clients are connected".to_owned())
            } else if self.clients.len() >= MAX_CLIENTS {
                (&|client| is_root || client.caller.uid != 0, "too many clients are connected".to_owned())
            } else {
                return Ok(());
            };
        let stuck = self.clients.iter().position(|client| competitors(client) && client.is_stuck(STUCK_TIMEOUT, now));
        stuck.map(|index| drop(self.clients.remove(index))).ok_or_else(|| full(message))
    }

    /// Refuses the requests of users that take more memory than all of them may have together.
    fn refuse_excess(&mut self) {
        let of_others = |client: &&mut Client| client.caller.uid != 0;
        let mut room = MAX_WAITING;
        for client in self.clients.iter_mut().filter(of_others) {
            match room.checked_sub(client.input_len()) {
                Some(rest) => room = rest,
                None => client.refuse(Failure::new(Code::Busy, "too many requests wait".to_owned())),
            }
        }
    }

    /// Returns true if there is room for an answer.
    fn has_room_for(&self, client: &Client) -> bool {
        let others = self.clients.iter().filter(|other| other.caller.uid != 0);
        client.caller.uid == 0 || others.map(Client::output_len).sum::<usize>() < MAX_WAITING
    }

    /// Answers one request of each client.
    fn answer(&mut self, now: Instant) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if !client.is_ready() {
                continue;
            }
            if !self.has_room_for(client) {
                // Those that take nothing of what they have asked for make room.
                let stuck =
                    |other: &Client| other.caller.uid != 0 && other.has_output() && other.is_stuck(STUCK_TIMEOUT, now);
                self.clients.iter_mut().filter(|other| stuck(other)).for_each(Client::leave);
                continue;
            }
            let client = &mut self.clients[index];
            if let Some(line) = client.take_line() {
                self.requests.serve(client, &line);
                client.send(now);
            }
        }
        // The next turn begins with another client.
        if !self.clients.is_empty() {
            self.clients.rotate_left(1);
        }
    }

    /// Tells clients that watch what was dropped.
    fn tell_watchers(&mut self, now: Instant) {
        let tells_left_out = self.told_left_out_at.is_none_or(|time| now >= time + LEFT_OUT_INTERVAL);
        if tells_left_out {
            self.told_left_out_at = Some(now);
        }
        self.requests.tell_watchers(&mut self.clients, tells_left_out);
        self.requests.tell_captures(&mut self.clients, tells_left_out, now);
        self.clients.iter_mut().filter(|client| client.watch.is_some()).for_each(|client| client.send(now));
    }
}

/// A line of JSON.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Writes to the log, under the router's name.
pub fn log(logger: Logger, device: &str, event: Event, text: impl Display) {
    logger.line(event, format_args!("[tuntap-router] {device}: {text}"));
}
