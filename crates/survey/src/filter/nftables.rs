//! Reading the chains of nf_tables (linux/netfilter/nf_tables.h).

use std::collections::{BTreeMap, HashMap};

use super::expression::{self, Element, Lookup};
use super::{BaseChain, Hook};
use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::netlink::attributes::{self, big_endian, find, text};
use tuntap_sys::netlink::nftables::PAIR_GUARDS;
use tuntap_sys::netlink::nftables::lists::{Lists, Object};

/// Attributes of tables, of chains, of their hooks, and of rules.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;

/// The attribute of a list of elements that has them in it, and the type that each of them has there.
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;

/// `NF_DROP` of linux/netfilter.h.
const DROP: u32 = 0;

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`, the families whose chains see IP packets.
const FAMILIES: [(u8, &str, Option<bool>); 3] = [(INET, "inet", None), (2, "ip", Some(false)), (10, "ip6", Some(true))];
const INET: u8 = 1;

/// `NFPROTO_ARP`, `NFPROTO_NETDEV` and `NFPROTO_BRIDGE`, the families whose chains see frames.
const FOREIGN: [(u8, &str); 3] = [(3, "arp"), (5, "netdev"), (7, "bridge")];

/// What is read of nf_tables.
#[derive(Debug, Default)]
pub struct Found {
    pub chains: Vec<BaseChain>,
    pub inet_tables: BTreeMap<String, BTreeMap<String, usize>>,
    pub foreign: Vec<String>,
}

/// A chain with a hook.
struct Base {
    family: u8,
    family_name: &'static str,
    is_ipv6: Option<bool>,
    table: String,
    name: String,
    hook: Hook,
    is_nat: bool,
    drops: bool,
}

/// Reads all tables, and the chains with hooks.
pub fn read() -> Result<Found, NetlinkError> {
    let mut lists = Lists::open()?;
    let mut found = Found::default();
    for table in lists.tables(INET)? {
        found.inet_tables.insert(text(&table.attributes, TABLE_NAME), BTreeMap::new());
    }
    let chains = lists.chains()?;
    let bases: Vec<_> = chains.iter().filter_map(|chain| found.add_chain(chain)).collect();
    if found.inet_tables.is_empty() && bases.is_empty() {
        return Ok(found);
    }
    let rules = lists.rules()?;
    for rule in rules.iter().filter(|rule| rule.family == INET) {
        let (table, chain) = (text(&rule.attributes, RULE_TABLE), text(&rule.attributes, RULE_CHAIN));
        *found.inet_tables.entry(table).or_default().entry(chain).or_default() += 1;
    }
    found.chains = bases.into_iter().map(|base| base.read(&rules, &mut lists)).collect();
    Ok(found)
}

impl Found {
    /// Notes a chain. Returns it if it has a hook of IP.
    fn add_chain(&mut self, chain: &Object) -> Option<Base> {
        let attributes = &chain.attributes;
        let (table, name) = (text(attributes, CHAIN_TABLE), text(attributes, CHAIN_NAME));
        if chain.family == INET {
            self.inet_tables.entry(table.clone()).or_default().insert(name.clone(), 0);
        }
        let hook = big_endian(find(attributes, CHAIN_HOOK)?, HOOK_NUMBER)?;
        if let Some((_, family)) = FOREIGN.iter().find(|(number, _)| *number == chain.family)
            && !table.starts_with(PAIR_GUARDS)
        {
            self.foreign.push(format!("{family} {table}, chain {name}"));
        }
        let (family, family_name, is_ipv6) = *FAMILIES.iter().find(|(number, ..)| *number == chain.family)?;
        let hook = *Hook::ALL.get(usize::try_from(hook).ok()?)?;
        let is_nat = text(attributes, CHAIN_TYPE) == "nat";
        let drops = big_endian(attributes, CHAIN_POLICY) == Some(DROP);
        Some(Base { family, family_name, is_ipv6, table, name, hook, is_nat, drops })
    }
}

impl Base {
    /// Reads the rules of the chain's table.
    fn read(self, rules: &[Object], lists: &mut Lists) -> BaseChain {
        let Self { family, family_name, is_ipv6, table, name, hook, is_nat, drops } = self;
        let mut sets = Sets { family, table: &table, lists, known: HashMap::new() };
        let mut others: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for rule in rules {
            if rule.family == family && text(&rule.attributes, RULE_TABLE) == table {
                let place = format!("handle {}", handle(&rule.attributes));
                let expressions = find(&rule.attributes, RULE_EXPRESSIONS).unwrap_or_default();
                let rules = expression::rules(expressions, &place, &mut sets);
                others.entry(text(&rule.attributes, RULE_CHAIN)).or_default().extend(rules);
            }
        }
        let rules = others.remove(&name).unwrap_or_default();
        BaseChain { table: format!("{family_name} {table}"), name, hook, is_nat, is_ipv6, drops, rules, others }
    }
}

fn handle(attributes: &[u8]) -> u64 {
    find(attributes, RULE_HANDLE).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// The sets of a table. Each is read when the first rule needs it.
struct Sets<'a> {
    family: u8,
    table: &'a str,
    lists: &'a mut Lists,
    known: HashMap<String, Option<Vec<Element>>>,
}

impl Lookup for Sets<'_> {
    fn elements(&mut self, set: &str) -> Option<Vec<Element>> {
        if let Some(known) = self.known.get(set) {
            return known.clone();
        }
        let elements = self.read(set).ok();
        self.known.insert(set.to_owned(), elements.clone());
        elements
    }
}

impl Sets<'_> {
    fn read(&mut self, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let lists = self.lists.elements(self.family, self.table, set)?;
        let elements = lists.iter().flat_map(|list| {
            let elements = find(&list.attributes, LIST_ELEMENTS).unwrap_or_default();
            attributes::iterate(elements).filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, bytes)| bytes)
        });
        Ok(Element::read_all(elements))
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use tuntap_sys::netlink::nftables::IngressDrops;

    use super::*;

    #[test]
    fn guards_of_pairs_are_not_foreign() {
        let inside = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let make = |table: &str| {
                let mut drops = IngressDrops::open(table).expect("nftables");
                drops.add("first", "lo").expect("a device");
                drops
            };
            let tables = [make("uwsgi-tuntap-pairs-emperor0"), make("another")];
            assert_eq!(read().expect("a list").foreign, ["netdev another, chain first"]);
            drop(tables);
            assert_eq!(read().expect("a list").foreign, Vec::<String>::new());
        });
        inside.join().expect("no panic");
    }
}
