//! The chains of nf_tables (linux/netfilter/nf_tables.h).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::expression::{self, Element, Lookup};
use super::{BaseChain, Hook};
use tuntap_sys::netlink::netfilter::{self, attribute, attributes, big_endian, string, text_attribute};

/// The messages that ask for tables, for chains, for rules, and for the elements of a set.
const GET_TABLES: u16 = 1;
const GET_CHAINS: u16 = 4;
const GET_RULES: u16 = 7;
const GET_ELEMENTS: u16 = 13;

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

/// Attributes of lists of elements, and of the elements.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;

/// `NF_DROP` of linux/netfilter.h.
const DROP: u32 = 0;

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`, the families whose chains see IP packets.
const FAMILIES: [(u8, &str, Option<bool>); 3] = [(INET, "inet", None), (2, "ip", Some(false)), (10, "ip6", Some(true))];
const INET: u8 = 1;

/// `NFPROTO_ARP`, `NFPROTO_NETDEV` and `NFPROTO_BRIDGE`, whose chains see frames.
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

/// Reads all tables, and the chains at which packets begin.
pub fn read() -> nix::Result<Found> {
    let mut found = Found::default();
    for table in netfilter::dump(GET_TABLES, INET, &[])? {
        found.inet_tables.insert(string(&table.attributes, TABLE_NAME), BTreeMap::new());
    }
    let mut bases = Vec::new();
    for chain in netfilter::dump(GET_CHAINS, 0, &[])? {
        let attributes = &chain.attributes;
        let (table, name) = (string(attributes, CHAIN_TABLE), string(attributes, CHAIN_NAME));
        if chain.family == INET {
            found.inet_tables.entry(table.clone()).or_default().insert(name.clone(), 0);
        }
        let Some(hook) = attribute(attributes, CHAIN_HOOK).and_then(|hook| big_endian(hook, HOOK_NUMBER)) else {
            continue;
        };
        if let Some((_, family)) = FOREIGN.iter().find(|(number, _)| *number == chain.family) {
            found.foreign.push(format!("{family} {table}, chain {name}"));
        }
        let family = FAMILIES.iter().find(|(number, ..)| *number == chain.family);
        let hook = usize::try_from(hook).ok().and_then(|hook| Hook::ALL.get(hook));
        if let (Some((family, family_name, is_ipv6)), Some(hook)) = (family, hook) {
            let is_nat = string(attributes, CHAIN_TYPE) == "nat";
            let drops = big_endian(attributes, CHAIN_POLICY) == Some(DROP);
            let (family, family_name, is_ipv6, hook) = (*family, *family_name, *is_ipv6, *hook);
            bases.push(Base { family, family_name, is_ipv6, table, name, hook, is_nat, drops });
        }
    }
    if found.inet_tables.is_empty() && bases.is_empty() {
        return Ok(found);
    }
    let rules = netfilter::dump(GET_RULES, 0, &[])?;
    for rule in rules.iter().filter(|rule| rule.family == INET) {
        let (table, chain) = (string(&rule.attributes, RULE_TABLE), string(&rule.attributes, RULE_CHAIN));
        *found.inet_tables.entry(table).or_default().entry(chain).or_default() += 1;
    }
    found.chains = bases.into_iter().map(|base| base.read(&rules)).collect();
    Ok(found)
}

impl Base {
    fn read(self, rules: &[netfilter::Message]) -> BaseChain {
        let Self { family, family_name, is_ipv6, table, name, hook, is_nat, drops } = self;
        let sets = Sets { family, table: &table, known: RefCell::default() };
        let mut others: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for rule in rules {
            if rule.family == family && string(&rule.attributes, RULE_TABLE) == table {
                let place = format!("handle {}", handle(&rule.attributes));
                let expressions = attribute(&rule.attributes, RULE_EXPRESSIONS).unwrap_or_default();
                let rules = expression::rules(expressions, &place, &sets);
                others.entry(string(&rule.attributes, RULE_CHAIN)).or_default().extend(rules);
            }
        }
        let rules = others.remove(&name).unwrap_or_default();
        BaseChain { table: format!("{family_name} {table}"), name, hook, is_nat, is_ipv6, drops, rules, others }
    }
}

fn handle(attributes: &[u8]) -> u64 {
    attribute(attributes, RULE_HANDLE).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// The sets of a table, each of which is read when a rule needs it.
struct Sets<'a> {
    family: u8,
    table: &'a str,
    known: RefCell<HashMap<String, Option<Vec<Element>>>>,
}

impl Lookup for Sets<'_> {
    fn elements(&self, set: &str) -> Option<Vec<Element>> {
        self.known.borrow_mut().entry(set.to_owned()).or_insert_with(|| self.read(set).ok()).clone()
    }
}

impl Sets<'_> {
    fn read(&self, set: &str) -> nix::Result<Vec<Element>> {
        let about = [text_attribute(LIST_TABLE, self.table), text_attribute(LIST_SET, set)].concat();
        let lists = netfilter::dump(GET_ELEMENTS, self.family, &about)?;
        let of_list = |list: &netfilter::Message| {
            let elements = attribute(&list.attributes, LIST_ELEMENTS).unwrap_or_default();
            let elements = attributes(elements).filter(|(kind, _)| *kind == LIST_ELEMENT);
            elements.map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>()
        };
        let elements: Vec<Vec<u8>> = lists.iter().flat_map(of_list).collect();
        Ok(Element::read_all(elements.iter().map(Vec::as_slice)))
    }
}
