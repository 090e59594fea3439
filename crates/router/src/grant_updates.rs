//! Grants and limits that the master sends to a running router: those for users and groups that didn't exist at the start. The
//! router's process can't look up users and groups itself, because it has no access to files.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::event_loop::EventLoop;
use tuntap_config::ShapeSpec;
use tuntap_core::policy::grant::{Grant, Holder};
use tuntap_core::policy::shape::Shape;
use tuntap_core::router::{Router, Shell};
use tuntap_live::Base;
use tuntap_sys::socket;

/// The maximum number of grants, and of limits, in one message. The socket bounds the length of a message.
const MAX_GRANTS: usize = 128;

/// The maximum length of a message in bytes. A grant takes a hundred at most, and so does a limit of a user or a group.
const MAX_MESSAGE_LEN: usize = 2 * MAX_GRANTS * 128;

/// Messages that are read in one turn.
const BUDGET: usize = 16;

/// A pair of sockets from the master to a router, made before the fork. If a router dies before it has read a message, the
/// next router reads it.
#[derive(Debug)]
pub struct GrantUpdates {
    write_end: OwnedFd,
    read_end: OwnedFd,
}

/// What the options say about users and groups that have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Newcomers {
    /// Grants.
    pub grants: Vec<Grant>,
    /// Limits.
    pub shapes: Vec<Shape>,
}

impl Newcomers {
    /// Returns true if nobody has come.
    pub const fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.shapes.is_empty()
    }

    /// Adds them to what the options say.
    pub fn join(&self, base: &mut Base) {
        self.grants.iter().for_each(|grant| base.grants.add(*grant));
        for shape in &self.shapes {
            if !base.late_shapes.contains(shape) {
                base.late_shapes.push(shape.clone());
            }
        }
    }

    /// Adds them to a router's policy.
    pub(super) fn take_effect(&self, router: &mut Router, shell: &mut impl Shell) {
        if !self.grants.is_empty() {
            router.grant(shell, self.grants.iter().copied());
        }
        router.limit(shell, &self.shapes);
    }
}

/// A message.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Message {
    grants: Vec<Granted>,
    /// As texts.
    shapes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Granted {
    address: IpAddr,
    prefix_len: u8,
    is_group: bool,
    id: u32,
}

impl GrantUpdates {
    /// Makes the sockets.
    pub fn new() -> nix::Result<Self> {
        let (write_end, read_end) = socket::message_pair()?;
        Ok(Self { write_end, read_end })
    }

    /// Returns the descriptors that have to stay open.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.write_end.as_fd(), self.read_end.as_fd()]
    }

    /// Returns the descriptor from which the router reads.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read_end.as_fd()
    }

    /// Sends grants and limits to the router. Fails with EAGAIN if the router hasn't read the earlier messages yet.
    pub fn send(&self, newcomers: &Newcomers) -> nix::Result<()> {
        for part in newcomers.grants.chunks(MAX_GRANTS) {
            let grants = part.iter().filter_map(|grant| Granted::of(*grant)).collect();
            self.send_message(&Message { grants, shapes: Vec::new() })?;
        }
        for part in newcomers.shapes.chunks(MAX_GRANTS) {
            let shapes = part.iter().map(ToString::to_string).collect();
            self.send_message(&Message { grants: Vec::new(), shapes })?;
        }
        Ok(())
    }

    fn send_message(&self, message: &Message) -> nix::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
        socket::send(self.write_end.as_fd(), &bytes).map(drop)
    }
}

impl Granted {
    fn of(Grant { prefix, holder }: Grant) -> Option<Self> {
        let (is_group, id) = match holder {
            Holder::User(id) => (false, id),
            Holder::Group(id) => (true, id),
            Holder::Nobody => return None,
        };
        Some(Self { address: prefix.addr(), prefix_len: prefix.prefix_len(), is_group, id })
    }

    fn grant(self) -> Option<Grant> {
        let holder = if self.is_group { Holder::Group(self.id) } else { Holder::User(self.id) };
        Some(Grant { prefix: IpNet::new(self.address, self.prefix_len).ok()?, holder })
    }
}

impl EventLoop<'_> {
    /// Reads the grants and limits that the master has sent.
    pub(super) fn read_grant_updates(&mut self) {
        let mut buffer = vec![0; MAX_MESSAGE_LEN];
        for _ in 0..BUDGET {
            let Ok((count @ 1.., _)) =
                socket::recv_with_descriptor(self.io.setup.grant_updates.read_end(), &mut buffer)
            else {
                break;
            };
            let Message { grants, shapes } = serde_json::from_slice(&buffer[..count]).unwrap_or_default();
            let shapes = shapes.iter().filter_map(|text| ShapeSpec::read(text).ok()?.numbered().ok());
            let grants = grants.into_iter().filter_map(Granted::grant);
            self.welcome(Newcomers { grants: grants.collect(), shapes: shapes.collect() });
        }
    }
}
