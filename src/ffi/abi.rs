//! The identity of a uWSGI's ABI, from the texts that every uWSGI binary carries: its `uwsgi.h` and the flags it was
//! built with. `build.rs` includes this file, so that build and load time can't disagree on the method.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Flags that say nothing about the layout of uWSGI's structures.
const IGNORED_DEFINES: [&str; 5] = [
    "-DUWSGI_BUILD_DATE",
    "-DUWSGI_CFLAGS",
    "-DUWSGI_DECLARE_EMBEDDED_PLUGINS",
    "-DUWSGI_LOAD_EMBEDDED_PLUGINS",
    "-DUWSGI_PLUGIN_DIR",
];

/// Digest of all that decides the layout of uWSGI's structures: the header's text and the `-DUWSGI_*` flags,
/// in any order.
pub fn digest(header: &str, cflags: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    header.trim().hash(&mut hasher);
    let mut defines: Vec<String> = words(cflags)
        .into_iter()
        .filter(|flag| flag.starts_with("-DUWSGI_"))
        .filter(|flag| !IGNORED_DEFINES.iter().any(|ignored| flag.starts_with(ignored)))
        .collect();
    defines.sort();
    defines.dedup();
    defines.hash(&mut hasher);
    hasher.finish()
}

/// uWSGI's version as its flags tell it, such as `2.0.21-debian`.
pub fn version(cflags: &str) -> Option<String> {
    words(cflags)
        .into_iter()
        .find_map(|flag| flag.strip_prefix("-DUWSGI_VERSION=").map(str::to_owned))
        .map(|value| value.trim_matches(['"', '\\']).to_owned())
}

/// The flags as the compiler gets them. Flags that no shell could split give none.
pub fn words(cflags: &str) -> Vec<String> {
    shlex::split(cflags).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CFLAGS: &str = r#"-O2 -I. -DUWSGI_PCRE -DUWSGI_VERSION="\"2.0.31\"" -DUWSGI_SSL"#;

    #[test]
    fn order_and_unrelated_flags_do_not_change_the_digest() {
        let reordered = r#"-DUWSGI_SSL -g -DUWSGI_VERSION="\"2.0.31\"" -DUWSGI_BUILD_DATE="\"1 May\"" -DUWSGI_PCRE"#;
        assert_eq!(digest("struct a;\n", CFLAGS), digest("struct a;\n\n", reordered));
    }

    #[test]
    fn header_and_layout_flags_change_the_digest() {
        assert_ne!(digest("struct a;", CFLAGS), digest("struct b;", CFLAGS));
        assert_ne!(digest("struct a;", CFLAGS), digest("struct a;", &CFLAGS.replace("-DUWSGI_SSL", "")));
    }

    #[test]
    fn version_comes_without_its_quotes() {
        assert_eq!(version(CFLAGS).as_deref(), Some("2.0.31"));
        assert_eq!(version("-O2"), None);
    }
}
