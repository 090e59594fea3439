//! Replacing a file atomically, in a folder that is held open, so that nobody can put another folder in its place meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use tuntap_wire::autoconf::DirectoryId;

/// The mode of the files: anybody may read them.
const MODE: Mode = Mode::from_bits_truncate(0o644);

/// How many names are tried for a draft.
const MAX_DRAFTS: u32 = 8;

/// A folder, and the name of a file in it. The file need not exist.
#[derive(Debug)]
pub struct Place {
    folder: File,
    name: OsString,
}

impl Place {
    /// Opens the folder of a file. No part of the path may be a symbolic link (openat2(2), Linux 5.6).
    pub fn open(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EISDIR.into()) };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let folder = openat2(AT_FDCWD, folder, how)?;
        Ok(Self { folder: folder.into(), name: name.to_owned() })
    }

    /// Which folder that is.
    pub fn directory(&self) -> io::Result<DirectoryId> {
        let metadata = self.folder.metadata()?;
        Ok(DirectoryId { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Replaces what is there by a file that anybody may read. A symbolic link is replaced itself; its target stays as it
    /// is. Nothing happens if the file has this content, mode and owner already, because another process of this user has
    /// written it.
    pub fn replace(&self, contents: &[u8]) -> io::Result<()> {
        if self.has(contents).unwrap_or(false) {
            return Ok(());
        }
        let (draft, mut file) = self.draft()?;
        let result = file.write_all(contents).and_then(|()| Ok(fchmod(file.as_fd(), MODE)?)).and_then(|()| {
            Ok(renameat(self.folder.as_fd(), draft.as_os_str(), self.folder.as_fd(), self.name.as_os_str())?)
        });
        if result.is_err() {
            let _ = unlinkat(self.folder.as_fd(), draft.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        result
    }

    /// Creates a file with an unused random name in the folder: several processes may be replacing the same file.
    fn draft(&self) -> io::Result<(OsString, File)> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut attempts = 0;
        loop {
            let mut draft = OsStr::from_bytes(b".").to_owned();
            draft.push(&self.name);
            draft.push(format!(".tuntap-{:016x}", RandomState::new().hash_one(attempts)));
            attempts += 1;
            match openat(self.folder.as_fd(), draft.as_os_str(), flags, MODE) {
                Err(Errno::EEXIST) if attempts < MAX_DRAFTS => {}
                result => return Ok((draft, result?.into())),
            }
        }
    }

    fn has(&self, contents: &[u8]) -> io::Result<bool> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(self.folder.as_fd(), self.name.as_os_str(), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        let is_as_written = metadata.is_file()
            && metadata.uid() == geteuid().as_raw()
            && metadata.mode() & 0o7777 == MODE.bits()
            && metadata.len() == contents.len() as u64;
        let mut found = Vec::new();
        Ok(is_as_written && file.take(metadata.len()).read_to_end(&mut found).is_ok() && found == contents)
    }
}

/// Which directory a path leads to.
pub fn directory(path: &Path) -> io::Result<DirectoryId> {
    let metadata = std::fs::metadata(path)?;
    Ok(DirectoryId { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn file_is_replaced_as_a_whole_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().canonicalize().expect("a folder");
        let (path, other) = (dir.join("resolv.conf"), dir.join("other"));
        fs::write(&other, "theirs").expect("own folder");
        symlink(&other, &path).expect("own folder");
        let place = Place::open(&path).expect("a place");
        for text in ["first", "second"] {
            place.replace(text.as_bytes()).expect("it can be written");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
        assert!(!fs::symlink_metadata(&path).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&other).expect("there"), "theirs");
        assert_eq!(fs::read_dir(&dir).expect("own folder").count(), 2, "no draft is left");
        assert_eq!(place.directory().expect("a folder"), directory(&dir).expect("a folder"));
    }

    /// Workers that keep their privileges may write the same file at the same time.
    #[test]
    fn writers_of_the_same_file_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().canonicalize().expect("a folder").join("resolv.conf");
        std::thread::scope(|scope| {
            for number in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    for round in 0..200u8 {
                        let place = Place::open(path).expect("a place");
                        place.replace(&vec![b'a' + (number + round) % 3; 1000]).expect("it can be written");
                    }
                });
            }
        });
        let text = fs::read(&path).expect("there");
        assert!(text.len() == 1000 && text.iter().all(|letter| *letter == text[0]));
        assert_eq!(fs::read_dir(dir.path()).expect("own folder").count(), 1, "no draft is left");
    }

    #[test]
    fn file_that_is_right_already_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().canonicalize().expect("a folder").join("resolv.conf");
        let place = Place::open(&path).expect("a place");
        let inode = || fs::metadata(&path).expect("there").ino();
        place.replace(b"text").expect("it can be written");
        let first = inode();
        place.replace(b"text").expect("it can be written");
        assert_eq!(inode(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("own file");
        place.replace(b"text").expect("it can be written");
        assert_ne!(inode(), first, "somebody else could have written into it");
        place.replace(b"test").expect("it can be written");
        assert_eq!(fs::read(&path).expect("there"), b"test");
    }

    #[test]
    fn folder_behind_a_link_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().canonicalize().expect("a folder");
        symlink("/etc", dir.join("etc")).expect("own folder");
        let refused = Place::open(&dir.join("etc/resolv.conf")).expect_err("a link");
        assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
        assert!(Place::open(&dir.join("nothing/resolv.conf")).is_err());
    }

    #[test]
    fn folder_in_the_files_place_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().canonicalize().expect("a folder");
        fs::create_dir(dir.join("resolv.conf")).expect("own folder");
        assert!(Place::open(&dir.join("resolv.conf")).expect("a place").replace(b"x").is_err());
        assert_eq!(fs::read_dir(&dir).expect("own folder").count(), 1, "no draft is left");
    }
}
