//! What is right, as a reader of the manual would say it: who may hold which address, and where a simple packet goes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use tuntap_core::router::CredentialsCheck;
use tuntap_wire::ip::Packet;
use tuntap_wire::rule::{Direction, PeerRule, RuleAction};

use super::peer::{Connection, Number};
use super::setup::{Class, DENIED, GRANTS, LATER_GRANT, REJECTED, ROUTED, Setup, TARGETS, class, net, target};
use super::world::hook;
use tuntap_core::policy::grant::Holder;

/// How a peer got an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By a packet.
    Packet,
    /// It asked for one, or for this one.
    Request,
    /// By the credentials hook.
    Hook,
}

/// Who a peer is: user, group, other groups.
pub fn identity(setup: &Setup, connection: &Connection) -> (u32, u32, Vec<u32>) {
    let as_connected = connection.credentials;
    match (setup.credentials, connection.shown) {
        (CredentialsCheck::Off, _) => (as_connected.uid, as_connected.gid, connection.groups.clone()),
        (_, Some(Some(shown))) => (shown.uid, shown.gid, Vec::new()),
        _ => (as_connected.uid, as_connected.gid, Vec::new()),
    }
}

/// Whether an address is granted to a peer; `None` if it is granted to nobody in particular.
pub fn is_granted(setup: &Setup, later: bool, connection: &Connection, address: IpAddr) -> Option<bool> {
    let (uid, gid, groups) = identity(setup, connection);
    let first = GRANTS.iter().filter(|_| setup.has_grants);
    let grants = first.chain([&LATER_GRANT].into_iter().filter(|_| later));
    let about: Vec<_> = grants.filter(|(prefix, _)| net(prefix).contains(&address)).collect();
    (!about.is_empty()).then(|| {
        about.iter().any(|(_, holder)| match holder {
            Holder::User(user) => *user == uid,
            Holder::Group(group) => *group == gid || groups.contains(group),
            Holder::Nobody => false,
        })
    })
}

/// Whether a peer may get an address in this way, if nobody holds it.
pub fn may_get(setup: &Setup, later: bool, connection: &Connection, address: IpAddr, way: Way) -> bool {
    let granted = is_granted(setup, later, connection, address);
    let (uid, ..) = identity(setup, connection);
    let is_hooks = setup.credentials == CredentialsCheck::Hook && hook(uid).map(IpAddr::V4) == Some(address);
    if setup.credentials == CredentialsCheck::Hook && !is_hooks && granted != Some(true) {
        return false;
    }
    let class = class(address);
    let is_somebodys = matches!(class, Class::Own | Class::Reserved | Class::Hosts);
    // The router's own addresses are its networks', and the host is known in any case.
    let is_known = setup.is_strict || class == Class::Hosts && address.is_ipv6();
    if class == Class::NoHost || is_somebodys && is_known {
        return false;
    }
    match granted {
        Some(is_granted) => is_granted,
        None if class == Class::Gateway && setup.has_gateway => way == Way::Hook,
        None if setup.denies_uncovered && !(way == Way::Request && class == Class::Vassals) => false,
        None => !setup.claims_own || class == Class::Vassals || way == Way::Hook,
    }
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Nowhere,
    Tun,
    Gateway(SocketAddr),
    Peer(Number),
}

/// A peer's own rules on a packet; `None` if it passes.
fn by_rules(rules: &[PeerRule], direction: Direction, packet: &Packet<'_>) -> Option<RuleAction> {
    let rules: Vec<_> = rules.iter().filter(|rule| rule.direction == direction).collect();
    if let Some(first) = rules.iter().find(|rule| rule.selector.matches(packet, None)) {
        return Some(first.action).filter(|action| *action != RuleAction::Allow);
    }
    let is_for_v4_only = !rules.is_empty() && !rules.iter().any(|rule| rule.selector.is_for_v6());
    (is_for_v4_only && !packet.is_v4()).then_some(RuleAction::Deny)
}

fn is_stopped(setup: &Setup, end: IpAddr) -> bool {
    setup.has_chains && DENIED.iter().chain([&REJECTED]).any(|prefix| net(prefix).contains(&end))
}

/// True for packets about which there is nothing special.
pub fn is_simple(packet: &Packet<'_>) -> bool {
    !packet.is_fragment() && matches!(packet.protocol(), 6 | 17)
}

/// Where a simple packet of a peer goes that holds its source.
pub fn outward(
    setup: &Setup,
    rules: &[PeerRule],
    packet: &Packet<'_>,
    holder: Option<(Number, &[PeerRule])>,
    is_elsewhere: bool,
) -> Fate {
    let dst = packet.dst();
    if is_stopped(setup, dst) {
        return Fate::Nowhere;
    }
    let broadcasts = [Class::Reserved, Class::NoHost];
    if setup.is_strict && (broadcasts.contains(&class(dst)) || dst == IpAddr::from([172, 16, 255, 255])) {
        return Fate::Nowhere;
    }
    let first = target(TARGETS[0]);
    let is_for_gateway =
        packet.protocol() == 17 && (dst, packet.destination_port()) == (first.ip(), Some(first.port()));
    if setup.has_gateway && is_for_gateway {
        return Fate::Nowhere;
    }
    match by_rules(rules, Direction::Out, packet) {
        Some(RuleAction::Route(to)) if setup.has_gateway && to != target(TARGETS[2]) => return Fate::Gateway(to),
        Some(_) => return Fate::Nowhere,
        None => {}
    }
    if setup.has_gateway && net(ROUTED).contains(&dst) {
        return Fate::Gateway(first);
    }
    if setup.switch && holder.is_some() {
        return inward(setup, packet, true, holder);
    }
    // Trunks have told of it, and none is open here.
    let is_here = class(dst) == Class::Hosts || dst.is_loopback() || setup.is_strict && class(dst) == Class::Own;
    if holder.is_none() && is_elsewhere && !is_here { Fate::Nowhere } else { Fate::Tun }
}

/// Where a simple packet goes that comes by the device, or from another router.
pub fn inward(setup: &Setup, packet: &Packet<'_>, is_by_tun: bool, holder: Option<(Number, &[PeerRule])>) -> Fate {
    match holder {
        _ if is_stopped(setup, packet.src()) => Fate::Nowhere,
        Some((_, rules)) if is_by_tun && by_rules(rules, Direction::In, packet).is_some() => Fate::Nowhere,
        Some((number, _)) => Fate::Peer(number),
        None => Fate::Nowhere,
    }
}

/// Who holds what, as the peers' own lists say. An error names an address with two holders.
pub fn holders<'a>(lists: impl Iterator<Item = (Number, &'a [IpAddr])>) -> Result<HashMap<IpAddr, Number>, String> {
    let mut holders = HashMap::new();
    for (number, addresses) in lists {
        for address in addresses {
            if let Some(other) = holders.insert(*address, number) {
                return Err(format!("{address} is held by {other} and by {number}"));
            }
        }
    }
    Ok(holders)
}
