//! What this process hands over to its next image when uWSGI executes itself anew: one document with a section for each
//! subject, and the descriptors that the sections refer to.
//!
//! The document lies in a memory file (memfd_create(2)). A child (`keeper`) keeps that file and the descriptors, because the
//! exec opens this process to others of its user. `UWSGI_TUNTAP_HANDOVER` in the environment says where the child is asked. A
//! document without descriptors may stand in the environment itself ([`Handover::announce`]).
//!
//! Every child inherits the environment, so the variable ends with the number of the process that wrote it: only that
//! process takes what it names. The keeper checks the same by the credentials that the kernel vouches for.

mod keeper;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::process::{adopt_inherited, set_close_on_exec, set_variable, take_variable};
use keeper::Keeper;

/// The environment variable by which an image finds what the one before has left: `<socket> <keeper> <owner>`, with the
/// numbers of the descriptor, of the child and of the process that wrote it, or `<document> <owner>`.
const VARIABLE: &str = "UWSGI_TUNTAP_HANDOVER";

/// Version of the document. It changes when a section's old meaning does; a section may get new fields without that, which
/// have a default for a document that lacks them.
const VERSION: u32 = 1;

/// Longest document that is read, in bytes. A device's buffers are less than 300 KB of it.
const MAX_DOCUMENT_LEN: u64 = 64 * 1024 * 1024;

/// Why nothing is handed over, or can't be taken over.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The memory file for the document can't be made.
    #[error("memfd_create, for what is handed over: {0}")]
    Memory(Errno),
    /// The document can't be written or read.
    #[error("the memory file of what is handed over: {0}")]
    Io(#[from] io::Error),
    /// The text is no such document.
    #[error("the document of what is handed over makes no sense: {0}")]
    Document(#[source] serde_json::Error),
    /// The document is of a version that has another meaning.
    #[error("the document of what is handed over is of version {0}, and this plugin reads version {VERSION}")]
    Version(u32),
    /// A section of the document can't be written or read.
    #[error("the section \"{0}\" of what is handed over makes no sense: {1}")]
    Section(&'static str, #[source] serde_json::Error),
    /// The child that keeps the descriptors can't be started, or doesn't give them back.
    #[error("the process that keeps the descriptors: {0}")]
    Keeper(#[source] io::Error),
    /// The variable names a descriptor that isn't open.
    #[error("descriptor {0} is not what it was before the reload")]
    Descriptor(RawFd),
    /// The variable's value is of none of the known forms.
    #[error("\"{0}\" in the environment doesn't say where it is")]
    Variable(String),
}

/// A part of the document, about one subject.
pub trait Section: Serialize + DeserializeOwned {
    /// The part's name in the document.
    const NAME: &'static str;
}

/// A descriptor that a section refers to, by its place among those that are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(usize);

#[derive(Debug, Serialize)]
struct Document<'a> {
    version: u32,
    sections: &'a BTreeMap<&'static str, Box<RawValue>>,
}

/// What every version of the document has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Head {
    version: u32,
}

#[derive(Debug, Deserialize)]
struct Body {
    sections: BTreeMap<String, Box<RawValue>>,
}

/// What is going to be handed over.
#[derive(Debug, Default)]
pub struct Handover<'a> {
    sections: BTreeMap<&'static str, Box<RawValue>>,
    descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Handover<'a> {
    /// Adds a descriptor, for a section to refer to.
    pub fn add_descriptor(&mut self, descriptor: BorrowedFd<'a>) -> Slot {
        self.descriptors.push(descriptor);
        Slot(self.descriptors.len() - 1)
    }

    /// Adds a section, in place of an earlier one of that name.
    pub fn add<S: Section>(&mut self, section: &S) -> Result<(), HandoverError> {
        let text = serde_json::value::to_raw_value(section).map_err(|error| HandoverError::Section(S::NAME, error))?;
        self.sections.insert(S::NAME, text);
        Ok(())
    }

    /// Returns true if there is no section.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// Leaves all of it to a child, and says in the environment where that is. The caller closes its own descriptors.
    pub fn leave(&self) -> Result<Left, HandoverError> {
        let (left, value) = self.keep()?;
        set_variable(VARIABLE, &value);
        Ok(left)
    }

    /// Writes a document without descriptors into the environment, for a process that isn't told before it executes its next
    /// image.
    pub fn announce(&self) -> Result<(), HandoverError> {
        debug_assert!(self.descriptors.is_empty(), "nobody would keep them");
        set_variable(VARIABLE, &self.inline()?);
        Ok(())
    }

    fn keep(&self) -> Result<(Left, String), HandoverError> {
        let mut document =
            File::from(memfd_create(c"uwsgi-tuntap", MFdFlags::MFD_CLOEXEC).map_err(HandoverError::Memory)?);
        document.write_all(self.document()?.as_bytes())?;
        let descriptors = self.descriptors.iter().copied();
        let kept: Vec<_> = [document.as_fd()].into_iter().chain(descriptors).map(|it| it.as_raw_fd()).collect();
        let left = Left(Keeper::start(&kept).map_err(|errno| HandoverError::Keeper(errno.into()))?);
        if let Err(errno) = set_close_on_exec(left.socket(), false) {
            left.revoke();
            return Err(HandoverError::Keeper(errno.into()));
        }
        let value = format!("{} {} {}", left.socket().as_raw_fd(), left.0.pid, std::process::id());
        Ok((left, value))
    }

    fn inline(&self) -> Result<String, HandoverError> {
        Ok(format!("{} {}", self.document()?, std::process::id()))
    }

    fn document(&self) -> Result<String, HandoverError> {
        let document = Document { version: VERSION, sections: &self.sections };
        serde_json::to_string(&document).map_err(HandoverError::Document)
    }
}

/// What was left to a child.
#[derive(Debug)]
#[must_use = "the child ends when its socket is closed"]
pub struct Left(Keeper);

impl Left {
    /// The socket by which the next image asks the child. It has to stay open over the exec.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }

    /// Ends the child, because this process ends and executes nothing.
    pub fn revoke(self) {
        self.0.end();
    }
}

/// Returns true if the environment says that something was left, to this process or to another one.
pub fn is_announced() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// What the image before has left.
#[derive(Debug)]
pub struct Received {
    sections: BTreeMap<String, Box<RawValue>>,
    descriptors: Vec<Option<OwnedFd>>,
}

impl Received {
    /// Takes what the image before has left, and its variable out of the environment. `None` if there is nothing, or if it was
    /// left by another process, whose environment this one has inherited. The descriptors are closed on exec.
    ///
    /// To be called before anything else could have opened a descriptor of the socket's number, and once this process is
    /// closed to others of its user ([`super::dumpable`]).
    pub fn take() -> Result<Option<Self>, HandoverError> {
        take_variable(VARIABLE).map_or(Ok(None), Self::from_variable)
    }

    fn from_variable(value: String) -> Result<Option<Self>, HandoverError> {
        let Some((place, owner)) = value.rsplit_once(' ') else { return Err(HandoverError::Variable(value)) };
        match owner.parse::<u32>() {
            Ok(owner) if owner == std::process::id() => {}
            Ok(_) => return Ok(None),
            Err(_) => return Err(HandoverError::Variable(value)),
        }
        if place.starts_with('{') {
            return Self::new(place.as_bytes(), Vec::new()).map(Some);
        }
        let numbers: Result<Vec<i32>, _> = place.split(' ').map(str::parse).collect();
        let Ok(&[socket, pid]) = numbers.as_deref() else { return Err(HandoverError::Variable(value)) };
        let socket = adopt_inherited(socket).ok_or(HandoverError::Descriptor(socket))?;
        let mut kept = Keeper { socket, pid }.take().map_err(HandoverError::Keeper)?;
        let mut document = File::from(kept.remove(0));
        document.rewind()?;
        let mut text = Vec::new();
        document.take(MAX_DOCUMENT_LEN).read_to_end(&mut text)?;
        Self::new(&text, kept).map(Some)
    }

    /// Reads a document, whose slots are these descriptors.
    pub fn new(document: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, HandoverError> {
        let Head { version } = serde_json::from_slice(document).map_err(HandoverError::Document)?;
        if version != VERSION {
            return Err(HandoverError::Version(version));
        }
        let Body { sections } = serde_json::from_slice(document).map_err(HandoverError::Document)?;
        Ok(Self { sections, descriptors: descriptors.into_iter().map(Some).collect() })
    }

    /// Takes a section. `None` if the image before had nothing to say on the subject.
    pub fn section<S: Section>(&mut self) -> Result<Option<S>, HandoverError> {
        let text = self.sections.remove(S::NAME);
        let section = text.map(|text| serde_json::from_str(text.get())).transpose();
        section.map_err(|error| HandoverError::Section(S::NAME, error))
    }

    /// Takes a descriptor. `None` if it was not handed over, or was taken before.
    pub fn descriptor(&mut self, slot: Slot) -> Option<OwnedFd> {
        self.descriptors.get_mut(slot.0)?.take()
    }

    /// The descriptors that nobody has taken yet.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.descriptors.iter().flatten().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Device {
        name: String,
        tun: Option<Slot>,
        #[serde(default)]
        added_later: u32,
    }

    impl Section for Device {
        const NAME: &'static str = "device";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Host {
        addresses: Vec<String>,
    }

    impl Section for Host {
        const NAME: &'static str = "host";
    }

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("room");
        file
    }

    fn text(descriptor: OwnedFd) -> String {
        let (mut file, mut text) = (File::from(descriptor), String::new());
        file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("a file");
        text
    }

    fn received(document: &str) -> Result<Received, HandoverError> {
        Received::new(document.as_bytes(), Vec::new())
    }

    /// Takes what a variable names. The socket stays open over an exec, and belongs to the next image then.
    fn take(left: Left, value: String) -> Result<Option<Received>, HandoverError> {
        let result = Received::from_variable(value);
        std::mem::forget(left);
        result
    }

    #[test]
    fn sections_and_descriptors_come_back() {
        let (first, second) = (file("first"), file("second"));
        let mut handover = Handover::default();
        assert!(handover.is_empty());
        let [_, tun] = [&first, &second].map(|file| handover.add_descriptor(file.as_fd()));
        let device = Device { name: "uwsgi0".to_owned(), tun: Some(tun), added_later: 7 };
        let host = Host { addresses: vec!["10.0.0.1".to_owned()] };
        handover.add(&device).and_then(|()| handover.add(&host)).expect("plain values");
        let (left, value) = handover.keep().expect("a child");
        let mut received = take(left, value).expect("it can be read").expect("it is this process's");
        assert_eq!(received.section::<Host>().expect("it can be read"), Some(host));
        assert_eq!(received.section::<Device>().expect("it can be read"), Some(device));
        assert_eq!(received.section::<Device>().expect("it was taken"), None);
        assert_eq!(received.descriptors().count(), 2);
        assert_eq!(text(received.descriptor(tun).expect("it was kept")), "second");
        assert!(received.descriptor(tun).is_none(), "it was taken");
        assert!(received.descriptor(Slot(2)).is_none(), "there is none");
    }

    #[test]
    fn document_may_stand_in_the_environment() {
        let mut handover = Handover::default();
        handover.add(&Device { name: "with a space 1".to_owned(), ..Device::default() }).expect("plain values");
        let value = handover.inline().expect("plain values");
        let mut received = Received::from_variable(value).expect("it can be read").expect("it is this process's");
        let device = received.section::<Device>().expect("it can be read").expect("it is there");
        assert_eq!(device.name, "with a space 1");
    }

    #[test]
    fn other_processes_take_nothing() {
        let mut handover = Handover::default();
        handover.add(&Device::default()).expect("plain values");
        let of_parent = |value: &str| {
            let (place, _) = value.rsplit_once(' ').expect("two parts");
            format!("{place} {}", nix::unistd::getppid())
        };
        let (left, value) = handover.keep().expect("a child");
        assert!(matches!(Received::from_variable(of_parent(&value)), Ok(None)));
        // The child goes on waiting for its parent.
        assert!(matches!(take(left, value), Ok(Some(_))));
        assert!(matches!(Received::from_variable(of_parent(&handover.inline().expect("plain values"))), Ok(None)));
    }

    #[test]
    fn revoked_handover_leaves_no_child() {
        let mut handover = Handover::default();
        let kept = file("kept");
        handover.add_descriptor(kept.as_fd());
        let (left, _) = handover.keep().expect("a child");
        let pid = left.0.pid;
        assert!(super::super::process::exists(pid));
        left.revoke();
        assert!(!super::super::process::exists(pid));
    }

    /// Versions up to now had no number, and described devices alone.
    #[test]
    fn other_versions_are_refused() {
        assert!(received(&format!(r#"{{"version": {VERSION}, "sections": {{}}}}"#)).is_ok());
        for (text, version) in [
            (r#"{"pid": 1, "devices": [], "settings": null}"#, 0),
            (r#"{"version": 2, "sections": {}}"#, 2),
            (r#"{"version": 4000000000, "other": []}"#, 4_000_000_000),
        ] {
            assert!(matches!(received(text), Err(HandoverError::Version(found)) if found == version), "{text}");
        }
    }

    #[test]
    fn damaged_documents_are_refused() {
        for text in ["", "{", "7", "\0", r#"{"version": -1}"#, r#"{"version": 1}"#, r#"{"version": 1, "sections": 7}"#]
        {
            assert!(matches!(received(text), Err(HandoverError::Document(_))), "{text:?}");
        }
        let id = std::process::id();
        let values = ["", "x", "7", "{} x", "parent of 7 {}"].map(str::to_owned);
        for value in values.into_iter().chain([format!(" {id}"), format!("1 2 3 {id}"), format!("x y {id}")]) {
            assert!(matches!(Received::from_variable(value.clone()), Err(HandoverError::Variable(_))), "{value:?}");
        }
        assert!(matches!(
            Received::from_variable(format!("1000000 7 {id}")),
            Err(HandoverError::Descriptor(1_000_000))
        ));
    }

    #[test]
    fn damaged_section_takes_no_other_along() {
        let text =
            r#"{"version": 1, "sections": {"host": {"addresses": 7}, "device": {"name": "a", "tun": null}, "x": 1}}"#;
        let mut received = received(text).expect("a document");
        assert!(matches!(received.section::<Host>(), Err(HandoverError::Section("host", _))));
        let device = received.section::<Device>().expect("it can be read").expect("it is there");
        assert_eq!((device.name.as_str(), device.added_later), ("a", 0));
    }

    /// Whoever keeps the descriptors may have ended, or be another program by now.
    #[test]
    fn lost_keeper_is_an_error() {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let number = std::os::fd::IntoRawFd::into_raw_fd(near);
        let mut child = std::process::Command::new("true").spawn().expect("a program");
        let value = format!("{number} {} {}", child.id(), std::process::id());
        assert!(matches!(Received::from_variable(value), Err(HandoverError::Keeper(_))));
        let _ = child.wait();
        drop(far);
    }
}
