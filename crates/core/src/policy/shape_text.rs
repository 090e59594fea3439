//! Limits as they are written, in options and in rules files. What is written here reads the same
//! (`tuntap_config::ShapeSpec`).

use crate::nanos::nanos;
use std::fmt::{self, Display, Formatter};

use ipnet::IpNet;

use super::shape::{Limit, Shape, ShapeSelector};

/// Units of rates, in bits per second, the greatest first. They are decimal, as everywhere where rates of networks are told.
const RATE_UNITS: [(&str, u64); 4] = [("T", 1_000_000_000_000), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];

/// Units of time, in nanoseconds, the greatest first.
const TIME_UNITS: [(&str, u64); 3] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)];

/// A rate in bits per second, as it is written: `20M`, `1.5G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Display for Rate {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write_scaled(out, self.0, &RATE_UNITS)
    }
}

/// A time, as it is written: `20ms`. Less than a nanosecond is lost, and so is what is beyond 500 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub std::time::Duration);

impl Display for Time {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match nanos(self.0) {
            // No unit is small enough for less than a microsecond.
            nanos if nanos < 1_000 => write!(out, "0.{nanos:03}us"),
            nanos => write_scaled(out, nanos, &TIME_UNITS),
        }
    }
}

/// Writes a number exactly, with the greatest unit in which it has three decimals at most. A number without any such unit is
/// written without unit.
fn write_scaled(out: &mut Formatter<'_>, number: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |(_, unit): &&(&str, u64)| number >= *unit && number.is_multiple_of(*unit / 1_000);
    let Some((name, unit)) = units.iter().find(fits) else { return write!(out, "{number}") };
    write!(out, "{}", number / unit)?;
    let thousandths = number % unit / (unit / 1_000);
    if thousandths > 0 {
        write!(out, ".{}", format!("{thousandths:03}").trim_end_matches('0'))?;
    }
    out.write_str(name)
}

impl Display for ShapeSelector {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uplink => out.write_str("uplink"),
            Self::Network(net) if is_host(*net) => write!(out, "{}", net.addr()),
            Self::Network(net) => write!(out, "{net}"),
            Self::User(uid) => write!(out, "{uid}"),
            Self::Group(gid) => write!(out, "@{gid}"),
            Self::Internet => out.write_str("internet"),
            Self::Any => out.write_str("any"),
            Self::Class(name) => write!(out, "class:{name}"),
        }
    }
}

/// Returns true if a network is written without its length. An unspecified address without one is all addresses.
fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len() && !net.addr().is_unspecified()
}

impl Display for Limit {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}", Rate(self.rate))?;
        self.ceil.iter().try_for_each(|ceil| write!(out, "/{}", Rate(*ceil)))?;
        self.burst.iter().try_for_each(|burst| write!(out, " burst={}", Time(*burst)))?;
        self.packets.iter().try_for_each(|packets| write!(out, " pps={packets}"))?;
        if self.weight != 1 {
            write!(out, " weight={}", self.weight)?;
        }
        if self.queue != Self::DEFAULT_QUEUE {
            write!(out, " queue={}", Time(self.queue))?;
        }
        Ok(())
    }
}

impl Display for Shape {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let direction = match (self.out, self.inn) {
            (true, false) => "out",
            (false, true) => "in",
            _ => "both",
        };
        write!(out, "{direction} {} {}", self.selector, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_exact_in_the_greatest_unit_that_is_short() {
        let rates = [
            (8_000, "8k"),
            (1_500_000, "1.5M"),
            (1_234_567, "1234.567k"),
            (20_000_000, "20M"),
            (1_000_001, "1000.001k"),
            (1_000_000_001, "1000000.001k"),
            (2_050_000_000, "2.05G"),
            (1_000_000_000_000, "1T"),
            (7, "7"),
        ];
        for (rate, text) in rates {
            assert_eq!(Rate(rate).to_string(), text);
        }
        for (nanos, text) in [(20_000_000, "20ms"), (10_000_000_000, "10s"), (1_234_567, "1234.567us"), (5, "0.005us")]
        {
            assert_eq!(Time(Duration::from_nanos(nanos)).to_string(), text);
        }
    }

    #[test]
    fn what_is_usual_is_left_out() {
        let limit = Limit { ceil: Some(50_000_000), ..Limit::new(20_000_000) };
        let shape = Shape { out: true, inn: true, selector: ShapeSelector::Group(7), limit };
        assert_eq!(shape.to_string(), "both @7 20M/50M");
        let limit = Limit {
            burst: Some(Duration::from_millis(10)),
            packets: Some(1_000),
            weight: 3,
            queue: Duration::from_secs(1),
            ..limit
        };
        let selector = ShapeSelector::Class("bulk".to_owned());
        let shape = Shape { out: false, inn: true, selector, limit };
        assert_eq!(shape.to_string(), "in class:bulk 20M/50M burst=10ms pps=1000 weight=3 queue=1s");
        for (net, text) in [("10.0.0.5/32", "10.0.0.5"), ("fd00::/8", "fd00::/8"), ("0.0.0.0/32", "0.0.0.0/32")] {
            assert_eq!(ShapeSelector::Network(net.parse().expect("a network")).to_string(), text);
        }
    }
}
