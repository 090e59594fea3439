//! For whom a peer's part of what all peers share is counted.

/// Root, as whom most vassals connect before they drop their privileges.
pub const ROOT: u32 = 0;

/// Who answers for a peer. A new connection or another process changes nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// A user other than root, in whatever network namespace: who can make one can make many.
    User(u32),
    /// Root in a network namespace other than the router's, by the namespace's number: one vassal.
    Namespace(u64),
}

impl Account {
    /// The account of a peer of this user, which has connected from this namespace. `None` for root beside the router, or
    /// where the kernel doesn't tell namespaces apart: what root does on the host, no router can bound.
    pub const fn of(uid: u32, namespace: Option<u64>) -> Option<Self> {
        match (uid, namespace) {
            (ROOT, None) => None,
            (ROOT, Some(namespace)) => Some(Self::Namespace(namespace)),
            (uid, _) => Some(Self::User(uid)),
        }
    }
}
