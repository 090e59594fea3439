//! Devices in the handover: they live on while uWSGI executes itself anew. A vassal that reloads has dropped its privileges
//! long ago, and could neither make its device again nor reach its router.

use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::DeviceSet;
use super::changes::{Changes, Stated, compare};
use super::pump::Buffers;
use super::settings::Settings;
use tuntap_config::{Config, DeviceSpec};
use tuntap_sys::handover::{Handover, HandoverError, Received, Section, Slot};
use tuntap_sys::socket;
use tuntap_sys::tun::{Tun, TunError};

/// What the next image needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    devices: Vec<DeviceState>,
    settings: Settings,
    vassal: String,
}

impl Section for State {
    const NAME: &'static str = "devices";
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceState {
    /// What it is called in the instance's options.
    name: String,
    tun: Slot,
    link: Option<LinkState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LinkState {
    socket: Slot,
    buffers: Buffers,
}

/// What the next image of a process needs to know whose devices belong to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub struct WithParent {
    /// What the devices were made for.
    pub settings: Settings,
}

impl Section for WithParent {
    const NAME: &'static str = "devices of the parent";
}

/// What the image before has handed over of its devices.
#[derive(Debug)]
pub struct Earlier {
    /// What the devices were made for.
    pub settings: Settings,
    /// The instance's name ([`super::instance_name()`]), which may look different from inside of the jail.
    pub vassal: String,
    /// Devices that are there.
    pub inherited: Vec<Inherited>,
    /// Devices that can't be taken over.
    pub lost: Vec<Lost>,
}

/// A device of the image before, with its descriptors checked.
#[derive(Debug)]
pub struct Inherited {
    /// What it is called in the instance's options.
    pub name: String,
    pub(super) tun: Tun,
    pub(super) connection: Option<(OwnedFd, Buffers)>,
}

/// A device of the image before that can't be taken over.
#[derive(Debug)]
pub struct Lost {
    /// What it is called in the instance's options.
    pub name: String,
    /// Why it can't be taken over.
    pub reason: LostReason,
}

/// Why a device can't be taken over.
#[derive(Debug, Error)]
pub enum LostReason {
    /// A descriptor has not come, or is none of a connection.
    #[error("{0} is not what it was before the reload")]
    Descriptor(&'static str),
    /// The device's descriptor is none of a TUN device any more.
    #[error(transparent)]
    Tun(#[from] TunError),
}

impl DeviceSet {
    /// Adds the devices to what is handed over, with what they were made for and the instance's name. Their threads must have
    /// been stopped ([`DeviceSet::pause`]).
    pub fn hand_over<'a>(
        &'a self,
        settings: Settings,
        vassal: String,
        handover: &mut Handover<'a>,
    ) -> Result<(), HandoverError> {
        let mut devices = Vec::new();
        for device in &self.devices {
            let tun = handover.add_descriptor(device.tun.as_fd());
            let link = device.link.as_ref().map(|link| LinkState {
                socket: handover.add_descriptor(link.socket().as_fd()),
                buffers: link.buffers().clone(),
            });
            devices.push(DeviceState { name: device.name.clone(), tun, link });
        }
        handover.add(&State { devices, settings, vassal })
    }
}

impl Earlier {
    /// Takes the devices that the image before has handed over, and checks their descriptors. A device may be gone: what is
    /// inside of the namespace may have been changed there. `None` if that image had nothing to do with devices.
    pub fn take_over(received: &mut Received) -> Result<Option<Self>, HandoverError> {
        let Some(State { devices, settings, vassal }) = received.section()? else { return Ok(None) };
        let (mut inherited, mut lost) = (Vec::new(), Vec::new());
        for device in devices {
            let name = device.name.clone();
            match device.open(received) {
                Ok(device) => inherited.push(device),
                Err(reason) => lost.push(Lost { name, reason }),
            }
        }
        Ok(Some(Self { settings, vassal, inherited, lost }))
    }

    /// Returns true if the image before had devices.
    pub fn had_devices(&self) -> bool {
        !self.inherited.is_empty() || !self.lost.is_empty()
    }

    /// Compares what the devices were made for with the options of this image. Returns the former, too.
    pub fn compare(&self, now: Stated<'_>) -> (Settings, Config, Changes) {
        let (settings, mut config) = match self.settings.config() {
            Some(config) => (self.settings.clone(), config),
            None => (now.settings.clone(), self.config_without_options(now.config)),
        };
        if !self.had_devices() && now.settings.is_isolated() && !settings.is_isolated() {
            // The image before could make none.
            config.devices.clear();
        }
        let mut changes = compare(Stated { settings: &settings, config: &config }, now);
        for lost in self.lost.iter().filter(|lost| now.config.devices.iter().any(|spec| spec.name == lost.name)) {
            changes.add_lost(&lost.name, format_args!("it is gone since before the reload ({})", lost.reason));
        }
        (settings, config, changes)
    }

    /// The configuration of the devices where this version can't read their options: as this image's, with those devices that
    /// are there.
    fn config_without_options(&self, now: &Config) -> Config {
        let is_there = |spec: &&DeviceSpec| self.inherited.iter().any(|device| device.name == spec.name);
        let as_now = now.devices.iter().filter(is_there).cloned();
        let more = self.inherited.iter().filter(|device| !now.devices.iter().any(|spec| spec.name == device.name));
        let others = more.map(|device| DeviceSpec { name: device.name.clone(), ..DeviceSpec::default() });
        Config { devices: as_now.chain(others).collect(), ..now.clone() }
    }
}

impl DeviceState {
    fn open(self, received: &mut Received) -> Result<Inherited, LostReason> {
        // Both are taken before the device is looked at, so that what is of no use gets closed.
        let tun = received.descriptor(self.tun);
        let connection = self.link.map(|link| (received.descriptor(link.socket), link.buffers));
        let connection = match connection {
            None => None,
            Some((Some(socket), buffers)) if socket::is_stream(socket.as_fd()) => Some((socket, buffers)),
            Some(_) => return Err(LostReason::Descriptor("its connection")),
        };
        let tun = Tun::adopt(tun.ok_or(LostReason::Descriptor("its descriptor"))?)?;
        Ok(Inherited { name: self.name, tun, connection })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Need;
    use tuntap_config::OptionName;

    fn take_over(devices: &str, descriptors: Vec<OwnedFd>) -> Result<Option<Earlier>, HandoverError> {
        let text = format!(r#"{{"version": 1, "sections": {{{devices}}}}}"#);
        Earlier::take_over(&mut Received::new(text.as_bytes(), descriptors).expect("a document"))
    }

    fn in_new_namespace(work: impl FnOnce() + Send + 'static) {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs root");
            work();
        };
        std::thread::spawn(work).join().expect("the test's own thread");
    }

    const NO_SETTINGS: &str = r#""settings": {"options": [], "is_isolated": true}, "vassal": "app.ini""#;

    /// The form stays what it is, and what an older version doesn't tell has a default.
    #[test]
    fn what_an_earlier_version_has_left_is_taken_over() {
        in_new_namespace(|| {
            let tun = Tun::create("kept0").expect("a device");
            let (connection, mut router) = UnixStream::pair().expect("a pair");
            let text = format!(
                r#""devices": {{"devices": [{{"name": "own0", "tun": 0, "link": {{"socket": 1, "buffers":
                    {{"to_router": [1, 2], "from_router": [], "attached": false, "router_is_ours": true, "greeting": null,
                    "root": null}}}}}}], {NO_SETTINGS}}}"#
            );
            let earlier = take_over(&text, vec![tun.into(), connection.into()]);
            let Earlier { vassal, mut inherited, lost, .. } = earlier.expect("it can be read").expect("it is there");
            assert_eq!((vassal.as_str(), lost.len()), ("app.ini", 0), "{lost:?}");
            let Inherited { name, tun, connection } = inherited.pop().expect("one device");
            assert_eq!((name.as_str(), tun.name()), ("own0", "kept0"), "its own name, and the kernel's");
            let (connection, buffers) = connection.expect("it was connected");
            assert_eq!((buffers.to_router.as_slice(), buffers.router_is_ours), (&[1, 2][..], true));
            File::from(connection).write_all(b"alive").expect("the connection is the same");
            let mut read = [0; 5];
            router.read_exact(&mut read).expect("the connection is the same");
            assert_eq!(&read, b"alive");
        });
    }

    #[test]
    fn one_device_that_is_lost_takes_no_other_along() {
        in_new_namespace(|| {
            let tun = |name| OwnedFd::from(Tun::create(name).expect("a device"));
            let socket = || OwnedFd::from(UnixStream::pair().expect("a pair").0);
            let file = || OwnedFd::from(tempfile::tempfile().expect("a file"));
            let link = |slot: usize| format!(r#"{{"socket": {slot}, "buffers": {{}}}}"#);
            let text = format!(
                r#""devices": {{"devices": [{{"name": "missing0", "tun": 9, "link": null}},
                    {{"name": "file0", "tun": 0, "link": null}}, {{"name": "deaf0", "tun": 1, "link": {}}},
                    {{"name": "shared0", "tun": 1, "link": null}}, {{"name": "kept0", "tun": 3, "link": {}}}], {NO_SETTINGS}}}"#,
                link(2),
                link(4)
            );
            let descriptors = vec![file(), tun("a0"), file(), tun("b0"), socket()];
            let earlier = take_over(&text, descriptors).expect("it can be read").expect("it is there");
            let lost: Vec<_> = earlier.lost.iter().map(|lost| lost.name.as_str()).collect();
            assert_eq!(lost, ["missing0", "file0", "deaf0", "shared0"], "{:?}", earlier.lost);
            assert_eq!(earlier.inherited.iter().map(|device| &*device.name).collect::<Vec<_>>(), ["kept0"]);
        });
    }

    fn settings(options: &[(OptionName, &str)], is_isolated: bool) -> Settings {
        Settings::new(options.iter().map(|(option, value)| (*option, (*value).to_owned())), is_isolated)
    }

    fn compare_with(earlier: &Earlier, now: &Settings) -> Changes {
        let config = now.config().expect("values that can be read");
        earlier.compare(Stated { settings: now, config: &config }).2
    }

    #[test]
    fn lost_device_is_made_anew_if_it_is_still_wanted() {
        let device = (OptionName::Device, "uwsgi0 /t.sock");
        let lost = vec![Lost { name: "uwsgi0".to_owned(), reason: LostReason::Descriptor("its descriptor") }];
        let earlier =
            Earlier { settings: settings(&[device], true), vassal: String::new(), inherited: Vec::new(), lost };
        let changes = compare_with(&earlier, &settings(&[device], true));
        assert_eq!(changes.to_remake, ["uwsgi0"]);
        let line = "uwsgi0: it is gone since before the reload (its descriptor is not what it was before the reload)";
        assert_eq!(changes.describe(Need::Device), line);
        let changes = compare_with(&earlier, &settings(&[], true));
        assert!(!changes.need(Need::Device) && changes.to_remake.is_empty(), "{changes:?}");
    }

    #[test]
    fn devices_that_could_not_be_made_before_are_new() {
        let device = (OptionName::Device, "uwsgi0 /t.sock");
        let earlier = |is_isolated| Earlier {
            settings: settings(&[device], is_isolated),
            vassal: String::new(),
            inherited: Vec::new(),
            lost: Vec::new(),
        };
        let now = settings(&[device], true);
        assert!(compare_with(&earlier(false), &now).need(Need::Device), "there is a namespace for it now");
        assert_eq!(compare_with(&earlier(true), &now), Changes::default());
    }

    #[test]
    fn damaged_content_is_an_error() {
        assert!(take_over("", Vec::new()).expect("it can be read").is_none());
        for devices in [r#"[]"#, r#"{"devices": 7}"#, r#"{"devices": []}"#] {
            let result = take_over(&format!(r#""devices": {devices}"#), Vec::new());
            assert!(matches!(result, Err(HandoverError::Section("devices", _))), "{devices}");
        }
    }
}
