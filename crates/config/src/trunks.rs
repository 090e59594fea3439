//! Trunks to routers of other hosts: `tuntap-router-trunk` and `tuntap-router-trunk-peer`.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::error::{ConfigError, Problem};
use super::hostnet::HostSetting;
use super::{OptionName, RouterSpec, parse};
use tuntap_wire::trunk::PublicKey;

const SYNTAX: &str = OptionName::Trunk.syntax();
const PEER_SYNTAX: &str = OptionName::TrunkPeer.syntax();

/// The last word of a neighbour whose packets and announcements go on by other trunks.
const RELAY: &str = "relay";

/// Most routers of other hosts that a router has trunks to. What each tells is kept apart.
pub const MAX_TRUNKS: usize = 128;

/// Most networks of one of them.
const MAX_NETWORKS: usize = 256;

/// Most addresses at which a router waits for trunks.
const MAX_LISTENERS: usize = 16;

/// Trunks of a router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrunksSpec {
    /// Where routers of other hosts connect.
    pub listeners: Vec<SocketAddr>,
    /// The routers of other hosts.
    pub peers: Vec<TrunkPeer>,
}

impl TrunksSpec {
    /// Waiting at an address, for nobody yet.
    pub fn listening(address: SocketAddr) -> Self {
        Self { listeners: vec![address], peers: Vec::new() }
    }
}

/// A router of another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkPeer {
    /// Its public key.
    pub key: PublicKey,
    /// What it may announce, and what its packets may come from.
    pub networks: Vec<IpNet>,
    /// Where it waits for trunks. Without an address, this side waits.
    pub address: Option<SocketAddr>,
    /// It is told what other trunks tell, and its packets may go on by them.
    pub relay: bool,
}

/// Reads `[<device>] <addr:port>`.
pub fn listener(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, SYNTAX)?;
    Ok(HostSetting::trunk(value, device, address(&word)?))
}

/// Reads an address with a port at which a router waits.
pub fn address(word: &str) -> Result<SocketAddr, Problem> {
    let address: Option<SocketAddr> = word.parse().ok();
    let is_good = |address: &SocketAddr| address.port() != 0 && !address.ip().is_multicast();
    address.filter(is_good).ok_or_else(|| Problem::TrunkAddress(word.to_owned()))
}

/// Reads `[<device>] <public key> <network>[,<network>...] [<addr:port>] [relay]`.
pub fn peer(value: &str) -> Result<HostSetting, Problem> {
    let words = parse::words(value, PEER_SYNTAX)?;
    // The second word of a value without a device is networks, and no key.
    let (device, words) = match words.as_slice() {
        [device, rest @ ..] if rest.first().is_some_and(|word| is_like_key(word)) && !is_like_key(device) => {
            (Some(parse::device_name(device)?), rest)
        }
        all => (None, all),
    };
    let [key, networks, rest @ ..] = words else { return Err(Problem::Syntax(PEER_SYNTAX)) };
    let key = key.parse().map_err(|error| Problem::TrunkKey { word: key.clone(), error })?;
    let networks = networks.split(',').map(parse::exact_prefix).collect::<Result<Vec<_>, _>>()?;
    if networks.len() > MAX_NETWORKS {
        return Err(Problem::TooMany(MAX_NETWORKS));
    }
    let (rest, relay) = match rest {
        [rest @ .., last] if last == RELAY => (rest, true),
        all => (all, false),
    };
    let address = match rest {
        [] => None,
        [word] => Some(address(word).and_then(|address| {
            if address.ip().is_unspecified() { Err(Problem::TrunkAddress(word.clone())) } else { Ok(address) }
        })?),
        _ => return Err(Problem::Syntax(PEER_SYNTAX)),
    };
    Ok(HostSetting::trunk_peer(value, device, TrunkPeer { key, networks, address, relay }))
}

/// Tells a key from other words by the sign that ends it.
fn is_like_key(word: &str) -> bool {
    word.ends_with('=')
}

/// Gives a router an address to wait at.
pub fn add_listener(routers: &mut [RouterSpec], index: usize, address: SocketAddr) -> Result<(), Problem> {
    if routers.iter().any(|router| router.hosts.trunks.listeners.contains(&address)) {
        return Err(Problem::Repeated);
    }
    let listeners = &mut routers[index].hosts.trunks.listeners;
    if listeners.len() >= MAX_LISTENERS {
        return Err(Problem::TooMany(MAX_LISTENERS));
    }
    listeners.push(address);
    Ok(())
}

/// Gives a router a neighbour.
pub fn add_peer(router: &mut RouterSpec, peer: &TrunkPeer) -> Result<(), Problem> {
    let peers = &mut router.hosts.trunks.peers;
    if peers.iter().any(|other| other.key.router_id() == peer.key.router_id()) {
        return Err(Problem::Repeated);
    }
    if peers.len() >= MAX_TRUNKS {
        return Err(Problem::TooMany(MAX_TRUNKS));
    }
    peers.push(peer.clone());
    Ok(())
}

/// What can't work, once all settings are there: a neighbour that neither dials nor is dialled, and a router that meets nobody
/// but routers of other hosts, without the key of any.
pub fn check(router: &RouterSpec) -> impl Iterator<Item = ConfigError> {
    let TrunksSpec { listeners, peers } = &router.hosts.trunks;
    let unreachable = peers.iter().filter(|peer| peer.address.is_none() && listeners.is_empty()).map(|peer| {
        let value = format!("{} {}", router.device, peer.key);
        ConfigError::new(OptionName::TrunkPeer, value, Problem::TrunkUnreachable)
    });
    let is_for_strangers = |address: &&SocketAddr| !address.ip().to_canonical().is_loopback();
    let meets_nobody = router.socket.is_none() && peers.is_empty();
    let open = listeners.iter().filter(is_for_strangers).filter(move |_| meets_nobody).map(|address| {
        let value = format!("{} {address}", router.device);
        ConfigError::new(OptionName::Router, value, Problem::TrunkWithoutKeys(*address))
    });
    unreachable.chain(open)
}

#[cfg(test)]
mod tests {
    use crate::{Config, OptionName, Problem};

    /// The first two test keys of RFC 8032, section 7.1.
    const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const OTHER: &str = "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=";

    fn read(values: &[(OptionName, &str)]) -> Result<Config, Vec<Problem>> {
        let routers = [(OptionName::Router, "tun0 /s"), (OptionName::Router, "tun1 /t")];
        let result = Config::from_options(routers.into_iter().chain(values.iter().copied()));
        result.map_err(|errors| errors.0.into_iter().map(|error| error.problem).collect())
    }

    #[test]
    fn neighbours_are_read_in_all_their_forms() {
        let relayed = format!("tun0 {OTHER} 10.1.0.0/16,fd00::/8 relay");
        let dialled = format!("tun0 {KEY} 10.0.0.0/8 [2001:db8::1]:4000");
        let config = read(&[
            (OptionName::TrunkPeer, &relayed),
            (OptionName::TrunkPeer, &dialled),
            (OptionName::Trunk, "tun0 0.0.0.0:4000"),
        ]);
        let trunks = &config.expect("valid").routers[0].hosts.trunks;
        let [relayed, dialled] = &trunks.peers[..] else { panic!("{trunks:?}") };
        assert_eq!((relayed.key.to_string().as_str(), relayed.networks.len()), (OTHER, 2));
        assert_eq!((relayed.address, relayed.relay, dialled.relay), (None, true, false));
        assert_eq!(dialled.address, Some("[2001:db8::1]:4000".parse().expect("an address")));
    }

    /// A router whose second word is an address waits there, and has no unix socket.
    #[test]
    fn router_may_wait_for_other_routers_alone() {
        let read = |values: &[(OptionName, &str)]| Config::from_options(values.iter().copied());
        let peer = format!("{KEY} 10.0.0.0/8");
        let peer = (OptionName::TrunkPeer, peer.as_str());
        for (word, needs_keys) in [
            ("127.0.0.1:4000", false),
            ("[::1]:4000", false),
            ("[::ffff:127.0.0.1]:4000", false),
            ("192.0.2.1:4000", true),
            ("0.0.0.0:4000", true),
            ("[2001:db8::1]:4000", true),
            ("[::]:4000", true),
        ] {
            let value = format!("tun0 {word} /run/stats");
            let router = (OptionName::Router, value.as_str());
            let config = read(&[router, peer]).expect(word);
            let spec = &config.routers[0];
            assert_eq!((spec.socket.as_deref(), spec.control_path()), (None, None), "{word}");
            assert_eq!(spec.hosts.trunks.listeners, [word.parse().expect("an address")]);
            assert!(spec.hosts.needs_key() && spec.stats.is_some());
            match read(&[router]) {
                Ok(_) => assert!(!needs_keys, "{word}"),
                Err(errors) => {
                    assert!(needs_keys, "{errors}");
                    let text = errors.to_string();
                    assert!(text.contains(&format!("tun0 {word}")) && text.contains("there is none"), "{text}");
                }
            }
        }
        let more = (OptionName::Trunk, "tun0 192.0.2.1:4001");
        let config = read(&[(OptionName::Router, "tun0 127.0.0.1:1"), more, peer]).expect("both are listeners");
        assert_eq!(config.routers[0].hosts.trunks.listeners.len(), 2);
    }

    #[test]
    fn what_looks_like_an_address_is_never_a_sockets_name() {
        let read = |values: &[(OptionName, &str)]| Config::from_options(values.iter().copied());
        for word in
            ["localhost:4000", ":4000", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0.256:1", "::1:4000", "224.0.0.1:1"]
        {
            let value = format!("tun0 {word}");
            let errors = read(&[(OptionName::Router, &value)]).expect_err(word).0;
            assert!(matches!(&errors[0].problem, Problem::TrunkAddress(it) if it == word), "{errors:?}");
        }
        for name in ["/run/a:1", "./a:1", "@a:1", "a:b", "a:"] {
            let value = format!("tun0 {name}");
            let config = read(&[(OptionName::Router, &value)]).expect(name);
            assert_eq!(config.routers[0].socket.as_deref(), Some(name));
        }
        let twice = [(OptionName::Router, "tun0 127.0.0.1:1"), (OptionName::Router, "tun1 127.0.0.1:1")];
        assert!(read(&twice).is_err_and(|errors| errors.to_string().contains("has the same socket")));
        let listener = (OptionName::Trunk, "tun0 127.0.0.1:1");
        assert_eq!(read(&[twice[0], listener]).expect_err("twice").0[0].problem, Problem::Repeated);
        let control = [twice[0], (OptionName::Control, "/run/control")];
        assert_eq!(read(&control).expect("valid").routers[0].control_path().as_deref(), Some("/run/control"));
    }

    #[test]
    fn wrong_values_are_named() {
        let key_of_short = format!("tun0 {} 10.0.0.0/8 192.0.2.1:1", "11qYAYI=");
        for value in ["tun0 192.0.2.1", "tun0 192.0.2.1:0", "tun0 224.0.0.1:1", "tun0 localhost:1"] {
            assert!(
                matches!(read(&[(OptionName::Trunk, value)]), Err(problems) if matches!(problems[..], [Problem::TrunkAddress(_)])),
                "{value}"
            );
        }
        let wrong = read(&[(OptionName::TrunkPeer, &key_of_short)]).expect_err("too short");
        assert!(matches!(wrong[..], [Problem::TrunkKey { .. }]), "{wrong:?}");
        let peer = |rest: &str| {
            let value = format!("tun0 {KEY} {rest}");
            read(&[(OptionName::TrunkPeer, &value)]).expect_err(rest)
        };
        assert!(matches!(peer("10.0.0.1/8 192.0.2.1:1")[..], [Problem::HostBits { .. }]));
        assert!(matches!(peer("10.0.0.0/8,x 192.0.2.1:1")[..], [Problem::Prefix(_)]));
        assert!(matches!(peer("10.0.0.0/8 0.0.0.0:1")[..], [Problem::TrunkAddress(_)]));
        assert!(matches!(peer("10.0.0.0/8 192.0.2.1:1 rely")[..], [Problem::Syntax(_)]));
        assert!(matches!(peer("")[..], [Problem::Syntax(_)]));
        assert_eq!(peer("10.0.0.0/8"), [Problem::TrunkUnreachable]);
        let twice = format!("tun0 {KEY} 10.0.0.0/8 192.0.2.1:1");
        assert_eq!(read(&[(OptionName::TrunkPeer, twice.as_str()); 2]).expect_err("twice"), [Problem::Repeated]);
        let listeners = [(OptionName::Trunk, "tun0 192.0.2.1:1"), (OptionName::Trunk, "tun1 192.0.2.1:1")];
        assert_eq!(read(&listeners).expect_err("twice"), [Problem::Repeated]);
    }
}
