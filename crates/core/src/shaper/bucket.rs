//! A rate with a burst: the generic cell rate algorithm in its form with a virtual schedule (ITU-T I.371).

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// Most that counts at once, so that no product overflows: 1 GiB, more than any packet.
const MAX_AMOUNT: u32 = 1 << 30;

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes; the rate is in bits per second.
    Bytes,
    /// Packets; the rate is in packets per second.
    Packets,
}

impl Unit {
    /// Nanoseconds that one of it takes at a rate of 1.
    const fn nanos(self) -> u64 {
        match self {
            Self::Bytes => 8 * SECOND,
            Self::Packets => SECOND,
        }
    }
}

/// What may pass at a rate. Who isn't in debt may pass, whatever it costs: it overdraws by one packet at most.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    unit: Unit,
    /// Units of [`Unit`] per second, at least 1.
    rate: u64,
    /// How far `at` may lie behind the time, in nanoseconds.
    burst: u64,
    /// When all that has passed is paid for, in nanoseconds. Before that, it is in debt; after it, there is credit.
    at: u64,
    /// What is left to pay after `at`, less than `rate`, in `rate`-th parts of a nanosecond.
    rest: u64,
}

impl Bucket {
    /// Makes one without credit. `burst` in nanoseconds.
    pub fn new(unit: Unit, rate: u64, burst: u64, now: u64) -> Self {
        Self { unit, rate: rate.max(1), burst, at: now, rest: 0 }
    }

    /// From when on something may pass.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Pays for what passes.
    pub fn charge(&mut self, amount: u32, now: u64) {
        let oldest = now.saturating_sub(self.burst);
        if self.at < oldest {
            (self.at, self.rest) = (oldest, 0);
        }
        let cost = self.cost(amount) + self.rest;
        self.at = self.at.saturating_add(cost / self.rate);
        self.rest = cost % self.rate;
    }

    /// Pays for what passes by a right of its own, even if this is in debt. The debt that comes of this is a burst at most.
    pub fn charge_deeper(&mut self, amount: u32, now: u64) {
        let before = self.at;
        self.charge(amount, now);
        if before > now {
            self.at = self.at.min(before.max(now.saturating_add(self.burst)));
        }
    }

    /// Lets nothing pass before a time.
    pub fn owe(&mut self, until: u64) {
        if until > self.at {
            (self.at, self.rest) = (until, 0);
        }
    }

    /// Gives back what was paid for something that didn't pass.
    pub const fn refund(&mut self, amount: u32) {
        let cost = self.cost(amount);
        if cost <= self.rest {
            self.rest -= cost;
            return;
        }
        let more = cost - self.rest;
        let nanos = more.div_ceil(self.rate);
        self.at = self.at.saturating_sub(nanos);
        self.rest = nanos * self.rate - more;
    }

    /// Changes rate and burst. Credit and debt stay what they are in units, so that nobody gains by a change.
    pub fn change(&mut self, rate: u64, burst: u64, now: u64) {
        let rate = rate.max(1);
        if rate != self.rate {
            self.at = if self.at > now {
                now.saturating_add(scale(self.at - now, self.rate, rate))
            } else {
                now.saturating_sub(scale((now - self.at).min(self.burst), self.rate, rate))
            };
            self.rest = 0;
        }
        (self.rate, self.burst) = (rate, burst);
    }

    /// In `rate`-th parts of a nanosecond.
    const fn cost(&self, amount: u32) -> u64 {
        let amount = if amount < MAX_AMOUNT { amount } else { MAX_AMOUNT };
        // `u64::from` isn't const.
        amount as u64 * self.unit.nanos()
    }
}

/// The time for as much at another rate.
fn scale(nanos: u64, from: u64, to: u64) -> u64 {
    u64::try_from(u128::from(nanos) * u128::from(from) / u128::from(to)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(rate: u64, burst: u64, now: u64) -> Bucket {
        Bucket::new(Unit::Bytes, rate, burst, now)
    }

    #[test]
    fn remainders_are_carried() {
        // 1 byte at 3 bit/s takes 2.67 s.
        let mut bucket = bits(3, 0, 0);
        for _ in 0..3 {
            bucket.charge(1, 0);
        }
        assert_eq!(bucket.at(), 8 * SECOND);
    }

    #[test]
    fn a_terabit_counts_single_bytes() {
        let mut bucket = bits(1_000_000_000_000, 0, 0);
        for _ in 0..1000 {
            bucket.charge(1, 0);
        }
        assert_eq!(bucket.at(), 8);
    }

    #[test]
    fn a_jump_of_the_clock_gives_one_burst() {
        let mut bucket = bits(8_000, 1000, 0);
        let now = 100 * 3600 * SECOND;
        bucket.charge(1, now);
        assert_eq!(bucket.at(), now - 1000 + 1_000_000);
    }

    #[test]
    fn the_greatest_amounts_do_not_overflow() {
        let mut bucket = bits(1, u64::MAX, u64::MAX - 5);
        bucket.charge(u32::MAX, u64::MAX - 1);
        bucket.charge(u32::MAX, u64::MAX);
        bucket.charge_deeper(u32::MAX, 0);
        bucket.refund(u32::MAX);
        bucket.change(u64::MAX, u64::MAX, 0);
        bucket.change(0, 0, u64::MAX);
        bucket.charge(u32::MAX, u64::MAX);
    }

    #[test]
    fn refunds_restore() {
        for rate in [3, 8_000, 999_999_937, 1_000_000_000_000] {
            let mut bucket = bits(rate, 0, 10 * SECOND);
            bucket.charge(77, 10 * SECOND);
            let before = (bucket.at, bucket.rest);
            bucket.charge(1514, 10 * SECOND);
            assert!((bucket.at, bucket.rest) > before);
            bucket.refund(1514);
            assert_eq!((bucket.at, bucket.rest), before, "{rate}");
        }
    }

    #[test]
    fn a_change_keeps_debt_and_credit_in_bytes() {
        let mut bucket = bits(8_000, 0, 0);
        bucket.charge(1000, 0);
        assert_eq!(bucket.at(), SECOND);
        bucket.change(80_000, 0, 0);
        assert_eq!(bucket.at(), SECOND / 10);
        let mut bucket = bits(8_000, SECOND, 0);
        bucket.change(16_000, SECOND, 10 * SECOND);
        assert_eq!(bucket.at(), 10 * SECOND - SECOND / 2);
        for _ in 0..1000 {
            bucket.change(8_000, SECOND, 10 * SECOND);
            bucket.change(16_000, SECOND, 10 * SECOND);
        }
        assert_eq!(bucket.at(), 10 * SECOND - SECOND / 2);
    }

    #[test]
    fn debt_by_a_right_of_its_own_is_bounded() {
        let mut bucket = bits(8_000, SECOND, 0);
        bucket.charge_deeper(10_000, 0);
        assert_eq!(bucket.at(), 10 * SECOND);
        bucket.charge_deeper(10_000, 0);
        assert_eq!(bucket.at(), 10 * SECOND);
        bucket.charge_deeper(10_000, 9 * SECOND + SECOND / 2);
        assert_eq!(bucket.at(), 10 * SECOND + SECOND / 2);
    }
}
