//! The files of unix sockets, which the kernel leaves behind when their sockets are closed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A socket's file, identified by its inode as well as by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file of a socket that has just been bound. A relative path is resolved now, so that it stays valid when the
    /// process changes its directory. `None` for names in the abstract namespace, which have no file.
    pub fn of(name: &str) -> Option<Self> {
        if name.starts_with('@') {
            return None;
        }
        let path = std::path::absolute(name).ok()?;
        let found = fs::symlink_metadata(&path).ok()?;
        Some(Self { path, device: found.dev(), inode: found.ino() })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless another file has taken its place. `NotFound` if there is no file of this path.
    pub fn remove(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.path)?;
        if (found.dev(), found.ino()) == (self.device, self.inode) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn own_file_is_removed_and_another_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let name = path.to_str().expect("UTF-8");
        let _own = UnixListener::bind(&path).expect("bind");
        let file = SocketFile::of(name).expect("it is there");
        file.remove().expect("it is ours");
        assert!(!path.exists());
        assert_eq!(file.remove().map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        // The inode's number may be given away again at once, so that the first file has to stay.
        let _kept = UnixListener::bind(folder.path().join("kept")).expect("bind");
        let kept = SocketFile::of(folder.path().join("kept").to_str().expect("UTF-8")).expect("it is there");
        let other = SocketFile { path: path.clone(), ..kept };
        let _other = UnixListener::bind(&path).expect("bind");
        other.remove().expect("nothing to do");
        assert!(path.exists());
    }

    #[test]
    fn abstract_names_have_no_file() {
        assert_eq!(SocketFile::of("@tuntap"), None);
    }
}
