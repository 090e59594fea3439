//! The store, which outlives the router's process. It holds the connections of attached peers, with a record of each. They
//! are unread messages in a pair of sockets that the master keeps open, until the next router reads them. A service
//! manager's descriptor store is similar (sd_pid_notify_with_fds(3), FDSTORE). Peers keep their connections when a router
//! dies.
//!
//! There are two such queues. The active one begins with a header and grows by a record for each change. When most of it is
//! out of date, the present state is written to the other one, which becomes valid when it is complete.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use tuntap_core::router::quarantine::{Offender, Quarantine, Record as QuarantineRecord};
use tuntap_core::router::restore::StoredPeer;
use tuntap_core::routes::takeover::StoredSession;
use tuntap_sys::process::monotonic_time;
use tuntap_sys::socket;
use tuntap_wire::frame::MAX_FRAME_LEN;
use tuntap_wire::holding::RouterId;

/// A run that is shorter than this is a short run: what has ended it is likely to happen again.
const SHORT_RUN: Duration = Duration::from_secs(5);

/// The number of short runs in a row after which the stored peers are dropped, because one of them may be what ends the
/// router.
const SHORT_RUNS_WITH_PEERS: u32 = 3;

/// The longest pause before a start in seconds.
const LONGEST_PAUSE: u64 = 16;

/// The queue is rewritten when it has so many records more than two for each stored peer.
const SLACK: usize = 64;

/// The maximum length of a record in bytes. Rules are the longest part, and in JSON each of their bytes takes four at most.
const MAX_RECORD_LEN: usize = 4 * MAX_FRAME_LEN;

/// The queues. They are made before the fork, and the master's copies keep them open.
#[derive(Debug)]
pub struct Store {
    queues: [Queue; 2],
}

#[derive(Debug)]
struct Queue {
    write_end: OwnedFd,
    read_end: OwnedFd,
}

/// A quarantine, with its end as the time of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Quarantined {
    offender: Offender,
    end: Duration,
    period: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    /// The beginning of a queue.
    Header(Header),
    /// The state of a peer. The message also passes its connection.
    Peer(StoredPeer),
    /// The peer with this number is not stored any more.
    Gone(u64),
    /// The session with the routing daemon. The message also passes its connection.
    Routes(StoredSession),
    /// There is no session with the routing daemon any more.
    NoRoutes,
    /// A trunk to this neighbour, which is open in this version of its protocol. The message also passes its socket.
    Trunk(u64, u16),
    /// There is no trunk to this neighbour any more.
    NoTrunk(u64),
    /// The quarantine of an offender.
    Quarantined(Quarantined),
    /// Everything that was in the other queue is in this one.
    Complete,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    /// The complete queue with the higher generation is the valid one.
    generation: u64,
    /// The start of the router that wrote this (CLOCK_MONOTONIC).
    started: Duration,
    /// The number of short runs in a row before this run.
    short_runs: u32,
}

impl Store {
    /// Makes the queues.
    pub fn new() -> nix::Result<Self> {
        let queue = || {
            let (write_end, read_end) = socket::message_pair()?;
            // The send buffer bounds the memory of unread messages, of which there may be one for each of many peers.
            socket::set_send_buffer(write_end.as_fd(), socket::LARGEST_BUFFER);
            Ok(Queue { write_end, read_end })
        };
        Ok(Self { queues: [queue()?, queue()?] })
    }

    /// Returns the descriptors that have to stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().flat_map(|queue| [queue.write_end.as_fd(), queue.read_end.as_fd()])
    }

    /// Takes what a router that has ended has left of its session with the routing daemon. Empties the store.
    pub fn take_routes(&self) -> Option<(StoredSession, OwnedFd)> {
        self.take_newest()?.routes
    }

    /// Leaves a session with the routing daemon for the first router, in a store that is empty.
    pub fn leave_routes(&self, session: &StoredSession, connection: BorrowedFd<'_>) -> nix::Result<()> {
        let mut writer = StoreWriter::new(self, Header::default());
        writer.begin()?;
        writer.put_routes(session, connection)
    }

    /// Empties both queues, and returns the contents of the valid one.
    fn take_newest(&self) -> Option<Contents> {
        let queues = [read(&self.queues[0]), read(&self.queues[1])];
        queues.into_iter().flatten().max_by_key(|contents| contents.header.generation)
    }
}

/// The state that an earlier router has stored.
#[derive(Debug, Default)]
pub struct StoredState {
    /// Its peers and their connections.
    pub peers: Vec<(StoredPeer, OwnedFd)>,
    /// The session with the routing daemon, and its connection.
    pub routes: Option<(StoredSession, OwnedFd)>,
    /// Open trunks: the neighbour, the version of the protocol, and the socket.
    pub trunks: Vec<(RouterId, u16, OwnedFd)>,
    /// The quarantines.
    pub quarantine: Vec<(Offender, QuarantineRecord)>,
    /// The number of short runs in a row.
    pub short_runs: u32,
    /// How long to wait before this router starts.
    pub pause: Duration,
}

/// Writes the store.
#[derive(Debug)]
pub struct StoreWriter<'a> {
    store: &'a Store,
    active: usize,
    header: Header,
    next_serial: u64,
    /// Records in the active queue.
    records: usize,
    stored_peers: usize,
    /// The latest quarantine of each offender.
    quarantine: Vec<Quarantined>,
    /// The session with the routing daemon, with a copy of its connection.
    routes: Option<(StoredSession, OwnedFd)>,
    /// Open trunks, with copies of their sockets.
    trunks: BTreeMap<RouterId, (u16, OwnedFd)>,
}

impl<'a> StoreWriter<'a> {
    const fn new(store: &'a Store, header: Header) -> Self {
        Self {
            store,
            active: 0,
            header,
            next_serial: 0,
            records: 0,
            stored_peers: 0,
            quarantine: Vec::new(),
            routes: None,
            trunks: BTreeMap::new(),
        }
    }

    /// Reads the state that an earlier router has stored, and empties the store.
    pub fn open(store: &'a Store) -> (Self, StoredState) {
        let now = monotonic_time();
        let newest = store.take_newest();
        let mut writer = Self::new(store, Header { started: now, ..Header::default() });
        let mut stored = StoredState::default();
        if let Some(contents) = newest {
            let was_short = now.saturating_sub(contents.header.started) < SHORT_RUN;
            stored.short_runs = if was_short { contents.header.short_runs + 1 } else { 0 };
            stored.pause = pause(stored.short_runs);
            writer.header.generation = contents.header.generation;
            writer.header.short_runs = stored.short_runs;
            writer.next_serial = contents.peers.iter().map(|(peer, _)| peer.serial + 1).max().unwrap_or(0);
            contents.quarantine.into_iter().for_each(|quarantined| writer.note(quarantined));
            let started = Instant::now();
            stored.quarantine =
                writer.quarantine.iter().map(|quarantined| quarantined.as_seen_at(started, now)).collect();
            if stored.short_runs <= SHORT_RUNS_WITH_PEERS {
                stored.peers = contents.peers;
                stored.routes = contents.routes;
                let trunks = contents.trunks.into_iter();
                stored.trunks = trunks.map(|(neighbour, (version, socket))| (neighbour, version, socket)).collect();
            }
        }
        // The start of this run is stored before its peers are restored, so that the next router knows of it even if this
        // one ends at once.
        let _ = writer.begin();
        (writer, stored)
    }

    /// Returns a number for a peer that is to be stored.
    pub const fn new_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.stored_peers += 1;
        self.next_serial
    }

    /// Stores a peer, or its new state.
    pub fn put(&mut self, peer: StoredPeer, connection: BorrowedFd<'_>) -> nix::Result<()> {
        self.append(&Record::Peer(peer), Some(connection))
    }

    /// Removes a peer from the store.
    pub fn remove(&mut self, serial: u64) -> nix::Result<()> {
        self.stored_peers = self.stored_peers.saturating_sub(1);
        self.append(&Record::Gone(serial), None)
    }

    /// Stores the quarantine of an offender.
    pub fn quarantine(&mut self, offender: Offender, record: QuarantineRecord) -> nix::Result<()> {
        let left = record.end.saturating_duration_since(Instant::now());
        let quarantined = Quarantined { offender, end: monotonic_time() + left, period: record.period };
        self.note(quarantined);
        self.append(&Record::Quarantined(quarantined), None)
    }

    /// Stores the session with the routing daemon.
    pub fn put_routes(&mut self, session: &StoredSession, connection: BorrowedFd<'_>) -> nix::Result<()> {
        let copy = connection.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        self.routes = Some((session.clone(), copy));
        self.append(&Record::Routes(session.clone()), Some(connection))
    }

    /// There is no session with the routing daemon any more.
    pub fn remove_routes(&mut self) -> nix::Result<()> {
        self.routes = None;
        self.append(&Record::NoRoutes, None)
    }

    /// Stores an open trunk.
    pub fn put_trunk(&mut self, neighbour: RouterId, version: u16, socket: BorrowedFd<'_>) -> nix::Result<()> {
        let copy = socket.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        self.trunks.insert(neighbour, (version, copy));
        self.append(&Record::Trunk(neighbour.number(), version), Some(socket))
    }

    /// There is no trunk to this neighbour any more.
    pub fn remove_trunk(&mut self, neighbour: RouterId) -> nix::Result<()> {
        match self.trunks.remove(&neighbour) {
            Some(_) => self.append(&Record::NoTrunk(neighbour.number()), None),
            None => Ok(()),
        }
    }

    fn note(&mut self, quarantined: Quarantined) {
        self.quarantine.retain(|other| other.offender != quarantined.offender);
        if self.quarantine.len() >= Quarantine::MAX {
            self.quarantine.remove(0);
        }
        self.quarantine.push(quarantined);
    }

    /// Returns true if most of the queue is out of date.
    pub const fn is_due(&self) -> bool {
        self.records > 2 * (self.stored_peers + self.quarantine.len()) + SLACK
    }

    /// Writes the present state to the other queue, and empties this one.
    pub fn rewrite<'p>(&mut self, peers: impl Iterator<Item = (StoredPeer, BorrowedFd<'p>)>) -> nix::Result<()> {
        let old = self.active;
        self.active = 1 - old;
        let result = self.begin_with(peers);
        if result.is_ok() {
            drain(&self.store.queues[old]);
        } else {
            // The old queue is still complete.
            drain(&self.store.queues[self.active]);
            self.active = old;
        }
        result
    }

    fn begin_with<'p>(&mut self, peers: impl Iterator<Item = (StoredPeer, BorrowedFd<'p>)>) -> nix::Result<()> {
        let before = (self.header.generation, self.records, self.stored_peers);
        let write = |this: &mut Self| {
            this.header.generation += 1;
            this.records = 0;
            this.stored_peers = 0;
            this.append(&Record::Header(this.header), None)?;
            for quarantined in this.quarantine.clone() {
                this.append(&Record::Quarantined(quarantined), None)?;
            }
            if let Some((session, connection)) = this.routes.take() {
                let result = this.append(&Record::Routes(session.clone()), Some(connection.as_fd()));
                this.routes = Some((session, connection));
                result?;
            }
            let trunks = std::mem::take(&mut this.trunks);
            let result = trunks.iter().try_for_each(|(neighbour, (version, socket))| {
                this.append(&Record::Trunk(neighbour.number(), *version), Some(socket.as_fd()))
            });
            this.trunks = trunks;
            result?;
            for (peer, connection) in peers {
                match this.append(&Record::Peer(peer), Some(connection)) {
                    Ok(()) => this.stored_peers += 1,
                    // A peer that is too long to be stored must not keep the others out.
                    Err(Errno::EMSGSIZE) => {}
                    Err(errno) => return Err(errno),
                }
            }
            this.append(&Record::Complete, None)
        };
        let result = write(self);
        if result.is_err() {
            (self.header.generation, self.records, self.stored_peers) = before;
        }
        result
    }

    fn begin(&mut self) -> nix::Result<()> {
        self.begin_with(std::iter::empty())
    }

    fn append(&mut self, record: &Record, connection: Option<BorrowedFd<'_>>) -> nix::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|_| Errno::EINVAL)?;
        if bytes.len() > MAX_RECORD_LEN {
            return Err(Errno::EMSGSIZE);
        }
        let queue = self.store.queues[self.active].write_end.as_fd();
        match connection {
            Some(connection) => socket::send_with_descriptor(queue, &bytes, connection)?,
            None => socket::send(queue, &bytes)?,
        };
        self.records += 1;
        Ok(())
    }
}

/// Returns the pause before a start. There is none after the first short run, which may be an accident. Then each pause is
/// twice as long as the one before.
fn pause(short_runs: u32) -> Duration {
    match short_runs {
        0 | 1 => Duration::ZERO,
        more => Duration::from_secs(1_u64.checked_shl(more - 2).unwrap_or(u64::MAX).min(LONGEST_PAUSE)),
    }
}

/// The contents of a complete queue.
struct Contents {
    header: Header,
    peers: Vec<(StoredPeer, OwnedFd)>,
    routes: Option<(StoredSession, OwnedFd)>,
    trunks: BTreeMap<RouterId, (u16, OwnedFd)>,
    quarantine: Vec<Quarantined>,
}

impl Quarantined {
    /// Returns the record with its end as an [`Instant`], where `now` is the instant at which CLOCK_MONOTONIC has the time
    /// `clock`. If the quarantine is over, its end is `now`.
    fn as_seen_at(&self, now: Instant, clock: Duration) -> (Offender, QuarantineRecord) {
        (self.offender, QuarantineRecord { end: now + self.end.saturating_sub(clock), period: self.period })
    }
}

/// Empties a queue and returns its contents. Returns `None` if it was empty or incomplete.
fn read(queue: &Queue) -> Option<Contents> {
    let mut header = None;
    let mut complete = false;
    let mut peers = BTreeMap::<u64, (StoredPeer, OwnedFd)>::new();
    let mut routes = None;
    let mut trunks = BTreeMap::new();
    let mut quarantine = Vec::new();
    let mut buffer = vec![0; MAX_RECORD_LEN];
    while let Ok((count @ 1.., descriptor)) = socket::recv_with_descriptor(queue.read_end.as_fd(), &mut buffer) {
        match serde_json::from_slice(&buffer[..count]) {
            Ok(Record::Header(found)) => header = Some(found),
            Ok(Record::Peer(peer)) => {
                if let Some(descriptor) = descriptor {
                    peers.insert(peer.serial, (peer, descriptor));
                }
            }
            Ok(Record::Routes(session)) => routes = descriptor.map(|descriptor| (session, descriptor)),
            Ok(Record::NoRoutes) => routes = None,
            Ok(Record::Trunk(neighbour, version)) => {
                if let (Some(neighbour), Some(descriptor)) = (RouterId::new(neighbour), descriptor) {
                    trunks.insert(neighbour, (version, descriptor));
                }
            }
            Ok(Record::NoTrunk(neighbour)) => trunks.retain(|known, _| known.number() != neighbour),
            Ok(Record::Gone(serial)) => _ = peers.remove(&serial),
            Ok(Record::Quarantined(quarantined)) => quarantine.push(quarantined),
            Ok(Record::Complete) => complete = true,
            // Can't happen, because this code has written the record. The records behind it are still read.
            Err(_) => {}
        }
    }
    header.filter(|_| complete).map(|header| Contents {
        header,
        peers: peers.into_values().collect(),
        routes,
        trunks,
        quarantine,
    })
}

fn drain(queue: &Queue) {
    let mut buffer = [0; 1];
    while socket::recv_with_descriptor(queue.read_end.as_fd(), &mut buffer).is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::os::unix::net::UnixStream;

    use super::*;
    use tuntap_core::policy::grant::Identity;
    use tuntap_wire::credentials::PeerCredentials;
    use tuntap_wire::rule::RULE_LEN;

    fn peer(serial: u64, addresses: &[IpAddr]) -> StoredPeer {
        StoredPeer {
            serial,
            credentials: PeerCredentials { pid: 1, uid: 2, gid: 3 },
            identity: Identity { uid: 2, gid: 3, groups: vec![4, 5] },
            addresses: addresses.to_vec(),
            since: addresses.iter().map(|_| u64::MAX).collect(),
            lost: addresses.to_vec(),
            autoconf_name: Some(u64::MAX),
            has_chosen_address: true,
            is_bound: true,
            rules: vec![255; 3 * RULE_LEN],
            rules_are_extended: false,
        }
    }

    const A: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    fn stored_peers(store: &Store) -> Vec<StoredPeer> {
        StoreWriter::open(store).1.peers.into_iter().map(|(peer, _)| peer).collect()
    }

    #[test]
    fn last_record_of_each_peer_counts() {
        let store = Store::new().expect("two queues");
        let (mut writer, stored) = StoreWriter::open(&store);
        assert!(stored.peers.is_empty());
        let (connection, other_end) = UnixStream::pair().expect("a pair");
        let [first, second] = [writer.new_serial(), writer.new_serial()];
        writer.put(peer(first, &[]), connection.as_fd()).expect("room");
        writer.put(peer(second, &[]), connection.as_fd()).expect("room");
        writer.put(peer(first, A), connection.as_fd()).expect("room");
        writer.remove(second).expect("room");
        drop(connection);
        let (mut writer, mut stored) = StoreWriter::open(&store);
        let (restored, fd) = stored.peers.pop().expect("the first one");
        assert_eq!((restored, stored.peers.len()), (peer(first, A), 0));
        assert!(writer.new_serial() > first, "numbers are not used again");
        assert!(!socket::is_hung_up(other_end.as_fd()), "the store kept the connection open");
        drop(fd);
        assert!(is_soon_hung_up(&other_end), "nobody has it any more");
    }

    /// Waits a little, because the child of another test that forks may have a copy of the descriptor for a moment.
    fn is_soon_hung_up(end: &UnixStream) -> bool {
        (0..200).any(|_| {
            let is_over = socket::is_hung_up(end.as_fd());
            if !is_over {
                std::thread::sleep(Duration::from_millis(10));
            }
            is_over
        })
    }

    #[test]
    fn quarantines_are_known_to_each_router_that_follows() {
        let store = Store::new().expect("two queues");
        let record = |seconds| {
            let period = Duration::from_secs(seconds);
            QuarantineRecord { end: Instant::now() + period, period }
        };
        let (mut writer, _) = StoreWriter::open(&store);
        writer.quarantine(Offender::User(7), record(20)).expect("room");
        writer.quarantine(Offender::User(8), record(20)).expect("room");
        writer.quarantine(Offender::User(7), record(40)).expect("room");
        writer.rewrite(std::iter::empty()).expect("room");
        for _ in 0..2 * SHORT_RUNS_WITH_PEERS {
            let (_, stored) = StoreWriter::open(&store);
            let found: Vec<_> =
                stored.quarantine.iter().map(|(offender, it)| (*offender, it.period.as_secs())).collect();
            assert_eq!(found, [(Offender::User(8), 20), (Offender::User(7), 40)]);
            assert!(stored.quarantine.iter().all(|(_, it)| it.end > Instant::now()));
        }
    }

    #[test]
    fn peer_that_is_too_long_keeps_no_other_one_out() {
        let store = Store::new().expect("two queues");
        let (mut writer, _) = StoreWriter::open(&store);
        let (connection, _other_end) = UnixStream::pair().expect("a pair");
        let mut long = peer(writer.new_serial(), A);
        long.identity.groups = (0..10_000).collect();
        let short = peer(writer.new_serial(), A);
        assert_eq!(writer.put(long.clone(), connection.as_fd()), Err(Errno::EMSGSIZE));
        let both = [long, short.clone()].map(|peer| (peer, connection.as_fd()));
        writer.rewrite(both.into_iter()).expect("room");
        assert_eq!(stored_peers(&store), [short]);
    }

    #[test]
    fn rewritten_queue_replaces_the_other_one() {
        let store = Store::new().expect("two queues");
        let (mut writer, _) = StoreWriter::open(&store);
        let (connection, other_end) = UnixStream::pair().expect("a pair");
        for _ in 0..200 {
            let serial = writer.new_serial();
            writer.put(peer(serial, A), connection.as_fd()).expect("room");
            writer.remove(serial).expect("room");
        }
        assert!(writer.is_due());
        let survivor = peer(writer.new_serial(), A);
        writer.rewrite([(survivor.clone(), connection.as_fd())].into_iter()).expect("room");
        assert!(!writer.is_due());
        drop(connection);
        assert!(!socket::is_hung_up(other_end.as_fd()));
        assert_eq!(stored_peers(&store), [survivor]);
        assert!(is_soon_hung_up(&other_end), "no copy is left in either queue");
    }

    #[test]
    fn router_that_dies_while_it_rewrites_loses_nothing() {
        let store = Store::new().expect("two queues");
        let (mut writer, _) = StoreWriter::open(&store);
        let (connection, _other_end) = UnixStream::pair().expect("a pair");
        let first = peer(writer.new_serial(), A);
        writer.put(first.clone(), connection.as_fd()).expect("room");
        writer.active = 1;
        writer.header.generation += 1;
        writer.append(&Record::Header(writer.header), None).expect("room");
        assert_eq!(stored_peers(&store), [first]);
    }

    fn session() -> StoredSession {
        let json = r#"{"router":1,"asn":64513,"identifier":"0.0.0.1","hold_time":9,"negotiated":{"neighbour_asn":64512,
            "neighbour":"10.0.0.1","hold_time":9,"families":{"ipv4":true,"ipv6":false},"paths":{"ipv4":true,"ipv6":false},
            "route_refresh":true,"enhanced_route_refresh":true}}"#;
        serde_json::from_str(json).expect("a session")
    }

    #[test]
    fn session_with_the_routing_daemon_is_kept_until_it_ends() {
        let store = Store::new().expect("two queues");
        let (connection, other_end) = UnixStream::pair().expect("a pair");
        let (mut writer, stored) = StoreWriter::open(&store);
        assert!(stored.routes.is_none());
        writer.put_routes(&session(), connection.as_fd()).expect("room");
        drop(connection);
        writer.rewrite(std::iter::empty()).expect("room");
        // The router dies, and with it what only its process has open.
        drop(writer);
        let (mut writer, stored) = StoreWriter::open(&store);
        let (found, connection) = stored.routes.expect("the session");
        assert_eq!(found, session());
        assert!(!socket::is_hung_up(other_end.as_fd()));
        writer.put_routes(&found, connection.as_fd()).expect("room");
        writer.remove_routes().expect("room");
        writer.rewrite(std::iter::empty()).expect("room");
        drop(connection);
        assert!(is_soon_hung_up(&other_end), "no copy is left");
        assert!(StoreWriter::open(&store).1.routes.is_none());
    }

    #[test]
    fn session_with_the_routing_daemon_goes_on_in_another_store() {
        let store = Store::new().expect("two queues");
        let (connection, other_end) = UnixStream::pair().expect("a pair");
        let (mut writer, _) = StoreWriter::open(&store);
        writer.put(peer(1, A), connection.as_fd()).expect("room");
        writer.put_routes(&session(), connection.as_fd()).expect("room");
        drop((writer, connection));
        let (found, connection) = store.take_routes().expect("the session");
        assert!(store.take_routes().is_none(), "it was taken");
        let next = Store::new().expect("two queues");
        next.leave_routes(&found, connection.as_fd()).expect("room");
        drop((store, connection));
        assert!(!socket::is_hung_up(other_end.as_fd()));
        let (_writer, stored) = StoreWriter::open(&next);
        assert_eq!(stored.routes.map(|(session, _)| session), Some(session()));
        assert_eq!((stored.short_runs, stored.peers.len()), (0, 0), "no router has ended in this store");
    }

    #[test]
    fn short_runs_are_slowed_down_and_lose_their_peers() {
        let store = Store::new().expect("two queues");
        let (connection, _other_end) = UnixStream::pair().expect("a pair");
        let mut pauses = Vec::new();
        for run in 0..8 {
            let (mut writer, stored) = StoreWriter::open(&store);
            pauses.push(stored.pause.as_secs());
            assert_eq!(stored.peers.len(), usize::from((1..=SHORT_RUNS_WITH_PEERS).contains(&run)), "run {run}");
            writer.put(peer(7, A), connection.as_fd()).expect("room");
        }
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 16, 16]);
    }

    #[test]
    fn long_run_before_counts_as_no_failure() {
        let store = Store::new().expect("two queues");
        let (mut writer, _) = StoreWriter::open(&store);
        writer.header.started = writer.header.started.saturating_sub(SHORT_RUN);
        writer.header.short_runs = 7;
        writer.rewrite(std::iter::empty()).expect("room");
        assert_eq!(StoreWriter::open(&store).1.short_runs, 0);
    }
}
