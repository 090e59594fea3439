//! Who holds an address, and by whom the news has come.

use std::fmt;

use crate::holding::{Holding, RouterId};

/// Most routers that may pass an announcement on.
pub const MAX_PATH_LEN: usize = 8;

/// The routers that have passed an announcement on, in their order: the last one is who tells it. The holder isn't one of
/// them, so the path of what a router tells of its own peers is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Path {
    routers: [Option<RouterId>; MAX_PATH_LEN],
    len: u8,
}

impl Path {
    /// A path without any routers.
    pub const EMPTY: Self = Self { routers: [None; MAX_PATH_LEN], len: 0 };

    /// The routers in their order.
    pub fn routers(&self) -> impl DoubleEndedIterator<Item = RouterId> + '_ {
        self.routers.iter().flatten().copied()
    }

    /// The number of routers.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns true if nobody has passed it on.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The router that has passed it on last.
    pub fn last(&self) -> Option<RouterId> {
        self.routers().next_back()
    }

    /// The path with another router behind it. `None` if it has as many as are allowed.
    #[must_use]
    pub fn with(mut self, router: RouterId) -> Option<Self> {
        let place = self.len();
        *self.routers.get_mut(place)? = Some(router);
        self.len += 1;
        Some(self)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, router) in self.routers().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(formatter, "{separator}{router}")?;
        }
        Ok(())
    }
}

/// What is told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Who holds it, and since when.
    pub holding: Holding,
    /// Who has passed this on.
    pub path: Path,
}

impl Announcement {
    /// What a router tells of its own peer.
    pub const fn own(holding: Holding) -> Self {
        Self { holding, path: Path::EMPTY }
    }

    /// Returns true if a router is the holder, or has passed it on.
    pub fn has(&self, router: RouterId) -> bool {
        self.holding.router == router || self.path.routers().any(|passed| passed == router)
    }

    /// The router that tells it: the last of the path, or else the holder.
    pub fn teller(&self) -> RouterId {
        self.path.last().unwrap_or(self.holding.router)
    }
}
