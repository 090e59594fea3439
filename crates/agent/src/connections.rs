//! Which connections there are: one for each neighbour, and a bounded number that nobody is known of yet.

use std::collections::{HashMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tuntap_wire::holding::RouterId;

/// Most connections whose other end isn't known yet. One more closes the oldest.
pub const MAX_HALF_OPEN: usize = 32;

/// A connection with a neighbour.
#[derive(Debug)]
struct Live {
    number: u64,
    has_dialled: bool,
    tcp: Arc<TcpStream>,
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<RouterId, Live>,
    half_open: VecDeque<(u64, Arc<TcpStream>)>,
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

    /// Makes a place for a connection that was accepted. The oldest one loses its place if there are too many. Returns the
    /// place, and whether another one was lost.
    pub fn begin(self: &Arc<Self>, tcp: &Arc<TcpStream>) -> (Place, bool) {
        let mut inner = self.lock();
        inner.last_number += 1;
        let number = inner.last_number;
        let oldest = if inner.half_open.len() >= MAX_HALF_OPEN { inner.half_open.pop_front() } else { None };
        inner.half_open.push_back((number, Arc::clone(tcp)));
        if let Some((_, oldest)) = &oldest {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        (Place { connections: Arc::clone(self), number }, oldest.is_some())
    }

    /// Number of connections whose other end isn't known yet.
    #[cfg(test)]
    fn half_open(&self) -> usize {
        self.lock().half_open.len()
    }

    /// A connection with a neighbour is there. Of two that were dialled from different sides, that stays which the router with
    /// the greater id has dialled: both sides decide the same. Of two that one side has dialled, the newer one stays, for the
    /// older one was given up there. Returns `None` if the other one stays.
    pub fn admit(&self, neighbour: RouterId, has_dialled: bool, tcp: &Arc<TcpStream>) -> Option<Admitted<'_>> {
        let mut inner = self.lock();
        let is_preferred = has_dialled == (self.own > neighbour);
        if let Some(live) = inner.live.get(&neighbour) {
            if live.has_dialled != has_dialled && !is_preferred {
                return None;
            }
            let _ = live.tcp.shutdown(Shutdown::Both);
        }
        if inner.is_stopped {
            return None;
        }
        inner.last_number += 1;
        let number = inner.last_number;
        inner.live.insert(neighbour, Live { number, has_dialled, tcp: Arc::clone(tcp) });
        Some(Admitted { connections: self, neighbour, number })
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
        self.connections.lock().half_open.retain(|(other, _)| *other != number);
    }
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
                    let admitted = side.admit(id(other), at == own, &ends[at].0);
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
            let number = connections.admit(id(2), has_dialled, &first).expect("the only one");
            let newer = connections.admit(id(2), has_dialled, &second).expect("the newer one");
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
        let mut begun: Vec<_> = all.iter().map(|(own, _)| connections.begin(own)).collect();
        assert!(begun[..MAX_HALF_OPEN].iter().all(|(_, has_closed)| !has_closed));
        assert!(begun[MAX_HALF_OPEN].1 && is_closed(&all[0].1) && !is_closed(&all[1].1));
        assert_eq!(connections.half_open(), MAX_HALF_OPEN);
        begun.remove(1);
        assert_eq!(connections.half_open(), MAX_HALF_OPEN - 1);
    }
}
