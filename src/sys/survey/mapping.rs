//! Rules of nf_tables that lead a port of this host elsewhere, whoever made them (linux/netfilter/nf_tables.h).

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::filter::netlink::{attribute, attributes, big_endian, dump, string};

/// The message that asks for rules.
const GET_RULES: u16 = 7;

/// Attributes of rules, of expressions, of their data.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;

/// `NFT_PAYLOAD_TRANSPORT_HEADER`, and where a destination port is in it.
const TRANSPORT_HEADER: u32 = 2;
const PORT_OFFSET: u32 = 2;
const PORT_LEN: u32 = 2;

/// `NFT_META_L4PROTO` and `NFT_META_NFPROTO`.
const META_PROTOCOL: u32 = 16;
const META_FAMILY: u32 = 15;

/// `NFT_CMP_EQ`, `NFT_CMP_LTE`, `NFT_CMP_GTE`, and `NFT_NAT_DNAT`. A range is one of each of the second and the third.
const EQUAL: u32 = 0;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
const TO_DESTINATION: u32 = 1;

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILIES: [(u8, &str, Option<bool>); 3] = [(1, "inet", None), (2, "ip", Some(true)), (10, "ip6", Some(false))];

/// A rule that translates destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Table and chain, for people.
    pub place: String,
    table: String,
    /// Number of its transport protocol, if the rule asks for one.
    protocol: Option<u8>,
    ports: RangeInclusive<u16>,
    is_ipv4: Option<bool>,
}

impl Mapping {
    /// Whether the rule is about a port of a protocol.
    pub fn takes(&self, protocol: u8, port: u16) -> bool {
        self.protocol.is_none_or(|own| own == protocol) && self.ports.contains(&port)
    }

    /// Whether it is about packets of this family.
    pub fn is_for(&self, ipv4: bool) -> bool {
        self.is_ipv4.is_none_or(|own| own == ipv4)
    }

    /// Whether it is in a table of the family `inet` with one of these names.
    pub fn is_in_one_of(&self, tables: &[String]) -> bool {
        tables.iter().any(|name| self.table == format!("inet {name}"))
    }
}

/// All rules that lead a port, or a few in a row, elsewhere. Those that don't name ports are not about services.
pub fn mappings() -> nix::Result<Vec<Mapping>> {
    let rules = dump(GET_RULES, 0, &[])?;
    Ok(rules.iter().filter_map(|rule| mapping(rule.family, &rule.attributes)).collect())
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Port,
    Protocol,
    Family,
}

fn mapping(family: u8, rule: &[u8]) -> Option<Mapping> {
    let (_, family, mut is_ipv4) = *FAMILIES.iter().find(|(number, ..)| *number == family)?;
    let table = format!("{family} {}", string(rule, TABLE));
    let place = format!("the table {table}, chain {}", string(rule, CHAIN));
    let mut registers = HashMap::new();
    let (mut protocol, mut ports) = (None, None::<RangeInclusive<u16>>);
    for (_, expression) in attributes(attribute(rule, EXPRESSIONS)?) {
        let data = attribute(expression, DATA).unwrap_or_default();
        match string(expression, NAME).as_str() {
            "payload" => {
                let is_port = big_endian(data, 2) == Some(TRANSPORT_HEADER)
                    && big_endian(data, 3) == Some(PORT_OFFSET)
                    && big_endian(data, 4) == Some(PORT_LEN);
                registers.insert(big_endian(data, 1)?, is_port.then_some(Loaded::Port));
            }
            "meta" => {
                let loaded = match big_endian(data, 2) {
                    Some(META_PROTOCOL) => Some(Loaded::Protocol),
                    Some(META_FAMILY) => Some(Loaded::Family),
                    _ => None,
                };
                // Without a register it sets something.
                if let Some(register) = big_endian(data, 1) {
                    registers.insert(register, loaded);
                }
            }
            "cmp" => {
                let operation = big_endian(data, 2)?;
                let value = attribute(data, 3).and_then(|value| attribute(value, VALUE)).unwrap_or_default();
                match registers.get(&big_endian(data, 1)?).copied().flatten() {
                    Some(Loaded::Port) => {
                        let (first, last) = ports.clone().unwrap_or(0..=u16::MAX).into_inner();
                        let port = port(value)?;
                        ports = match operation {
                            EQUAL => Some(port..=port),
                            AT_LEAST => Some(port..=last),
                            AT_MOST => Some(first..=port),
                            _ => ports,
                        };
                    }
                    Some(Loaded::Protocol) if operation == EQUAL => protocol = value.first().copied(),
                    Some(Loaded::Family) if operation == EQUAL => {
                        let named = FAMILIES.iter().find(|(number, ..)| value.first() == Some(number));
                        is_ipv4 = named.and_then(|(.., is_ipv4)| *is_ipv4).or(is_ipv4);
                    }
                    _ => {}
                }
            }
            "range" => {
                let end = |kind| port(attribute(attribute(data, kind)?, VALUE)?);
                if registers.get(&big_endian(data, 1)?).copied().flatten() == Some(Loaded::Port)
                    && let (Some(first), Some(last)) = (end(3), end(4))
                {
                    ports = Some(first..=last);
                }
            }
            // Of iptables: `struct xt_tcp` and `struct xt_udp` begin with the bounds of source and destination ports.
            "match" => {
                let number = match string(data, 1).as_str() {
                    "tcp" => 6,
                    "udp" => 17,
                    _ => continue,
                };
                let info = attribute(data, 3).unwrap_or_default();
                let bound = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
                protocol = Some(number);
                ports = bound(4).zip(bound(6)).map(|(first, last)| first..=last).filter(|it| *it != (0..=u16::MAX));
            }
            "nat" if big_endian(data, 1) == Some(TO_DESTINATION) => {
                let family = big_endian(data, 2).and_then(|family| u8::try_from(family).ok());
                let named = FAMILIES.iter().find(|(number, ..)| family == Some(*number));
                is_ipv4 = named.and_then(|(.., is_ipv4)| *is_ipv4).or(is_ipv4);
                return Some(Mapping { place, table, protocol, ports: ports?, is_ipv4 });
            }
            "redir" => return Some(Mapping { place, table, protocol, ports: ports?, is_ipv4 }),
            "target" if matches!(string(data, 1).as_str(), "DNAT" | "REDIRECT") => {
                return Some(Mapping { place, table, protocol, ports: ports?, is_ipv4 });
            }
            _ => {}
        }
    }
    None
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn rules_of_nft_and_iptables_that_lead_ports_elsewhere_are_found() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let run = |line: &str| {
                let words: Vec<_> = line.split_whitespace().collect();
                let status = std::process::Command::new(words[0]).args(&words[1..]).status();
                assert!(status.expect("it can be started").success(), "{line}");
            };
            run("nft add table inet a");
            run("nft add chain inet a pre { type nat hook prerouting priority -100 ; }");
            run("nft add rule inet a pre tcp dport 22 dnat ip to 10.0.0.2:22");
            run("nft add rule inet a pre udp dport 53-54 redirect to :5353");
            run("nft add rule inet a pre tcp dport 99 accept");
            run("iptables-nft -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.0.0.3:80");
            let found = mappings().expect("nf_tables");
            let takes = |protocol, port, ipv4| {
                found.iter().any(|mapping| mapping.takes(protocol, port) && mapping.is_for(ipv4))
            };
            assert!(
                takes(6, 22, true) && takes(17, 53, false) && takes(17, 54, true) && takes(6, 80, true),
                "{found:?}"
            );
            assert!(
                !takes(6, 22, false)
                    && !takes(17, 55, true)
                    && !takes(17, 22, true)
                    && !takes(6, 53, true)
                    && !takes(6, 99, true)
                    && !takes(6, 80, false)
            );
            assert!(found.iter().any(|mapping| mapping.is_in_one_of(&["a".to_owned()])));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
