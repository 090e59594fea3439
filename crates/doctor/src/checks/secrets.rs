//! Files with secrets: a router's key, and the password of its session with the host's routing daemon.

use std::io;
use std::path::Path;

use crate::finding::Finding;
use tuntap_config::{OptionName, RouterSpec};
use tuntap_sys::secret_file::{Exposure, SecretFile};

/// What to do with a secret that was in the wrong hands.
const ANOTHER: &str = "a new one, if somebody may have read it";

/// Checks the password's file, which has to be there. `own` is the user that the instance starts as.
pub fn password(device: &str, path: &str, found: io::Result<SecretFile>, own: u32) -> Option<Finding> {
    let what = format!("{device}: the password file {path}");
    match found {
        Ok(file) => rights(&what, path, file, own),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Finding::wrong(
            format!("{what} is not there: the instance doesn't start"),
            format!("head -c 24 /dev/urandom | base64 >{path}; chmod 600 {path}; and give it to the routing daemon"),
        )),
        Err(error) => unseen(&what, &error, own),
    }
}

/// Checks the key's file, which is made at the first start. `has_folder`: there is a folder to make it in.
pub fn key(router: &RouterSpec, found: io::Result<SecretFile>, has_folder: bool, own: u32) -> Option<Finding> {
    let path = router.hosts.key_file(&router.device);
    let what = format!("{}: the key file {path}", router.device);
    match found {
        Ok(file) => rights(&what, &path, file, own),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The folder of keys that no option names is made, too.
            let folder = Path::new(&path).parent().map(Path::display);
            let is_lost = router.hosts.key.is_some() && !has_folder;
            folder.filter(|_| is_lost).map(|folder| {
                Finding::wrong(
                    format!("{what} can't be made, for its folder is not there: the instance doesn't start"),
                    format!("mkdir -m 700 {folder}; or another file in {}", OptionName::RouterKey.as_str()),
                )
            })
        }
        Err(error) => unseen(&what, &error, own),
    }
}

/// By the same rules as the start.
fn rights(what: &str, path: &str, file: SecretFile, own: u32) -> Option<Finding> {
    file.exposure(own).map(|exposure| {
        let remedy = match exposure {
            Exposure::NotAFile => "name a regular file".to_owned(),
            Exposure::Owner { .. } => format!("chown root {path}; chmod 600 {path}; {ANOTHER}"),
            Exposure::Mode(_) => format!("chmod 600 {path}; {ANOTHER}"),
        };
        Finding::wrong(format!("{what} {exposure}: the instance doesn't start"), remedy)
    })
}

/// Others than root can't look into folders that are root's.
fn unseen(what: &str, error: &io::Error, own: u32) -> Option<Finding> {
    (own == 0).then(|| Finding::wrong(format!("{what}: {error}"), "is the path right?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    const GOOD: SecretFile = SecretFile { is_file: true, owner: 0, mode: 0o600 };

    fn missing() -> io::Result<SecretFile> {
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    #[test]
    fn nobody_else_may_open_a_secret() {
        let check = |file| password("tun0", "/etc/p", Ok(file), 0);
        assert_eq!(check(GOOD), None);
        assert_eq!(check(SecretFile { mode: 0o400, ..GOOD }), None);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let finding = check(SecretFile { mode, ..GOOD }).expect("others may do something with it");
            assert_eq!(finding.severity, Severity::Wrong);
            assert!(finding.what.contains(&format!("mode {mode:04o}")) && finding.remedy[0].starts_with("chmod 600"));
        }
        let foreign = SecretFile { owner: 20001, ..GOOD };
        let finding = check(foreign).expect("another user may read it");
        assert!(finding.what.contains("uid 20001") && finding.remedy[0].starts_with("chown root"), "{finding}");
        assert_eq!(password("tun0", "/etc/p", Ok(foreign), 20001), None, "it is the instance's own");
        assert!(check(SecretFile { is_file: false, ..GOOD }).is_some_and(|it| it.what.contains("no regular file")));
    }

    #[test]
    fn password_has_to_be_there_and_a_key_is_made() {
        assert!(password("tun0", "/etc/p", missing(), 0).is_some_and(|it| it.what.contains("is not there")));
        let options = [("tuntap-router", "tun0 /s"), ("tuntap-router-routes", "127.0.0.1:979")];
        let router = instance(&options).config.routers[0].clone();
        assert_eq!(key(&router, missing(), false, 0), None, "its folder is made");
        let open = SecretFile { mode: 0o644, ..GOOD };
        let finding = key(&router, Ok(open), true, 0).expect("others may read it");
        assert!(finding.what.contains("the key file /var/lib/uwsgi-tuntap/tun0.key has mode 0644"), "{finding}");
        let named = [options[0], options[1], ("tuntap-router-key", "/etc/keys/one")];
        let router = instance(&named).config.routers[0].clone();
        assert_eq!(key(&router, missing(), true, 0), None);
        let finding = key(&router, missing(), false, 0).expect("it can't be made");
        assert!(finding.remedy[0].starts_with("mkdir -m 700 /etc/keys;"), "{finding}");
        let refused = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(key(&router, refused(), false, 20001), None, "it isn't seen");
        assert!(key(&router, refused(), false, 0).is_some());
    }
}
