//! TUN devices that a test makes itself, with the right layout or a wrong one.
#![allow(unsafe_code, reason = "nobody but the kernel's own calls makes such devices")]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc;

use crate::common::netns::Net;

mod ioctl {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_header_len, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_int_bad!(set_offloads, libc::TUNSETOFFLOAD);
    nix::ioctl_write_int_bad!(set_persist, libc::TUNSETPERSIST);
    nix::ioctl_write_ptr_bad!(set_carrier, libc::TUNSETCARRIER, libc::c_int);
    nix::ioctl_write_ptr_bad!(set_send_buffer, libc::TUNSETSNDBUF, libc::c_int);
}

/// The flags of a device that can be attached.
pub const ATTACHABLE: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// The header without and with the number of merged buffers (`struct virtio_net_hdr_mrg_rxbuf`).
pub const HEADER_LEN: libc::c_int = 10;
pub const MERGED_HEADER_LEN: libc::c_int = 12;

/// Checksums and TCP segmentation.
pub const OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4;

/// The control device, with no interface behind it.
pub fn control() -> File {
    control_for(OpenOptions::new().read(true).write(true))
}

fn control_for(access: &OpenOptions) -> File {
    access.clone().custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").expect("root may open /dev/net/tun")
}

/// A device of any layout in a namespace.
#[track_caller]
pub fn make(net: &Net, name: &str, layout: libc::c_int) -> File {
    make_for(OpenOptions::new().read(true).write(true), net, name, layout)
}

/// A device whose descriptor can't be used for everything.
#[track_caller]
pub fn make_for(access: &OpenOptions, net: &Net, name: &str, layout: libc::c_int) -> File {
    net.run(|| {
        let device = control_for(access);
        let request = request(name, layout);
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which `request` is, and the descriptor is open.
        unsafe { ioctl::set_interface(device.as_raw_fd(), &raw const request) }.expect("root may make TUN devices");
        device
    })
}

pub fn set_header_len(device: &File, len: libc::c_int) {
    // SAFETY: TUNSETVNETHDRSZ reads an int, and the descriptor is open.
    unsafe { ioctl::set_header_len(device.as_raw_fd(), &raw const len) }.expect("the kernel takes the length");
}

pub fn set_send_buffer(device: &File, len: libc::c_int) {
    // SAFETY: TUNSETSNDBUF reads an int, and the descriptor is open.
    unsafe { ioctl::set_send_buffer(device.as_raw_fd(), &raw const len) }.expect("the kernel takes the length");
}

pub fn set_offloads(device: &File, offloads: u32) {
    let offloads = libc::c_int::try_from(offloads).expect("the flags fit an int");
    // SAFETY: TUNSETOFFLOAD takes a number, and the descriptor is open.
    unsafe { ioctl::set_offloads(device.as_raw_fd(), offloads) }.expect("the kernel has these offloads");
}

pub fn set_persist(device: &File, persist: bool) {
    // SAFETY: TUNSETPERSIST takes a number, and the descriptor is open.
    unsafe { ioctl::set_persist(device.as_raw_fd(), persist.into()) }.expect("its owner may make a device stay");
}

pub fn set_carrier(device: &File, carrier: bool) {
    let carrier = libc::c_int::from(carrier);
    // SAFETY: TUNSETCARRIER reads an int, and the descriptor is open.
    unsafe { ioctl::set_carrier(device.as_raw_fd(), &raw const carrier) }.expect("the kernel has TUNSETCARRIER");
}

/// A copy of another process's descriptor.
pub fn stolen(pid: i32, descriptor: i32) -> OwnedFd {
    // SAFETY: pidfd_open takes two numbers and returns a new descriptor.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = owned(process);
    // SAFETY: pidfd_getfd takes three numbers and returns a new descriptor.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) })
}

fn owned(result: libc::c_long) -> OwnedFd {
    let raw = i32::try_from(Errno::result(result).expect("root may look into its processes")).expect("a descriptor");
    // SAFETY: the kernel has just made it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn request(name: &str, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: `struct ifreq` is integers and a union of plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("the flags fit 16 bits");
    request
}
