//! A rule of a rules file or of the control socket: what a rule of the options can say, and sets, rates, log and counters.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_core::router::capture::Selection;
use tuntap_wire::selector::{AddressPattern, Selector};

use super::error::Problem;
use super::{parse, rules};

/// Longest name of a group, a set or a counter, in bytes.
pub const MAX_NAME_LEN: usize = 63;

/// Most packets per second that a rate can allow. Beyond it, no rate is worth its look-up.
pub const MAX_RATE: u32 = 1_000_000;

/// A line of the chains `in` and `out`.
pub const FILTER_SYNTAX: &str = "<allow|deny|reject> [<src[/len]|any|@set> <dst[/len]|any|@set> [<protocol> [port[-port]]]] \
                             [new|established] [log] [rate <packets>/s] [counter [name]]";

/// A line of the chain `route`.
pub const ROUTE_SYNTAX: &str = "<src[/len]|any|@set> <dst[/len]|any|@set> <addr:port> [log] [counter [name]]";

const SELECTION_SYNTAX: &str = "<src[/len]|any|@set> <dst[/len]|any|@set> [<protocol> [port[-port]]]";

/// The words that end a rule's selector. No counter has one of these names.
const LAST_WORDS: [&str; 5] = ["new", "established", "log", "rate", "counter"];

/// What a rule does with the packets that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// In a chain.
    Action(Action),
    /// Among the routes: the gateway to which they are sent.
    Gateway(SocketAddr),
}

/// A rule. [`fmt::Display`] writes it in the one form by which rules are compared; reading that gives the same rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRule {
    /// Which packets it matches, as far as no set is named: the end that a set is named for is `any` here.
    pub selector: Selector,
    /// The set that the source must be in.
    pub src_set: Option<String>,
    /// The set that the destination must be in.
    pub dst_set: Option<String>,
    /// What it does.
    pub target: Target,
    /// True if what it decides is logged.
    pub log: bool,
    /// It matches so many packets per second from each source, and no more.
    pub rate: Option<NonZeroU32>,
    /// The named counter that counts its packets, too.
    pub counter: Option<String>,
}

impl LiveRule {
    /// Reads a rule of a chain.
    pub fn filter(text: &str) -> Result<Self, Problem> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (action, rest) = words.split_first().ok_or(Problem::Syntax(FILTER_SYNTAX))?;
        let action = rules::action(action)?;
        let (selected, last) = rest.split_at(first_last_word(rest));
        let mut rule = match selected {
            [] => Self::new(Selector::ALL, Target::Action(action)),
            [src, dst, service @ ..] => Self::selecting(src, dst, service, Target::Action(action), FILTER_SYNTAX)?,
            _ => return Err(Problem::Syntax(FILTER_SYNTAX)),
        };
        rule.read_last_words(last, FILTER_SYNTAX)?;
        Ok(rule)
    }

    /// Reads a route.
    pub fn route(text: &str) -> Result<Self, Problem> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (selected, last) = words.split_at(first_last_word(&words));
        let [src, dst, gateway] = selected else { return Err(Problem::Syntax(ROUTE_SYNTAX)) };
        let target = Target::Gateway(parse::udp_target(gateway)?);
        let mut rule = Self::selecting(src, dst, &[], target, ROUTE_SYNTAX)?;
        rule.read_last_words(last, ROUTE_SYNTAX)?;
        match (rule.selector.state(), rule.rate) {
            (Some(_), _) => Err(Problem::NotInRoute("new\" and \"established".to_owned())),
            (_, Some(_)) => Err(Problem::NotInRoute("rate".to_owned())),
            (None, None) => Ok(rule),
        }
    }

    /// Reads the selector of a rule alone: which packets a capture is for.
    pub fn selection(text: &str) -> Result<Selection, Problem> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let Some(word) = words.get(first_last_word(&words)) {
            return Err(Problem::NotInSelection((*word).to_owned()));
        }
        let [src, dst, service @ ..] = words.as_slice() else { return Err(Problem::Syntax(SELECTION_SYNTAX)) };
        let rule = Self::selecting(src, dst, service, Target::Action(Action::Allow), SELECTION_SYNTAX)?;
        Ok(Selection { selector: rule.selector, src_set: rule.src_set, dst_set: rule.dst_set })
    }

    /// The rule that an option says.
    pub fn of_option<T: Copy + Into<Target>>(rule: &PolicyRule<T>) -> Self {
        Self::new(rule.selector, rule.target.into())
    }

    /// Selector and target alone: what has to stay for a rule to be the same rule.
    pub fn identity(&self) -> String {
        format!("{}", Self { log: false, rate: None, counter: None, ..self.clone() })
    }

    /// Returns true if the rule matches every packet.
    pub fn takes_all(&self) -> bool {
        self.selector == Selector::ALL && self.src_set.is_none() && self.dst_set.is_none() && self.rate.is_none()
    }

    /// The sets that it names.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        [&self.src_set, &self.dst_set].into_iter().flatten().map(String::as_str)
    }

    const fn new(selector: Selector, target: Target) -> Self {
        Self { selector, src_set: None, dst_set: None, target, log: false, rate: None, counter: None }
    }

    fn selecting(
        src: &str,
        dst: &str,
        service: &[&str],
        target: Target,
        syntax: &'static str,
    ) -> Result<Self, Problem> {
        let (src_pattern, src_set) = end(src)?;
        let (dst_pattern, dst_set) = end(dst)?;
        let selector = Selector::new(src_pattern, dst_pattern, rules::service(service, syntax)?)
            .map_err(|error| rules::never_matches(error, src, dst, service))?;
        Ok(Self { src_set, dst_set, ..Self::new(selector, target) })
    }

    fn read_last_words(&mut self, words: &[&str], syntax: &'static str) -> Result<(), Problem> {
        let mut has_counter = false;
        let mut words = words.iter().copied().peekable();
        while let Some(word) = words.next() {
            let is_second = match (word, rules::state_of(word)) {
                (_, Some(state)) => {
                    let is_second = self.selector.state().is_some();
                    self.selector = self.selector.with_state(Some(state));
                    is_second
                }
                ("log", _) => std::mem::replace(&mut self.log, true),
                ("rate", _) => {
                    let rate = words.next().ok_or_else(|| Problem::Rate(String::new()))?;
                    self.rate.replace(self::rate(rate)?).is_some()
                }
                ("counter", _) => {
                    let name = words.next_if(|word| !LAST_WORDS.contains(word));
                    self.counter = name.map(|name| check_name("counter", name)).transpose()?;
                    std::mem::replace(&mut has_counter, true)
                }
                _ => return Err(Problem::Syntax(syntax)),
            };
            if is_second {
                return Err(Problem::WordTwice(word.to_owned()));
            }
        }
        Ok(())
    }
}

impl From<Action> for Target {
    fn from(action: Action) -> Self {
        Self::Action(action)
    }
}

impl From<SocketAddr> for Target {
    fn from(gateway: SocketAddr) -> Self {
        Self::Gateway(gateway)
    }
}

impl fmt::Display for LiveRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = End(self.selector.src(), self.src_set.as_deref());
        let ends = (ends, End(self.selector.dst(), self.dst_set.as_deref()));
        match self.target {
            Target::Gateway(gateway) => write!(out, "{} {} {gateway}", ends.0, ends.1)?,
            Target::Action(action) => {
                out.write_str(match action {
                    Action::Allow => "allow",
                    Action::Deny => "deny",
                    Action::Reject => "reject",
                })?;
                let is_for_all = self.selector.with_state(None) == Selector::ALL && self.sets().next().is_none();
                if !is_for_all {
                    write!(out, " {} {}", ends.0, ends.1)?;
                }
            }
        }
        if let Some(service) = self.selector.service() {
            write!(out, " {}", rules::protocol_name(service.protocol))?;
            match service.ports.map(tuntap_wire::selector::Ports::bounds) {
                Some((first, last)) if first == last => write!(out, " {first}")?,
                Some((first, last)) => write!(out, " {first}-{last}")?,
                None => {}
            }
        }
        if let Some(state) = self.selector.state() {
            out.write_str(match state {
                tuntap_wire::selector::ConnectionState::New => " new",
                tuntap_wire::selector::ConnectionState::Established => " established",
            })?;
        }
        if self.log {
            out.write_str(" log")?;
        }
        if let Some(rate) = self.rate {
            write!(out, " rate {rate}/s")?;
        }
        self.counter.iter().try_for_each(|name| write!(out, " counter {name}"))
    }
}

/// One end of a packet, as it is written.
struct End<'a>(AddressPattern, Option<&'a str>);

impl fmt::Display for End<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.1, self.0) {
            (Some(set), _) => write!(out, "@{set}"),
            (None, AddressPattern::Any) => out.write_str("any"),
            // Without its length, an unspecified address would be all addresses.
            (None, AddressPattern::Net(net)) if is_host(net) && !net.addr().is_unspecified() => {
                write!(out, "{}", net.addr())
            }
            (None, AddressPattern::Net(net)) => write!(out, "{}", net.trunc()),
        }
    }
}

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The place of the first of the last words.
fn first_last_word(words: &[&str]) -> usize {
    words.iter().position(|word| LAST_WORDS.contains(word)).unwrap_or(words.len())
}

/// Reads one end of a packet: `any`, an address, a network, or `@` and a set's name.
fn end(word: &str) -> Result<(AddressPattern, Option<String>), Problem> {
    match word.strip_prefix('@') {
        Some(name) => Ok((AddressPattern::Any, Some(check_name("set", name)?))),
        None => Ok((parse::pattern(word)?, None)),
    }
}

/// Reads `<packets>/s`.
fn rate(word: &str) -> Result<NonZeroU32, Problem> {
    let number = word.strip_suffix("/s").and_then(|number| number.parse().ok());
    number.filter(|rate: &NonZeroU32| rate.get() <= MAX_RATE).ok_or_else(|| Problem::Rate(word.to_owned()))
}

/// Reads the name of a group, a set or a counter, whichever `what` says.
pub fn check_name(what: &'static str, word: &str) -> Result<String, Problem> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = word.len() <= MAX_NAME_LEN
        && word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(is_inner)
        && !(what == "counter" && LAST_WORDS.contains(&word));
    if is_name { Ok(word.to_owned()) } else { Err(Problem::Name { what, word: word.to_owned() }) }
}

#[cfg(test)]
#[path = "live_rule_tests.rs"]
mod tests;
