//! Opening a file that the operator has named, where somebody else may have a hand in its path. An Emperor's vassals may own the
//! folders that their files lie in: a symbolic link there leads wherever its owner likes, and this command may be root's.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::geteuid;

/// Most symbolic links on a path, as in the kernel (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Permission bits by which others than the owner may write.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// In such a folder, only owners may rename or delete files (inode(7)).
const STICKY: u32 = 0o1000;

/// A file that may be read.
#[derive(Debug)]
pub struct Opened {
    file: File,
    /// True if somebody besides root and this command's user may change it, or put another file in its place.
    pub is_others: bool,
}

impl Opened {
    /// Opens a regular file. Symbolic links are followed only if nobody else can have made them or put them there.
    ///
    /// # Errors
    /// There is none, it may not be read, or somebody else may have led this path elsewhere.
    pub fn new(path: &Path) -> Result<Self, String> {
        let mut walk = Walk::new(path).map_err(said)?;
        while let Some(name) = walk.rest.pop_front() {
            if let Some(opened) = walk.step(&name)? {
                return Ok(opened);
            }
        }
        Err("it is no regular file".to_owned())
    }

    /// Opens the regular file behind a descriptor of another process, by its path in /proc: a file that this process has open
    /// already, so that no name leads elsewhere.
    ///
    /// # Errors
    /// The process is gone or somebody else's, or the file isn't regular.
    pub fn held(fd: &Path) -> Result<Self, String> {
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(fd);
        let file = file.map_err(|error| error.to_string())?;
        let is_regular = file.metadata().is_ok_and(|it| it.is_file());
        // Others may change what is in it, as in any log.
        if is_regular { Ok(Self { file, is_others: true }) } else { Err("it is no regular file".to_owned()) }
    }

    /// The last bytes of it, `most` of them, and true if it has more.
    ///
    /// # Errors
    /// It can't be read.
    pub fn tail(mut self, most: u64) -> Result<(Vec<u8>, bool), String> {
        let length = self.file.metadata().map_err(|error| error.to_string())?.len();
        let start = length.saturating_sub(most);
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(start))
            // It may grow meanwhile.
            .and_then(|_| self.file.take(most).read_to_end(&mut bytes))
            .map_err(|error| error.to_string())?;
        Ok((bytes, start > 0))
    }
}

/// A path that is followed name by name, so that each is judged by what is opened, not by what was there before.
struct Walk {
    folder: OwnedFd,
    rest: VecDeque<OsString>,
    /// Somebody else may have put there what came up to now.
    is_others: bool,
    links: u32,
}

impl Walk {
    fn new(path: &Path) -> nix::Result<Self> {
        let start = if path.is_absolute() { "/" } else { "." };
        let folder = openat(AT_FDCWD, start, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { folder, rest: names(path), is_others: false, links: 0 })
    }

    /// Goes on by one name. Returns the file at the end.
    fn step(&mut self, name: &OsStr) -> Result<Option<Opened>, String> {
        let folder = fstat(&self.folder).map_err(said)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(&self.folder, name, flags, Mode::empty()).map_err(said)?;
        let stat = fstat(&found).map_err(said)?;
        let is_safe_folder = is_own(&folder) && (!others_may_write(&folder) || folder.st_mode & STICKY != 0);
        // In a sticky folder, what is one's own stays where it is.
        let is_safe = is_safe_folder && is_own(&stat);
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFLNK if !is_safe => {
                let name = name.to_string_lossy();
                Err(format!(
                    "{name:?} is a symbolic link that uid {} may have made: it isn't followed",
                    owner(&stat, &folder)
                ))
            }
            SFlag::S_IFLNK => {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(said(Errno::ELOOP));
                }
                let target = readlinkat(&found, "").map_err(said)?;
                let target = Path::new(&target);
                if target.is_absolute() {
                    self.folder = Self::new(target).map_err(said)?.folder;
                }
                names(target).into_iter().rev().for_each(|name| self.rest.push_front(name));
                Ok(None)
            }
            SFlag::S_IFDIR => {
                self.is_others |= !is_safe;
                self.folder = found;
                Ok(None)
            }
            SFlag::S_IFREG if self.rest.is_empty() => {
                let is_others = self.is_others || !is_safe || others_may_write(&stat);
                if is_others && stat.st_nlink > 1 {
                    return Err(
                        "it has several names (hard links), and somebody else may have made this one".to_owned()
                    );
                }
                // By /proc it is the very file that was judged (proc_pid_fd(5)).
                let path = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
                let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
                Ok(Some(Opened { file: file.map_err(|error| error.to_string())?, is_others }))
            }
            SFlag::S_IFREG => Err(said(Errno::ENOTDIR)),
            _ => Err("it is no regular file".to_owned()),
        }
    }
}

/// The names that a path consists of. `..` is a name in each folder.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn is_own(stat: &FileStat) -> bool {
    stat.st_uid == 0 || stat.st_uid == geteuid().as_raw()
}

const fn others_may_write(stat: &FileStat) -> bool {
    stat.st_mode & OTHERS_MAY_WRITE != 0
}

/// The user to name: the owner of the link, or that of the folder if the link is one's own.
fn owner(link: &FileStat, folder: &FileStat) -> u32 {
    if is_own(link) { folder.st_uid } else { link.st_uid }
}

fn said(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    /// A user that is neither root nor the one of the test.
    const OTHER: u32 = 30_001;

    fn read(path: &Path) -> Result<(String, bool), String> {
        let opened = Opened::new(path)?;
        let is_others = opened.is_others;
        Ok((String::from_utf8(opened.tail(100)?.0).expect("UTF-8"), is_others))
    }

    #[test]
    fn own_links_are_followed_and_those_of_others_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("secret"), "secret").expect("own folder");
        symlink("secret", path("own")).expect("own folder");
        symlink(path("own"), path("chain")).expect("own folder");
        assert_eq!(read(&path("chain")), Ok(("secret".to_owned(), false)));
        symlink("secret", path("theirs")).expect("own folder");
        lchown(path("theirs"), Some(OTHER), None).expect("needs root");
        let error = read(&path("theirs")).expect_err("somebody else's link");
        assert!(error.contains("symbolic link that uid 30001"), "{error}");

        // A folder of somebody else's, who may have moved there what was made elsewhere.
        let theirs = path("vassal");
        fs::create_dir(&theirs).expect("own folder");
        symlink(path("secret"), theirs.join("link")).expect("own folder");
        fs::write(theirs.join("file"), "file").expect("own folder");
        fs::hard_link(path("secret"), theirs.join("hard")).expect("own folder");
        chown(&theirs, Some(OTHER), None).expect("needs root");
        assert!(read(&theirs.join("link")).expect_err("their folder").contains("uid 30001"));
        assert!(read(&theirs.join("hard")).expect_err("their folder").contains("hard links"));
        assert_eq!(read(&theirs.join("file")), Ok(("file".to_owned(), true)));
        fs::write(path("plain"), "plain").expect("own folder");
        assert_eq!(read(&theirs.join("../plain")), Ok(("plain".to_owned(), true)), "by way of their folder");
        // The folder itself behind a link of theirs.
        symlink(folder.path(), theirs.join("up")).expect("own folder");
        assert!(read(&theirs.join("up/secret")).is_err());
    }

    #[test]
    fn file_that_others_may_write_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("own folder");
        for (mode, is_others) in [(0o644, false), (0o664, true), (0o602, true)] {
            fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("own file");
            assert_eq!(read(&file), Ok(("x".to_owned(), is_others)), "{mode:o}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRUSR).expect("own folder");
        symlink("loop", path("loop")).expect("own folder");
        fs::write(path("file"), "0123456789").expect("own folder");
        for (name, wanted) in [
            ("fifo", "no regular file"),
            ("", "no regular file"),
            ("loop", "Too many levels of symbolic links"),
            ("file/x", "Not a directory"),
            ("missing", "No such file"),
        ] {
            let error = read(&path(name)).expect_err(name);
            assert!(error.contains(wanted), "{name}: {error}");
        }
        assert!(read(Path::new("/dev/null")).is_err());
        assert_eq!(Opened::new(&path("file")).and_then(|it| it.tail(3)), Ok((b"789".to_vec(), true)));
        assert_eq!(Opened::new(&path("file")).and_then(|it| it.tail(10)), Ok((b"0123456789".to_vec(), false)));
    }
}
