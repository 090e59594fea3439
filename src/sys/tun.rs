//! TUN devices (Documentation/networking/tuntap.rst, linux/if_tun.h).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::stat;
use nix::unistd;
use thiserror::Error;

const CONTROL_DEVICE: &str = "/dev/net/tun";

/// Major and minor number of the control device (Documentation/admin-guide/devices.txt).
const CONTROL_DEVICE_ID: (u64, u64) = (10, 200);

mod ioctl {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_read_bad!(tun_get_iff, libc::TUNGETIFF, libc::ifreq);
}

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
    #[error("{name}: {}", hint(*.errno))]
    Create {
        /// The device's name.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The descriptor is not that of a TUN device without packet information.
    #[error("descriptor {0} is no TUN device of ours")]
    Foreign(i32),
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
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
}

impl Tun {
    /// Makes the device in the current network namespace. Its descriptor is non-blocking and closed on exec.
    pub fn create(name: &str) -> Result<Self, TunError> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(CONTROL_DEVICE)
            .map_err(TunError::Open)?;
        let mut request = interface_request(name).ok_or_else(|| TunError::Name(name.to_owned()))?;
        request.ifr_ifru.ifru_flags = flags(libc::IFF_TUN | libc::IFF_NO_PI);
        // SAFETY: TUNSETIFF reads a `struct ifreq` (linux/if_tun.h), which `request` is, and the descriptor is open.
        unsafe { ioctl::tun_set_iff(control.as_raw_fd(), &raw const request) }
            .map_err(|errno| TunError::Create { name: name.to_owned(), errno })?;
        Self::adopt(control.into())
    }

    /// Takes over a descriptor that an earlier image of this process opened, after looking at what it really is.
    pub fn adopt(fd: OwnedFd) -> Result<Self, TunError> {
        let foreign = || TunError::Foreign(fd.as_raw_fd());
        let device = stat::fstat(&fd).map_err(|_| foreign())?.st_rdev;
        if (stat::major(device), stat::minor(device)) != CONTROL_DEVICE_ID {
            return Err(foreign());
        }
        let request = attached_interface(fd.as_fd()).map_err(|_| foreign())?;
        // SAFETY: TUNGETIFF has filled in name and flags, so that `ifru_flags` is the union's valid member.
        let found = unsafe { request.ifr_ifru.ifru_flags };
        let wanted = flags(libc::IFF_TUN | libc::IFF_NO_PI);
        let layout = flags(libc::IFF_TUN | libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        if found & layout != wanted {
            return Err(foreign());
        }
        // Kernel names are ASCII in practice; another byte would only make the log less pretty.
        let name = request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte.cast_unsigned()));
        Ok(Self { name: name.collect(), fd })
    }

    /// The name that the kernel gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one packet. `WouldBlock` if there is none. A longer packet is cut to the buffer.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(unistd::read(&self.fd, buffer)?)
    }

    /// Writes one packet. The kernel refuses it with EIO while the device is down, with EINVAL if it is no IP packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        unistd::write(&self.fd, packet)?;
        Ok(())
    }

    /// Whether the device still exists. Somebody may delete it while its descriptor is open.
    pub fn is_alive(&self) -> bool {
        attached_interface(self.fd.as_fd()).is_ok()
    }

    /// Whether an error of [`Tun::recv`] or [`Tun::send`] means that the device was deleted.
    pub fn is_gone(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EBADFD)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The interface flags of linux/if_tun.h fit 16 bits, as `ifr_flags` does.
#[allow(clippy::cast_possible_truncation)]
const fn flags(value: libc::c_int) -> libc::c_short {
    value as libc::c_short
}

fn interface_request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Some(request)
}

fn attached_interface(fd: BorrowedFd<'_>) -> nix::Result<libc::ifreq> {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF fills in a `struct ifreq`, which `request` is, and the descriptor is open.
    unsafe { ioctl::tun_get_iff(fd.as_raw_fd(), &raw mut request) }?;
    Ok(request)
}
