use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::policy::grant::{Grant, Holder, Uncovered};

const VASSAL: [u8; 4] = [10, 0, 0, 2];
const VASSAL6: &str = "fd00:77::2";

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn range(prefix: &str, port: Option<u16>) -> TargetRange {
    TargetRange { prefix: net(prefix), port }
}

fn pool() -> Pool {
    Pool::new(vec![net("10.0.0.1/24"), net("fd00:77::1/64")], &Grants::none(), [ip("10.0.0.80")])
}

fn policy(gateways: Gateways) -> GuardPolicy {
    let own = vec![net("10.0.0.1/24"), net("fd00:77::1/64"), net("10.1.0.1/24")];
    GuardPolicy { claims: ClaimScope::Own, is_strict: true, own, gateways }
}

fn guard(gateways: Gateways) -> Guard {
    let mut guard = Guard::new(policy(gateways));
    guard.set_host_addresses(["192.0.2.1/24", "10.0.0.1/24", "127.0.0.1/8", "2001:db8::1/64"].map(net));
    guard
}

/// A datagram from the vassal to this destination.
fn datagram(to: &str) -> Vec<u8> {
    let to = socket(to);
    let mut bytes = Vec::new();
    let builder = match to.ip() {
        IpAddr::V4(address) => PacketBuilder::ipv4(VASSAL, address.octets(), 64),
        IpAddr::V6(address) => {
            let IpAddr::V6(from) = ip(VASSAL6) else { unreachable!("an IPv6 address") };
            PacketBuilder::ipv6(from.octets(), address.octets(), 64)
        }
    };
    builder.udp(1, to.port()).write(&mut bytes, b"payload").expect("valid");
    bytes
}

fn verdict(guard: &Guard, bytes: &[u8]) -> Option<DropReason> {
    guard.refusal(&Packet::parse(bytes).expect("valid"), &pool())
}

#[track_caller]
fn assert_gateways(gateways: &Gateways, expected: &[(&str, bool)]) {
    for (to, is_gateway) in expected {
        let refusal = verdict(&guard(gateways.clone()), &datagram(to));
        assert_eq!(refusal, is_gateway.then_some(DropReason::ToGateway), "{to}");
    }
}

#[test]
fn own_gateway_is_out_of_reach() {
    let bound = Gateways::new([socket("192.0.2.1:4000"), socket("[2001:db8::1]:4000")], [], &[], &[], []);
    assert_gateways(
        &bound,
        &[
            ("192.0.2.1:4000", true),
            ("[2001:db8::1]:4000", true),
            ("192.0.2.1:53", false),
            ("198.51.100.1:4000", false),
        ],
    );
    let everywhere = Gateways::new([socket("0.0.0.0:4000"), socket("[::]:4001")], [], &[], &[], []);
    assert_gateways(
        &everywhere,
        &[
            ("192.0.2.1:4000", true),
            ("10.0.0.1:4000", true),
            ("10.1.0.1:4000", true),
            ("[2001:db8::1]:4000", false),
            ("192.0.2.1:4001", true),
            ("[2001:db8::1]:4001", true),
            ("[fd00:77::1]:4001", true),
            ("198.51.100.1:4000", false),
            ("10.0.0.3:4000", false),
        ],
    );
}

#[test]
fn gateways_of_others_are_out_of_reach() {
    let ranges = [range("198.51.100.0/24", Some(999)), range("203.0.113.0/24", None), range("203.0.113.200/32", None)];
    let allowed = [net("10.0.0.0/8"), net("2001:db8:5::5/128"), net("198.51.100.7/32")];
    let gateways = Gateways::new([socket("192.0.2.1:4000")], [socket("192.0.2.9:4001")], &ranges, &allowed, []);
    assert_gateways(
        &gateways,
        &[
            ("192.0.2.9:4001", true),
            ("192.0.2.9:4000", false),
            ("198.51.100.3:999", true),
            ("198.51.100.3:4000", false),
            ("203.0.113.3:4000", true),
            ("203.0.113.3:999", true),
            ("203.0.113.3:53", false),
            // Hosts whose gateway has an unknown port.
            ("203.0.113.200:7", true),
            ("[2001:db8:5::5]:7", true),
            ("[2001:db8:5::5]:53", false),
            // Hosts whose gateway has a known port.
            ("198.51.100.7:7", false),
            ("198.51.100.7:999", true),
            ("10.9.9.9:4001", true),
            ("10.9.9.9:80", false),
            // A range that contains the vassals' network doesn't include them.
            ("10.0.0.3:4000", false),
        ],
    );
}

#[test]
fn spelling_and_wrapping_are_no_way_around() {
    let gateways = Gateways::new([socket("0.0.0.0:4000")], [socket("192.0.2.9:4001")], &[], &[], []);
    let mut open = Guard::new(GuardPolicy { is_strict: false, ..policy(gateways.clone()) });
    open.set_host_addresses([net("192.0.2.1/24"), net("127.0.0.1/8")]);
    for to in ["[::ffff:192.0.2.9]:4001", "127.0.0.1:4000", "127.9.9.9:4000", "0.0.0.0:4000", "224.0.0.1:4000"] {
        assert_eq!(verdict(&open, &datagram(to)), Some(DropReason::ToGateway), "{to}");
    }
    assert_eq!(verdict(&open, &datagram("192.0.2.255:4000")), Some(DropReason::ToGateway), "broadcast");
    let guard = guard(gateways);
    let with = |protocol: u8, to: &str| {
        let mut bytes = datagram(to);
        bytes[9] = protocol;
        verdict(&guard, &bytes)
    };
    for wrapped in [4, 41, 47] {
        assert_eq!(with(wrapped, "192.0.2.9:1"), Some(DropReason::ToGateway), "{wrapped}");
        assert_eq!(with(wrapped, "192.0.2.1:1"), Some(DropReason::ToGateway), "{wrapped}");
        assert_eq!(with(wrapped, "198.51.100.1:1"), None, "{wrapped}");
    }
    assert_eq!(with(protocol::UDPLITE, "192.0.2.9:4001"), Some(DropReason::ToGateway));
    assert_eq!(with(protocol::TCP, "192.0.2.9:4001"), None, "a gateway is no TCP service");
}

#[test]
fn vassals_that_are_named_may_send() {
    let gateways = |vassals: &[&str]| {
        Gateways::new([], [socket("192.0.2.9:4001")], &[], &[], vassals.iter().map(|text| net(text)))
    };
    for (vassals, expected) in
        [(&["10.0.0.2/32"][..], None), (&["10.0.0.0/24"], None), (&["10.0.0.3/32"], Some(DropReason::ToGateway))]
    {
        assert_eq!(verdict(&guard(gateways(vassals)), &datagram("192.0.2.9:4001")), expected, "{vassals:?}");
    }
}

#[test]
fn destinations_that_are_no_hosts() {
    let strict = guard(Gateways::default());
    let open = Guard::new(GuardPolicy { is_strict: false, ..policy(Gateways::default()) });
    for (to, is_claimable) in [
        ("127.0.0.1", false),
        ("0.0.0.0", false),
        ("0.1.2.3", false),
        ("224.0.0.251", false),
        ("255.255.255.255", false),
        ("240.0.0.1", false),
        ("10.0.0.255", false),
        ("10.0.0.0", false),
        ("10.1.0.255", false),
        ("192.0.2.255", false),
        ("::1", false),
        ("::", false),
        ("::ffff:10.0.0.3", false),
        ("::7f00:1", false),
        ("ff02::fb", false),
        ("fe80::1", false),
        ("10.0.0.1", true),
        ("10.0.0.3", true),
        ("192.0.2.1", true),
        ("198.51.100.255", true),
        ("fd00:77::1", true),
        ("2001:db8::9", true),
    ] {
        let bytes = datagram(&SocketAddr::new(ip(to), 9).to_string());
        assert_eq!(verdict(&strict, &bytes), (!is_claimable).then_some(DropReason::Destination), "{to}");
        assert_eq!(verdict(&open, &bytes), None, "{to}");
    }
}

fn user(uid: u32) -> Identity {
    Identity { uid, gid: uid, groups: Vec::new() }
}

#[test]
fn claims() {
    let gateways = Gateways::new(
        [socket("192.0.2.1:4000")],
        [socket("198.51.100.9:4001"), socket("10.0.0.90:4000")],
        &[],
        &[],
        [],
    );
    let own = guard(gateways.clone());
    let mut any = Guard::new(GuardPolicy { claims: ClaimScope::Any, ..policy(gateways) });
    any.set_host_addresses([net("192.0.2.1/24")]);
    let grant = |prefix: &str| Grant { prefix: net(prefix), holder: Holder::User(7) };
    let grants = Grants::new(
        ["10.0.0.80/32", "198.51.100.9/32", "172.16.0.0/24", "10.0.0.0/24", "192.0.2.1/32"].map(grant),
        Uncovered::Allow,
    );
    let none = Grants::none();
    // Expected with `ClaimScope::Own` for a user, root, and a user with grants, and with `ClaimScope::Any` for a user.
    for (address, expected) in [
        ("10.0.0.2", [true, true, true, true]),
        ("10.0.0.80", [false, true, true, true]),
        ("10.0.0.90", [false, false, true, false]),
        ("10.0.0.1", [false; 4]),
        ("10.1.0.1", [false; 4]),
        ("10.0.0.0", [false; 4]),
        ("10.0.0.255", [false; 4]),
        ("192.0.2.1", [false; 4]),
        ("192.0.2.2", [false, false, false, true]),
        ("172.16.0.9", [false, false, true, true]),
        ("198.51.100.9", [false, false, true, false]),
        ("fd00:77::9", [true; 4]),
        ("fd00:78::9", [false, false, false, true]),
        ("127.0.0.1", [false; 4]),
        ("169.254.0.9", [false; 4]),
    ] {
        let may = |guard: &Guard, uid, grants| guard.may_claim(ip(address), &user(uid), grants, &pool());
        let found = [may(&own, 5, &none), may(&own, 0, &none), may(&own, 7, &grants), may(&any, 5, &none)];
        assert_eq!(found, expected, "{address}");
    }
}

proptest! {
    /// However a datagram to a gateway is fragmented, its first fragment is refused, and no other has its first eight bytes.
    #[test]
    fn no_fragment_brings_a_port_past_the_guard(offset in 0u16..40, more: bool, payload in prop::collection::vec(any::<u8>(), 0..40)) {
        let guard = guard(Gateways::new([], [socket("192.0.2.9:4001")], &[], &[], []));
        let mut bytes = datagram("192.0.2.9:4001")[..20].to_vec();
        let ports = [0, 1, 0x0f, 0xa1, 0, 8, 0, 0];
        bytes.extend(ports.iter().chain(&payload));
        let len = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        bytes[2..4].copy_from_slice(&len);
        bytes[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
        let expected = (offset == 0).then_some(DropReason::ToGateway);
        prop_assert_eq!(verdict(&guard, &bytes), expected);
    }
}
