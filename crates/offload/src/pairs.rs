//! Pairs: for each peer two veth devices, one in its namespace and one in the router's, with the programs on them.
//!
//! A pair's end at the host has its program before it is up, and for as long as it lives: without the program it would be a link into
//! the host for whoever is root in the peer's namespace. The programs that let packets into a pair are held by this process alone: if it
//! dies, packets go to the router as if there were no pair.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use thiserror::Error;
use tuntap_sys::bpf::{self, Attachment, Hook, Program};
use tuntap_sys::net::namespace_with;
use tuntap_sys::netlink::{Link, LinkChange, Netlink, NetlinkError, Notices, Queueing, Subject, Veth};
use tuntap_sys::process::exit_at_once;
use tuntap_sys::tun::{Tun, TunError};

use super::guard::Guard;
use super::maps::{Index, MAX_PAIRS, Maps, Places};
use super::programs::Programs;

/// The name of both ends of a pair; the kernel puts a number in.
const NAME: &str = "tv%d";

/// The longest packet of a pair in bytes, which is more than any TUN device has: what fits the device fits the pair.
const MTU: u32 = 65_535;

/// The same while the pair is made: less than IPv6 takes (RFC 8200, section 5). The kernel has a device join groups of IPv6 as soon as it
/// has IPv6, and tells its neighbour of them (RFC 3810), if it has multicast then; new devices have.
const FIRST_MTU: u32 = 1279;

/// Indexes of pairs have their places in their lower bits. The others are random, since both namespaces must have them free, and far
/// above those that the kernel gives itself.
const FIRST_INDEX: u32 = 0x1000_0000;
const INDEXES: u32 = 0x6000_0000;

/// How many indexes are tried. The peer's namespace can have all of them in use.
const ATTEMPTS: usize = 8;

/// The upper half of the numbers of our groups of interfaces: "tv".
const GROUPS: u32 = 0x7476_0000;

/// A group in which nothing is but what is about to be removed.
const TRASH: u32 = 0x7477_0000;

/// How programs are attached that let packets into pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooks {
    /// By TCX (Linux 6.6), which detaches them with the process that has attached them.
    Tcx,
    /// As filters of the queueing discipline clsact, which stay with the device.
    Clsact,
}

impl fmt::Display for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcx => "TCX",
            Self::Clsact => "clsact",
        })
    }
}

impl Hooks {
    /// The better one that the running kernel has.
    pub fn of_kernel() -> Self {
        if bpf::supports_tcx() { Self::Tcx } else { Self::Clsact }
    }

    /// Attaches a program to an end of a pair, for as long as that lives. A packet meets a program of TCX some 40 ns sooner, at the cost of
    /// its making: TCX waits for a grace period of RCU for each program, 8 ms, with the kernel's lock on all interfaces. With both ends
    /// by TCX, 200 pairs took 7 s in place of 3 s.
    /// Returns true if it is a filter.
    fn attach(self, netlink: &mut Netlink, program: &Program, end: Index) -> Result<bool, PairError> {
        match netlink.add_filter(program, end, Hook::Ingress) {
            Ok(()) => Ok(true),
            // The kernel may have been built without clsact.
            Err(_) if self == Self::Tcx => {
                bpf::attach(program, end, Hook::Ingress).map_err(PairError::Attach).map(|()| false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Attaches a program that lets packets into pairs.
    fn enter(self, netlink: &mut Netlink, program: &Program, device: Index) -> Result<Entry, PairError> {
        match self {
            Self::Tcx => bpf::link(program, device, Hook::Egress)
                .map(|link| Entry::Link { _link: link })
                .map_err(PairError::Attach),
            Self::Clsact => {
                netlink.add_filter(program, device, Hook::Egress)?;
                Ok(Entry::Filter)
            }
        }
    }
}

/// A program that lets packets into pairs.
#[derive(Debug)]
enum Entry {
    /// It is detached when this is dropped.
    Link { _link: Attachment },
    /// It stays with its device until it is removed.
    Filter,
}

/// Why there is no pair.
#[derive(Debug, Error)]
pub enum PairError {
    /// The descriptor is not a TUN device's, or the device was deleted.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The device's namespace can't be found or entered.
    #[error("the namespace of its device: {0}")]
    Namespace(Errno),
    /// The device is in the router's namespace.
    #[error("its device is in the router's own namespace")]
    OwnNamespace,
    /// The kernel refuses interfaces or their settings.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Packets would not go through what there is at a device.
    #[error(transparent)]
    Queueing(#[from] Queueing),
    /// The kernel refuses to attach a program.
    #[error("attaching a BPF program: {0}")]
    Attach(Errno),
    /// The kernel refuses the memory of a map.
    #[error("a BPF map: {0}")]
    Map(Errno),
    /// The kernel doesn't tell of what happens to it.
    #[error("watching a pair: {0}")]
    Watch(Errno),
    /// There are as many pairs as there may be.
    #[error("there are {MAX_PAIRS} pairs already")]
    Full,
}

/// What is wrong with a pair.
#[derive(Debug, Error)]
pub enum Damage {
    /// It can't be looked at, or an end is missing, as it is when it was moved into another namespace.
    #[error("an end of the pair is not there any more ({0})")]
    Missing(#[from] PairError),
    /// The peer's device is not in the namespace any more: mostly the peer ends, and its device with it.
    #[error("the device is not in its namespace any more")]
    NoDevice,
    /// Packets would not go through what there is at the peer's device.
    #[error(transparent)]
    Queueing(#[from] Queueing),
    /// An end is down.
    #[error("an end of the pair is down")]
    Down,
    /// An end has lost its filter.
    #[error("an end of the pair has lost its BPF program")]
    Bare,
    /// An end has another MTU.
    #[error("an end of the pair takes packets of {0} bytes only")]
    Narrow(u32),
}

impl From<NetlinkError> for Damage {
    fn from(error: NetlinkError) -> Self {
        Self::Missing(error.into())
    }
}

/// A pair.
#[derive(Debug)]
pub struct Pair {
    index: Index,
    device: Index,
    notices: Notices,
    /// True if the ends have their programs as filters, which can be removed.
    has_filters: bool,
    entry: Option<Entry>,
}

impl Pair {
    /// The index of both ends.
    pub const fn index(&self) -> Index {
        self.index
    }

    /// Takes the notices about interfaces of the peer's namespace. Returns true if there were any.
    pub fn take_notices(&self) -> bool {
        self.notices.take()
    }
}

impl AsFd for Pair {
    /// Readable when interfaces of the peer's namespace have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }
}

/// Makes and removes the pairs of a router. The calling thread is in the router's namespace, and enters others for moments.
#[derive(Debug)]
pub struct Pairs<'a> {
    maps: &'a Maps,
    programs: &'a Programs,
    hooks: Hooks,
    /// The name of the router's device.
    device: String,
    group: u32,
    netlink: Netlink,
    /// The router's namespace, and what happens to its interfaces.
    own: File,
    notices: Notices,
    /// The index of the router's device, and the program there.
    host_out: Option<(Index, Entry)>,
    /// True if packets would not go through what there is at the router's device, so that there is no program.
    is_held_back: bool,
    /// `None` if the kernel has no nftables.
    guard: Option<Guard>,
    places: Places,
    /// Pairs that could not be removed.
    left: Vec<Index>,
    indexes: RandomState,
    made: u64,
}

/// The group of all pairs of the router with this device. Pairs of a router whose device has another name may be in it, too: there are
/// more names than groups. What is whose is noted at each.
pub fn group_of(device: &str) -> u32 {
    // FNV-1a, folded to 16 bits.
    let hash = device.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    GROUPS | (hash >> 16 ^ hash & 0xffff)
}

/// The group in which pairs of a group are that are about to be removed.
const fn trash_of(group: u32) -> u32 {
    TRASH | group & 0xffff
}

/// What is noted at the host's end of each pair of the router with this device. No other living router of the namespace has a device of
/// that name, so that what has this note at its start is left by an earlier one.
fn note_of(device: &str) -> String {
    format!("uwsgi-tuntap {device}")
}

/// Removes all pairs of the router with this device from the namespace of the calling thread, whoever has made them. There may be none.
pub fn remove_all(device: &str) -> Result<(), NetlinkError> {
    remove_pairs_of(&mut Netlink::open()?, device)
}

fn remove_pairs_of(netlink: &mut Netlink, device: &str) -> Result<(), NetlinkError> {
    let (group, note) = (group_of(device), note_of(device));
    // One without a note was left while it was made.
    let is_own = |link: &Link| link.group == group && (link.alias == note || link.alias.is_empty());
    let own: Vec<_> = netlink.links()?.into_iter().filter(is_own).map(|link| link.index).collect();
    remove_together(netlink, &own, trash_of(group))
}

/// Removes interfaces, some of which may be gone, and what else is in this group.
fn remove_together(netlink: &mut Netlink, indexes: &[Index], trash: u32) -> Result<(), NetlinkError> {
    for index in indexes {
        match netlink.set_group(*index, trash) {
            Err(error) if error.errno() != Some(Errno::ENODEV) => return Err(error),
            _ => {}
        }
    }
    netlink.remove_group(trash)
}

impl AsFd for Pairs<'_> {
    /// Readable when interfaces of the router's namespace have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }
}

impl<'a> Pairs<'a> {
    /// Opens what is needed later, in the namespace of the calling thread. `device` is the router's.
    pub fn new(
        maps: &'a Maps,
        programs: &'a Programs,
        hooks: Hooks,
        device: &str,
        guard: Option<Guard>,
    ) -> Result<Self, io::Error> {
        Ok(Self {
            maps,
            programs,
            hooks,
            device: device.to_owned(),
            group: group_of(device),
            netlink: Netlink::open()?,
            own: File::open("/proc/thread-self/ns/net")?,
            notices: Notices::open(Subject::Links)?,
            host_out: None,
            is_held_back: false,
            guard,
            places: Places::new(maps)?,
            left: Vec::new(),
            indexes: RandomState::new(),
            made: 0,
        })
    }

    /// Removes all pairs, also those that an earlier process has left, and the program on the router's device.
    pub fn clear(&mut self, pairs: impl IntoIterator<Item = Pair>) -> Result<(), PairError> {
        for pair in pairs {
            self.close(pair);
        }
        if let Some((device, Entry::Filter)) = self.host_out.take() {
            self.netlink.remove_filter(device, Hook::Egress)?;
        }
        remove_pairs_of(&mut self.netlink, &self.device)?;
        self.places.clear();
        self.left.clear();
        Ok(self.guard.as_mut().map_or(Ok(()), Guard::clear)?)
    }

    /// Forgets the verdicts and claims that are in the maps.
    pub fn clear_maps(&self) -> Result<(), PairError> {
        self.maps.clear().map_err(PairError::Map)
    }

    /// Has packets for peers leave the router's device by pairs, if they are decided. Nothing changes if that is so already.
    pub fn open_host(&mut self) -> Result<(), PairError> {
        let link = self.netlink.link(&self.device)?;
        let queueing = Queueing::of(&mut self.netlink, &link)?;
        self.is_held_back = queueing.is_some();
        queueing.map_or(Ok(()), Err)?;
        let index = link.index;
        if self.host_out.as_ref().is_some_and(|(before, _)| *before == index) {
            return Ok(());
        }
        self.maps.set_device(index).map_err(PairError::Map)?;
        let entry = self.hooks.enter(&mut self.netlink, &self.programs.host_out, index)?;
        self.host_out = Some((index, entry));
        Ok(())
    }

    /// Returns true if one of these interfaces may be the router's device, or one may be that it can become.
    pub fn may_be_about_host(&self, changed: &BTreeSet<Index>) -> bool {
        match &self.host_out {
            Some((index, _)) => changed.contains(index),
            None => self.is_held_back && !changed.is_empty(),
        }
    }

    /// Returns true if there is something at the router's device from now on that packets would not go through, or nothing any more: then
    /// [`Self::open_host`] has to be called anew.
    pub fn has_host_changed(&mut self) -> bool {
        let link = match (&self.host_out, self.is_held_back) {
            (Some((index, _)), _) => self.netlink.link_at(*index),
            (None, true) => self.netlink.link(&self.device),
            (None, false) => return false,
        };
        let queueing = link.and_then(|link| Queueing::of(&mut self.netlink, &link));
        queueing.is_ok_and(|queueing| queueing.is_some() != self.is_held_back)
    }

    /// Makes a pair for the peer with this device. It has to start ([`Self::has_started`]) before packets may go by it: whoever is
    /// root in the peer's namespace can delay that, so that nobody waits for it here.
    pub fn make(&mut self, tun: OwnedFd) -> Result<Pair, PairError> {
        let tun = Tun::adopt(tun)?;
        let namespace = tun.namespace().map_err(PairError::Namespace)?;
        if self.is_own(namespace.as_fd()).map_err(PairError::Namespace)? {
            return Err(PairError::OwnNamespace);
        }
        let index = self.make_veth(namespace.as_fd())?;
        let made = self.furnish(index, &tun, namespace.as_fd());
        if made.is_err() {
            // If this fails, the next removal does it. Its end at the host is down, or has its program.
            let _ = self.discard(vec![index]);
        }
        made
    }

    /// Puts the programs on a pair, and sets it up.
    fn furnish(&mut self, index: Index, tun: &Tun, namespace: BorrowedFd<'_>) -> Result<Pair, PairError> {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        widen(&mut self.netlink, index, Some(&note_of(&self.device)))?;
        let has_filters = self.hooks.attach(&mut self.netlink, &self.programs.host_in, index)?;
        if let Some(guard) = &mut self.guard {
            guard.add(index, &self.netlink.link_at(index)?.name)?;
        }
        let (hooks, programs) = (self.hooks, self.programs);
        let pair = self.within(namespace, || {
            let notices = Notices::open(Subject::Links)?;
            let mut netlink = Netlink::open()?;
            let name = tun.current_name().map_err(PairError::Namespace)?;
            let link = netlink.link(&name)?;
            Queueing::of(&mut netlink, &link)?.map_or(Ok(()), Err)?;
            let device = link.index;
            self.places.set(index, device);
            widen(&mut netlink, index, None)?;
            hooks.attach(&mut netlink, &programs.peer_in, index)?;
            netlink.set_link(index, up)?;
            let entry = hooks.enter(&mut netlink, &programs.peer_out, device)?;
            // What this has caused itself is no news.
            notices.take();
            Ok(Pair { index, device, notices, has_filters, entry: Some(entry) })
        })?;
        self.netlink.set_link(index, up)?;
        Ok(pair)
    }

    /// Returns true once both ends send packets: the one that was set up first drops them for a moment longer.
    pub fn has_started(&mut self, pair: &Pair) -> Result<bool, Damage> {
        Ok(self.ends(pair)?.iter().all(|end| end.is_active))
    }

    fn make_veth(&mut self, namespace: BorrowedFd<'_>) -> Result<Index, PairError> {
        let place = self.places.take().ok_or(PairError::Full)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let index = self.next_index(place);
            match self.netlink.make_veth(&Veth { index, name: NAME, namespace, mtu: FIRST_MTU, group: self.group }) {
                Ok(()) => return Ok(index),
                Err(error) if attempt < ATTEMPTS && matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY)) => {}
                Err(error) => {
                    self.places.release(index);
                    return Err(error.into());
                }
            }
        }
    }

    fn next_index(&mut self, place: u32) -> Index {
        self.made += 1;
        let number = self.indexes.hash_one(self.made) % u64::from(INDEXES / MAX_PAIRS);
        FIRST_INDEX + u32::try_from(number).unwrap_or_default() * MAX_PAIRS + place
    }

    /// Takes the notices about interfaces of the router's namespace, and returns the indexes of these. `None` if there were too many, so that
    /// any may have changed.
    pub fn take_host_notices(&self) -> Option<BTreeSet<Index>> {
        self.notices.take_indexes()
    }

    /// Examines a pair after notices about it.
    pub fn check(&mut self, pair: &Pair) -> Result<(), Damage> {
        self.ends(pair).map(drop)
    }

    /// Both ends, the one in the peer's namespace first, with nothing wrong.
    fn ends(&mut self, pair: &Pair) -> Result<[Link; 2], Damage> {
        let namespace = namespace_with(pair.as_fd()).map_err(PairError::Namespace)?;
        let (there, index, device) = (&namespace, pair.index, pair.device);
        let has_program = |netlink: &mut Netlink| {
            if pair.has_filters { netlink.has_filter(index, Hook::Ingress) } else { Ok(true) }
        };
        let found = self.within(there.as_fd(), || {
            let mut netlink = Netlink::open()?;
            match netlink.link_at(device) {
                Ok(link) => {
                    let queueing = Queueing::of(&mut netlink, &link)?;
                    Ok(Some((queueing, netlink.link_at(index)?, has_program(&mut netlink)?)))
                }
                Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        let Some((queueing, other, is_programmed)) = found else { return Err(Damage::NoDevice) };
        queueing.map_or(Ok(()), Err)?;
        let ends = [other, self.netlink.link_at(index)?];
        ends.iter().try_for_each(is_whole)?;
        if is_programmed && has_program(&mut self.netlink)? { Ok(ends) } else { Err(Damage::Bare) }
    }

    /// Removes pairs. Many are removed in hardly more time than one. The peers' namespaces may have gone before.
    pub fn remove(&mut self, pairs: impl IntoIterator<Item = Pair>) -> Result<(), NetlinkError> {
        let indexes: Vec<_> = pairs.into_iter().map(|pair| self.close(pair)).collect();
        if indexes.is_empty() { Ok(()) } else { self.discard(indexes) }
    }

    /// Removes pairs by their indexes, and those that could not be removed before. Until they are, their places are taken: another pair
    /// there would have the claims of its peer hold for both.
    fn discard(&mut self, mut indexes: Vec<Index>) -> Result<(), NetlinkError> {
        indexes.append(&mut self.left);
        let is_gone = |error: &NetlinkError| error.errno() == Some(Errno::ENODEV);
        let removed = match indexes[..] {
            [only] => self.netlink.remove_link(only),
            _ => remove_together(&mut self.netlink, &indexes, trash_of(self.group)),
        };
        if let Err(error) = removed
            && !is_gone(&error)
        {
            self.left = indexes;
            return Err(error);
        }
        indexes.iter().for_each(|index| self.places.release(*index));
        self.guard.as_mut().map_or(Ok(()), |guard| guard.remove(&indexes))
    }

    /// Lets no more packets in. Returns the pair's index.
    fn close(&self, pair: Pair) -> Index {
        let Pair { index, device, notices, entry, .. } = pair;
        if matches!(entry, Some(Entry::Filter))
            && let Ok(namespace) = namespace_with(notices.as_fd())
        {
            // If the namespace or the device is gone, so is the filter.
            let _ = self.within(namespace.as_fd(), || Ok(Netlink::open()?.remove_filter(device, Hook::Egress)?));
        }
        index
    }

    fn is_own(&self, namespace: BorrowedFd<'_>) -> nix::Result<bool> {
        let (own, other) = (fstat(&self.own)?, fstat(namespace)?);
        Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
    }

    /// Does something in another namespace.
    fn within<T>(
        &self,
        namespace: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T, PairError>,
    ) -> Result<T, PairError> {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(PairError::Namespace)?;
        let result = work();
        if setns(&self.own, CloneFlags::CLONE_NEWNET).is_err() {
            // Everything that follows would be done to a peer's namespace in place of the router's.
            exit_at_once(1);
        }
        result
    }
}

/// Checks that an end takes all packets, as far as its interface shows.
fn is_whole(end: &Link) -> Result<(), Damage> {
    match end {
        Link { is_up: false, .. } => Err(Damage::Down),
        Link { mtu, .. } if *mtu != MTU => Err(Damage::Narrow(*mtu)),
        _ => Ok(()),
    }
}

/// Has a new end take packets of any length, with a note about it, without an IPv6 address: the kernel would give it one, and announce that.
/// Without IPv6 it doesn't.
fn widen(netlink: &mut Netlink, index: Index, note: Option<&str>) -> Result<(), PairError> {
    netlink.set_link(index, LinkChange { mtu: Some(MTU), alias: note, ..LinkChange::default() })?;
    match netlink.generate_no_addresses(index) {
        Err(error) if !error.means_ipv6_is_off() => Err(error.into()),
        _ => Ok(()),
    }
}
