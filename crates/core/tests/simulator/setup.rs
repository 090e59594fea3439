//! What the operator has configured, and the few addresses that everything in a simulation is about.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::SharedMemory;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::grant::{Grant, Grants, Holder, Uncovered};
use tuntap_core::policy::guard::{ClaimScope, Gateways, GuardPolicy};
use tuntap_core::policy::limits::Limits;
use tuntap_core::policy::pattern::{Action, PolicyRule, PolicyRules};
use tuntap_core::policy::targets::AllowedTargets;
use tuntap_core::router::{CredentialsCheck, Settings, TrunkSettings};
use tuntap_wire::holding::RouterId;
use tuntap_wire::selector::{AddressPattern, ConnectionState, Selector};

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// In a network of the router.
    Vassals,
    /// The router's own.
    Own,
    /// That of a whole network of the router.
    Reserved,
    /// The host has it.
    Hosts,
    /// Another router's gateway is there.
    Gateway,
    /// Somewhere else.
    Elsewhere,
    /// None that a host can have.
    NoHost,
}

/// All addresses that packets come from and go to.
pub const ADDRESSES: [(&str, Class); 34] = [
    ("10.0.0.2", Class::Vassals),
    ("10.0.0.3", Class::Vassals),
    ("10.0.0.4", Class::Vassals),
    ("10.0.0.5", Class::Vassals),
    ("10.0.0.6", Class::Vassals),
    ("10.0.0.7", Class::Vassals),
    ("10.0.0.8", Class::Vassals),
    ("fd00:77::2", Class::Vassals),
    ("fd00:77::3", Class::Vassals),
    ("fd00:77::4", Class::Vassals),
    ("fd00:77::5", Class::Vassals),
    ("fd00:77::6", Class::Vassals),
    ("fd00:77::7", Class::Vassals),
    ("fd00:77::8", Class::Vassals),
    ("fd00:77::9", Class::Vassals),
    ("fd00:77::a", Class::Vassals),
    ("fd00:77::b", Class::Vassals),
    ("10.0.0.1", Class::Own),
    ("fd00:77::1", Class::Own),
    ("10.0.0.0", Class::Reserved),
    ("10.0.0.31", Class::Reserved),
    ("172.16.0.5", Class::Hosts),
    ("2001:db8:5::1", Class::Hosts),
    ("192.0.2.1", Class::Gateway),
    ("198.51.100.7", Class::Elsewhere),
    ("198.51.100.8", Class::Elsewhere),
    ("2001:db8::7", Class::Elsewhere),
    ("203.0.113.9", Class::Elsewhere),
    ("203.0.114.9", Class::Elsewhere),
    ("2001:db8:dead::9", Class::Elsewhere),
    ("127.0.0.1", Class::NoHost),
    ("224.0.0.1", Class::NoHost),
    ("fe80::1", Class::NoHost),
    ("ff02::1", Class::NoHost),
];

/// The chains deny and reject what comes from here or goes there.
pub const DENIED: [&str; 2] = ["203.0.113.0/24", "2001:db8:dead::/48"];
pub const REJECTED: &str = "203.0.114.0/24";

/// What routes lead to [`TARGETS`] by, the first one.
pub const ROUTED: &str = "198.51.100.8/32";

/// Gateways: one of a route, one that peers may name, and one that they must not.
pub const TARGETS: [&str; 3] = ["192.0.2.1:999", "192.0.2.1:1000", "192.0.2.66:999"];

/// Grants from the start: to whom, and whether a group is meant.
pub const GRANTS: [(&str, Holder); 4] = [
    ("10.0.0.6/32", Holder::User(1000)),
    ("10.0.0.7/32", Holder::Group(50)),
    ("fd00:77::6/128", Holder::User(1000)),
    ("10.0.0.8/32", Holder::Nobody),
];

/// A grant of what was granted to nobody until then.
pub const LATER_GRANT: (&str, Holder) = ("10.0.0.8/32", Holder::User(1001));

/// The router's networks, with its own addresses; the last one is there for many peers only.
const NETWORKS: [&str; 3] = ["10.0.0.1/27", "fd00:77::1/120", "10.1.0.1/16"];

/// The router's own network namespace.
pub const NAMESPACE: u64 = 1;

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

pub fn target(text: &str) -> SocketAddr {
    text.parse().expect("a socket's address")
}

pub fn grant((prefix, holder): (&str, Holder)) -> Grant {
    Grant { prefix: net(prefix), holder }
}

/// What an address is. One that is not among [`ADDRESSES`] is somewhere else, unless it is in a network of the router.
pub fn class(wanted: IpAddr) -> Class {
    let listed = ADDRESSES.iter().find(|(text, _)| address(text) == wanted);
    let is_inside = || NETWORKS.iter().any(|network| net(network).contains(&wanted));
    match listed {
        Some((_, class)) => *class,
        None if is_inside() => Class::Vassals,
        None => Class::Elsewhere,
    }
}

/// True for addresses of which it is known what they are.
pub fn is_listed(wanted: IpAddr) -> bool {
    net(NETWORKS[2]).contains(&wanted) || ADDRESSES.iter().any(|(text, _)| address(text) == wanted)
}

/// The operator's choices.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The router has networks, and guards what is its own and the host's.
    pub is_strict: bool,
    /// Only addresses of the networks may be claimed.
    pub claims_own: bool,
    /// What is granted to nobody may not be held.
    pub denies_uncovered: bool,
    pub has_grants: bool,
    pub has_chains: bool,
    pub has_gateway: bool,
    pub names_sources: bool,
    pub switch: bool,
    pub tun_takes_gso: bool,
    pub credentials: CredentialsCheck,
    pub max_addresses: Option<usize>,
    pub peers: usize,
    pub peers_per_uid: usize,
    pub unclaimed: usize,
    pub device_rules: usize,
    /// Events in one turn.
    pub turn: usize,
    /// There are networks for hundreds.
    pub is_large: bool,
    /// The kernel has a path for flows.
    pub has_kernel_path: bool,
}

/// The queues of the TUN device, where it has several.
pub const TUN_QUEUES: u8 = 4;

impl Setup {
    pub fn limits(&self) -> Limits {
        Limits {
            peers: self.peers,
            peers_per_uid: self.peers_per_uid,
            addresses_per_uid: self.max_addresses,
            unclaimed: self.unclaimed,
            unclaimed_timeout: Duration::from_secs(10),
            queued_bytes: Limits::MIN_QUEUED_BYTES,
            device_rules: self.device_rules,
            flows: Limits::MIN_FLOWS,
            flows_per_peer: Limits::MIN_FLOWS_PER_PEER,
        }
    }

    /// The router's networks.
    pub fn networks(&self) -> Vec<IpNet> {
        let count = match (self.is_strict, self.is_large) {
            (false, _) => 0,
            (true, false) => 2,
            (true, true) => 3,
        };
        NETWORKS[..count].iter().map(|network| net(network)).collect()
    }

    pub fn host_addresses() -> [IpNet; 2] {
        [net("172.16.0.5/16"), net("2001:db8:5::1/64")]
    }

    pub fn policy(&self, later: bool) -> Policy {
        let networks = self.networks();
        let chain = |side: fn(AddressPattern) -> Selector| {
            let rule = |prefix: &str, target| PolicyRule { selector: side(AddressPattern::Net(net(prefix))), target };
            let denied = DENIED.iter().map(|prefix| rule(prefix, Action::Deny));
            // Nothing passes in the opposite direction, so that this lets nothing pass either.
            let answers = DENIED.iter().chain([&REJECTED]).map(|prefix| {
                let PolicyRule { selector, target } = rule(prefix, Action::Allow);
                PolicyRule { selector: selector.with_state(Some(ConnectionState::Established)), target }
            });
            let rules: Vec<_> = answers.chain(denied).chain([rule(REJECTED, Action::Reject)]).collect();
            PolicyRules::chain(rules.into_iter().filter(|_| self.has_chains))
        };
        let towards = |dst| Selector::new(AddressPattern::Any, dst, None).expect("valid");
        let from = |src| Selector::new(src, AddressPattern::Any, None).expect("valid");
        let uncovered = if self.denies_uncovered { Uncovered::Deny } else { Uncovered::Allow };
        let grants = Grants::new(GRANTS.into_iter().filter(|_| self.has_grants).map(grant), uncovered);
        let route = PolicyRule { selector: towards(AddressPattern::Net(net(ROUTED))), target: target(TARGETS[0]) };
        let gateways = Gateways::new([], [target(TARGETS[0])].into_iter().filter(|_| self.has_gateway), &[], &[], []);
        let sources = ["192.0.2.0/24"].map(net);
        let policy = Policy {
            shapes: std::sync::Arc::default(),
            generation: 7,
            sets: Vec::new(),
            counters: Vec::new(),
            has_script: false,
            firewall_in: chain(from),
            firewall_out: chain(towards),
            routes: PolicyRules::new([route]),
            has_gateway: self.has_gateway,
            switch: self.switch,
            grants,
            device_routes: AllowedTargets::new(TARGETS[..2].iter().map(|text| target(text)), []),
            gateway_sources: sources.into_iter().filter(|_| self.names_sources).collect(),
            guard: GuardPolicy {
                claims: if self.claims_own { ClaimScope::Own } else { ClaimScope::Any },
                is_strict: self.is_strict,
                own: networks.clone(),
                gateways,
            },
            networks,
            slices: Vec::new(),
            port_targets: Vec::new(),
            max_addresses: self.max_addresses,
        };
        if later { policy.with_grants([grant(LATER_GRANT)]) } else { policy }
    }

    pub fn forwarder(&self, later: bool, memory: SharedMemory) -> Forwarder {
        Forwarder::with_memory(self.policy(later), 42, &self.limits(), memory)
    }

    pub fn settings(&self) -> Settings {
        Settings {
            limits: self.limits(),
            credentials: self.credentials,
            addresses: self.networks().iter().map(IpNet::addr).collect(),
            gateway: self.has_gateway.then(|| target("0.0.0.0:999")),
            namespace: Some(NAMESPACE),
            dns: vec![address("9.9.9.9")],
            router: RouterId::new(7),
            trunks: TrunkSettings::default(),
            tun_queues: if self.switch { TUN_QUEUES } else { 1 },
            host_etc: Vec::new(),
        }
    }
}

/// Any set-up for a few peers.
pub fn setup() -> impl Strategy<Value = Setup> {
    let credentials = prop_oneof![
        3 => Just(CredentialsCheck::Off),
        1 => Just(CredentialsCheck::Shown),
        1 => Just(CredentialsCheck::Hook)
    ];
    let flags = (any::<[bool; 8]>(), any::<bool>(), prop::bool::weighted(0.75), credentials);
    let limits = (prop_oneof![Just(None), Just(Some(1)), Just(Some(2)), Just(Some(0))], 3..12_usize, 0..5_usize);
    (flags, limits, (3..9_usize, prop_oneof![Just(2_usize), Just(300)], 1..4_usize)).prop_map(
        |(
            (flags, tun_takes_gso, has_kernel_path, credentials),
            (max_addresses, peers, peers_per_uid),
            (unclaimed, rules, turn),
        )| {
            let [is_strict, claims_own, denies, has_grants, has_chains, has_gateway, names_sources, switch] = flags;
            Setup {
                is_strict,
                claims_own: is_strict && claims_own,
                denies_uncovered: denies && has_grants && !claims_own,
                has_grants,
                has_chains,
                has_gateway,
                names_sources,
                switch,
                tun_takes_gso,
                credentials,
                max_addresses,
                peers,
                peers_per_uid,
                unclaimed,
                device_rules: rules,
                turn,
                is_large: false,
                has_kernel_path,
            }
        },
    )
}

/// A set-up for hundreds of peers.
pub fn large_setup() -> impl Strategy<Value = Setup> {
    setup().prop_map(|setup| Setup {
        peers: 500,
        peers_per_uid: 0,
        unclaimed: 400,
        denies_uncovered: false,
        credentials: CredentialsCheck::Off,
        is_large: true,
        ..setup
    })
}
