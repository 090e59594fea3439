//! Devices that live on while uWSGI executes itself anew: a vassal that reloads has dropped its privileges long ago
//! and could neither make its device again nor reach its router.
//!
//! The old image describes the devices in a memory file, and leaves it and the descriptors to a child
//! ([`crate::sys::keeper`]); the new one finds in its environment where that is. What the environment says is checked, because
//! every child of the vassal inherits it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::DeviceError;
use super::link::Link;
use super::pump::Buffers;
use crate::sys::process::{adopt_inherited, set_close_on_exec};
use crate::sys::socket;
use crate::sys::tun::{Tun, TunError};

/// Longest description that is read, in bytes. A device's buffers hold less than 300 KB of it.
const MAX_DESCRIPTION_LEN: u64 = 64 * 1024 * 1024;

/// Why devices can't be taken over.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The description can't be written or read.
    #[error("the description of the devices: {0}")]
    Io(#[from] io::Error),
    /// It is no description.
    #[error("the description of the devices: {0}")]
    Json(#[from] serde_json::Error),
    /// Nobody keeps the descriptors.
    #[error("the process that kept the devices: {0}")]
    Keeper(#[source] io::Error),
    /// It is that of another process: this one is a child that inherited its parent's environment.
    #[error("it belongs to process {0}")]
    OtherProcess(i32),
    /// A descriptor is not open, or not what it was.
    #[error("descriptor {0} is not what it was before the reload")]
    Descriptor(RawFd),
    /// A TUN descriptor is none.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A device does not start again.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The devices of a process, for its next image.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pid: libc::pid_t,
    devices: Vec<DeviceState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceState {
    tun: RawFd,
    link: Option<LinkState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LinkState {
    socket: RawFd,
    buffers: Buffers,
}

/// A device of the earlier image, with its descriptors checked.
#[derive(Debug)]
pub(super) struct Inherited {
    pub tun: Tun,
    pub connection: Option<(OwnedFd, Buffers)>,
}

impl Handover {
    /// Stops the devices' threads and notes where everything is.
    pub(super) fn describe<'a>(devices: impl Iterator<Item = (&'a Arc<Tun>, Option<&'a mut Link>)>) -> Self {
        let devices = devices.map(|(tun, link)| DeviceState {
            tun: tun.as_fd().as_raw_fd(),
            link: link.map(|link| LinkState { buffers: link.stop(), socket: link.socket().as_raw_fd() }),
        });
        Self { pid: unistd::getpid().as_raw(), devices: devices.collect() }
    }

    /// The descriptors that have to stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.devices
            .iter()
            .flat_map(|device| std::iter::once(device.tun).chain(device.link.as_ref().map(|link| link.socket)))
    }

    /// Writes the description into a memory file.
    pub fn store(&self) -> Result<OwnedFd, HandoverError> {
        let mut file = File::from(memfd_create(c"uwsgi-tuntap", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    /// Reads the description that an earlier image of this process has left.
    pub fn load(description: OwnedFd) -> Result<Self, HandoverError> {
        let mut file = File::from(description);
        file.rewind()?;
        let mut text = Vec::new();
        file.take(MAX_DESCRIPTION_LEN).read_to_end(&mut text)?;
        let handover: Self = serde_json::from_slice(&text)?;
        if handover.pid != unistd::getpid().as_raw() {
            return Err(HandoverError::OtherProcess(handover.pid));
        }
        Ok(handover)
    }

    /// Takes note of the numbers that the descriptors have in this image, in the order of [`Handover::descriptors`].
    pub fn renumber(&mut self, descriptors: impl IntoIterator<Item = OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        for device in &mut self.devices {
            for number in std::iter::once(&mut device.tun).chain(device.link.as_mut().map(|link| &mut link.socket)) {
                // One that has not come is found missing when it is opened.
                *number = descriptors.next().map_or(-1, IntoRawFd::into_raw_fd);
            }
        }
    }

    /// Takes the descriptors over and checks that they are what they should be.
    pub(super) fn open(self) -> Result<Vec<Inherited>, HandoverError> {
        let take = |fd: RawFd| -> Result<OwnedFd, HandoverError> {
            let owned = adopt_inherited(fd).ok_or(HandoverError::Descriptor(fd))?;
            set_close_on_exec(owned.as_fd(), true).map_err(io::Error::from)?;
            Ok(owned)
        };
        let open = |device: DeviceState| {
            let tun = Tun::adopt(take(device.tun)?)?;
            let connection = match device.link {
                Some(state) => {
                    let connection = take(state.socket)?;
                    if !socket::is_stream(connection.as_fd()) {
                        return Err(HandoverError::Descriptor(state.socket));
                    }
                    Some((connection, state.buffers))
                }
                None => None,
            };
            Ok(Inherited { tun, connection })
        };
        self.devices.into_iter().map(open).collect()
    }
}
