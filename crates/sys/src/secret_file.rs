//! Who may open a file that has a secret: one rule for all who read such files, and for the doctor.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use thiserror::Error;

/// Permission bits of others than the owner.
const OTHERS: u32 = 0o077;

/// What decides about a file with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretFile {
    /// True if it is a regular file.
    pub is_file: bool,
    /// The user ID of its owner.
    pub owner: u32,
    /// Its permissions (the lower twelve bits of `st_mode`, inode(7)).
    pub mode: u32,
}

/// Why the secret in a file isn't one. The text goes on after the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Exposure {
    /// It is a folder, a device, a pipe or a symbolic link.
    #[error("is no regular file")]
    NotAFile,
    /// It belongs to another user, who could read and change it.
    #[error("belongs to uid {owner}, not to uid {own} or root")]
    Owner {
        /// Its owner.
        owner: u32,
        /// The user who wants to use the secret.
        own: u32,
    },
    /// Others than its owner may open it.
    #[error("has mode {0:04o}: others may open it (chmod 600)")]
    Mode(u32),
}

impl SecretFile {
    /// Returns why a process of the user `own` must not use the file. It has to be a regular file of this user or root, and nobody
    /// else may open it.
    pub const fn exposure(self, own: u32) -> Option<Exposure> {
        let Self { is_file, owner, mode } = self;
        if !is_file {
            Some(Exposure::NotAFile)
        } else if owner != own && owner != 0 {
            Some(Exposure::Owner { owner, own })
        } else if mode & OTHERS != 0 {
            Some(Exposure::Mode(mode))
        } else {
            None
        }
    }
}

impl From<&Metadata> for SecretFile {
    fn from(facts: &Metadata) -> Self {
        Self { is_file: facts.is_file(), owner: facts.uid(), mode: facts.mode() & 0o7777 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: SecretFile = SecretFile { is_file: true, owner: 0, mode: 0o600 };

    #[test]
    fn nobody_else_may_open_a_secret() {
        for mode in [0o600, 0o400, 0o700, 0o4600] {
            assert_eq!(SecretFile { mode, ..GOOD }.exposure(1000), None);
        }
        for bit in [0o001, 0o002, 0o004, 0o010, 0o020, 0o040] {
            let mode = 0o600 | bit;
            assert_eq!(SecretFile { mode, ..GOOD }.exposure(1000), Some(Exposure::Mode(mode)));
        }
        let of = |owner, own| SecretFile { owner, ..GOOD }.exposure(own);
        assert_eq!((of(1000, 1000), of(1000, 0)), (None, Some(Exposure::Owner { owner: 1000, own: 0 })));
        assert_eq!(SecretFile { is_file: false, ..GOOD }.exposure(0), Some(Exposure::NotAFile));
    }

    #[test]
    fn words_follow_the_name_of_a_file() {
        let said = |exposure: Exposure| format!("the file x {exposure}");
        assert_eq!(said(Exposure::NotAFile), "the file x is no regular file");
        assert_eq!(said(Exposure::Owner { owner: 7, own: 0 }), "the file x belongs to uid 7, not to uid 0 or root");
        assert_eq!(said(Exposure::Mode(0o640)), "the file x has mode 0640: others may open it (chmod 600)");
    }
}
