//! What tells an instance from others of the same router, so that its devices get the same addresses each time.

use std::path::{Component, Path, PathBuf};

/// What stands between a scheme and what it is about.
const SCHEME_END: &str = "://";

/// The scheme of a file that is executed, and whose output is the configuration.
const EXEC: &str = "exec://";

/// The instance's name: the whole path of its configuration, in an Emperor's words, from the root on. `folder` is where
/// relative paths begin. Vassals that are no files (`emperor://<name>`, as monitors of databases and queues have them) have
/// their names as they are. Empty if there is no configuration.
///
/// Links are not followed: a link to a template is a vassal of its own, and one that leads to each release of an
/// application in turn is the same vassal all the time.
pub fn instance_name(configuration: &str, folder: &Path) -> String {
    if configuration.is_empty() {
        return String::new();
    }
    if let Some(command) = configuration.strip_prefix(EXEC) {
        return format!("{EXEC}{}", absolute(command, folder));
    }
    if configuration.contains(SCHEME_END) {
        return configuration.to_owned();
    }
    absolute(configuration, folder)
}

fn absolute(path: &str, folder: &Path) -> String {
    // `components` leaves out what means nothing: double slashes, and dots in the middle.
    let parts = folder.join(path);
    let parts: PathBuf = parts.components().filter(|part| *part != Component::CurDir).collect();
    parts.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_whole_path() {
        for (configuration, name) in [
            ("app.ini", "/etc/vassals/app.ini"),
            ("./app.ini", "/etc/vassals/app.ini"),
            ("sites//a/./uwsgi.ini", "/etc/vassals/sites/a/uwsgi.ini"),
            ("/apps/a/uwsgi.ini", "/apps/a/uwsgi.ini"),
            ("//apps/./a/uwsgi.ini", "/apps/a/uwsgi.ini"),
            ("../b/app.ini", "/etc/vassals/../b/app.ini"),
            ("app.ini:zerg", "/etc/vassals/app.ini:zerg"),
            ("exec://app.ini", "exec:///etc/vassals/app.ini"),
            ("exec:///apps/a/app.ini", "exec:///apps/a/app.ini"),
            ("emperor://app.ini", "emperor://app.ini"),
            ("http://host/app.ini", "http://host/app.ini"),
            ("", ""),
        ] {
            assert_eq!(instance_name(configuration, Path::new("/etc/vassals")), name, "{configuration}");
        }
    }
}
