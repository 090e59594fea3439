use super::*;
use crate::policy::Policy;
use crate::policy::grant::{Grant, Grants, Holder, Identity, Uncovered};
use crate::policy::pattern::tests::rule;
use crate::policy::pattern::{Action, PolicyRules};
use crate::policy::script::NoScript;
use crate::policy::verdict::Outbound;
use tuntap_wire::echo::echo_request;
use tuntap_wire::ip::Packet;

const NAME: u64 = 7;

fn key(id: PeerId) -> Key {
    Key { uid: id.index, name: NAME }
}

fn applicant(id: PeerId) -> Applicant {
    Applicant { id, key: key(id), is_assigned: false }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn peer(index: u32) -> PeerId {
    PeerId { index, generation: 0 }
}

/// A router with networks of both families. 10.0.0.77 is granted to user 9, and no peer may choose an address that isn't
/// granted to it. Each peer has its own user, whose number is that of the peer's slot.
fn forwarder(firewall_out: PolicyRules<Action>) -> Forwarder {
    let lease = Grant { prefix: "10.0.0.77/32".parse().expect("a prefix"), holder: Holder::User(9) };
    let mut forwarder = Forwarder::new(
        Policy {
            firewall_out,
            grants: Grants::new([lease], Uncovered::Deny),
            networks: vec!["10.0.0.1/24".parse().expect("v4"), "fd00:77::1/64".parse().expect("v6")],
            ..Policy::default()
        },
        1,
    );
    for index in [1, 2, 9] {
        forwarder.add_peer(peer(index), Identity { uid: index, gid: index, groups: Vec::new() });
    }
    forwarder
}

fn alive(_: PeerId) -> bool {
    false
}

fn lease(forwarder: &mut Forwarder, id: PeerId, family: Family) -> IpAddr {
    let chosen = forwarder.choose(applicant(id), family, alive).expect("room");
    assert_eq!(chosen.dead_holder, None);
    assert_eq!(forwarder.give(id, chosen.address, key(id)), Ok(true));
    chosen.address
}

fn claimed(text: &str, assigned: bool) -> ClaimedAddress {
    ClaimedAddress { address: address(text), assigned }
}

#[test]
fn leased_addresses_are_the_only_ones_that_pass() {
    let mut forwarder = forwarder(PolicyRules::chain([]));
    let (v4, v6) = (lease(&mut forwarder, peer(1), Family::V4), lease(&mut forwarder, peer(1), Family::V6));
    assert_eq!(forwarder.addresses(peer(1)).collect::<Vec<_>>(), [v4, v6]);
    let mut passes = |from: IpAddr, to: &str| {
        let packet = echo_request(from, address(to)).expect("one version");
        forwarder.outbound(peer(1), &Packet::parse(&packet).expect("a packet"), &mut NoScript).to == Outbound::Tun
    };
    assert!(passes(v4, "10.0.0.1") && passes(v6, "fd00:77::1"));
    assert!(!passes(address("10.0.0.200"), "10.0.0.1") && !passes(address("fd00:77::200"), "fd00:77::1"));
    assert_eq!(forwarder.give(peer(1), v4, key(peer(1))), Ok(false), "it has it already");
}

#[test]
fn lease_of_a_dead_peer_of_the_same_name_is_found() {
    let mut forwarder = forwarder(PolicyRules::chain([]));
    let v4 = lease(&mut forwarder, peer(1), Family::V4);
    let next = PeerId { index: 3, generation: 0 };
    forwarder.add_peer(next, Identity { uid: 1, gid: 1, groups: Vec::new() });
    let again = Applicant { id: next, key: key(peer(1)), is_assigned: false };
    let chosen = forwarder.choose(again, Family::V4, |_| true).expect("room");
    assert_eq!(chosen, Candidate { address: v4, dead_holder: Some(peer(1)) });
    let other = forwarder.choose(again, Family::V4, alive).expect("room");
    assert_ne!(other.address, v4, "the first one lives");
    forwarder.remove_peer(peer(1));
    assert_eq!(forwarder.give(next, v4, again.key), Ok(true));
}

#[test]
fn fixed_address_is_its_users() {
    let mut forwarder = forwarder(PolicyRules::chain([]));
    assert_eq!(lease(&mut forwarder, peer(9), Family::V4), address("10.0.0.77"));
    assert_eq!(
        forwarder.consider(applicant(peer(1)), claimed("10.0.0.77", true), alive),
        Err(AssignmentError::NotGranted)
    );
}

#[test]
fn claims_by_name_get_no_more_than_packets_and_what_was_given() {
    let mut forwarder = forwarder(PolicyRules::chain([]));
    let consider =
        |forwarder: &Forwarder, text, leased| forwarder.consider(applicant(peer(1)), claimed(text, leased), alive);
    assert_eq!(consider(&forwarder, "10.0.0.5", false), Err(AssignmentError::NotGranted), "nobody may choose it");
    assert!(consider(&forwarder, "10.0.0.5", true).is_ok(), "the router could choose it");
    assert_eq!(consider(&forwarder, "10.0.0.1", true), Err(AssignmentError::Own));
    assert_eq!(consider(&forwarder, "10.0.0.255", true), Err(AssignmentError::NotGranted));
    assert_eq!(consider(&forwarder, "192.0.2.1", true), Err(AssignmentError::NotGranted));
    let held = lease(&mut forwarder, peer(2), Family::V4);
    let of_other = ClaimedAddress { address: held, assigned: true };
    assert_eq!(forwarder.consider(applicant(peer(1)), of_other, alive), Err(AssignmentError::Held));
    assert_eq!(forwarder.consider(applicant(peer(1)), of_other, |_| true).map(|it| it.dead_holder), Ok(Some(peer(2))));
    assert_eq!(forwarder.give(peer(1), address("10.0.0.5"), key(peer(1))), Ok(true));
    assert_eq!(forwarder.give(peer(1), address("10.0.0.6"), key(peer(1))), Err(AssignmentError::TooMany));
}

#[test]
fn chain_that_lets_nothing_pass_gives_nothing() {
    let chain = [rule(Action::Allow, "10.0.0.0/24", "any"), rule(Action::Reject, "any", "any")];
    let forwarder = forwarder(PolicyRules::chain(chain));
    assert!(forwarder.choose(applicant(peer(1)), Family::V4, alive).is_ok());
    assert_eq!(forwarder.choose(applicant(peer(1)), Family::V6, alive), Err(AssignmentError::Firewall));
}

/// A chain that denies a single address, even the first choice, doesn't keep peers from getting another one.
#[test]
fn chain_that_denies_an_address_leaves_the_others() {
    let first = forwarder(PolicyRules::chain([])).choose(applicant(peer(1)), Family::V4, alive).expect("room").address;
    let chain = [rule(Action::Deny, &format!("{first}/32"), "any"), rule(Action::Allow, "any", "any")];
    let mut forwarder = forwarder(PolicyRules::chain(chain));
    let second = forwarder.choose(applicant(peer(1)), Family::V4, alive).expect("room").address;
    assert_ne!(second, first);
    assert_eq!(lease(&mut forwarder, peer(1), Family::V4), second);
    assert_eq!(
        forwarder.consider(applicant(peer(2)), claimed(&first.to_string(), true), alive),
        Err(AssignmentError::Firewall)
    );
}

/// A network is full if all addresses that the chain allows are held.
#[test]
fn full_network_is_not_a_shut_one() {
    let chain = [rule(Action::Allow, "10.0.0.8/30", "any"), rule(Action::Deny, "any", "any")];
    let mut forwarder = forwarder(PolicyRules::chain(chain));
    for index in 10..14 {
        forwarder.add_peer(peer(index), Identity { uid: index, gid: index, groups: Vec::new() });
        lease(&mut forwarder, peer(index), Family::V4);
    }
    let refused = forwarder.choose(applicant(peer(1)), Family::V4, alive);
    assert_eq!(refused, Err(PoolError::Full(Family::V4).into()));
}

/// A peer whose address a credentials hook has chosen gets no address by a claim request that its packets could not claim.
#[test]
fn assigned_peer_gets_only_what_is_leased_to_it() {
    let open = Grant { prefix: "fd00:77::9/128".parse().expect("a prefix"), holder: Holder::User(1) };
    let mut forwarder = forwarder(PolicyRules::chain([]));
    let grants = Grants::new([open], Uncovered::Allow);
    forwarder.set_policy(Policy { grants, ..Policy::clone(&forwarder.policy) });
    assert_eq!(forwarder.assign(peer(1), address("10.0.0.5")), Some(AssignResult::Granted));
    let assigned = Applicant { is_assigned: true, ..applicant(peer(1)) };
    for leased in [false, true] {
        let consider = |text| forwarder.consider(assigned, claimed(text, leased), alive);
        assert_eq!(consider("fd00:77::7"), Err(AssignmentError::Assigned));
        assert!(consider("fd00:77::9").is_ok(), "it is leased to it");
        assert!(consider("10.0.0.5").is_ok(), "it is its own");
        assert!(forwarder.consider(applicant(peer(2)), claimed("fd00:77::7", leased), alive).is_ok());
    }
    let chosen = forwarder.choose(assigned, Family::V6, alive).expect("a lease");
    assert_eq!(chosen.address, address("fd00:77::9"));
    let grants = Grants::none();
    forwarder.set_policy(Policy { grants, ..Policy::clone(&forwarder.policy) });
    assert_eq!(forwarder.choose(assigned, Family::V6, alive), Err(AssignmentError::Assigned));
}
