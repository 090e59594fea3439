//! Ordered rules on source and destination, where the first match wins: the firewall's chains and the routes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// What the firewall does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Forward.
    Allow,
    /// Drop.
    Deny,
}

/// A rule: what holds for packets from `src` to `dst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule<T> {
    /// Sources that match.
    pub src: Ipv4Net,
    /// Destinations that match.
    pub dst: Ipv4Net,
    /// What the rule decides.
    pub target: T,
}

/// Rules in the order in which they were written, with the masks worked out.
#[derive(Debug, Clone)]
pub struct RuleList<T> {
    rules: Vec<Masked<T>>,
}

#[derive(Debug, Clone)]
struct Masked<T> {
    src: u32,
    src_mask: u32,
    dst: u32,
    dst_mask: u32,
    target: T,
}

impl<T: Copy> RuleList<T> {
    /// Takes the rules in order. Host bits of a prefix don't count.
    pub fn new(rules: impl IntoIterator<Item = Rule<T>>) -> Self {
        let masked = |rule: Rule<T>| Masked {
            src: rule.src.network().to_bits(),
            src_mask: rule.src.netmask().to_bits(),
            dst: rule.dst.network().to_bits(),
            dst_mask: rule.dst.netmask().to_bits(),
            target: rule.target,
        };
        Self { rules: rules.into_iter().map(masked).collect() }
    }

    /// Whether there are no rules.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first rule that matches decides.
    pub fn first_match(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Option<T> {
        let (src, dst) = (src.to_bits(), dst.to_bits());
        self.rules
            .iter()
            .find(|rule| src & rule.src_mask == rule.src && dst & rule.dst_mask == rule.dst)
            .map(|rule| rule.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn chain(rules: &[(Action, &str, &str)]) -> RuleList<Action> {
        RuleList::new(rules.iter().map(|&(target, src, dst)| Rule { src: net(src), dst: net(dst), target }))
    }

    fn allows(rules: &RuleList<Action>, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        rules.first_match(src, dst) != Some(Action::Deny)
    }

    #[test]
    fn documented_chain() {
        let out = chain(&[
            (Action::Allow, "192.168.0.0/24", "192.168.0.1/32"),
            (Action::Deny, "192.168.0.0/24", "192.168.0.0/24"),
            (Action::Allow, "192.168.0.0/24", "0.0.0.0/0"),
            (Action::Deny, "0.0.0.0/0", "0.0.0.0/0"),
        ]);
        let allows = |src: [u8; 4], dst: [u8; 4]| allows(&out, src.into(), dst.into());
        assert!(allows([192, 168, 0, 2], [192, 168, 0, 1]));
        assert!(!allows([192, 168, 0, 2], [192, 168, 0, 3]));
        assert!(allows([192, 168, 0, 2], [8, 8, 8, 8]));
        assert!(!allows([10, 0, 0, 1], [8, 8, 8, 8]));
    }

    #[test]
    fn empty_chain_allows() {
        assert!(allows(&chain(&[]), Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST));
    }

    fn any_net() -> impl Strategy<Value = Ipv4Net> {
        (any::<u32>(), 0u8..=32).prop_map(|(bits, len)| Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len))
    }

    proptest! {
        /// Masks and prefixes mean the same for every length from /0 to /32, host bits or not.
        #[test]
        fn agrees_with_ipnet(
            rules in prop::collection::vec((any_net(), any_net()), 0..20),
            src: u32,
            dst: u32,
            from_rule: prop::sample::Index,
        ) {
            let (src, dst) = match rules.get(from_rule.index(20)) {
                // half of the packets hit a rule's network, where the interesting cases are
                Some((near_src, near_dst)) => (
                    near_src.network().to_bits() | (src & near_src.hostmask().to_bits()),
                    near_dst.network().to_bits() | (dst & near_dst.hostmask().to_bits()),
                ),
                None => (src, dst),
            };
            let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
            let list = RuleList::new(
                rules.iter().enumerate().map(|(target, &(src, dst))| Rule { src, dst, target }),
            );
            let oracle = rules.iter().position(|(from, to)| from.contains(&src) && to.contains(&dst));
            prop_assert_eq!(list.first_match(src, dst), oracle);
        }
    }
}
