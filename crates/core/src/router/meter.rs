//! Measures the cost of writes to peers' devices. The kernel handles a written packet at once, in the router's thread: it
//! runs the receive path of the peer's namespace, including its packet filter. A vassal with privileges there can make that
//! take as long as it likes.
//!
//! Every write is timed, so that no expensive write goes unnoticed. The allowance of a write follows from the present cost
//! of reading packets of its length on this machine, which no vassal can raise. Time beyond the allowance is charged to the
//! peer, unless the thread didn't run in that time.

use std::fmt;
use std::time::{Duration, Instant};

use super::debt::{Debt, Sharers};
use super::kernel::Suspicion;
use super::shell::ThreadUsage;
use crate::nanos::nanos;

/// The allowance for each packet to or from a peer: the cost of `SHORT_READS` reads of the shortest packets, and of `READS`
/// reads of packets of its length. Honest writes run the receiver's TCP, which may send packets in turn, and wake its
/// threads. On average that takes a third of the allowance.
const SHORT_READS: u64 = 12;
const READS: u64 = 3;

/// Single writes may take longer if others took less. This is the most that can be saved up, as a number of allowances for
/// the shortest packets. It is not enough for a delay that other peers would notice.
const SAVED_ALLOWANCES: u64 = 6;

/// Excess, which is time beyond the allowance, may take this fraction (1/n) of the router's time for all peers together.
/// They share it equally; a single peer may use all of it.
const LIMITED_PART: u64 = 5;

/// The debt in nanoseconds above which a peer's packets are dropped until it owes less.
const LIMITED_NANOS: u64 = 2_000_000;

/// A peer's excess may take this fraction (1/n) of the router's time for ever. The device of a peer that exceeds it by
/// `DETACH_NANOS` in all is detached. `SUSPICIOUS_NANOS` are enough if a device of the same namespace or user was detached
/// before.
const TOLERATED_PART: u64 = 50;
const DETACH_NANOS: u64 = 60_000_000;
const SUSPICIOUS_NANOS: u64 = 20_000_000;

/// An excess below this fraction (1/n) of the time of all writes to the peer is not significant. Filter rules that match
/// one of 64 packets cause half of it.
const SIGNIFICANT_PART: u64 = 16;

/// Fewer expensive writes than this are not significant: a machine may stand still for a moment.
pub(super) const MIN_EXPENSIVE_WRITES: u32 = 4;

/// A write to a peer whose packets pass in the kernel may set off such packets, which the write then includes, up to the receiver's TCP.
/// They may take as long as reading so many of the longest packets may cost.
const ANSWERS: u64 = 8;

/// For all peers together, such answers may take this fraction (1/n) of the router's time, and so many nanoseconds at once. They share it
/// equally, so that no peer can use up what others need. What is beyond a peer's share counts: then its packets take the router's way for a
/// while, and its writes include no answers.
const ANSWERS_PART: u64 = 20;
const ANSWERS_NANOS: u64 = 2_000_000;

/// Time that a hypervisor takes from the thread unnoticed shows as excess in reads, too. Only if the share of excess in
/// writes to a peer is so many times as large as in reads, it is significant.
const STOLEN_FACTOR: u64 = 3;

/// For so long after a slow read or write, the meter also measures the thread's processor time.
const ALERT: Duration = Duration::from_secs(10);

/// The half-life of the sums: after this time, earlier reads and writes count half.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// The cost of reading packets, by their length.
#[derive(Debug, Default)]
struct ReadCosts {
    /// Average nanoseconds of a read, or 0 before the first one. Each class of lengths reaches to twice the length of the
    /// one before.
    averages: [u64; Self::CLASSES],
}

impl ReadCosts {
    /// The number of classes: packets of up to 63 bytes, up to 127 bytes, and so on.
    const CLASSES: usize = 12;

    fn class(len: usize) -> usize {
        let bits = usize::BITS - (len / 64).leading_zeros();
        usize::try_from(bits).map_or(Self::CLASSES - 1, |bits| bits.min(Self::CLASSES - 1))
    }

    /// Adds a read to the average. A single long read, in which the thread had to wait, hardly counts.
    fn record(&mut self, len: usize, nanos: u64) {
        let average = &mut self.averages[Self::class(len)];
        let nanos = nanos.max(1);
        *average = match *average {
            0 => nanos,
            // The first averages may come from such long reads. They are corrected quickly.
            before if nanos < before / 2 => before.midpoint(nanos),
            before => before - before / 16 + nanos.min(4 * before).div_ceil(16),
        };
    }

    /// Returns the cost of reading a packet of this length in nanoseconds: at most that of longer ones, because the average
    /// of a class with few or old reads may be high by chance. Returns `None` before the first read.
    fn of(&self, len: usize) -> Option<u64> {
        let (shorter, others) = self.averages.split_at(Self::class(len));
        let known = |nanos: &u64| *nanos > 0;
        others.iter().copied().filter(known).min().or_else(|| shorter.iter().copied().rev().find(known))
    }

    fn shortest(&self) -> Option<u64> {
        self.of(0)
    }

    /// Returns the allowance for a packet of this length in nanoseconds.
    fn allowance(&self, len: usize) -> Option<u64> {
        Some(SHORT_READS * self.shortest()? + READS * self.of(len)?)
    }

    /// Returns the maximum of saved nanoseconds.
    fn most_saved(&self) -> u64 {
        SAVED_ALLOWANCES * (SHORT_READS + READS) * self.shortest().unwrap_or_default()
    }
}

/// The time, and the thread's usage at that time.
#[derive(Debug, Clone, Copy)]
struct Checkpoint {
    at: Instant,
    thread_nanos: u64,
    switches: u64,
}

impl Checkpoint {
    const fn new(at: Instant, usage: ThreadUsage) -> Self {
        Self { at, thread_nanos: usage.nanos, switches: usage.switches }
    }

    /// Returns the nanoseconds until a later checkpoint in which the thread didn't run. The kernel may not count the time
    /// of interrupts as the thread's (CONFIG_IRQ_TIME_ACCOUNTING). So a thread without a context switch is taken to have
    /// run all the time.
    fn waited_until(&self, later: &Self) -> u64 {
        if later.switches == self.switches {
            return 0;
        }
        let nanos = nanos(later.at.saturating_duration_since(self.at));
        nanos.saturating_sub(later.thread_nanos.saturating_sub(self.thread_nanos))
    }
}

/// The time that some work took, and its excess.
#[derive(Debug, Clone, Copy, Default)]
struct TimeSpent {
    nanos: u64,
    excess: u64,
    /// The number of reads or writes with an excess.
    times: u32,
}

impl TimeSpent {
    const fn add(&mut self, nanos: u64, excess: u64) {
        self.nanos = self.nanos.saturating_add(nanos);
        self.excess = self.excess.saturating_add(excess);
        self.times = self.times.saturating_add(if excess > 0 { 1 } else { 0 });
    }

    const fn halve(&mut self, times: u32) {
        let times = if times > 31 { 31 } else { times };
        *self = Self { nanos: self.nanos >> times, excess: self.excess >> times, times: self.times >> times };
    }

    /// Returns true if the share of the excess is more than `times` as large as in other work.
    fn is_worse(&self, other: &Self, times: u64) -> bool {
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        product(self.excess, other.nanos) > product(other.excess, self.nanos) * u128::from(times)
    }
}

/// What all peers' meters share: the cost of reads, and the debt of all peers together.
#[derive(Debug)]
pub struct WorkMeter {
    reads: ReadCosts,
    /// Taken when the thread woke up, or after the last slow read or write, but only during an alert.
    checkpoint: Option<Checkpoint>,
    alert_until: Option<Instant>,
    /// The reads during alerts.
    read: TimeSpent,
    epoch_start: Instant,
    /// The number of half-lives since the start.
    epoch: u32,
    debt: Debt,
    sharers: Sharers,
    /// The peers whose writes have included packets that they sent in the kernel.
    answerers: Sharers,
}

impl WorkMeter {
    /// Makes a meter without any reads.
    pub fn new(now: Instant) -> Self {
        Self {
            reads: ReadCosts::default(),
            checkpoint: None,
            alert_until: None,
            read: TimeSpent::default(),
            epoch_start: now,
            epoch: 0,
            debt: Debt::new(now),
            sharers: Sharers::new(now),
            answerers: Sharers::new(now),
        }
    }

    /// Begins a turn: the thread has slept.
    pub fn wake(&mut self, now: Instant, usage: impl FnOnce() -> ThreadUsage) {
        let is_alert = self.alert_until.is_some_and(|end| now < end);
        self.checkpoint = is_alert.then(|| Checkpoint::new(now, usage()));
        let past = nanos(now.saturating_duration_since(self.epoch_start)) / nanos(HALF_LIFE);
        if past > 0 {
            let past = u32::try_from(past).unwrap_or(u32::MAX);
            self.read.halve(past);
            self.epoch = self.epoch.saturating_add(past);
            self.epoch_start = now;
        }
    }

    /// Adds a read of `len` bytes, which took from `start` to `end`.
    pub fn record_read(&mut self, len: usize, start: Instant, end: Instant, usage: impl FnOnce() -> ThreadUsage) {
        let took = nanos(end.saturating_duration_since(start));
        let excess = match self.reads.allowance(len) {
            Some(allowance) if took > allowance => self.ran(took, end, usage()).saturating_sub(allowance),
            _ => 0,
        };
        if self.checkpoint.is_some() {
            self.read.add(took, excess);
        }
        self.reads.record(len, took);
    }

    /// Starts an alert after a slow read or write. Returns the nanoseconds for which the thread ran in it, or 0 if that
    /// wasn't measured.
    fn ran(&mut self, took: u64, end: Instant, usage: ThreadUsage) -> u64 {
        self.alert_until = Some(end + ALERT);
        let now = Checkpoint::new(end, usage);
        let before = self.checkpoint.replace(now);
        before.map_or(0, |before| took.saturating_sub(before.waited_until(&now)))
    }
}

/// What may happen in the kernel during a write to a peer's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// The packets that the peer sends in answer wait in its device.
    Nothing,
    /// They may pass in the kernel, within the write.
    PeerSends,
}

/// The verdict about a peer after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CostRating {
    /// Nothing follows.
    Usual,
    /// The peer has begun to owe so much that its packets are dropped now and then.
    Limited(Cost),
    /// The peer is to be detached if a device of its namespace or user was detached before.
    Suspicious(Cost),
    /// The peer is to be detached.
    TooExpensive(Cost),
}

/// The cost of the expensive writes to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Their number of late.
    pub writes: u32,
    /// Their average excess.
    pub excess: Duration,
    /// The allowance of the last one.
    pub allowed: Duration,
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writes, excess, allowed } = self;
        let (took, allowed) = ((*excess + *allowed).as_micros(), allowed.as_micros());
        write!(
            formatter,
            "{writes} of late took {took} µs on average; what reading such packets costs here allows {allowed} µs"
        )
    }
}

/// The meter of the writes to one peer. Most peers never have an expensive write, so that `expenses` stays empty.
#[derive(Debug, Default)]
pub struct WriteMeter {
    /// Saved nanoseconds, which later writes may take beyond their own allowance.
    saved: u64,
    /// True if a write has taken more than it may since somebody has asked.
    has_excess: bool,
    answers: Option<Box<Answers>>,
    expenses: Option<Box<Expenses>>,
}

/// The time of writes that is taken to be that of packets which the peer has sent in the kernel meanwhile.
#[derive(Debug)]
struct Answers {
    debt: Debt,
    /// The last [`Sharers::window`] in which there was such a write.
    window: Option<u64>,
}

impl Answers {
    const fn new(now: Instant) -> Self {
        Self { debt: Debt::new(now), window: None }
    }

    /// Returns how many nanoseconds of a write's excess are taken to be those of answers.
    fn forgive(&mut self, work: &mut WorkMeter, excess: u64, now: Instant) -> u64 {
        let window = work.answerers.window(now);
        if self.window.replace(window) != Some(window) {
            work.answerers.join();
        }
        let sharers = work.answerers.count(now);
        let left = (ANSWERS_NANOS / sharers).saturating_sub(self.debt.settle(now, ANSWERS_PART * sharers));
        let forgiven = excess.min(left).min(ANSWERS * work.reads.allowance(usize::MAX).unwrap_or_default());
        self.debt.add(forgiven);
        forgiven
    }
}

/// The expensive writes to a peer, and its debts.
#[derive(Debug)]
struct Expenses {
    spent: TimeSpent,
    /// The number of all writes, expensive or not.
    writes: u64,
    /// The allowance of the last one.
    allowed: u64,
    /// The [`WorkMeter::epoch`] to which the sums were halved last.
    epoch: u32,
    /// The debt by which the peer is limited.
    limit_debt: Debt,
    /// The debt by which the peer is detached.
    detach_debt: Debt,
    /// The last [`Sharers::window`] in which the peer was charged.
    window: Option<u64>,
    was_limited: bool,
}

impl WriteMeter {
    /// Returns true if packets to the peer are to be dropped until it owes less.
    pub fn is_limited(&mut self, work: &mut WorkMeter, now: Instant) -> bool {
        self.expenses.as_mut().is_some_and(|expenses| expenses.is_limited(work, now))
    }

    /// Adds the allowance of a packet from the peer, whose TCP may have sent it during a write.
    pub fn record_sent(&mut self, work: &WorkMeter, len: usize) {
        self.save(work, work.reads.allowance(len).unwrap_or_default());
    }

    fn save(&mut self, work: &WorkMeter, nanos: u64) {
        self.saved = self.saved.saturating_add(nanos).min(work.reads.most_saved());
    }

    /// Adds a write of `len` bytes, which took from `start` to `end`.
    pub fn record(
        &mut self,
        work: &mut WorkMeter,
        len: usize,
        (start, end): (Instant, Instant),
        meanwhile: Meanwhile,
        usage: impl FnOnce() -> ThreadUsage,
    ) -> CostRating {
        let took = nanos(end.saturating_duration_since(start));
        let Some(allowed) = work.reads.allowance(len) else { return CostRating::Usual };
        if took <= allowed {
            self.save(work, allowed - took);
            if let Some(expenses) = &mut self.expenses {
                expenses.writes += 1;
                if work.checkpoint.is_some() {
                    expenses.spent.add(took, 0);
                }
            }
            return CostRating::Usual;
        }
        let beyond = work.ran(took, end, usage()).saturating_sub(allowed);
        let excess = beyond.saturating_sub(self.saved);
        self.saved = self.saved.saturating_sub(beyond);
        if excess == 0 {
            return CostRating::Usual;
        }
        let excess = match meanwhile {
            Meanwhile::Nothing => excess,
            Meanwhile::PeerSends => {
                let answers = self.answers.get_or_insert_with(|| Box::new(Answers::new(end)));
                excess - answers.forgive(work, excess, end)
            }
        };
        if excess == 0 {
            return CostRating::Usual;
        }
        self.has_excess = true;
        let expenses = self.expenses.get_or_insert_with(|| Box::new(Expenses::new(work.epoch, end)));
        expenses.allowed = allowed;
        expenses.charge(work, took, excess, end);
        expenses.judge(work, end)
    }

    /// Tells once that a write has taken longer than it may and than what earlier ones have saved, and whether that is chance: it is not
    /// if the peer owes so much that its packets are dropped. A few writes, such as those at the start of a connection, tell nothing.
    pub(super) fn take_suspicion(&mut self, work: &mut WorkMeter, now: Instant) -> Option<Suspicion> {
        if !std::mem::replace(&mut self.has_excess, false) {
            return None;
        }
        Some(if self.is_limited(work, now) { Suspicion::Significant } else { Suspicion::Chance })
    }

    /// Adds a packet that is dropped because the peer is limited. It counts with the average excess of the peer's writes.
    pub fn record_dropped(&mut self, work: &mut WorkMeter, now: Instant) -> CostRating {
        let Some(expenses) = &mut self.expenses else { return CostRating::Usual };
        expenses.detach_debt.settle(now, TOLERATED_PART);
        expenses.detach_debt.add(expenses.spent.excess / expenses.writes.max(1));
        expenses.judge(work, now)
    }
}

impl Expenses {
    const fn new(epoch: u32, now: Instant) -> Self {
        Self {
            spent: TimeSpent { nanos: 0, excess: 0, times: 0 },
            writes: 0,
            allowed: 0,
            epoch,
            limit_debt: Debt::new(now),
            detach_debt: Debt::new(now),
            window: None,
            was_limited: false,
        }
    }

    fn is_limited(&mut self, work: &mut WorkMeter, now: Instant) -> bool {
        let owed = self.limit_debt.settle(now, LIMITED_PART * work.sharers.count(now));
        if !self.is_significant(work) {
            return false;
        }
        owed > LIMITED_NANOS || owed > 0 && work.debt.settle(now, LIMITED_PART) > 2 * LIMITED_NANOS
    }

    /// Returns true if the excess is significant: too large to be chance.
    fn is_significant(&self, work: &WorkMeter) -> bool {
        self.spent.times >= MIN_EXPENSIVE_WRITES
            && self.spent.excess > self.spent.nanos / SIGNIFICANT_PART
            && self.spent.is_worse(&work.read, STOLEN_FACTOR)
    }

    fn charge(&mut self, work: &mut WorkMeter, took: u64, excess: u64, now: Instant) {
        let epochs = work.epoch.saturating_sub(std::mem::replace(&mut self.epoch, work.epoch));
        self.spent.halve(epochs);
        self.writes >>= epochs.min(63);
        self.spent.add(took, excess);
        self.writes += 1;
        let window = work.sharers.window(now);
        if self.window.replace(window) != Some(window) {
            work.sharers.join();
        }
        work.debt.settle(now, LIMITED_PART);
        work.debt.add(excess);
        self.limit_debt.add(excess);
        self.detach_debt.settle(now, TOLERATED_PART);
        self.detach_debt.add(excess);
    }

    fn judge(&mut self, work: &mut WorkMeter, now: Instant) -> CostRating {
        let cost = Cost {
            writes: self.spent.times,
            excess: Duration::from_nanos(self.spent.excess / u64::from(self.spent.times.max(1))),
            allowed: Duration::from_nanos(self.allowed),
        };
        let owed = self.detach_debt.settle(now, TOLERATED_PART);
        if owed > SUSPICIOUS_NANOS && self.is_significant(work) {
            return if owed > DETACH_NANOS { CostRating::TooExpensive(cost) } else { CostRating::Suspicious(cost) };
        }
        if self.is_limited(work, now) && !std::mem::replace(&mut self.was_limited, true) {
            return CostRating::Limited(cost);
        }
        CostRating::Usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that reads a short packet in a microsecond, and a long one in five.
    const SHORT: u64 = 1_000;
    const LONG: u64 = 5_000;
    const LONG_LEN: usize = 65_000;

    /// A peer, with a simulated clock that advances by the time that reads and writes take.
    struct Scene {
        work: WorkMeter,
        peer: WriteMeter,
        now: Instant,
        meanwhile: Meanwhile,
        limited: u32,
        suspicious: bool,
        detached: bool,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            let mut work = WorkMeter::new(now);
            for _ in 0..100 {
                work.reads.record(100, SHORT);
                work.reads.record(LONG_LEN, LONG);
            }
            work.alert_until = Some(now + ALERT);
            work.wake(now, ThreadUsage::default);
            let (peer, meanwhile) = (WriteMeter::default(), Meanwhile::Nothing);
            Self { work, peer, now, meanwhile, limited: 0, suspicious: false, detached: false }
        }

        /// Reads a packet, and writes it in `took` nanoseconds unless the peer is limited. The thread runs all the time.
        fn write(&mut self, len: usize, took: u64) {
            let start = self.now;
            self.now += Duration::from_nanos(if len < 1000 { SHORT } else { LONG });
            self.work.record_read(len, start, self.now, ThreadUsage::default);
            if self.peer.is_limited(&mut self.work, self.now) {
                self.limited += 1;
                let verdict = self.peer.record_dropped(&mut self.work, self.now);
                self.detached |= matches!(verdict, CostRating::TooExpensive(_));
                // The time until the next packet.
                self.now += Duration::from_micros(20);
                return;
            }
            let start = self.now;
            self.now += Duration::from_nanos(took);
            // The usage of the test's own thread plays no part.
            self.work.checkpoint = Some(Checkpoint::new(start, ThreadUsage::default()));
            match self.peer.record(&mut self.work, len, (start, self.now), self.meanwhile, ThreadUsage::default) {
                CostRating::TooExpensive(_) => self.detached = true,
                CostRating::Suspicious(_) => self.suspicious = true,
                CostRating::Usual | CostRating::Limited(_) => {}
            }
        }

        fn suspicion(&mut self) -> Option<Suspicion> {
            self.peer.take_suspicion(&mut self.work, self.now)
        }

        fn spend(&mut self, seconds: u64, mut write: impl FnMut(&mut Self, u64)) {
            let end = self.now + Duration::from_secs(seconds);
            for index in 0.. {
                if self.now >= end {
                    return;
                }
                write(self, index);
            }
        }
    }

    #[test]
    fn honest_writes_are_never_limited() {
        let mut scene = Scene::new();
        scene.spend(5, |scene, index| {
            scene.write(100, 4 * SHORT);
            scene.write(LONG_LEN, 3 * LONG);
            // An acknowledgement after which the peer sends many packets.
            if index % 8 == 0 {
                scene.write(60, 80 * SHORT);
            }
        });
        assert_eq!((scene.limited, scene.suspicious, scene.detached), (0, false, false));
    }

    #[test]
    fn expensive_writes_show_wherever_they_hide() {
        for modulus in [1, 2, 3, 7, 8, 9, 16, 33, 61, 64] {
            for residue in [0, modulus / 2, modulus - 1] {
                let mut scene = Scene::new();
                let (mut expensive, start) = (0, scene.now);
                scene.spend(1, |scene, index| {
                    let before = scene.now;
                    scene.write(100, if index % modulus == residue { 1_500_000 } else { 3 * SHORT });
                    let took = scene.now - before;
                    if took > Duration::from_millis(1) {
                        expensive += 1_500_000;
                    }
                });
                let share = expensive * 100 / nanos(scene.now - start);
                assert!(share < 35, "{residue} of {modulus}: {share} % of the time");
                assert!(scene.limited > 0 && scene.detached, "{residue} of {modulus}");
            }
        }
    }

    /// An acknowledgement may set off packets that pass in the kernel, within its write.
    #[test]
    fn what_a_peer_sends_in_the_kernel_is_not_the_cost_of_writes() {
        let mut scene = Scene::new();
        scene.meanwhile = Meanwhile::PeerSends;
        for _ in 0..100 {
            scene.write(60, 45 * SHORT);
            assert_eq!(scene.suspicion(), None);
            scene.now += Duration::from_millis(1);
        }
        // More than all peers' answers may take together.
        let found = (0..100).find_map(|_| {
            scene.write(60, 45 * SHORT);
            scene.suspicion()
        });
        assert_eq!(found, Some(Suspicion::Chance));
        assert_eq!((scene.limited, scene.suspicious, scene.detached), (0, false, false));
        scene.now += Duration::from_secs(1);
        // No answers take as long as this.
        scene.write(60, 1000 * SHORT);
        assert_eq!(scene.suspicion(), Some(Suspicion::Chance));
        scene.spend(2, |scene, _| scene.write(60, 1000 * SHORT));
        assert_eq!(scene.suspicion(), Some(Suspicion::Significant));
        assert!(scene.limited > 0 && scene.detached);
    }

    /// One peer's writes take more than may be forgiven to all, but not so much that it is limited.
    #[test]
    fn no_peer_uses_up_what_others_answers_may_take() {
        let mut scene = Scene::new();
        scene.meanwhile = Meanwhile::PeerSends;
        let mut greedy = WriteMeter::default();
        scene.spend(2, |scene, index| {
            std::mem::swap(&mut scene.peer, &mut greedy);
            scene.write(60, 100 * SHORT);
            std::mem::swap(&mut scene.peer, &mut greedy);
            // The acknowledgements of a transfer in the kernel.
            if index % 2 == 0 {
                scene.write(60, 45 * SHORT);
                assert_eq!(scene.suspicion(), None, "write {index}");
            }
            scene.now += Duration::from_millis(1);
        });
        assert!(greedy.take_suspicion(&mut scene.work, scene.now).is_some());
    }

    /// A hypervisor stops a machine now and then.
    #[test]
    fn single_stops_in_busy_writes_limit_nobody() {
        let mut scene = Scene::new();
        scene.spend(10, |scene, index| scene.write(LONG_LEN, if index % 20_000 == 5 { 3_000_000 } else { 3 * LONG }));
        for _ in 0..4 {
            (0..500).for_each(|_| scene.write(LONG_LEN, 3 * LONG));
            scene.write(LONG_LEN, 300_000);
        }
        assert_eq!((scene.limited, scene.detached), (0, false));
    }

    /// Packets that are dropped add to the debt by which the peer is detached.
    #[test]
    fn one_burst_is_enough() {
        let mut scene = Scene::new();
        (0..200).for_each(|_| scene.write(100, 1_000_000));
        assert!(scene.detached);
    }

    #[test]
    fn phases_do_not_help() {
        let mut scene = Scene::new();
        let start = scene.now;
        scene.spend(3, |scene, _| {
            let phase = scene.now.duration_since(start).as_millis() / 100;
            scene.write(100, if phase % 2 == 0 { 1_000_000 } else { 3 * SHORT });
        });
        assert!(scene.detached);
    }

    #[test]
    fn rare_expensive_writes_are_tolerated() {
        let mut scene = Scene::new();
        scene.spend(5, |scene, _| {
            scene.write(100, 1_000_000);
            (0..10_000).for_each(|_| scene.write(100, 3 * SHORT));
        });
        assert_eq!((scene.limited, scene.detached), (0, false));
    }

    /// Single stops of the machine, which fall into reads more often than into writes.
    #[test]
    fn stolen_time_detaches_nobody() {
        let mut scene = Scene::new();
        scene.spend(20, |scene, index| {
            if index % 40 == 0 {
                let start = scene.now;
                scene.now += Duration::from_millis(1);
                scene.work.checkpoint = Some(Checkpoint::new(start, ThreadUsage::default()));
                scene.work.record_read(LONG_LEN, start, scene.now, ThreadUsage::default);
            }
            scene.write(LONG_LEN, if index % 20 == 0 { 1_000_000 } else { 3 * LONG });
        });
        assert!(!scene.detached);
    }

    #[test]
    fn all_together_get_a_part_of_the_time() {
        let mut scene = Scene::new();
        let mut others: Vec<WriteMeter> = (0..20).map(|_| WriteMeter::default()).collect();
        let (mut spent, start) = (0, scene.now);
        scene.spend(5, |scene, _| {
            for other in &mut others {
                std::mem::swap(&mut scene.peer, other);
                let before = scene.limited;
                scene.write(100, 1_000_000);
                spent += u64::from(scene.limited == before) * 1_000_000;
                std::mem::swap(&mut scene.peer, other);
            }
        });
        let share = spent * 100 / nanos(scene.now - start);
        assert!(share < 35, "{share} % of the time");
    }

    #[test]
    fn nothing_is_judged_before_a_packet_was_read() {
        let now = Instant::now();
        let (mut work, mut peer) = (WorkMeter::new(now), WriteMeter::default());
        for _ in 0..100 {
            assert_eq!(
                peer.record(
                    &mut work,
                    100,
                    (now, now + Duration::from_secs(1)),
                    Meanwhile::Nothing,
                    ThreadUsage::default
                ),
                CostRating::Usual
            );
        }
    }

    #[test]
    fn lengths_have_classes_and_borrow_from_their_neighbours() {
        let mut reads = ReadCosts::default();
        assert_eq!(reads.allowance(100), None);
        reads.record(1500, 2_000);
        assert_eq!([reads.of(20), reads.of(1500), reads.of(65_575)], [Some(2_000); 3]);
        reads.record(usize::MAX, 9_000);
        assert_eq!([reads.of(1500), reads.of(65_575)], [Some(2_000), Some(9_000)]);
        reads.record(0, 50_000);
        assert_eq!([reads.of(0), reads.shortest()], [Some(2_000); 2], "no shorter one costs more");
        (0..100).for_each(|_| reads.record(usize::MAX, 1_000_000));
        assert!(reads.of(65_575) > Some(100_000), "what lasts is believed in the end");
        (0..20).for_each(|_| reads.record(usize::MAX, 9_000));
        assert!(reads.of(65_575) < Some(18_000), "and what is cheaper soon");
    }

    #[test]
    fn sleeping_is_not_running() {
        let at = Instant::now();
        let before = Checkpoint::new(at, ThreadUsage { nanos: 100, switches: 1 });
        let slept = Checkpoint::new(at + Duration::from_millis(20), ThreadUsage { nanos: 5_000_100, switches: 2 });
        assert_eq!(before.waited_until(&slept), 15_000_000);
        let busy = Checkpoint { at: slept.at + Duration::from_millis(5), ..slept };
        assert_eq!(slept.waited_until(&busy), 0, "nobody else ran");
    }
}
