//! Who may open a file that has a secret.

use std::fs;
use std::io;
use std::path::Path;

use tuntap_sys::secret_file::SecretFile;

/// Looks at a file. A symbolic link is followed only if `follows` is true. The error is the kernel's.
pub fn secret_file(path: &Path, follows: bool) -> io::Result<SecretFile> {
    let facts = if follows { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
    Ok(SecretFile::from(&facts))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn file_is_seen_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("secret"), folder.path().join("link"));
        fs::write(&file, "").expect("own folder");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("own file");
        symlink(&file, &link).expect("own folder");
        let owner = nix::unistd::geteuid().as_raw();
        let found = SecretFile { is_file: true, owner, mode: 0o640 };
        assert_eq!(secret_file(&file, false).expect("it is there"), found);
        assert_eq!(secret_file(&link, true).expect("it is there"), found);
        assert!(!secret_file(&link, false).expect("it is there").is_file);
        assert!(!secret_file(folder.path(), true).expect("it is there").is_file);
        let missing = secret_file(&folder.path().join("missing"), true).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
