//! Reading the counters of rules.

use std::collections::BTreeMap;

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{
    ExpressionAttribute, Expressions, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
};

use super::{COMMENT, Nftables, inet};
use crate::netlink::NetlinkError;

/// NFTA_COUNTER_PACKETS of linux/netfilter/nf_tables.h.
const PACKETS: u16 = 2;

impl Nftables {
    /// The packets that the rules of a table have counted, by the rules' comments ([`super::NftRule::because`]).
    pub fn counted(&mut self, table: &str) -> Result<BTreeMap<String, u64>, NetlinkError> {
        let attributes = vec![RuleAttribute::Table(table.to_owned())];
        let message = inet(NfTablesMessage::GetRule(RuleMessage { attributes }));
        let answers = self.0.list(message, || format!("nftables: listing the rules of inet {table}"))?;
        let mut counted = BTreeMap::new();
        for answer in answers {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = answer.inner else { continue };
            // A kernel that doesn't know the filter lists the rules of all tables.
            let is_of_table =
                rule.attributes.iter().any(|it| matches!(it, RuleAttribute::Table(name) if name == table));
            if let (true, Some(reason), Some(packets)) = (is_of_table, reason(&rule), packets(&rule)) {
                *counted.entry(reason).or_default() += packets;
            }
        }
        Ok(counted)
    }
}

fn reason(rule: &RuleMessage) -> Option<String> {
    rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::UserData(bytes) => match bytes.as_slice() {
            [COMMENT, _, text @ .., 0] => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        },
        _ => None,
    })
}

fn packets(rule: &RuleMessage) -> Option<u64> {
    let expressions = rule.attributes.iter().filter_map(|attribute| match attribute {
        RuleAttribute::Expressions(list) => Some(list),
        _ => None,
    });
    let parts = expressions.flatten().filter_map(|it| match it {
        ListAttribute::Element(parts) => Some(parts),
        _ => None,
    });
    parts.flatten().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes })
            if expression_type == "counter" =>
        {
            attributes.iter().find_map(|attribute| {
                use netlink_packet_core::Nla;
                let mut bytes = [0; 8];
                if attribute.kind() != PACKETS || attribute.value_len() != bytes.len() {
                    return None;
                }
                attribute.emit_value(&mut bytes);
                Some(u64::from_be_bytes(bytes))
            })
        }
        _ => None,
    })
}
