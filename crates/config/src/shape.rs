//! `tuntap-router-shape`, and lines of the chain `shape` in rules files.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::error::{ConfigError, Problem};
use super::grants::{self, HolderSpec};
use super::hostnet::HostSetting;
use super::live_rule::check_name;
use super::{OptionName, RouterSpec, parse};
use tuntap_core::policy::grant::Holder;
use tuntap_core::policy::shape::{Limit, Shape, ShapeSelector};
use tuntap_core::policy::shape_text::{Rate, Time};

/// Most limits of one router, those of all rules together.
pub const MAX_SHAPES: usize = 4_096;

const OPTION_SYNTAX: &str = OptionName::Shape.syntax();

/// A line of the chain `shape`.
pub const SHAPE_SYNTAX: &str = "<in|out|both> <any|internet|addr[/len]|user|@group|uplink|class:NAME> <rate>[/<ceil>] [burst=<time>] \
                      [pps=<packets>] [weight=<n>] [queue=<time>]";

/// Units of rates, in bits per second.
const RATE_UNITS: [(&str, u64); 6] =
    [("T", 1_000_000_000_000), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000), ("K", 1_000), ("", 1)];

/// Units of time, in nanoseconds. The unit that others end with comes last.
const TIME_UNITS: [(&str, u64); 3] = [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// A limit, as it was written: its user or group may have a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeSpec {
    /// True if it is for packets from the peers.
    pub out: bool,
    /// True if it is for packets towards the peers.
    pub inn: bool,
    /// How much.
    pub limit: Limit,
    whose: Whose,
}

/// Whose traffic a limit is for, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    Known(ShapeSelector),
    User(String),
    Group(String),
}

impl ShapeSpec {
    /// Reads a limit.
    pub fn read(text: &str) -> Result<Self, Problem> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Self::of_words(&words, SHAPE_SYNTAX)
    }

    /// The limit, with the number of its user or group, which is asked for if it has a name.
    pub fn resolve<E>(
        &self,
        user: impl FnOnce(&str) -> Result<u32, E>,
        group: impl FnOnce(&str) -> Result<u32, E>,
    ) -> Result<Shape, E> {
        let selector = match &self.whose {
            Whose::Known(selector) => selector.clone(),
            Whose::User(name) => ShapeSelector::User(user(name)?),
            Whose::Group(name) => ShapeSelector::Group(group(name)?),
        };
        Ok(Shape { out: self.out, inn: self.inn, selector, limit: self.limit })
    }

    /// The limit for those who can't look up names.
    ///
    /// # Errors
    /// It names a user or a group by another word than a number.
    pub fn numbered(&self) -> Result<Shape, Problem> {
        let unknown = |kind| move |name: &str| Err(Problem::AccountNumber { kind, name: name.to_owned() });
        self.resolve(unknown("user"), unknown("group"))
    }

    /// Returns true if the limit is for traffic with hosts beyond a `nat` interface.
    pub fn is_for_internet(&self) -> bool {
        self.whose == Whose::Known(ShapeSelector::Internet)
    }

    /// Returns true if both are for the same traffic in one direction at least.
    fn meets(&self, other: &Self) -> bool {
        self.whose == other.whose && ((self.out && other.out) || (self.inn && other.inn))
    }

    fn of_words(words: &[&str], syntax: &'static str) -> Result<Self, Problem> {
        let [direction, whose, rates, settings @ ..] = words else { return Err(Problem::Syntax(syntax)) };
        let (out, inn) = match *direction {
            "out" => (true, false),
            "in" => (false, true),
            "both" => (true, true),
            other => {
                let word = other.to_owned();
                return Err(Problem::UnknownWord { what: "direction", word, expected: "in, out or both" });
            }
        };
        let whose = self::whose(whose)?;
        let limit = read_settings(self::rates(rates)?, settings)?;
        let borrows = limit.ceil.is_some() || limit.weight != 1;
        if whose == Whose::Known(ShapeSelector::Uplink) && borrows {
            return Err(Problem::UplinkBorrows);
        }
        Ok(Self { out, inn, limit, whose })
    }
}

impl fmt::Display for ShapeSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match (self.out, self.inn) {
            (true, false) => "out",
            (false, true) => "in",
            _ => "both",
        };
        write!(out, "{direction} {} {}", self.whose, self.limit)
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(selector) => selector.fmt(out),
            Self::User(name) => out.write_str(name),
            Self::Group(name) => write!(out, "@{name}"),
        }
    }
}

/// Reads `[<device>] ` and a limit.
pub fn shape(value: &str) -> Result<HostSetting, Problem> {
    let words = parse::words(value, OPTION_SYNTAX)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_direction = |word: &str| matches!(word, "in" | "out" | "both");
    // A device with the name of a direction stands before another direction.
    let (device, words) = match words.as_slice() {
        [device, words @ ..] if words.first().is_some_and(|word| is_direction(word)) => {
            (Some(parse::device_name(device)?), words)
        }
        words => (None, words),
    };
    Ok(HostSetting::shape(value, device, ShapeSpec::of_words(words, OPTION_SYNTAX)?))
}

/// Adds a limit to those of a router.
pub fn add(router: &mut RouterSpec, shape: &ShapeSpec) -> Result<(), Problem> {
    if let Some(other) = router.shapes.iter().find(|other| other.meets(shape)) {
        return Err(Problem::ShapeTwice(other.to_string()));
    }
    if router.shapes.len() >= MAX_SHAPES {
        return Err(Problem::TooMany(MAX_SHAPES));
    }
    router.shapes.push(shape.clone());
    Ok(())
}

/// Errors about limits for traffic that a router doesn't have.
pub fn without_internet(routers: &[RouterSpec]) -> Vec<ConfigError> {
    let lack = routers.iter().filter(|router| router.nat.is_empty());
    let shapes = lack.flat_map(|router| router.shapes.iter().map(move |shape| (router, shape)));
    let wrong = shapes.filter(|(_, shape)| shape.is_for_internet());
    wrong
        .map(|(router, shape)| {
            ConfigError::new(OptionName::Shape, format!("{} {shape}", router.device), Problem::NoInternet)
        })
        .collect()
}

/// Looks up the users and groups that are named, and returns the limits in the order of `specs`. A limit whose user or group
/// isn't found is left out; the second part says why, each with the limit's place.
pub fn resolve_shapes(
    specs: &[ShapeSpec],
    user: impl Fn(&str) -> nix::Result<Option<u32>>,
    group: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> (Vec<Shape>, Vec<(usize, ConfigError)>) {
    let (mut shapes, mut errors) = (Vec::new(), Vec::new());
    for (place, spec) in specs.iter().enumerate() {
        let user = |name: &str| grants::found("user", name, user(name));
        let group = |name: &str| grants::found("group", name, group(name));
        match spec.resolve(user, group) {
            Ok(shape) => shapes.push(shape),
            Err(problem) => errors.push((place, ConfigError::new(OptionName::Shape, spec.to_string(), problem))),
        }
    }
    (shapes, errors)
}

/// Reads whose traffic a limit is for.
fn whose(word: &str) -> Result<Whose, Problem> {
    let selector = match word {
        "any" => ShapeSelector::Any,
        "internet" => ShapeSelector::Internet,
        "uplink" => ShapeSelector::Uplink,
        _ => match word.strip_prefix("class:") {
            Some(name) => ShapeSelector::Class(check_name("class", name)?),
            None if is_address(word) => ShapeSelector::Network(parse::exact_prefix(word)?),
            // Lines of rules files have no quotes.
            None if word.contains(char::is_whitespace) => return Err(Problem::GrantHolder(word.to_owned())),
            None => match grants::holder(word)? {
                HolderSpec::User(name) => return Ok(Whose::User(name)),
                HolderSpec::Group(name) => return Ok(Whose::Group(name)),
                HolderSpec::Number(Holder::User(uid)) => ShapeSelector::User(uid),
                HolderSpec::Number(Holder::Group(gid)) => ShapeSelector::Group(gid),
                // No word stands for it.
                HolderSpec::Number(Holder::Nobody) => return Err(Problem::GrantHolder(word.to_owned())),
            },
        },
    };
    Ok(Whose::Known(selector))
}

/// Returns true if a word is meant as an address or a network. Names of users may have dots, but neither colons nor slashes.
fn is_address(word: &str) -> bool {
    let is_like_v4 = word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_like_v4 || word.contains([':', '/']) || word.parse::<IpAddr>().is_ok()
}

/// Reads `<rate>[/<ceil>]`.
fn rates(word: &str) -> Result<Limit, Problem> {
    let (rate, ceil) = match word.split_once('/') {
        Some((rate, ceil)) => (rate, Some(ceil)),
        None => (word, None),
    };
    let limit = Limit { ceil: ceil.map(self::rate).transpose()?, ..Limit::new(self::rate(rate)?) };
    match limit.ceil {
        Some(ceil) if ceil < limit.rate => Err(Problem::CeilBelowRate(word.to_owned())),
        _ => Ok(limit),
    }
}

/// Reads a rate: bits per second, with a decimal unit, and `bit` behind it if somebody likes that.
fn rate(word: &str) -> Result<u64, Problem> {
    let [least, most] = Limit::RATES;
    scaled(word.strip_suffix("bit").unwrap_or(word), &RATE_UNITS)
        .filter(|rate| (least..=most).contains(rate))
        .ok_or_else(|| Problem::ShapeRate(word.to_owned()))
}

/// Reads what stands behind the rate.
fn read_settings(mut limit: Limit, words: &[&str]) -> Result<Limit, Problem> {
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        let unknown = || Problem::UnknownWord {
            what: "setting",
            word: (*word).to_owned(),
            expected: "burst=, pps=, weight= or queue= and a value",
        };
        let (key, value) = word.split_once('=').ok_or_else(unknown)?;
        if seen.contains(&key) {
            return Err(Problem::WordTwice(key.to_owned()));
        }
        match key {
            "burst" => limit.burst = Some(time(word, value, Limit::BURSTS)?),
            "queue" => limit.queue = time(word, value, Limit::QUEUES)?,
            "pps" => limit.packets = Some(number(word, value, Limit::PACKETS)?),
            "weight" => {
                let weight = number(word, value, [1, Limit::MAX_WEIGHT.into()])?;
                // A number up to the most fits its type.
                limit.weight = u16::try_from(weight).unwrap_or(Limit::MAX_WEIGHT);
            }
            _ => return Err(unknown()),
        }
        seen.push(key);
    }
    Ok(limit)
}

fn number(word: &str, value: &str, [least, most]: [u64; 2]) -> Result<u64, Problem> {
    let is_digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|number| is_digits && (least..=most).contains(number));
    number.ok_or_else(|| Problem::ShapeSetting { word: word.to_owned(), bounds: format!("{least} to {most}") })
}

fn time(word: &str, value: &str, [least, most]: [Duration; 2]) -> Result<Duration, Problem> {
    let time = scaled(value, &TIME_UNITS).map(Duration::from_nanos).filter(|time| (least..=most).contains(time));
    time.ok_or_else(|| Problem::ShapeSetting {
        word: word.to_owned(),
        bounds: format!("{} to {}", Time(least), Time(most)),
    })
}

/// Reads a number with a unit, such as `1.5M`, exactly: `None` if it is no whole number of what the units count.
fn scaled(word: &str, units: &[(&str, u64)]) -> Option<u64> {
    /// More decimals than these make no difference that anybody wants.
    const MAX_DECIMALS: usize = 12;
    let (digits, unit) = units.iter().find_map(|(name, unit)| Some((word.strip_suffix(name)?, *unit)))?;
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > MAX_DECIMALS {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let part = decimals.parse::<u128>().ok()? * u128::from(unit);
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if part % scale != 0 {
        return None;
    }
    whole.checked_add(u64::try_from(part / scale).ok()?)
}

/// The bounds of rates, for messages.
pub(super) fn rate_bounds() -> String {
    let [least, most] = Limit::RATES;
    format!("{} to {}", Rate(least), Rate(most))
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
