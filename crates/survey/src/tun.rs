//! Finding out if TUN devices can be made here, and what they can do.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat;

use tuntap_sys::tun::{CONTROL_DEVICE, CONTROL_DEVICE_ID, MAX_PACKET_LEN, Tun};

/// The state of the control device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlDevice {
    /// It doesn't exist.
    Missing,
    /// There is another file of that name.
    Foreign,
    /// It can't be opened.
    Closed(Errno),
    /// It can be opened.
    Open,
}

/// What a TUN device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// It has headers before packets (IFF_VNET_HDR), without which there are no offloads.
    pub header: bool,
    /// Checksums can be left to the other side.
    pub checksum: bool,
    /// GSO packets of TCP over IPv4.
    pub tcp4: bool,
    /// GSO packets of TCP over IPv6.
    pub tcp6: bool,
    /// GSO packets of UDP (Linux 6.2).
    pub udp: bool,
    /// Reads that don't block even if the descriptor is blocking (RWF_NOWAIT).
    pub nowait: bool,
}

/// The result of trying to make a TUN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It was made.
    Made(Abilities),
    /// It was refused.
    Refused(String),
    /// A network namespace for the trial could not be made.
    NoNamespace(Errno),
}

/// Opens the control device and closes it again.
pub fn control_device() -> ControlDevice {
    let closed = |error: io::Error| ControlDevice::Closed(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
    let found = match std::fs::metadata(CONTROL_DEVICE) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return ControlDevice::Missing,
        Err(error) => return closed(error),
    };
    let device = std::os::unix::fs::MetadataExt::rdev(&found);
    if !found.file_type().is_char_device() || (stat::major(device), stat::minor(device)) != CONTROL_DEVICE_ID {
        return ControlDevice::Foreign;
    }
    match OpenOptions::new().read(true).write(true).open(CONTROL_DEVICE) {
        Ok(_) => ControlDevice::Open,
        Err(error) => closed(error),
    }
}

/// Tries to make a TUN device, in a network namespace that ends with this call.
pub fn try_out() -> Trial {
    let trial = || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            return Trial::NoNamespace(errno);
        }
        match Tun::create("doctor0") {
            Ok(tun) => Trial::Made(abilities(tun)),
            Err(error) => Trial::Refused(error.to_string()),
        }
    };
    thread::scope(|scope| scope.spawn(trial).join().unwrap_or(Trial::NoNamespace(Errno::ECHILD)))
}

fn abilities(tun: Tun) -> Abilities {
    let (header, checksum) = (tun.has_header(), libc::TUN_F_CSUM);
    let accepts = |flags| tun.accepts_offloads(checksum | flags);
    let (tcp4, tcp6) = (accepts(libc::TUN_F_TSO4), accepts(libc::TUN_F_TSO6));
    let udp = accepts(libc::TUN_F_USO4 | libc::TUN_F_USO6);
    let checksum = accepts(0);
    let nowait = Tun::adopt_shared(tun.into()).is_ok_and(|tun| {
        let mut buffer = vec![0; MAX_PACKET_LEN];
        tun.recv(&mut buffer).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    });
    Abilities { header, checksum, tcp4, tcp6, udp, nowait }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trial_leaves_nothing_behind() {
        assert_eq!(control_device(), ControlDevice::Open);
        let Trial::Made(abilities) = try_out() else { panic!("needs root and a TUN driver") };
        assert!(abilities.header && abilities.tcp4, "{abilities:?}");
        assert!(nix::net::if_::if_nametoindex("doctor0").is_err());
    }
}
