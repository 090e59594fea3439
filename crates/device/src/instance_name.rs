//! The name that tells an instance from others of the same router. With it, `auto` devices get the same addresses each time.

use std::path::{Component, Path, PathBuf};

/// The characters between a scheme and its path.
const SCHEME_END: &str = "://";

/// The scheme of a program whose output is the configuration.
const EXEC: &str = "exec://";

/// The instance's name: the absolute path of its configuration as the Emperor gave it. `folder` is where relative paths begin.
/// Vassals that are no files (`emperor://<name>`, from monitors of databases and queues) keep their names. The name is empty
/// if there is no configuration.
///
/// Links are not followed: two links to the same template are two vassals, and a link that is moved from one release of an
/// application to the next stays the same vassal.
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
    // `components` leaves out double slashes and dots in the middle.
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
