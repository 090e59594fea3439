//! Requests, claims and configurations.
//!
//! Input: one payload, which is read as each of the three.

use std::net::IpAddr;

use serde_json::Value;
use tuntap_wire::autoconf::{ClaimRequest, Configuration, ConfigurationRequest};

/// Reads the bytes as each of the three.
pub fn check(data: &[u8]) {
    check_request(data);
    check_claim(data);
    check_configuration(data);
}

fn check_request(payload: &[u8]) {
    let expected = (payload.len() == 12 && payload[0] == 1).then(|| ConfigurationRequest {
        v4: payload[1] & 1 == 1,
        v6: payload[1] & 2 == 2,
        name: payload[4..].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
    });
    let request = ConfigurationRequest::decode(payload);
    assert_eq!(request, expected);
    if let Some(request) = request {
        assert_eq!(ConfigurationRequest::decode(&request.encode()), Some(request));
        assert!(request.encode().len() < 20, "a router without the extension must drop it");
    }
}

fn check_claim(payload: &[u8]) {
    let Ok(claim) = ClaimRequest::decode(payload) else { return };
    let json: Value = serde_json::from_slice(payload).expect("it was read before");
    assert_eq!(json["version"], 1);
    let list = json["addresses"].as_array().expect("a list");
    assert!(list.len() <= 9 && list.len() == claim.addresses.len());
    for (claimed, raw) in claim.addresses.iter().zip(list) {
        assert_claimable(claimed.address);
        assert_eq!(raw["address"].as_str().and_then(|word| word.parse().ok()), Some(claimed.address));
        assert_eq!(raw["leased"].as_bool().unwrap_or(false), claimed.assigned);
    }
    assert_eq!(ClaimRequest::decode(&claim.encode()).expect("what was read can be written"), claim);
}

fn check_configuration(payload: &[u8]) {
    let Ok(told) = Configuration::decode(payload) else { return };
    let json: Value = serde_json::from_slice(payload).expect("it was read before");
    assert_eq!(json["version"], 1);
    assert!(told.addresses.len() <= 9 && told.routers.len() <= 2 && told.dns.len() <= 3);
    for net in &told.addresses {
        assert_claimable(net.addr());
        assert!(net.prefix_len() > 0);
    }
    told.routers.iter().for_each(|router| assert_claimable(*router));
    if let [first, second] = told.routers[..] {
        assert_ne!(first.is_ipv4(), second.is_ipv4());
    }
    assert!(told.mtu.is_none_or(|mtu| mtu >= 576));
    for server in &told.dns {
        assert!(server.is_loopback() || !server.is_multicast() && !server.is_unspecified());
    }
    let raw = json["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(told.refused.iter().map(|refusal| refusal.for_good).eq(raw.iter().map(|raw| raw["for_good"] == true)));
    for refusal in &told.refused {
        assert!(refusal.reason.chars().count() <= 200 && !refusal.reason.contains(char::is_control));
    }
    assert_eq!(Configuration::decode(&told.encode()).expect("what was read can be written"), told);
}

/// Asserts that a host can have the address beyond its own link.
fn assert_claimable(address: IpAddr) {
    assert!(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast(), "{address}");
    match address {
        IpAddr::V4(address) => assert!(!address.is_link_local() && !address.is_broadcast(), "{address}"),
        IpAddr::V6(address) => assert!(address.to_ipv4_mapped().is_none() && address.segments()[0] & 0xffc0 != 0xfe80),
    }
}
