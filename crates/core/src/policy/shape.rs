//! How much traffic peers may have: what the operator has configured. The module [`shaper`](crate::shaper) does it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tuntap_wire::rule::Direction;

use super::grant::Identity;
use super::verdict::Class;

/// The rate of a limit, and what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bits per second of IP packets with their headers. If `ceil` is `None`, that is the most; else it is guaranteed.
    pub rate: u64,
    /// The most bits per second; what is above `rate` is borrowed from what others leave.
    pub ceil: Option<u64>,
    /// How much may pass at once after a silence, as time at the rate; `None` for the usual one,
    /// [`Limit::DEFAULT_BURST`] or two packets, whichever is more.
    pub burst: Option<Duration>,
    /// Most packets per second; the segments of a super-packet count one by one.
    pub packets: Option<u64>,
    /// The share of what is borrowed, in proportion to the weights of others.
    pub weight: u16,
    /// How long packets may wait: the target of the queue's delay is a quarter of it, its length in bytes follows from it.
    pub queue: Duration,
}

impl Limit {
    /// See [`Limit::burst`].
    pub const DEFAULT_BURST: Duration = Duration::from_millis(5);

    /// See [`Limit::queue`].
    pub const DEFAULT_QUEUE: Duration = Duration::from_millis(20);

    /// Least and most [`Limit::rate`] and [`Limit::ceil`].
    pub const RATES: [u64; 2] = [8_000, 1_000_000_000_000];

    /// Least and most [`Limit::burst`].
    pub const BURSTS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(10)];

    /// Least and most [`Limit::queue`].
    pub const QUEUES: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(10)];

    /// Least and most [`Limit::packets`].
    pub const PACKETS: [u64; 2] = [1, 1_000_000_000];

    /// Most [`Limit::weight`]; the least is 1.
    pub const MAX_WEIGHT: u16 = 1000;

    /// A limit of a rate alone.
    pub const fn new(rate: u64) -> Self {
        Self { rate, ceil: None, burst: None, packets: None, weight: 1, queue: Self::DEFAULT_QUEUE }
    }

    /// The most bits per second.
    pub fn most(&self) -> u64 {
        self.ceil.unwrap_or(self.rate)
    }
}

/// Whose traffic a limit is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShapeSelector {
    /// All peers together: what comes and goes by the router's device and its gateway. What the router itself passes on between
    /// peers is held back by it only if one of them has another limit.
    Uplink,
    /// Each peer that holds an address in this network.
    Network(IpNet),
    /// All peers of this user together.
    User(u32),
    /// For each user in this group, all its peers together.
    Group(u32),
    /// Each peer without a limit of the kinds above, for flows with hosts beyond a `nat` interface.
    Internet,
    /// Each peer without a limit of the kinds above.
    Any,
    /// For each peer, the flows that a script has put into the class of this name.
    Class(String),
}

/// A limit with whose traffic it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// True if it is for packets from the peers.
    pub out: bool,
    /// True if it is for packets towards the peers.
    pub inn: bool,
    /// Whose traffic.
    pub selector: ShapeSelector,
    /// How much.
    pub limit: Limit,
}

/// The limits of one peer in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerShape {
    /// The peer's own.
    pub peer: Option<Limit>,
    /// That of all peers of its user together.
    pub user: Option<Limit>,
    /// That for its flows with hosts beyond a `nat` interface, if these have one of their own.
    pub internet: Option<Limit>,
    /// True if all peers together have one, so that its packets wait for it even if it has none itself.
    pub has_uplink: bool,
}

impl PeerShape {
    /// Returns true if nothing holds back the peer's packets.
    pub const fn is_free(&self) -> bool {
        self.peer.is_none() && self.user.is_none() && self.internet.is_none() && !self.has_uplink
    }
}

/// All limits of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shapes {
    shapes: Vec<Shape>,
    /// The groups that they name, in order.
    groups: Vec<u32>,
    /// The limits of classes by their number, out and in. They are looked up for each packet.
    classes: HashMap<u16, [Option<Limit>; 2]>,
    has_internet: bool,
}

impl Shapes {
    /// Makes them of a list. Of two with the same selector, the first one counts.
    pub fn new(shapes: Vec<Shape>) -> Self {
        let group = |shape: &Shape| match shape.selector {
            ShapeSelector::Group(gid) => Some(gid),
            _ => None,
        };
        let mut groups: Vec<u32> = shapes.iter().filter_map(group).collect();
        groups.sort_unstable();
        groups.dedup();
        let has_internet = shapes.iter().any(|shape| shape.selector == ShapeSelector::Internet);
        let classes = classes(&shapes);
        Self { shapes, groups, classes, has_internet }
    }

    /// Returns true if one of them names a group, so that the groups of a peer matter.
    pub const fn name_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Returns true if one of them names this group.
    pub fn name_group(&self, group: u32) -> bool {
        self.groups.binary_search(&group).is_ok()
    }

    /// Returns true if nobody's traffic is limited.
    pub const fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// Returns all.
    pub fn iter(&self) -> impl Iterator<Item = &Shape> {
        self.shapes.iter()
    }

    fn of(&self, direction: Direction) -> impl Iterator<Item = &Shape> {
        self.shapes.iter().filter(move |shape| match direction {
            Direction::Out => shape.out,
            Direction::In => shape.inn,
        })
    }

    fn find(&self, direction: Direction, selector: &ShapeSelector) -> Option<&Shape> {
        self.of(direction).find(|shape| shape.selector == *selector)
    }

    /// Returns the limit of all peers together.
    pub fn uplink(&self, direction: Direction) -> Option<Limit> {
        self.find(direction, &ShapeSelector::Uplink).map(|shape| shape.limit)
    }

    /// Returns true if flows have to be told apart by whether they leave by a `nat` interface.
    pub const fn ask_for_internet(&self) -> bool {
        self.has_internet
    }

    /// Returns the number of a class, which is the same as long as the policy is.
    pub fn class(&self, name: &str) -> Option<u16> {
        let at =
            self.shapes.iter().position(|shape| matches!(&shape.selector, ShapeSelector::Class(own) if own == name));
        at.and_then(|at| u16::try_from(at).ok())
    }

    /// Returns the name of a class.
    pub fn class_name(&self, class: u16) -> Option<&str> {
        match &self.shapes.get(usize::from(class))?.selector {
            ShapeSelector::Class(name) => Some(name),
            _ => None,
        }
    }

    /// Returns the limit of a class in one direction.
    pub fn class_limit(&self, direction: Direction, class: u16) -> Option<Limit> {
        let [out, inn] = self.classes.get(&class)?;
        match direction {
            Direction::Out => *out,
            Direction::In => *inn,
        }
    }

    /// Returns the limits of a peer. The most specific of each kind counts: of networks the longest prefix, a user before its
    /// groups. `internet` and `any` are for peers with neither.
    pub fn of_peer(
        &self,
        direction: Direction,
        addresses: impl Iterator<Item = IpAddr>,
        identity: &Identity,
    ) -> PeerShape {
        let [peer, user, internet] =
            self.select(direction, addresses, identity).map(|shape| shape.map(|shape| shape.limit));
        PeerShape { peer, user, internet, has_uplink: self.uplink(direction).is_some() }
    }

    /// Returns whose limit a peer's packets of a class wait for first; `None` if they don't wait.
    pub fn whose(
        &self,
        direction: Direction,
        addresses: impl Iterator<Item = IpAddr>,
        identity: &Identity,
        class: Class,
    ) -> Option<&ShapeSelector> {
        let [peer, user, internet] = self.select(direction, addresses, identity);
        let named =
            class.number().and_then(|number| self.find(direction, &self.shapes.get(usize::from(number))?.selector));
        let internet = internet.filter(|_| class == Class::INTERNET);
        let uplink = self.find(direction, &ShapeSelector::Uplink);
        named.or(internet).or(peer).or(user).or(uplink).map(|shape| &shape.selector)
    }

    /// The shapes of a peer: its own, that of its user, and that for flows with the internet.
    fn select(
        &self,
        direction: Direction,
        addresses: impl Iterator<Item = IpAddr>,
        identity: &Identity,
    ) -> [Option<&Shape>; 3] {
        let addresses: Vec<_> = addresses.collect();
        // A prefix of IPv6 is as specific as that of IPv4 with as many bits left.
        let free_bits = |shape: &&Shape| match shape.selector {
            ShapeSelector::Network(network) if addresses.iter().any(|address| network.contains(address)) => {
                network.max_prefix_len() - network.prefix_len()
            }
            _ => u8::MAX,
        };
        let is_for_peer = |shape: &&Shape| free_bits(shape) < u8::MAX;
        let peer = self.of(direction).filter(is_for_peer).min_by_key(free_bits);
        let in_group = |shape: &&Shape| match shape.selector {
            ShapeSelector::Group(gid) => identity.gid == gid || identity.groups.contains(&gid),
            _ => false,
        };
        let user =
            self.find(direction, &ShapeSelector::User(identity.uid)).or_else(|| self.of(direction).find(in_group));
        if peer.is_some() || user.is_some() {
            return [peer, user, None];
        }
        let internet = self.find(direction, &ShapeSelector::Internet);
        [self.find(direction, &ShapeSelector::Any), None, internet]
    }
}

/// The limits of classes. The number of a class is the place of the first shape that is for it.
fn classes(shapes: &[Shape]) -> HashMap<u16, [Option<Limit>; 2]> {
    let mut numbers = HashMap::new();
    let mut limits: HashMap<u16, [Option<Limit>; 2]> = HashMap::new();
    for (at, shape) in shapes.iter().enumerate() {
        let (ShapeSelector::Class(name), Ok(at)) = (&shape.selector, u16::try_from(at)) else { continue };
        let [out, inn] = limits.entry(*numbers.entry(name).or_insert(at)).or_default();
        for (place, _) in [(out, shape.out), (inn, shape.inn)].into_iter().filter(|(_, is_meant)| *is_meant) {
            place.get_or_insert(shape.limit);
        }
    }
    limits
}
