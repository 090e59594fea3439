//! Counts of dropped packets by reason.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::Word;

/// Dropped packets by reason, in the router's order. In JSON it is a map. A router lists all its reasons, so that a
/// collector finds each key from the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropCounts(Vec<(Word, u64)>);

impl DropCounts {
    /// Each reason with its number of packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(reason, packets)| (reason.as_ref(), *packets))
    }
}

impl FromIterator<(Word, u64)> for DropCounts {
    fn from_iter<T: IntoIterator<Item = (Word, u64)>>(counts: T) -> Self {
        Self(counts.into_iter().collect())
    }
}

impl Serialize for DropCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for DropCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CountsVisitor)
    }
}

struct CountsVisitor;

impl<'de> Visitor<'de> for CountsVisitor {
    type Value = DropCounts;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map from reasons to packets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DropCounts, A::Error> {
        let mut counts = Vec::new();
        while let Some(entry) = map.next_entry()? {
            counts.push(entry);
        }
        Ok(DropCounts(counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_keep_their_order() {
        let text = r#"{"too_short":0,"not_ip":2,"firewall":1}"#;
        let counts: DropCounts = serde_json::from_str(text).expect("a map of numbers");
        assert_eq!(counts.iter().collect::<Vec<_>>(), [("too_short", 0), ("not_ip", 2), ("firewall", 1)]);
        assert_eq!(serde_json::to_string(&counts).expect("a map of numbers"), text);
    }

    #[test]
    fn other_values_than_counts_are_refused() {
        for text in ["[]", r#"{"firewall":-1}"#, r#"{"firewall":"1"}"#, r#"{"firewall":null}"#, "7"] {
            assert!(serde_json::from_str::<DropCounts>(text).is_err(), "{text}");
        }
    }
}
