//! What a user may do with files. The kernel is asked as that user, so that access control lists and security modules are
//! taken into account.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;

/// The user and the groups of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User ID.
    pub uid: libc::uid_t,
    /// Group ID.
    pub gid: libc::gid_t,
    /// IDs of supplementary groups.
    pub groups: Vec<libc::gid_t>,
}

/// What is to be done with a file (access(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Read it.
    Read,
    /// Write to it, or connect to it if it is a socket.
    Write,
}

/// Where access to a file is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// The first folder on the path that can't be entered, or the file itself.
    pub path: PathBuf,
    /// The kernel's error.
    pub errno: Errno,
}

/// Where this process is denied access to a file; `None` if it has access.
pub fn own_barrier(path: &Path, wish: Wish) -> Option<Barrier> {
    find_barrier(&std::path::absolute(path).ok()?, wish)
}

/// Where a user is denied access to a file; `None` if the user has access. Only root can ask for other users; the error is
/// the kernel's refusal to become that user.
pub fn barrier(account: &Account, path: &Path, wish: Wish) -> nix::Result<Option<Barrier>> {
    let path = std::path::absolute(path).map_err(|_| Errno::EINVAL)?;
    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            become_account(account)?;
            Ok(find_barrier(&path, wish))
        });
        asker.join().unwrap_or(Err(Errno::ECHILD))
    })
}

fn find_barrier(path: &Path, wish: Wish) -> Option<Barrier> {
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    let wanted = match wish {
        Wish::Read => libc::R_OK,
        Wish::Write => libc::W_OK,
    };
    let steps = folders.into_iter().map(|folder| (folder, libc::X_OK)).chain([(path, wanted)]);
    steps
        .map(|(path, mode)| (path, access(path, mode)))
        .find_map(|(path, result)| result.err().map(|errno| Barrier { path: path.to_owned(), errno }))
}

/// access(2) uses the real IDs of the calling thread.
fn access(path: &Path, mode: libc::c_int) -> nix::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the path is NUL-terminated and lives through the call.
    Errno::result(unsafe { libc::access(path.as_ptr(), mode) }).map(drop)
}

/// Changes the user and the groups of the calling thread for good, and of no other thread.
fn become_account(account: &Account) -> nix::Result<()> {
    // The functions of the C library with these names would change all threads.
    // SAFETY: setgroups(2) reads that many numbers from the list, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, account.groups.len(), account.groups.as_ptr()) };
    Errno::result(result)?;
    // SAFETY: setresgid(2) takes three numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, account.gid, account.gid, account.gid) })?;
    // SAFETY: setresuid(2) takes three numbers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, account.uid, account.uid, account.uid) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn first_closed_door_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("inner");
        let file = inner.join("file");
        fs::create_dir(&inner).expect("own folder");
        fs::write(&file, "").expect("own folder");
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("own file");
        let stranger = Account { uid: 20001, gid: 20001, groups: vec![20007] };
        let stopped = |wish| barrier(&stranger, &file, wish).expect("needs root").map(|barrier| barrier.path);

        mode(folder.path(), 0o700);
        assert_eq!(stopped(Wish::Read).as_deref(), Some(folder.path()));
        mode(folder.path(), 0o711);
        mode(&inner, 0o750);
        assert_eq!(stopped(Wish::Read).as_deref(), Some(inner.as_path()));
        std::os::unix::fs::chown(&inner, None, Some(20007)).expect("root may");
        mode(&file, 0o644);
        assert_eq!(stopped(Wish::Read), None, "a supplementary group lets in");
        assert_eq!(stopped(Wish::Write).as_deref(), Some(file.as_path()));
        assert!(nix::unistd::geteuid().is_root(), "the other threads are who they were");
    }
}
