//! Panics and endless loops on demand, for tests of how they are handled. Only in builds with the feature of this name,
//! which are for tests only.

/// Panics if `UWSGI_TUNTAP_FAULT` is `<point>:<file>` and the file exists; loops for ever if the file isn't empty. The file
/// is removed first, so that this happens once.
pub fn point(name: &str) {
    let Some(fault) = std::env::var_os("UWSGI_TUNTAP_FAULT").and_then(|fault| fault.into_string().ok()) else { return };
    if let Some((wanted, file)) = fault.split_once(':')
        && wanted == name
        && let Ok(found) = std::fs::metadata(file)
        && std::fs::remove_file(file).is_ok()
    {
        while found.len() > 0 {
            std::hint::spin_loop();
        }
        panic!("the fault that was asked for, in {name}");
    }
}
