//! The oracle: which addresses peers may have.

use std::net::IpAddr;

use tuntap_core::policy::grant::{Holder, Identity, Uncovered};
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_core::policy::registry::PeerId;
use tuntap_wire::selector::AddressPattern;

use super::matching::{can_be_claimed, is_for_all, may_be_v6, within};
use super::oracle::{Oracle, Peer};

impl Oracle {
    /// True for an address of one of the router's networks that a host can have, that is not the router's own, and that
    /// is granted to the peer or to nobody.
    pub(super) fn may_give(&self, address: IpAddr, id: PeerId) -> bool {
        let Some(peer) = self.peer(id) else { return false };
        let mut around = self.rules.networks.iter().filter(|net| within(address, **net)).peekable();
        let is_for_hosts = around.peek().is_some() && around.all(|net| !is_for_all(address, *net));
        let is_for_peer = !self.is_covered(address) || self.is_granted_to(address, &peer.identity);
        is_for_hosts && !self.is_own(address) && is_for_peer
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.rules.networks.iter().any(|net| net.addr() == address)
    }

    /// True if the chain `out` has a rule that drops all packets from an address before one that may let some pass.
    pub(super) fn passes_nothing_from(&self, address: IpAddr) -> bool {
        let chain = &self.rules.firewall_out;
        let is_v6 = address.is_ipv6();
        if is_v6 && !chain.is_empty() && !chain.iter().any(|rule| may_be_v6(&rule.selector)) {
            return true;
        }
        let matches_some = |rule: &&PolicyRule<Action>| {
            let is_version = |pattern| match pattern {
                AddressPattern::Any => true,
                AddressPattern::Net(net) => net.addr().is_ipv6() == is_v6,
            };
            let is_source = match rule.selector.src() {
                AddressPattern::Any => true,
                AddressPattern::Net(net) => within(address, net),
            };
            is_source && is_version(rule.selector.dst())
        };
        for rule in chain.iter().filter(matches_some) {
            let is_every_destination = match rule.selector.dst() {
                AddressPattern::Any => true,
                AddressPattern::Net(net) => net.prefix_len() == 0,
            };
            match rule.target {
                Action::Allow => return false,
                Action::Deny | Action::Reject if is_every_destination && rule.selector.service().is_none() => {
                    return true;
                }
                Action::Deny | Action::Reject => {}
            }
        }
        false
    }

    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        (self.rules.is_strict || address.is_ipv6()) && self.is_hosts_own(address)
    }

    /// True for addresses of the host and of the router, and for network and broadcast addresses of the router's
    /// networks.
    pub(super) fn is_hosts_own(&self, address: IpAddr) -> bool {
        self.rules.host.iter().any(|net| net.addr() == address)
            || self
                .rules
                .networks
                .iter()
                .any(|net| net.addr() == address || within(address, *net) && is_for_all(address, *net))
    }

    /// True if not even the router's choice gives the address to a peer.
    pub(super) fn is_out_of_reach(&self, address: IpAddr, peer: &Peer) -> bool {
        let is_grantee = self.is_covered(address) && self.is_granted_to(address, &peer.identity);
        self.is_taken(address) || self.is_gateways(address) && !is_grantee
    }

    /// True if the address is not in use and, with `claims_own`, inside of the networks. A grant overrides the latter
    /// and gateways.
    pub(super) fn may_claim(&self, address: IpAddr, identity: &Identity) -> bool {
        if !can_be_claimed(address) || self.is_taken(address) {
            return false;
        }
        if self.is_covered(address) && self.is_granted_to(address, identity) {
            return true;
        }
        let mut around = self.rules.networks.iter().filter(|net| within(address, **net)).peekable();
        let is_vassals =
            around.peek().is_some() && !self.is_own(address) && around.all(|net| !is_for_all(address, *net));
        !self.is_gateways(address) && (!self.rules.claims_own || is_vassals)
    }

    /// True if a grant of the address is for the peer, or no grant covers the address and none is needed.
    pub(super) fn is_granted_to(&self, address: IpAddr, identity: &Identity) -> bool {
        let covering: Vec<_> = self.rules.grants.iter().filter(|grant| within(address, grant.prefix)).collect();
        if covering.is_empty() {
            return self.rules.uncovered == Uncovered::Allow;
        }
        covering.iter().any(|grant| match grant.holder {
            Holder::User(uid) => identity.uid == uid,
            Holder::Group(gid) => identity.gid == gid || identity.groups.contains(&gid),
            Holder::Nobody => false,
        })
    }

    /// True if a grant covers the address.
    pub(super) fn is_covered(&self, address: IpAddr) -> bool {
        self.rules.grants.iter().any(|grant| within(address, grant.prefix))
    }

    /// True if a grant names the group.
    pub(super) fn is_named(&self, group: u32) -> bool {
        self.rules.grants.iter().any(|grant| grant.holder == Holder::Group(group))
    }
}
