//! Accounts: to whom a peer's use of shared resources is charged.

/// The uid of root. Most vassals connect as root, before they drop their privileges.
pub const ROOT: u32 = 0;

/// To whom a peer's use is charged. It stays the same over new connections and other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// A user other than root, in all network namespaces together, because a user that can create one can create many.
    User(u32),
    /// Root in a network namespace other than the router's, by the namespace's inode: one vassal.
    Namespace(u64),
}

impl Account {
    /// The account of a peer of this user that has connected from this namespace. `None` for root in the router's own
    /// namespace, or if the kernel doesn't report namespaces: a router can't limit what root does on the host.
    pub const fn of(uid: u32, namespace: Option<u64>) -> Option<Self> {
        match (uid, namespace) {
            (ROOT, None) => None,
            (ROOT, Some(namespace)) => Some(Self::Namespace(namespace)),
            (uid, _) => Some(Self::User(uid)),
        }
    }
}
