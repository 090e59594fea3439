//! `tuntap-router-firewall-in`, `-out`, `tuntap-router-route` and `tuntap-device-rule`.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::error::{ConfigError, Problem};
use super::{OptionName, parse};
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_wire::frame::FrameKind;
use tuntap_wire::ip::protocol;
use tuntap_wire::rule::{self, Direction, MAX_EXTENDED_RULES, MAX_RULES, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{ConnectionState, Ports, Protocol, Selector, SelectorError, Service};

const FIREWALL_SYNTAX: &str = OptionName::FirewallIn.syntax();
const ROUTE_SYNTAX: &str = OptionName::Route.syntax();
const DEVICE_RULE_SYNTAX: &str = OptionName::DeviceRule.syntax();

/// Names that rules may use for protocols. Others are written as numbers (IANA, "Protocol Numbers").
const PROTOCOLS: [(&str, Protocol); 10] = [
    ("icmp", Protocol::Icmp),
    ("icmpv6", Protocol::Number(protocol::ICMPV6)),
    ("tcp", Protocol::Number(protocol::TCP)),
    ("udp", Protocol::Number(protocol::UDP)),
    ("sctp", Protocol::Number(protocol::SCTP)),
    ("dccp", Protocol::Number(protocol::DCCP)),
    ("udplite", Protocol::Number(protocol::UDPLITE)),
    ("gre", Protocol::Number(47)),
    ("esp", Protocol::Number(50)),
    ("ah", Protocol::Number(protocol::AUTHENTICATION)),
];

/// The names that rules may use for protocols.
pub fn protocol_names() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.iter().map(|(name, _)| *name)
}

/// Reads a rule of a chain. An action alone matches every packet, and so does an action before a state.
pub fn firewall(value: &str) -> Result<PolicyRule<Action>, Problem> {
    let words = parse::words(value, FIREWALL_SYNTAX)?;
    let (action, rest) = words.split_first().ok_or(Problem::Syntax(FIREWALL_SYNTAX))?;
    let (rest, state) = connection_state(rest);
    let selector = match rest {
        [] => Selector::ALL,
        [src, dst, service @ ..] => selector(src, dst, service, FIREWALL_SYNTAX)?,
        _ => return Err(Problem::Syntax(FIREWALL_SYNTAX)),
    };
    Ok(PolicyRule { selector: selector.with_state(state), target: self::action(action)? })
}

/// Reads `allow`, `deny` or `reject`.
pub fn action(word: &str) -> Result<Action, Problem> {
    match word {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        "reject" => Ok(Action::Reject),
        other => {
            Err(Problem::UnknownWord { what: "action", word: other.to_owned(), expected: "allow, deny or reject" })
        }
    }
}

/// Reads a route to another router's gateway.
pub fn route(value: &str) -> Result<PolicyRule<SocketAddr>, Problem> {
    let words = parse::words(value, ROUTE_SYNTAX)?;
    let [src, dst, target] = words.as_slice() else { return Err(Problem::Syntax(ROUTE_SYNTAX)) };
    let selector = selector(src, dst, &[], ROUTE_SYNTAX)?;
    Ok(PolicyRule { selector, target: parse::udp_target(target)? })
}

/// Reads a rule that a device sends to its router.
pub fn device_rule(value: &str) -> Result<PeerRule, Problem> {
    let words = parse::words(value, DEVICE_RULE_SYNTAX)?;
    let [direction, src, dst, action, rest @ ..] = words.as_slice() else {
        return Err(Problem::Syntax(DEVICE_RULE_SYNTAX));
    };
    let direction = match direction.as_str() {
        "in" => Direction::In,
        "out" => Direction::Out,
        other => {
            return Err(Problem::UnknownWord { what: "direction", word: other.to_owned(), expected: "in or out" });
        }
    };
    // No protocol has a colon in its name, and every target does.
    let (target, service) = match rest {
        [target, service @ ..] if target.contains(':') => (Some(target), service),
        service => (None, service),
    };
    let action = match (action.as_str(), target) {
        ("allow", None) => RuleAction::Allow,
        ("deny", None) => RuleAction::Deny,
        ("reject", None) => RuleAction::Reject,
        ("route" | "gateway", Some(target)) => RuleAction::Route(parse::udp_target(target)?),
        ("route" | "gateway", None) => return Err(Problem::Target("route and gateway need a target, addr:port")),
        ("allow" | "deny" | "reject", Some(_)) => {
            return Err(Problem::Target("allow, deny and reject take no target"));
        }
        (other, _) => {
            return Err(Problem::UnknownWord {
                what: "action",
                word: other.to_owned(),
                expected: "allow, deny, reject, route or gateway",
            });
        }
    };
    let (service, state) = connection_state(service);
    let selector = selector(src, dst, service, DEVICE_RULE_SYNTAX)?.with_state(state);
    Ok(PeerRule { direction, selector: PeerSelector::Full(selector), action })
}

/// Returns an error if the rules don't fit the one frame in which a device sends them.
pub fn too_many_device_rules(rules: &[PeerRule]) -> Option<ConfigError> {
    let max = match rule::encode_all(rules.iter()) {
        Some((FrameKind::ExtendedRules, _)) => MAX_EXTENDED_RULES,
        _ => MAX_RULES,
    };
    (rules.len() > max)
        .then(|| ConfigError::new(OptionName::DeviceRule, "...", Problem::TooManyRules { count: rules.len(), max }))
}

/// Reads `[<protocol> [port[-port]]]`.
pub fn service<W: AsRef<str>>(words: &[W], syntax: &'static str) -> Result<Option<Service>, Problem> {
    Ok(match words {
        [] => None,
        [protocol] => Some(Service { protocol: self::protocol(protocol.as_ref())?, ports: None }),
        [protocol, ports] => {
            let name = protocol.as_ref();
            let protocol = self::protocol(name)?;
            if !protocol.has_ports() {
                return Err(Problem::NoPorts(name.to_owned()));
            }
            Some(Service { protocol, ports: Some(self::ports(ports.as_ref())?) })
        }
        _ => return Err(Problem::Syntax(syntax)),
    })
}

/// Reads source, destination, and the words of a service.
fn selector(src: &str, dst: &str, words: &[String], syntax: &'static str) -> Result<Selector, Problem> {
    let service = service(words, syntax)?;
    Selector::new(parse::pattern(src)?, parse::pattern(dst)?, service)
        .map_err(|error| never_matches(error, src, dst, words))
}

/// Says which words of a rule don't go together.
pub fn never_matches<W: AsRef<str>>(error: SelectorError, src: &str, dst: &str, service: &[W]) -> Problem {
    match error {
        SelectorError::MixedVersions => Problem::MixedVersions { src: src.to_owned(), dst: dst.to_owned() },
        SelectorError::ExtensionHeader => {
            Problem::ExtensionHeader(service.first().map(|word| word.as_ref().to_owned()).unwrap_or_default())
        }
    }
}

/// Takes the state of connections off the end of a rule's words.
fn connection_state(words: &[String]) -> (&[String], Option<ConnectionState>) {
    match words.split_last().and_then(|(last, before)| Some((before, state_of(last)?))) {
        Some((before, state)) => (before, Some(state)),
        None => (words, None),
    }
}

/// The state that a word stands for.
pub fn state_of(word: &str) -> Option<ConnectionState> {
    match word {
        "new" => Some(ConnectionState::New),
        "established" => Some(ConnectionState::Established),
        _ => None,
    }
}

/// The name of a protocol in rules; its number, if it has none.
pub fn protocol_name(protocol: Protocol) -> Cow<'static, str> {
    let named = PROTOCOLS.iter().find(|(_, other)| *other == protocol).map(|(name, _)| Cow::Borrowed(*name));
    named.unwrap_or_else(|| match protocol {
        Protocol::Icmp => Cow::Borrowed("icmp"),
        Protocol::Number(number) => Cow::Owned(number.to_string()),
    })
}

/// Reads a protocol: its name, or its number.
pub fn protocol(word: &str) -> Result<Protocol, Problem> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, protocol)| *protocol);
    let numbered = || word.parse().ok().map(Protocol::Number);
    named.or_else(numbered).ok_or_else(|| Problem::Protocol(word.to_owned()))
}

fn ports(word: &str) -> Result<Ports, Problem> {
    let wrong = || Problem::Ports(word.to_owned());
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let port = |word: &str| word.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
    Ports::new(port(first)?, port(last)?).ok_or_else(wrong)
}
