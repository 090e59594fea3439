//! Limits on the connections that one vassal may have through the host's kernel. Connection tracking, and the ports of the
//! host's address, are shared by all vassals.

use std::time::Duration;

use super::table::chain;
use tuntap_config::RouterSpec;
use tuntap_sys::netlink::nftables::{Chain, Family, Key, NftRule, Rate, Set, Unit};

/// The chain for connections above a limit.
const EXCESS: &str = "excess";
/// The chain that counts the first packets of vassals' connections.
const CONNECTIONS: &str = "connections";

/// Most addresses in a set that counts. An address is only in a set with a tracked connection.
const MAX_ADDRESSES: u32 = 65_535;
/// Most addresses in a set of offenders, who were above a limit.
const MAX_OFFENDERS: u32 = 1024;
/// How long offenders stay in their set.
const OFFENDER_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long an address that opens no connections stays in a set. By then its bucket is full again, unless the burst is
/// excessive.
const RATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Each address of IPv6 gets one part in so many of a limit, because a vassal may have several of them, but one of IPv4.
const IPV6_SHARE: u32 = 2;

/// Comments of rules that count. The lines in the log have them, too.
pub const TOO_MANY: &str = "connections above tuntap-router-max-connections";
pub const TOO_FAST: &str = "connections above tuntap-router-connection-rate";
pub const FRAGMENTS: &str = "fragments above tuntap-router-fragment-rate";
pub const TOO_MANY_IN: &str =
    "connections of one client to a vassal by ports of the host above tuntap-router-max-connections";

/// The limits of fragments, by number and by bytes. The kernel keeps fragments for half a minute (IPv6: a minute), in 4 MiB
/// for all. Both number and length count: with its bookkeeping, a fragment of 1,400 bytes takes 2,500, and a small one some
/// 800.
fn fragment_rates(per_second: u32) -> [Rate; 2] {
    const SECONDS_OF_BURST: u32 = 10;
    const BYTES: u32 = 1200;
    let burst = per_second.saturating_mul(SECONDS_OF_BURST);
    [
        Rate { unit: Unit::Packets, per_second, burst },
        Rate { unit: Unit::Bytes, per_second: per_second.saturating_mul(BYTES), burst: burst.saturating_mul(BYTES) },
    ]
}

/// The limits of a router, and the sets that they are counted in.
#[derive(Debug, Default)]
pub struct Limits {
    families: Vec<FamilyLimits>,
}

#[derive(Debug)]
struct FamilyLimits {
    connections: Option<(u32, Set)>,
    rate: Option<(Rate, Set)>,
    /// Connections by mapped ports, by client and vassal.
    inward: Option<(u32, Set)>,
    /// Fragments, by number and by bytes.
    fragments: Vec<(Rate, Set)>,
    offenders: Set,
}

impl Limits {
    /// The limits of a router, for the families that it has addresses of.
    pub fn of(router: &RouterSpec) -> Self {
        let max = router.protection.max_connections();
        let rate = router.protection.connection_rate();
        let fragments = router.protection.fragment_rate();
        if max.is_none() && rate.is_none() && fragments.is_none() {
            return Self::default();
        }
        let has = |family| router.addresses.iter().any(|net| net.addr().is_ipv4() == (family == Family::Ipv4));
        let limits = Family::ALL.into_iter().filter(|family| has(*family)).map(|family| {
            let [connections, rates, inward, counted, weighed, offenders] = match family {
                Family::Ipv4 => ["connections4", "rates4", "inward4", "fragments4", "fragment-bytes4", "offenders4"],
                Family::Ipv6 => ["connections6", "rates6", "inward6", "fragments6", "fragment-bytes6", "offenders6"],
            };
            let share = |all: u32| if family == Family::Ipv6 { (all / IPV6_SHARE).max(1) } else { all };
            let set = |name, size, timeout| Set { name, family, key: Key::Source, size, timeout };
            let has_ports = router.ports.iter().any(|port| port.target.is_ipv4() == (family == Family::Ipv4));
            FamilyLimits {
                connections: max.map(|max| (share(max), set(connections, MAX_ADDRESSES, None))),
                rate: rate.map(|rate| {
                    let (per_second, burst) = (share(rate.per_second), share(rate.burst));
                    let rate = Rate { unit: Unit::Packets, per_second, burst };
                    (rate, set(rates, MAX_ADDRESSES, Some(RATE_TIMEOUT)))
                }),
                inward: max.filter(|_| has_ports).map(|max| {
                    let pairs = set(inward, MAX_ADDRESSES, None);
                    (max, Set { key: Key::SourceAndDestination, ..pairs })
                }),
                fragments: fragments
                    .into_iter()
                    .flat_map(|all| fragment_rates(share(all)))
                    .zip([counted, weighed])
                    .map(|(rate, name)| (rate, set(name, MAX_ADDRESSES, Some(RATE_TIMEOUT))))
                    .collect(),
                offenders: set(offenders, MAX_OFFENDERS, Some(OFFENDER_TIMEOUT)),
            }
        });
        Self { families: limits.collect() }
    }

    /// The chains that other chains jump to.
    pub fn targets(&self) -> Vec<Chain> {
        if self.families.is_empty() {
            return Vec::new();
        }
        let named = self.families.iter().map(|family| NftRule::new().counts_for_source(&family.offenders));
        let excess = named.chain([NftRule::new().discard()]).collect();
        let counted = self.families.iter().flat_map(|family| {
            let fast = family.rate.iter().map(|(rate, set)| {
                NftRule::new().source_is_faster_than(*rate, set).count().because(TOO_FAST).jump(EXCESS)
            });
            let many = family.connections.iter().map(|(max, set)| {
                NftRule::new().source_has_more_than(*max, set).count().because(TOO_MANY).jump(EXCESS)
            });
            fast.chain(many).collect::<Vec<_>>()
        });
        vec![chain(EXCESS, None, excess), chain(CONNECTIONS, None, counted.collect())]
    }

    /// Rules for fragments, before the kernel keeps them for reassembly.
    pub fn of_fragments(&self, router: &RouterSpec) -> Vec<NftRule> {
        let all = self.families.iter().flat_map(|family| family.fragments.iter());
        all.map(|(rate, set)| {
            let fragment = NftRule::new().iif(&router.device).is_fragment(set.family);
            fragment.source_is_faster_than(*rate, set).count().because(FRAGMENTS).jump(EXCESS)
        })
        .collect()
    }

    /// Rules for everything that comes in by the device.
    pub fn of_arriving(&self, router: &RouterSpec) -> Vec<NftRule> {
        if self.families.is_empty() {
            return Vec::new();
        }
        vec![NftRule::new().iif(&router.device).begins_connection().jump(CONNECTIONS)]
    }

    /// Rules for connections by mapped ports. Each client of a vassal is counted alone: a common limit could be used up by
    /// anybody with packets from forged addresses.
    pub fn of_forwarded(&self, router: &RouterSpec) -> Vec<NftRule> {
        let inward = self.families.iter().filter_map(|family| family.inward.as_ref());
        inward
            .map(|(max, set)| {
                let dnat = NftRule::new().oif(&router.device).begins_connection().is_dnat();
                dnat.source_has_more_than(*max, set).count().because(TOO_MANY_IN).discard()
            })
            .collect()
    }

    /// The sets that the rules need.
    pub fn into_sets(self) -> Vec<Set> {
        let sets = self.families.into_iter().flat_map(|family| {
            let counted = [family.connections.map(|it| it.1), family.rate.map(|it| it.1), family.inward.map(|it| it.1)];
            let fragments = family.fragments.into_iter().map(|it| it.1);
            counted.into_iter().flatten().chain(fragments).chain([family.offenders])
        });
        sets.collect()
    }
}
