//! Panics and endless loops on demand, for the tests of what follows one. Only in builds with the feature of this name,
//! which serve nobody.

/// Panics if `UWSGI_TUNTAP_FAULT` is `<point>:<file>` and the file is there, or goes round and round for ever if that has
/// anything in it. It is removed first, so that this happens once.
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
