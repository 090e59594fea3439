//! `tuntap-router-firewall-in`, `-out`, `tuntap-router-route` and `tuntap-device-rule`.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::error::{ConfigError, Problem};
use super::{OptionName, parse};
use crate::policy::pattern::{Action, Rule};
use crate::wire::rule::{Direction, MAX_RULES, MaskedAddress, PeerRule, RuleAction};

const FIREWALL_SYNTAX: &str = "<allow|deny> [<src[/len]> <dst[/len]>]";
const ROUTE_SYNTAX: &str = "<src[/len]> <dst[/len]> <addr:port>";
const DEVICE_RULE_SYNTAX: &str = "<in|out> <src[/len]> <dst[/len]> <allow|deny|route|gateway> [addr:port]";

/// Reads a rule of a chain. An action alone matches every packet.
pub fn firewall(value: &str) -> Result<Rule<Action>, Problem> {
    let words = parse::words(value, FIREWALL_SYNTAX)?;
    let (action, src, dst) = match words.as_slice() {
        [action] => (action, Ipv4Net::default(), Ipv4Net::default()),
        [action, src, dst] => (action, parse::prefix(src)?, parse::prefix(dst)?),
        _ => return Err(Problem::Syntax(FIREWALL_SYNTAX)),
    };
    let target = match action.as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        other => {
            return Err(Problem::UnknownWord { what: "action", word: other.to_owned(), expected: "allow or deny" });
        }
    };
    Ok(Rule { src, dst, target })
}

/// Reads a route to another router's gateway.
pub fn route(value: &str) -> Result<Rule<SocketAddrV4>, Problem> {
    let words = parse::words(value, ROUTE_SYNTAX)?;
    let [src, dst, target] = words.as_slice() else { return Err(Problem::Syntax(ROUTE_SYNTAX)) };
    Ok(Rule { src: parse::prefix(src)?, dst: parse::prefix(dst)?, target: parse::udp_target(target)? })
}

/// Reads a rule that a device sends to its router.
pub fn device_rule(value: &str) -> Result<PeerRule, Problem> {
    let words = parse::words(value, DEVICE_RULE_SYNTAX)?;
    let (direction, src, dst, action, target) = match words.as_slice() {
        [direction, src, dst, action] => (direction, src, dst, action, None),
        [direction, src, dst, action, target] => (direction, src, dst, action, Some(target)),
        _ => return Err(Problem::Syntax(DEVICE_RULE_SYNTAX)),
    };
    let direction = match direction.as_str() {
        "in" => Direction::In,
        "out" => Direction::Out,
        other => {
            return Err(Problem::UnknownWord { what: "direction", word: other.to_owned(), expected: "in or out" });
        }
    };
    let action = match (action.as_str(), target) {
        ("allow", None) => RuleAction::Allow,
        ("deny", None) => RuleAction::Deny,
        ("route" | "gateway", Some(target)) => RuleAction::Route(parse::udp_target(target)?),
        ("route" | "gateway", None) => return Err(Problem::Target("route and gateway need a target, addr:port")),
        ("allow" | "deny", Some(_)) => return Err(Problem::Target("allow and deny take no target")),
        (other, _) => {
            return Err(Problem::UnknownWord {
                what: "action",
                word: other.to_owned(),
                expected: "allow, deny, route or gateway",
            });
        }
    };
    Ok(PeerRule { direction, src: masked(parse::prefix(src)?)?, dst: masked(parse::prefix(dst)?)?, action })
}

/// A device sends its rules in one frame.
pub fn too_many_device_rules(rules: &[PeerRule]) -> Option<ConfigError> {
    (rules.len() > MAX_RULES).then(|| ConfigError {
        option: OptionName::DeviceRule.as_str(),
        value: "...".to_owned(),
        problem: Problem::TooManyRules(rules.len()),
    })
}

fn masked(net: Ipv4Net) -> Result<MaskedAddress, Problem> {
    if net.prefix_len() == 32 && net.addr() == Ipv4Addr::UNSPECIFIED {
        return Err(Problem::UnspecifiedHost);
    }
    Ok(MaskedAddress { address: net.network().to_bits(), mask: net.netmask().to_bits() })
}
