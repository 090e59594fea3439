//! Devices that live on while uWSGI executes itself anew: a vassal that reloads has dropped its privileges long ago
//! and could neither make its device again nor reach its router.
//!
//! The old image describes the devices in a memory file, and leaves it and the descriptors to a child
//! ([`tuntap_sys::keeper`]); the new one finds in its environment where that is. What the environment says is checked, because
//! every child of the vassal inherits it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::DeviceError;
use super::link::Link;
use super::pump::Buffers;
use super::settings::Settings;
use tuntap_sys::keeper::Keeper;
use tuntap_sys::process::{adopt_inherited, set_close_on_exec};
use tuntap_sys::socket;
use tuntap_sys::tun::{Tun, TunError};

/// Longest description that is read, in bytes. A device's buffers hold less than 300 KB of it.
const MAX_DESCRIPTION_LEN: u64 = 64 * 1024 * 1024;

/// Why devices can't be taken over.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The memory file for the description can't be made.
    #[error("memfd_create, for the description of the devices: {0}")]
    Memory(Errno),
    /// The description can't be written or read.
    #[error("the memory file with the description of the devices: {0}")]
    Io(#[from] io::Error),
    /// It is no description.
    #[error("the description of the devices makes no sense: {0}")]
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
    /// The environment doesn't name one.
    #[error("\"{0}\" in the environment is no descriptor")]
    Variable(String),
    /// A TUN descriptor is none.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A device does not start again.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The devices of a process, for its next image.
///
/// It may come from another version of the plugin: what that doesn't tell is `None`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pid: libc::pid_t,
    devices: Vec<DeviceState>,
    /// What the devices were made for.
    #[serde(default)]
    pub settings: Option<Settings>,
    /// The instance's name ([`super::instance_name()`]), which may look different from inside of the jail.
    #[serde(default)]
    pub vassal: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceState {
    /// What it is called in the instance's options.
    #[serde(default)]
    name: Option<String>,
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
pub struct Inherited {
    /// What it is called in the instance's options.
    pub name: String,
    pub(super) tun: Tun,
    pub(super) connection: Option<(OwnedFd, Buffers)>,
}

/// A device of the earlier image that can't be taken over.
#[derive(Debug)]
pub struct Lost {
    /// What it is called in the instance's options, if that was told.
    pub name: Option<String>,
    /// Why.
    pub error: HandoverError,
}

impl Handover {
    /// Stops the devices' threads and notes where everything is.
    pub(super) fn describe<'a>(
        devices: impl Iterator<Item = (&'a str, &'a Arc<Tun>, Option<&'a mut Link>)>,
        settings: Settings,
        vassal: String,
    ) -> Self {
        let devices = devices.map(|(name, tun, link)| DeviceState {
            name: Some(name.to_owned()),
            tun: tun.as_fd().as_raw_fd(),
            link: link.map(|link| LinkState { buffers: link.stop(), socket: link.socket().as_raw_fd() }),
        });
        Self {
            pid: unistd::getpid().as_raw(),
            devices: devices.collect(),
            settings: Some(settings),
            vassal: Some(vassal),
        }
    }

    /// The descriptors that have to stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.devices
            .iter()
            .flat_map(|device| std::iter::once(device.tun).chain(device.link.as_ref().map(|link| link.socket)))
    }

    /// Writes the description into a memory file.
    pub fn store(&self) -> Result<OwnedFd, HandoverError> {
        let mut file = File::from(memfd_create(c"uwsgi-tuntap", MFdFlags::MFD_CLOEXEC).map_err(HandoverError::Memory)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    /// Takes what the image before has left. `value` is what it has said: the socket of the process that keeps the devices, the
    /// number of that process, and that of this one. An earlier version of the plugin left its descriptors open, and says the
    /// number of one that describes them.
    pub fn take(value: String) -> Result<Self, HandoverError> {
        let numbers: Result<Vec<i32>, _> = value.split(' ').map(str::parse).collect();
        let descriptor = |number| adopt_inherited(number).ok_or(HandoverError::Descriptor(number));
        match numbers.as_deref() {
            Ok(&[description]) => Self::load(descriptor(description)?),
            Ok(&[_, _, owner]) if u32::try_from(owner) != Ok(std::process::id()) => {
                Err(HandoverError::OtherProcess(owner))
            }
            Ok(&[socket, pid, _]) => {
                let keeper = Keeper { socket: descriptor(socket)?, pid };
                let mut kept = keeper.take().map_err(HandoverError::Keeper)?.into_iter();
                let mut handover = Self::load(kept.next().ok_or(HandoverError::Descriptor(-1))?)?;
                handover.renumber(kept);
                Ok(handover)
            }
            _ => Err(HandoverError::Variable(value)),
        }
    }

    /// Reads the description that an earlier image of this process has left.
    fn load(description: OwnedFd) -> Result<Self, HandoverError> {
        let mut file = File::from(description);
        if !file.metadata()?.is_file() {
            // A child of an earlier version has inherited the number, and another descriptor behind it. It isn't ours to close.
            return Err(HandoverError::Descriptor(file.into_raw_fd()));
        }
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
    fn renumber(&mut self, descriptors: impl IntoIterator<Item = OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        for device in &mut self.devices {
            for number in std::iter::once(&mut device.tun).chain(device.link.as_mut().map(|link| &mut link.socket)) {
                // One that has not come is found missing when it is opened.
                *number = descriptors.next().map_or(-1, IntoRawFd::into_raw_fd);
            }
        }
    }

    /// Takes the descriptors over and checks that they are what they should be. A device may be gone: what was inside of the
    /// namespace may have been changed there.
    pub fn open(self) -> (Vec<Inherited>, Vec<Lost>) {
        let (mut inherited, mut lost) = (Vec::new(), Vec::new());
        for device in self.devices {
            let name = device.name.clone();
            match device.open() {
                Ok(device) => inherited.push(device),
                Err(error) => lost.push(Lost { name, error }),
            }
        }
        (inherited, lost)
    }
}

impl DeviceState {
    fn open(self) -> Result<Inherited, HandoverError> {
        let take = |fd: RawFd| -> Result<OwnedFd, HandoverError> {
            let owned = adopt_inherited(fd).ok_or(HandoverError::Descriptor(fd))?;
            set_close_on_exec(owned.as_fd(), true).map_err(io::Error::from)?;
            Ok(owned)
        };
        // Both are taken before the device is looked at, so that what is of no use gets closed.
        let tun = take(self.tun);
        let connection = match self.link {
            Some(state) => {
                let connection = take(state.socket)?;
                if !socket::is_stream(connection.as_fd()) {
                    return Err(HandoverError::Descriptor(state.socket));
                }
                Some((connection, state.buffers))
            }
            None => None,
        };
        let tun = Tun::adopt(tun?)?;
        // An earlier version doesn't tell.
        let name = self.name.unwrap_or_else(|| tun.name().to_owned());
        Ok(Inherited { name, tun, connection })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> Handover {
        serde_json::from_str(text).expect("a description")
    }

    #[test]
    fn earlier_versions_tell_less() {
        let handover = from_text(r#"{"pid": 1, "devices": [{"tun": 1000000, "link": null}]}"#);
        assert!(handover.settings.is_none() && handover.vassal.is_none());
        let (inherited, lost) = handover.open();
        assert!(inherited.is_empty());
        assert!(matches!(lost.as_slice(), [Lost { name: None, error: HandoverError::Descriptor(1_000_000) }]));
    }

    /// What version 0.1.0 left before devices were kept by a process: open descriptors, and the number of the one of a memory
    /// file that describes them.
    #[test]
    fn what_an_earlier_version_has_left_open_is_taken_over() {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let tun = OwnedFd::from(Tun::create("kept0").expect("a device")).into_raw_fd();
            let (connection, router) = std::os::unix::net::UnixStream::pair().expect("a pair");
            let socket = OwnedFd::from(connection).into_raw_fd();
            let text = format!(
                r#"{{"pid": {}, "devices": [{{"tun": {tun}, "link": {{"socket": {socket}, "buffers":
                    {{"to_router": [1, 2], "from_router": [], "attached": false, "router_is_ours": true, "greeting": null,
                    "root": null}}}}}}]}}"#,
                std::process::id()
            );
            let leave = |text: &str| {
                let mut file = File::from(memfd_create(c"uwsgi-tuntap", MFdFlags::empty()).expect("a memory file"));
                file.write_all(text.as_bytes()).expect("there is room");
                OwnedFd::from(file).into_raw_fd()
            };
            let handover = Handover::take(leave(&text).to_string()).expect("it can be read");
            assert!(handover.settings.is_none() && handover.vassal.is_none(), "it doesn't tell");
            assert_eq!(handover.descriptors().collect::<Vec<_>>(), [tun, socket]);
            let (mut inherited, lost) = handover.open();
            assert!(lost.is_empty(), "{lost:?}");
            let Inherited { name, tun, connection } = inherited.pop().expect("one device");
            assert_eq!((name.as_str(), tun.name()), ("kept0", "kept0"));
            let (connection, buffers) = connection.expect("it was connected");
            assert_eq!((buffers.to_router.as_slice(), buffers.router_is_ours), (&[1, 2][..], true));
            File::from(connection).write_all(b"alive").expect("the connection is the same");
            let mut read = [0; 5];
            (&router).read_exact(&mut read).expect("the connection is the same");
            assert_eq!(&read, b"alive");

            let others = leave(r#"{"pid": 1, "devices": []}"#);
            assert!(matches!(Handover::take(others.to_string()), Err(HandoverError::OtherProcess(1))));
            let number = router.as_raw_fd();
            let not_a_file = Handover::take(number.to_string());
            assert!(matches!(not_a_file, Err(HandoverError::Descriptor(wrong)) if wrong == number), "{not_a_file:?}");
            assert!((&router).write(b"x").is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe), "still open");
            for value in ["", "x", "1 2", "1 2 3 4", "1000000"] {
                assert!(Handover::take(value.to_owned()).is_err(), "{value:?}");
            }
        };
        std::thread::spawn(work).join().expect("the test's own thread");
    }

    #[test]
    fn one_device_that_is_lost_takes_no_other_along() {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            let tun = OwnedFd::from(Tun::create("kept0").expect("a device"));
            let (stays, goes) = (std::os::fd::IntoRawFd::into_raw_fd(tun), 1_000_000);
            let text = format!(
                r#"{{"pid": 1, "devices": [{{"name": "lost0", "tun": {goes}, "link": null}},
                    {{"name": "own0", "tun": {stays}, "link": null}}]}}"#
            );
            let (inherited, lost) = from_text(&text).open();
            assert_eq!(lost.iter().map(|lost| lost.name.as_deref()).collect::<Vec<_>>(), [Some("lost0")]);
            let names: Vec<_> = inherited.iter().map(|device| (device.name.as_str(), device.tun.name())).collect();
            assert_eq!(names, [("own0", "kept0")], "its own name, and the kernel's");
        };
        std::thread::spawn(work).join().expect("the test's own thread");
    }
}
