//! Which connections there are: one for each neighbour, and a bounded number that nobody is known of yet.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tuntap_wire::holding::RouterId;

/// Most connections whose other end isn't known yet. One more closes the oldest of those from where most come.
pub const MAX_HALF_OPEN: usize = 32;

/// Most connections with one neighbour that may follow each other at once. Each makes work for the router: all that the
/// neighbour has told is forgotten, and everything is told again.
pub const MAX_CONNECTIONS_AT_ONCE: u32 = 16;

/// Beyond [`MAX_CONNECTIONS_AT_ONCE`], there is one connection with a neighbour in this time at most.
pub const CONNECTION_INTERVAL: Duration = Duration::from_secs(1);

/// Bits of an IPv6 address that are the same for all addresses that one host may have.
const HOST_BITS: u32 = 64;

/// A connection with a neighbour.
#[derive(Debug)]
struct Live {
    number: u64,
    has_dialled: bool,
    tcp: Arc<TcpStream>,
}

/// A connection whose other end isn't known yet.
#[derive(Debug)]
struct HalfOpen {
    number: u64,
    source: IpAddr,
    tcp: Arc<TcpStream>,
}

/// How many connections with a neighbour there were lately.
#[derive(Debug)]
struct Lately {
    /// When all of them are forgotten. Each counts for [`CONNECTION_INTERVAL`].
    until: Instant,
    /// The log has said that there are too many.
    is_told: bool,
}

impl Lately {
    /// Counts one more. Returns false if there are too many.
    fn count(&mut self, now: Instant) -> bool {
        if self.until <= now {
            *self = Self { until: now, is_told: false };
        }
        let next = self.until + CONNECTION_INTERVAL;
        let has_room = next <= now + MAX_CONNECTIONS_AT_ONCE * CONNECTION_INTERVAL;
        if has_room {
            self.until = next;
        }
        has_room
    }
}

/// What becomes of a connection with a neighbour.
#[derive(Debug)]
pub enum Admission<'a> {
    /// It is the one that there is.
    Admitted(Admitted<'a>),
    /// Another one stays, or this process is to end.
    NotNeeded,
    /// There were too many lately. `is_news` says that this wasn't so shortly before.
    TooMany {
        /// See there.
        is_news: bool,
    },
}

impl<'a> Admission<'a> {
    /// The connection, if it is admitted.
    #[cfg(test)]
    pub fn admitted(self) -> Option<Admitted<'a>> {
        match self {
            Self::Admitted(admitted) => Some(admitted),
            Self::NotNeeded | Self::TooMany { .. } => None,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<RouterId, Live>,
    /// In the order in which they have come.
    half_open: VecDeque<HalfOpen>,
    /// Neighbours only, so that there is a bound.
    lately: HashMap<RouterId, Lately>,
    last_number: u64,
    is_stopped: bool,
}

/// All connections.
#[derive(Debug)]
pub struct Connections {
    own: RouterId,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Connections {
    /// There are none.
    pub fn new(own: RouterId) -> Self {
        Self { own, inner: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is whole, so that a thread that has panicked leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for a connection that was accepted from an address. If there are too many, the oldest one loses its place of
    /// those that come from where most come: whoever connects without end takes places from nobody else. Returns the place, and
    /// whether another one was lost.
    pub fn begin(self: &Arc<Self>, tcp: &Arc<TcpStream>, from: IpAddr) -> (Place, bool) {
        let mut inner = self.lock();
        inner.last_number += 1;
        let number = inner.last_number;
        inner.half_open.push_back(HalfOpen { number, source: source(from), tcp: Arc::clone(tcp) });
        let is_full = inner.half_open.len() > MAX_HALF_OPEN;
        let lost = if is_full { fattest(&inner.half_open).and_then(|at| inner.half_open.remove(at)) } else { None };
        if let Some(lost) = &lost {
            let _ = lost.tcp.shutdown(Shutdown::Both);
        }
        (Place { connections: Arc::clone(self), number }, lost.is_some())
    }

    /// Number of connections whose other end isn't known yet.
    #[cfg(test)]
    fn half_open(&self) -> usize {
        self.lock().half_open.len()
    }

    /// A connection with a neighbour is there. Of two that were dialled from different sides, that stays which the router with
    /// the greater id has dialled: both sides decide the same. Of two that one side has dialled, the newer one stays, for the
    /// older one was given up there. If there were too many lately, the other one stays as well.
    pub fn admit(&self, neighbour: RouterId, has_dialled: bool, tcp: &Arc<TcpStream>, now: Instant) -> Admission<'_> {
        let mut inner = self.lock();
        let is_preferred = has_dialled == (self.own > neighbour);
        let other_stays =
            inner.live.get(&neighbour).is_some_and(|live| live.has_dialled != has_dialled && !is_preferred);
        if other_stays || inner.is_stopped {
            return Admission::NotNeeded;
        }
        let lately = inner.lately.entry(neighbour).or_insert(Lately { until: now, is_told: false });
        if !lately.count(now) {
            return Admission::TooMany { is_news: !std::mem::replace(&mut lately.is_told, true) };
        }
        inner.last_number += 1;
        let number = inner.last_number;
        if let Some(before) = inner.live.insert(neighbour, Live { number, has_dialled, tcp: Arc::clone(tcp) }) {
            let _ = before.tcp.shutdown(Shutdown::Both);
        }
        Admission::Admitted(Admitted { connections: self, neighbour, number })
    }

    fn ended(&self, neighbour: RouterId, number: u64) -> bool {
        let mut inner = self.lock();
        let is_live = inner.live.get(&neighbour).is_some_and(|live| live.number == number);
        if is_live {
            inner.live.remove(&neighbour);
            self.changed.notify_all();
        }
        is_live
    }

    /// Waits until there is no connection with a neighbour. Returns false if this process is to end.
    pub fn wait_until_down(&self, neighbour: RouterId) -> bool {
        let inner = self.lock();
        let is_up = |inner: &mut Inner| inner.live.contains_key(&neighbour) && !inner.is_stopped;
        let inner = self.changed.wait_while(inner, is_up).unwrap_or_else(PoisonError::into_inner);
        !inner.is_stopped
    }

    /// Waits for a time. Returns false if this process is to end.
    pub fn sleep(&self, time: Duration) -> bool {
        let inner = self.lock();
        let result = self.changed.wait_timeout_while(inner, time, |inner| !inner.is_stopped);
        let (inner, _) = result.unwrap_or_else(PoisonError::into_inner);
        !inner.is_stopped
    }

    /// This process is to end.
    pub fn stop(&self) {
        self.lock().is_stopped = true;
        self.changed.notify_all();
    }
}

/// The place of a connection whose other end isn't known yet, until this is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = self.number;
        self.connections.lock().half_open.retain(|other| other.number != number);
    }
}

/// What stands for all addresses that one host may have.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> HOST_BITS << HOST_BITS).into(),
    }
}

/// The place of the oldest connection of those from where most come.
fn fattest(half_open: &VecDeque<HalfOpen>) -> Option<usize> {
    let from_there = |place: &usize| half_open.iter().filter(|other| other.source == half_open[*place].source).count();
    // Of several that are greatest, `max_by_key` takes the last one.
    (0..half_open.len()).rev().max_by_key(from_there)
}

/// The connection with a neighbour, until this is dropped.
#[derive(Debug)]
pub struct Admitted<'a> {
    connections: &'a Connections,
    neighbour: RouterId,
    number: u64,
}

impl Admitted<'_> {
    /// It has ended. Returns false if another one had taken its place before.
    pub fn end(self) -> bool {
        self.connections.ended(self.neighbour, self.number)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.connections.ended(self.neighbour, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn id(number: u64) -> RouterId {
        RouterId::new(number).expect("not 0")
    }

    /// A connection, and its other end.
    fn connection() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        (Arc::new(one), listener.accept().expect("a connection").0)
    }

    fn is_closed(other: &TcpStream) -> bool {
        other.set_nonblocking(true).expect("a socket");
        matches!((&*other).read(&mut [0]), Ok(0))
    }

    /// Whatever comes first on each side, both keep the same connection.
    #[test]
    fn both_sides_keep_the_same_of_two() {
        for (low_first, high_first) in [(true, true), (true, false), (false, true), (false, false)] {
            let (low, high) = (Connections::new(id(1)), Connections::new(id(2)));
            // The lower one has dialled connection 0, the higher one connection 1.
            let kept = |side: &Connections, other, own_first: bool, own: usize| {
                let mut ends = [connection(), connection()];
                let order = if own_first { [own, 1 - own] } else { [1 - own, own] };
                let admitted = order.map(|at| {
                    let admitted = side.admit(id(other), at == own, &ends[at].0, Instant::now()).admitted();
                    if admitted.is_none() {
                        let _ = ends[at].0.shutdown(Shutdown::Both);
                    }
                    admitted
                });
                assert!(admitted.iter().flatten().count() >= 1);
                ends.each_mut().map(|(_, other)| !is_closed(other))
            };
            assert_eq!(kept(&low, 2, low_first, 0), [false, true]);
            assert_eq!(kept(&high, 1, high_first, 1), [false, true]);
        }
    }

    #[test]
    fn newer_one_of_the_same_side_stays() {
        for has_dialled in [true, false] {
            let connections = Connections::new(id(1));
            let (first, first_end) = connection();
            let (second, second_end) = connection();
            let now = Instant::now();
            let number = connections.admit(id(2), has_dialled, &first, now).admitted().expect("the only one");
            let newer = connections.admit(id(2), has_dialled, &second, now).admitted().expect("the newer one");
            assert!(is_closed(&first_end) && !is_closed(&second_end));
            assert!(!number.end(), "it has no place any longer");
            assert!(newer.end());
            assert!(connections.wait_until_down(id(2)));
        }
    }

    #[test]
    fn oldest_half_open_one_makes_room() {
        let connections = Arc::new(Connections::new(id(1)));
        let all: Vec<_> = (0..=MAX_HALF_OPEN).map(|_| connection()).collect();
        let mut begun: Vec<_> = all.iter().map(|(own, _)| connections.begin(own, HERE)).collect();
        assert!(begun[..MAX_HALF_OPEN].iter().all(|(_, has_closed)| !has_closed));
        assert!(begun[MAX_HALF_OPEN].1 && is_closed(&all[0].1) && !is_closed(&all[1].1));
        assert_eq!(connections.half_open(), MAX_HALF_OPEN);
        begun.remove(1);
        assert_eq!(connections.half_open(), MAX_HALF_OPEN - 1);
    }

    /// A neighbour that shakes hands keeps its place, however many connections a stranger opens meanwhile.
    #[test]
    fn flood_from_one_host_takes_no_places_of_others() {
        let connections = Arc::new(Connections::new(id(1)));
        for (honest, hostile) in [
            ("192.0.2.1", ["198.51.100.1", "::ffff:198.51.100.1"]),
            ("2001:db8:1::1", ["2001:db8:2::1", "2001:db8:2::ffff:2"]),
        ] {
            let (honest_tcp, honest_end) = connection();
            let (place, _) = connections.begin(&honest_tcp, honest.parse().expect("an address"));
            let flood: Vec<_> = (0..3 * MAX_HALF_OPEN)
                .map(|at| {
                    let (tcp, end) = connection();
                    (connections.begin(&tcp, hostile[at % 2].parse().expect("an address")).0, end)
                })
                .collect();
            assert!(!is_closed(&honest_end));
            assert_eq!(flood.iter().filter(|(_, end)| !is_closed(end)).count(), MAX_HALF_OPEN - 1);
            drop(place);
        }
    }

    /// A neighbour that connects without end makes little work, and its last connection stays.
    #[test]
    fn connections_of_a_neighbour_are_bounded_in_time() {
        for has_dialled in [true, false] {
            let connections = Connections::new(id(1));
            let mut now = Instant::now();
            let (mut kept, mut told) = (Vec::new(), 0);
            for _ in 0..200 {
                let (tcp, end) = connection();
                match connections.admit(id(2), has_dialled, &tcp, now) {
                    Admission::Admitted(admitted) => kept.push((admitted, end)),
                    Admission::TooMany { is_news } => told += u32::from(is_news),
                    Admission::NotNeeded => panic!("no other one is preferred"),
                }
                now += CONNECTION_INTERVAL / 20;
            }
            // Those at once, and one in each of the ten intervals.
            let at_once = usize::try_from(MAX_CONNECTIONS_AT_ONCE).expect("few");
            assert!((at_once + 9..=at_once + 10).contains(&kept.len()), "{}", kept.len());
            assert_eq!(told, 1);
            let open: Vec<_> = kept.iter().map(|(_, end)| !is_closed(end)).collect();
            assert!(open[open.len() - 1] && open.iter().filter(|is_open| **is_open).count() == 1);
            // Another neighbour doesn't notice.
            let (tcp, _end) = connection();
            assert!(connections.admit(id(3), has_dialled, &tcp, now).admitted().is_some());
            now += MAX_CONNECTIONS_AT_ONCE * CONNECTION_INTERVAL;
            assert!(connections.admit(id(2), has_dialled, &tcp, now).admitted().is_some());
        }
    }
}
