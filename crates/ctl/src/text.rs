//! Values as text for people.

use std::fmt::{self, Display, Formatter, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tuntap_api::text::needs_escape;

/// Text from outside, cut to a length that fits a screen, with everything escaped that a terminal would act upon.
pub struct Printable<'a>(pub &'a str);

/// Longest text that is shown, in characters. A path of a unix socket has 107 at most.
const MAX_CHARS: usize = 200;

impl Display for Printable<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        chars.by_ref().take(MAX_CHARS).try_for_each(|char| write_escaped(out, char))?;
        out.write_str(if chars.next().is_some() { "..." } else { "" })
    }
}

/// Text from outside in its whole length, with everything escaped that a terminal would act upon.
pub fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for char in text.chars() {
        // A string takes everything.
        let _ = write_escaped(&mut result, char);
    }
    result
}

/// Text of several lines, each escaped. Tabs stay as they are.
pub fn escaped_lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(escaped).collect::<Vec<_>>().join("\t") + "\n";
    text.lines().map(line).collect()
}

fn write_escaped(out: &mut impl Write, char: char) -> fmt::Result {
    if needs_escape(char) { write!(out, "{}", char.escape_unicode()) } else { out.write_char(char) }
}

/// A number of bytes in binary units (IEC 80000-13).
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let tens_of = |power: usize| (u128::from(self.0) * 10) >> (10 * power);
        match (1..=UNITS.len()).rev().find(|power| tens_of(*power) >= 10) {
            Some(power) => write!(out, "{}.{} {}", tens_of(power) / 10, tens_of(power) % 10, UNITS[power - 1]),
            None => write!(out, "{} B", self.0),
        }
    }
}

/// A number in decimal units, as rates are written: two or three digits.
pub struct Decimal(pub u64);

impl Display for Decimal {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
        let (mut value, mut below, mut unit) = (self.0, 0, "");
        for next in UNITS {
            if value < 1000 {
                break;
            }
            (value, below, unit) = (value / 1000, value % 1000 / 100, next);
        }
        match unit {
            "" => write!(out, "{value}"),
            _ if value < 100 => write!(out, "{value}.{below}{unit}"),
            _ => write!(out, "{value}{unit}"),
        }
    }
}

/// Seconds as days, hours, minutes and seconds.
pub struct Uptime(pub u64);

impl Display for Uptime {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let (days, hours, minutes, seconds) = (self.0 / 86_400, self.0 / 3600 % 24, self.0 / 60 % 60, self.0 % 60);
        if days > 0 {
            write!(out, "{days} d ")?;
        }
        write!(out, "{hours}:{minutes:02}:{seconds:02}")
    }
}

/// A count with its thousands set apart: exact, and readable.
pub struct Count(pub u64);

impl Display for Count {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        digits.char_indices().try_for_each(|(index, digit)| {
            let is_boundary = index > 0 && (digits.len() - index).is_multiple_of(3);
            write!(out, "{}{digit}", if is_boundary { "," } else { "" })
        })
    }
}

/// A count with its noun.
pub fn counted(count: u64, one: &str, several: &str) -> String {
    format!("{} {}", Count(count), if count == 1 { one } else { several })
}

/// A time in seconds since 1970, in this machine's time zone.
pub fn local_time(seconds: u64) -> String {
    zoned(seconds, "%Y-%m-%d %H:%M:%S")
}

/// The time of day of [`local_time`].
pub fn time_of_day(seconds: u64) -> String {
    zoned(seconds, "%H:%M:%S")
}

fn zoned(seconds: u64, format: &str) -> String {
    match i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        Some(time) => time.to_zoned_datetime(TimeZone::system()).strftime(format).to_string(),
        None => format!("{seconds} s after 1970"),
    }
}

/// What is there, or a dash.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The name of a protocol that rules name by a word, else its number (IANA, Assigned Internet Protocol Numbers).
pub fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_moves_no_cursor() {
        let hostile = "a\u{1b}[2J\r\n\t\u{9b}\u{7f}\u{202e}b\u{fc}";
        let harmless = "a\\u{1b}[2J\\u{d}\\u{a}\\u{9}\\u{9b}\\u{7f}\\u{202e}b\u{fc}";
        assert_eq!(Printable(hostile).to_string(), harmless);
        assert_eq!(escaped(hostile), harmless);
        assert_eq!(escaped_lines("a\tb\u{1b}\r\nc"), "a\tb\\u{1b}\nc\n");
        assert_eq!(Printable(&"x".repeat(1000)).to_string(), format!("{}...", "x".repeat(MAX_CHARS)));
    }

    #[test]
    fn thousands_are_set_apart() {
        for (count, wanted) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Count(count).to_string(), wanted);
        }
        assert_eq!(Count(u64::MAX).to_string(), "18,446,744,073,709,551,615");
        assert_eq!((counted(1, "rule", "rules"), counted(0, "rule", "rules")), ("1 rule".into(), "0 rules".into()));
    }

    #[test]
    fn times_beyond_all_calendars_are_told() {
        assert_eq!(local_time(u64::MAX), "18446744073709551615 s after 1970");
        assert_eq!(local_time(1_795_680_883).len(), "2026-11-26 08:14:43".len());
    }

    #[test]
    fn rates_have_few_digits() {
        for (number, wanted) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (99_999, "99.9k"),
            (100_000, "100k"),
            (1_234_567, "1.2M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(Decimal(number).to_string(), wanted);
        }
    }

    #[test]
    fn greatest_numbers_fit() {
        for (bytes, wanted) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), wanted);
        }
        for (seconds, wanted) in [(0, "0:00:00"), (3_661, "1:01:01"), (93_784, "1 d 2:03:04")] {
            assert_eq!(Uptime(seconds).to_string(), wanted);
        }
        assert!(Uptime(u64::MAX).to_string().starts_with("213503982334601 d "));
    }
}
