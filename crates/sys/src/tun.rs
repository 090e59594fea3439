//! TUN devices (Documentation/networking/tuntap.rst, linux/if_tun.h).

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat;
use thiserror::Error;

use super::uio::{self, Ownership};
use tuntap_wire::ip::IPV6_HEADER_LEN;
use tuntap_wire::offloads::Offloads;
use tuntap_wire::vnet::{Offload, VNET_HEADER_LEN};

/// The device file that makes TUN devices.
pub const CONTROL_DEVICE: &str = "/dev/net/tun";

/// Major and minor number of the control device (Documentation/admin-guide/devices.txt).
pub const CONTROL_DEVICE_ID: (u64, u64) = (10, 200);

mod queues;
mod steering;

pub use queues::QUEUES;

mod ioctl {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_read_bad!(tun_get_iff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tun_set_owner, libc::TUNSETOWNER);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_read_bad!(tun_get_vnet_hdr_sz, libc::TUNGETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_ptr_bad!(tun_set_vnet_hdr_sz, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_none!(tun_get_device_namespace, b'T', 227);
}

/// The type of a kcmp(2) that compares open files (linux/kcmp.h).
pub const KCMP_FILE: u32 = 0;

/// Longest packet that a device gives or takes, in bytes, with the header before it. The length in an IPv6 header doesn't
/// count the header itself.
pub const MAX_PACKET_LEN: usize = VNET_HEADER_LEN + IPV6_HEADER_LEN + 65_535;

/// Why there is no device.
#[derive(Debug, Error)]
pub enum TunError {
    /// The control device can't be opened.
    #[error("{CONTROL_DEVICE}: {0}")]
    Open(#[source] io::Error),
    /// The name doesn't fit the kernel's structure.
    #[error("the name {0:?} is too long")]
    Name(String),
    /// The kernel refused the device.
    #[error("can't make the TUN device {name}: {}", hint(*.errno))]
    Create {
        /// The device's name.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// Others have queues of the device.
    #[error("the TUN device {0} has queues that somebody else has open, who would get vassals' packets")]
    Shared(String),
    /// The descriptor is not a TUN device's, or the device has a header of another length before packets.
    #[error("descriptor {0} is no TUN device of ours")]
    Foreign(i32),
}

impl TunError {
    /// True if somebody has the device open, as a process may that is ending.
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Create { errno: Errno::EBUSY, .. })
    }

    /// The kernel, or its structure, doesn't take a device of this name.
    fn refused(name: &str, errno: Errno) -> Self {
        match errno {
            Errno::E2BIG => Self::Name(name.to_owned()),
            _ => Self::Create { name: name.to_owned(), errno },
        }
    }
}

fn hint(errno: Errno) -> String {
    match errno {
        Errno::EBUSY => format!("{errno} (a device of this name exists and somebody else has it open)"),
        Errno::EPERM => format!("{errno} (making a TUN device needs root, or CAP_NET_ADMIN in its network namespace)"),
        Errno::EINVAL => format!("{errno} (a network device of this name exists and is no TUN device)"),
        _ => errno.to_string(),
    }
}

/// A TUN device: one IP packet for each read and write, without packet information. Lives as long as its descriptor.
///
/// Every buffer has [`VNET_HEADER_LEN`] bytes before the packet, even if the device has no header.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    /// The other queues of a router's device.
    more: Vec<OwnedFd>,
    name: String,
    has_header: bool,
    has_napi: bool,
    has_queues: bool,
    offloads: Offloads,
    ownership: Ownership,
}

impl Tun {
    /// Makes the device in the current network namespace. Its descriptor is non-blocking and closed on exec.
    pub fn create(name: &str) -> Result<Self, TunError> {
        let control = control_device()?;
        let layout = libc::IFF_TUN | libc::IFF_NO_PI;
        // An existing device without the header keeps its layout.
        for flags in [layout | libc::IFF_VNET_HDR, layout] {
            match set_interface(&control, name, flags) {
                Ok(()) => return Self::adopt(control.into()),
                Err(Errno::EINVAL) if flags != layout => {}
                Err(errno) => return Err(TunError::refused(name, errno)),
            }
        }
        Err(TunError::refused(name, Errno::EINVAL))
    }

    /// Takes over a descriptor that an earlier image of this process opened, after verifying that it is a TUN device's.
    pub fn adopt(fd: OwnedFd) -> Result<Self, TunError> {
        let foreign = || TunError::Foreign(fd.as_raw_fd());
        let device = stat::fstat(&fd).map_err(|_| foreign())?.st_rdev;
        if (stat::major(device), stat::minor(device)) != CONTROL_DEVICE_ID {
            return Err(foreign());
        }
        let request = attached_interface(fd.as_fd()).map_err(|_| foreign())?;
        // SAFETY: TUNGETIFF has filled in name and flags, so that `ifru_flags` is the union's valid member.
        let found = unsafe { request.ifr_ifru.ifru_flags };
        // IFF_NO_PI can't be verified: TUNGETIFF uses its bit for another flag, which is nearly always set. A vassal that
        // passes a device with packet information only gets packets that make no sense.
        if found & flags(libc::IFF_TUN | libc::IFF_TAP) != flags(libc::IFF_TUN) {
            return Err(foreign());
        }
        let has_header = found & flags(libc::IFF_VNET_HDR) != 0;
        if has_header && header_len(fd.as_fd()) != Ok(VNET_HEADER_LEN) {
            return Err(foreign());
        }
        Ok(Self {
            name: name_of(&request),
            fd,
            more: Vec::new(),
            has_header,
            has_napi: found & flags(libc::IFF_NAPI | libc::IFF_NAPI_FRAGS) != 0,
            has_queues: found & flags(libc::IFF_MULTI_QUEUE) != 0,
            offloads: Offloads::NONE,
            ownership: Ownership::Ours,
        })
    }

    /// Takes over a descriptor that a vassal has passed, and of which it keeps a copy.
    pub fn adopt_shared(fd: OwnedFd) -> Result<Self, TunError> {
        Ok(Self { ownership: Ownership::Shared, ..Self::adopt(fd)? })
    }

    /// The same for a kernel without RWF_NOWAIT: while [`Tun::recv`] and [`Tun::send`] are called, an
    /// [`Alarm`](crate::alarm::Alarm) has to be set. They return `Interrupted` if they had to be ended.
    pub fn adopt_alarmed(fd: OwnedFd) -> Result<Self, TunError> {
        Ok(Self { ownership: Ownership::Alarmed, ..Self::adopt(fd)? })
    }

    /// Returns true if [`Tun::adopt_alarmed`] has made it.
    pub fn is_alarmed(&self) -> bool {
        self.ownership == Ownership::Alarmed
    }

    /// Returns true if reads and writes of the descriptor may block (O_NONBLOCK isn't set), unless they say otherwise.
    pub fn may_block(&self) -> bool {
        let flags = fcntl(&self.fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        !flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK))
    }

    /// The name that the device had when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the kernel puts a header before packets. Without it there are no offloads.
    pub const fn has_header(&self) -> bool {
        self.has_header
    }

    /// Returns true if the kernel queues written packets (NAPI) instead of processing them within the write. That never
    /// changes for a descriptor, but the kernel tells it by device: of a device with several queues, it tells that of the
    /// newest queue.
    pub const fn has_napi(&self) -> bool {
        self.has_napi
    }

    /// Returns true if the device can have several queues, each with a descriptor.
    pub const fn has_queues(&self) -> bool {
        self.has_queues
    }

    /// The offloads that were enabled last.
    pub const fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Enables as many offloads as the kernel has. From now on, packets may be read that could not travel on a wire.
    pub fn enable_offloads(&mut self) -> Offloads {
        self.offloads = self.best_offloads();
        self.offloads
    }

    /// Enables what [`Tun::enable_offloads`] would, but doesn't remember it: for a descriptor that is shared.
    pub fn best_offloads(&self) -> Offloads {
        if !self.has_header {
            return Offloads::NONE;
        }
        let accepted = |offloads: &Offloads| self.set_offloads(offloads.bits()).is_ok();
        Offloads::CANDIDATES.into_iter().find(accepted).unwrap_or(Offloads::NONE)
    }

    /// Tries to enable these offloads (`TUN_F_*`) together. Returns true if the kernel accepts them.
    pub fn accepts_offloads(&self, flags: u32) -> bool {
        self.has_header && self.set_offloads(flags).is_ok()
    }

    /// Disables all offloads.
    pub fn disable_offloads(&self) {
        // It can't fail: the kernel refuses unknown bits only.
        let _ = self.set_offloads(Offloads::NONE.bits());
    }

    fn set_offloads(&self, bits: u32) -> nix::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes a number (linux/if_tun.h), and the descriptor is open.
        unsafe { ioctl::tun_set_offload(self.fd.as_raw_fd(), bits.cast_signed()) }.map(drop)
    }

    /// The device's queues that are open here: one, but for a router's device.
    pub fn queues(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.fd).chain(&self.more).map(AsFd::as_fd)
    }

    fn queue(&self, number: usize) -> BorrowedFd<'_> {
        number.checked_sub(1).and_then(|number| self.more.get(number)).unwrap_or(&self.fd).as_fd()
    }

    /// The queue to write a packet to. The kernel remembers it for replies, unless a program steers them there anyway.
    fn queue_for(&self, packet: &[u8]) -> BorrowedFd<'_> {
        if self.more.is_empty() {
            return self.fd.as_fd();
        }
        self.queue(steering::queue_of_replies(packet, 1 + self.more.len()))
    }

    /// Reads one packet with the header before it, and returns the length of both. `WouldBlock` if there is none,
    /// `Unsupported` if a shared descriptor can't be read without the risk of blocking. A longer packet is cut to the
    /// buffer.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv_from(0, buffer)
    }

    /// Reads one packet of a queue, by its place in [`Tun::queues`]. Returns what [`Tun::recv`] does.
    pub fn recv_from(&self, queue: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let fd = self.queue(queue);
        if self.has_header {
            return uio::read(fd, self.ownership, buffer);
        }
        let (header, packet) = buffer.split_at_mut(VNET_HEADER_LEN);
        header.fill(0);
        uio::read(fd, self.ownership, packet).map(|len| VNET_HEADER_LEN + len)
    }

    /// Writes one packet. The kernel refuses it with EIO while the device is down, with EINVAL if it is no IP packet. On a
    /// device without header, the packet must be complete: `offload` is ignored.
    pub fn send(&self, offload: &Offload, packet: &[u8]) -> io::Result<()> {
        let header = offload.encode();
        let parts = [IoSlice::new(&header), IoSlice::new(packet)];
        uio::write(self.queue_for(packet), self.ownership, if self.has_header { &parts } else { &parts[1..] })
    }

    /// Writes one packet with the header before it, to a device that takes headers. Errors as for [`Tun::send`].
    pub fn send_whole(&self, packet: &[u8]) -> io::Result<()> {
        let queue = self.queue_for(packet.get(VNET_HEADER_LEN..).unwrap_or_default());
        uio::write(queue, self.ownership, &[IoSlice::new(packet)])
    }

    /// Returns true if this descriptor is of the same open file as one of the other's queues (kcmp(2), KCMP_FILE). `None` if
    /// the kernel can't tell. A device without IFF_MULTI_QUEUE is open through one descriptor and its copies only.
    pub fn is_copy_of(&self, other: &Self) -> Option<bool> {
        let process = nix::unistd::getpid().as_raw();
        let mut is_copy = Some(false);
        for queue in other.queues() {
            // SAFETY: kcmp(2) compares two descriptors of this process and touches nothing.
            let order = unsafe {
                libc::syscall(libc::SYS_kcmp, process, process, KCMP_FILE, self.fd.as_raw_fd(), queue.as_raw_fd())
            };
            match order {
                0 => return Some(true),
                1.. => {}
                _ => is_copy = None,
            }
        }
        is_copy
    }

    /// Returns true if the device still exists. Somebody may delete it while its descriptor is open.
    pub fn is_alive(&self) -> bool {
        attached_interface(self.fd.as_fd()).is_ok()
    }

    /// The present name of the device, which may have been renamed. An error if the device was deleted.
    pub fn current_name(&self) -> nix::Result<String> {
        attached_interface(self.fd.as_fd()).map(|request| name_of(&request))
    }

    /// The network namespace that the device is in (TUNGETDEVNETNS, Linux 5.2). Needs CAP_NET_ADMIN there.
    pub fn namespace(&self) -> nix::Result<OwnedFd> {
        // SAFETY: TUNGETDEVNETNS takes no argument, and the descriptor is open.
        let descriptor = unsafe { ioctl::tun_get_device_namespace(self.fd.as_raw_fd()) }?;
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Returns true if an error of [`Tun::recv`] or [`Tun::send`] means that the device was deleted.
    pub fn is_gone(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EBADFD)
    }
}

impl From<Tun> for OwnedFd {
    fn from(tun: Tun) -> Self {
        tun.fd
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns true if single reads and writes of TUN devices can say that they must not block (RWF_NOWAIT, Linux 6.4). False if that
/// can't be found out.
pub fn supports_nowait() -> bool {
    #[cfg(feature = "faults")]
    if std::env::var_os("UWSGI_TUNTAP_TUN").is_some_and(|value| value == "blocking") {
        return false;
    }
    let Ok(control) = control_device() else { return false };
    // The kernel looks at the flags before it finds that there is no device yet.
    let read = uio::read(control.as_fd(), Ownership::Shared, &mut [0]);
    read.is_err_and(|error| error.raw_os_error() == Some(libc::EBADFD))
}

/// Opens the control device, which becomes a queue of a device. The descriptor is non-blocking and closed on exec.
fn control_device() -> Result<File, TunError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CONTROL_DEVICE)
        .map_err(TunError::Open)
}

/// The interface flags of linux/if_tun.h fit 16 bits, as `ifr_flags` does.
#[allow(clippy::cast_possible_truncation)]
const fn flags(value: libc::c_int) -> libc::c_short {
    value as libc::c_short
}

/// Attaches the descriptor to an interface. E2BIG if the name doesn't fit the kernel's structure.
fn set_interface(control: &File, name: &str, layout: libc::c_int) -> nix::Result<()> {
    let mut request = interface_request(name).ok_or(Errno::E2BIG)?;
    request.ifr_ifru.ifru_flags = flags(layout);
    // SAFETY: TUNSETIFF reads a `struct ifreq` (linux/if_tun.h), which `request` is, and the descriptor is open.
    unsafe { ioctl::tun_set_iff(control.as_raw_fd(), &raw const request) }?;
    if layout & libc::IFF_VNET_HDR != 0 {
        let len = libc::c_int::try_from(VNET_HEADER_LEN).map_err(|_| Errno::EINVAL)?;
        // SAFETY: TUNSETVNETHDRSZ reads an int, and the descriptor is open.
        unsafe { ioctl::tun_set_vnet_hdr_sz(control.as_raw_fd(), &raw const len) }?;
    }
    Ok(())
}

fn header_len(fd: BorrowedFd<'_>) -> nix::Result<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes an int, and the descriptor is open.
    unsafe { ioctl::tun_get_vnet_hdr_sz(fd.as_raw_fd(), &raw mut len) }?;
    usize::try_from(len).map_err(|_| Errno::EINVAL)
}

fn interface_request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Some(request)
}

/// The name in a request. Names of interfaces are ASCII in practice; other bytes are read as Latin-1.
fn name_of(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte.to_ne_bytes()[0])).collect()
}

fn attached_interface(fd: BorrowedFd<'_>) -> nix::Result<libc::ifreq> {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF fills in a `struct ifreq`, which `request` is, and the descriptor is open.
    unsafe { ioctl::tun_get_iff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_have_the_bits_of_the_kernel() {
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let bits = [tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6, tcp, libc::TUN_F_CSUM, 0];
        assert_eq!(Offloads::CANDIDATES.map(Offloads::bits), bits);
        let name = |bit| Offloads::from_bits(bit).names();
        assert_eq!((name(libc::TUN_F_TSO4), name(libc::TUN_F_TSO6)), (vec!["tso4"], vec!["tso6"]));
        assert_eq!((name(libc::TUN_F_TSO_ECN), name(libc::TUN_F_USO4)), (vec!["ecn"], vec!["uso4"]));
    }
}
