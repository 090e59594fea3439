//! Tests of the messages for configuration.

use proptest::prelude::*;

use super::*;

fn configuration() -> Configuration {
    Configuration {
        addresses: vec!["10.0.0.7/24".parse().expect("v4"), "fd00:77::7/64".parse().expect("v6")],
        routers: vec!["10.0.0.1".parse().expect("v4"), "fd00:77::1".parse().expect("v6")],
        mtu: Some(1500),
        dns: vec!["192.0.2.53".parse().expect("v4")],
        refused: vec![RefusedRequest {
            requested: Requested::Any(Family::V6),
            reason: "all are taken".to_owned(),
            for_good: true,
        }],
        host_etc: vec![DirectoryId { device: 1, inode: 2 }],
    }
}

fn refused(json: &str) -> String {
    Configuration::decode(json.as_bytes()).expect_err(json).to_string()
}

#[test]
fn request_is_twelve_bytes() {
    let request = ConfigurationRequest { v4: true, v6: false, name: 0x0102_0304_0506_0708 };
    assert_eq!(request.encode(), [1, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
    for (v4, v6) in [(false, false), (true, false), (false, true), (true, true)] {
        let request = ConfigurationRequest { v4, v6, name: 7 };
        assert_eq!(ConfigurationRequest::decode(&request.encode()), Some(request));
    }
    assert_eq!(ConfigurationRequest::decode(&[2, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]), None, "another version");
    assert_eq!(ConfigurationRequest::decode(&request.encode()[..11]), None);
    assert!(
        ConfigurationRequest::decode(&[1, 0xff, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0])
            .is_some_and(|request| request.v4 && request.v6)
    );
}

#[test]
fn hash_is_the_documented_one() {
    assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    assert_eq!(name_hash("app.ini", "uwsgi0"), fnv1a(*b"app.ini\0uwsgi0"));
}

#[test]
fn messages_come_back_as_they_were() {
    let told = configuration();
    assert_eq!(Configuration::decode(&told.encode()).expect("valid"), told);
    let claim = ClaimRequest {
        addresses: vec![
            ClaimedAddress { address: "10.0.0.7".parse().expect("v4"), assigned: true },
            ClaimedAddress { address: "fd00::7".parse().expect("v6"), assigned: false },
        ],
    };
    assert_eq!(ClaimRequest::decode(&claim.encode()).expect("valid"), claim);
}

#[test]
fn unknown_keys_are_passed_over_and_unknown_versions_are_not() {
    let told = Configuration::decode(br#"{"version":1,"addresses":["10.0.0.7/24"],"search":["example"],"x":{}}"#);
    assert_eq!(told.expect("valid").addresses.len(), 1);
    assert_eq!(refused(r#"{"version":2}"#), "version 2, this is 1");
    assert!(refused("{}").contains("version"));
    assert!(ClaimRequest::decode(br#"{"version":3,"addresses":[]}"#).is_err());
}

#[test]
fn what_is_passed_over_is_json_too() {
    let with = |value: &[u8]| [br#"{"version":1,"addresses":[],"mtu":1500,"later":"#, value, b"}"].concat();
    assert!(Configuration::decode(&with(b"[\"\", {}]")).is_ok());
    for value in [&b"\"\x89\""[..], b"\"\\ud800\"", b"1e999", &[b'['; 200]] {
        assert!(Configuration::decode(&with(value)).is_err(), "{value:?}");
    }
}

#[test]
fn lists_are_no_objects() {
    for text in ["[1]", r#"{"version":1,"refused":[["ipv4","why",false]]}"#, r#"{"version":1,"host_etc":[[1,2]]}"#] {
        assert!(matches!(Configuration::decode(text.as_bytes()), Err(MessageError::NoObject(_))), "{text}");
    }
    let claim = br#"{"version":1,"addresses":[["10.0.0.2",true]]}"#;
    assert!(matches!(ClaimRequest::decode(claim), Err(MessageError::NoObject("addresses"))));
}

#[test]
fn nothing_is_taken_on_trust() {
    for address in [
        "127.0.0.1/8",
        "224.0.0.1/4",
        "0.0.0.0/8",
        "10.0.0.1/33",
        "10.0.0.1/0",
        "10.0.0.1",
        "fe80::1/64",
        "::1/128",
        "::ffff:10.0.0.1/96",
        "255.255.255.255/32",
    ] {
        refused(&format!(r#"{{"version":1,"addresses":["{address}"]}}"#));
    }
    refused(r#"{"version":1,"gateways":["10.0.0.1","10.0.0.2"]}"#);
    refused(r#"{"version":1,"gateways":["ff02::1"]}"#);
    refused(r#"{"version":1,"dns":["10.0.0.1","10.0.0.2","10.0.0.3","10.0.0.4"]}"#);
    refused(r#"{"version":1,"dns":["10.0.0.1\nnameserver 6.6.6.6"]}"#);
    for mtu in [0, 575, 65_536] {
        refused(&format!(r#"{{"version":1,"mtu":{mtu}}}"#));
    }
    assert!(Configuration::decode(br#"{"version":1,"mtu":576,"addresses":["10.0.0.1/24"]}"#).is_ok());
    let many = [r#""10.0.0.7/24""#; MAX_ADDRESSES + 1].join(",");
    refused(&format!(r#"{{"version":1,"addresses":[{many}]}}"#));
}

#[test]
fn reasons_are_fit_for_a_log() {
    let json = format!(r#"{{"version":1,"refused":[{{"wish":"ipv4","reason":"a\u001b[2J\n{}"}}]}}"#, "x".repeat(300));
    let told = Configuration::decode(json.as_bytes()).expect("valid");
    assert_eq!(told.refused[0].reason.chars().count(), MAX_REASON_LEN);
    assert!(told.refused[0].reason.starts_with("a?[2J?x"));
}

#[test]
fn longest_message_fits_a_frame() {
    let mut told = configuration();
    told.addresses = vec!["fd00:1111:2222:3333:4444:5555:6666:7777/128".parse().expect("v6"); MAX_ADDRESSES];
    told.dns = vec!["fd00:1111:2222:3333:4444:5555:6666:7777".parse().expect("v6"); MAX_DNS_SERVERS];
    let refusal = RefusedRequest {
        requested: Requested::Address(told.dns[0]),
        reason: "\"".repeat(MAX_REASON_LEN),
        for_good: false,
    };
    told.refused = vec![refusal; MAX_REFUSALS];
    told.host_etc = vec![DirectoryId { device: u64::MAX, inode: u64::MAX }; MAX_DIRECTORIES];
    assert!(told.encode().len() <= crate::frame::MAX_PAYLOAD_LEN);
}

#[test]
fn reserved_addresses() {
    let reserved =
        |net: &str, address: &str| is_reserved(net.parse().expect("a network"), address.parse().expect("an address"));
    assert!(reserved("10.0.0.1/24", "10.0.0.0") && reserved("10.0.0.1/24", "10.0.0.255"));
    assert!(!reserved("10.0.0.0/31", "10.0.0.0") && !reserved("10.0.0.5/32", "10.0.0.5"));
    assert!(reserved("fd00::1/64", "fd00::") && !reserved("fd00::1/64", "fd00::ffff:ffff:ffff:ffff"));
    assert!(!reserved("fd00::/127", "fd00::"));
}

proptest! {
    /// Whatever comes is read or refused, and what is read means the same when it is written again.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ConfigurationRequest::decode(&bytes);
        let _ = ClaimRequest::decode(&bytes);
        if let Ok(told) = Configuration::decode(&bytes) {
            prop_assert_eq!(Configuration::decode(&told.encode()).expect("valid"), told);
        }
    }
}
