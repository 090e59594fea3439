//! The chains of nf_tables (linux/netfilter/nf_tables.h).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::ForwardChain;
use super::expression::{self, Element, Lookup};
use super::netlink::{self, attribute, attributes, big_endian, string, text_attribute};

/// The messages that ask for chains, for rules, and for the elements of a set.
const GET_CHAINS: u16 = 4;
const GET_RULES: u16 = 7;
const GET_ELEMENTS: u16 = 13;

/// Attributes of chains, of their hooks, and of rules.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
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

/// `NF_INET_FORWARD` and `NF_DROP` of linux/netfilter.h.
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`, the families whose chains see IP packets.
const FAMILIES: [(u8, &str, Option<bool>); 3] = [(1, "inet", None), (2, "ip", Some(false)), (10, "ip6", Some(true))];

/// All chains at which forwarded packets begin.
pub fn chains() -> nix::Result<Vec<ForwardChain>> {
    let mut chains = Vec::new();
    for chain in netlink::dump(GET_CHAINS, 0, &[])? {
        let attributes = &chain.attributes;
        let Some(family) = FAMILIES.iter().find(|(number, ..)| *number == chain.family) else { continue };
        let hook = attribute(attributes, CHAIN_HOOK).and_then(|hook| big_endian(hook, HOOK_NUMBER));
        if hook == Some(FORWARD) {
            let drops = big_endian(attributes, CHAIN_POLICY) == Some(DROP);
            chains.push((family, string(attributes, CHAIN_TABLE), string(attributes, CHAIN_NAME), drops));
        }
    }
    if chains.is_empty() {
        return Ok(Vec::new());
    }
    let rules = netlink::dump(GET_RULES, 0, &[])?;
    let read = |((number, family, is_ipv6), table, name, drops): (&(u8, &str, _), String, String, bool)| {
        let sets = Sets { family: *number, table: &table, known: RefCell::default() };
        let mut others: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for rule in &rules {
            if rule.family == *number && string(&rule.attributes, RULE_TABLE) == table {
                let place = format!("handle {}", handle(&rule.attributes));
                let expressions = attribute(&rule.attributes, RULE_EXPRESSIONS).unwrap_or_default();
                let rules = expression::rules(expressions, &place, &sets);
                others.entry(string(&rule.attributes, RULE_CHAIN)).or_default().extend(rules);
            }
        }
        let rules = others.remove(&name).unwrap_or_default();
        ForwardChain { table: format!("{family} {table}"), name, is_ipv6: *is_ipv6, drops, rules, others }
    };
    Ok(chains.into_iter().map(read).collect())
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
        let lists = netlink::dump(GET_ELEMENTS, self.family, &about)?;
        let of_list = |list: &netlink::Message| {
            let elements = attribute(&list.attributes, LIST_ELEMENTS).unwrap_or_default();
            let elements = attributes(elements).filter(|(kind, _)| *kind == LIST_ELEMENT);
            elements.map(|(_, bytes)| Element::read(bytes)).collect::<Vec<_>>()
        };
        Ok(lists.iter().flat_map(of_list).collect())
    }
}
