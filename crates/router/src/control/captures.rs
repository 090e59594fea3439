//! Captured packets, on their way from the event loop to clients that capture. The way has a bounded room; what finds none is
//! counted, and costs the loop no more than that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{SystemTime, UNIX_EPOCH};

use super::question::Bell;
use tuntap_core::router::capture::{CaptureRecord, MAX_CAPTURES};

/// Packets that may wait for the control thread, and what their bytes and records may take together.
const MAX_PACKETS: usize = 1 << 14;
const MAX_BYTES: usize = 4 << 20;

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// What the router says of it, with its first bytes, as many as a capture that wants it takes.
    pub record: CaptureRecord<Vec<u8>>,
    /// When it was captured: seconds since 1970, and nanoseconds of that second.
    pub time: (u64, u32),
    /// Its length.
    pub len: usize,
}

impl Captured {
    const fn size(&self) -> usize {
        size_of::<Self>() + self.record.bytes.len()
    }
}

/// What both ends count.
#[derive(Debug, Default)]
struct Counts {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// Packets that were left out, by capture.
    left_out: [AtomicU64; MAX_CAPTURES],
}

/// Both ends: that of the event loop, and that of the control thread, which the bell wakes.
pub fn channel(bell: Arc<Bell>) -> (CaptureTeller, Captures) {
    let (to_thread, told) = mpsc::sync_channel(MAX_PACKETS);
    let counts = Arc::new(Counts::default());
    let teller = CaptureTeller { to_thread, counts: Arc::clone(&counts), bell, snap_lens: [0; MAX_CAPTURES] };
    (teller, Captures { told, counts })
}

/// The event loop's end.
#[derive(Debug)]
pub struct CaptureTeller {
    to_thread: SyncSender<Captured>,
    counts: Arc<Counts>,
    bell: Arc<Bell>,
    /// By capture, how many bytes of each packet it takes.
    snap_lens: [usize; MAX_CAPTURES],
}

impl CaptureTeller {
    /// Begins a capture that takes so many bytes of each packet.
    pub fn begin(&mut self, number: usize, snap_len: usize) {
        if let Some(place) = self.snap_lens.get_mut(number) {
            *place = snap_len;
            self.counts.left_out[number].store(0, Ordering::Relaxed);
        }
    }

    /// Tells of a packet, or counts it if too many wait.
    pub fn tell(&self, record: &CaptureRecord<&[u8]>) {
        let CaptureRecord { wanted, bytes, .. } = *record;
        let snap_len = numbers(wanted).filter_map(|number| self.snap_lens.get(number)).max().copied().unwrap_or(0);
        let taken = &bytes[..bytes.len().min(snap_len)];
        let size = size_of::<Captured>() + taken.len();
        let before = self.counts.waiting.fetch_add(size, Ordering::AcqRel);
        let is_told = before + size <= MAX_BYTES && {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let time = (now.as_secs(), now.subsec_nanos());
            let packet = Captured { record: record.with_bytes(taken.to_vec()), time, len: bytes.len() };
            self.to_thread.try_send(packet).is_ok()
        };
        if !is_told {
            self.counts.waiting.fetch_sub(size, Ordering::AcqRel);
            numbers(wanted).for_each(|number| _ = self.counts.left_out[number].fetch_add(1, Ordering::Relaxed));
        }
        // The thread takes all that waits once it is woken.
        if before == 0 {
            self.bell.ring();
        }
    }
}

/// The control thread's end.
#[derive(Debug)]
pub struct Captures {
    told: Receiver<Captured>,
    counts: Arc<Counts>,
}

impl Captures {
    /// Returns the next packet.
    pub fn next(&self) -> Option<Captured> {
        let packet = self.told.try_recv().ok()?;
        self.counts.waiting.fetch_sub(packet.size(), Ordering::AcqRel);
        Some(packet)
    }

    /// Returns true if packets wait.
    pub fn has_more(&self) -> bool {
        self.counts.waiting.load(Ordering::Acquire) > 0
    }

    /// Returns once how many packets a capture has missed.
    pub fn take_left_out(&self, number: usize) -> u64 {
        self.counts.left_out.get(number).map_or(0, |count| count.swap(0, Ordering::Relaxed))
    }
}

/// The numbers of the captures in a record.
pub fn numbers(wanted: u8) -> impl Iterator<Item = usize> {
    (0..MAX_CAPTURES).filter(move |number| wanted & 1 << number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_core::router::capture::{CaptureFate, PassedTo};
    use tuntap_wire::rule::Direction;

    fn record(wanted: u8, bytes: &[u8]) -> CaptureRecord<&[u8]> {
        let fate = CaptureFate::Passed(PassedTo::Tun);
        CaptureRecord {
            wanted,
            direction: Direction::Out,
            peer: None,
            fate,
            rule: None,
            segments: 1,
            facts: None,
            bytes,
        }
    }

    fn ends() -> (CaptureTeller, Captures) {
        channel(Arc::new(Bell::new().expect("a descriptor")))
    }

    #[test]
    fn as_many_bytes_go_as_the_greediest_capture_takes() {
        let (mut teller, captures) = ends();
        teller.begin(0, 10);
        teller.begin(3, 20);
        for (wanted, expected) in [(1, 10), (1 << 3, 20), (1 | 1 << 3, 20), (1 << 5, 0)] {
            teller.tell(&record(wanted, &[7; 100]));
            let packet = captures.next().expect("it was told");
            assert_eq!((packet.record.bytes.len(), packet.len, packet.record.wanted), (expected, 100, wanted));
        }
        teller.tell(&record(1, &[7; 4]));
        assert_eq!(captures.next().expect("it was told").record.bytes, [7; 4]);
        assert!(!captures.has_more());
    }

    #[test]
    fn packets_beyond_the_room_are_counted_for_those_who_want_them() {
        for (snap_len, most) in [(60_000, MAX_BYTES / 60_000), (1, MAX_PACKETS)] {
            let (mut teller, captures) = ends();
            teller.begin(0, snap_len);
            teller.begin(1, snap_len);
            let sent = most as u64 + 100;
            for number in 0..sent {
                teller.tell(&record(if number % 2 == 0 { 0b11 } else { 0b01 }, &[0; 60_000]));
            }
            let taken = std::iter::from_fn(|| captures.next()).count();
            assert!(taken <= most && taken > most * 9 / 10, "{taken} of {most}");
            assert_eq!(captures.take_left_out(0), sent - taken as u64);
            assert!(captures.take_left_out(1) >= 49 && captures.take_left_out(1) == 0 && !captures.has_more());
            teller.tell(&record(1, &[0; 60_000]));
            assert!(captures.next().is_some(), "there is room again");
        }
    }
}
