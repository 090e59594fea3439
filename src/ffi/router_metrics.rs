//! Numbers of routers among uWSGI's own metrics (`enable-metrics`): its statistics show them, and its pushers send them on.

use std::num::NonZeroUsize;

use parking_lot::Mutex;

use super::uwsgi;
use tuntap_config::RouterSpec;
use tuntap_router::{Exported, ExportedKind};
use tuntap_sys::log::Event;
use tuntap_sys::memory::SharedWords;

/// By the name of the router's device.
static EXPORTED: Mutex<Vec<(String, Exported)>> = Mutex::new(Vec::new());

/// What all their names begin with.
const PREFIX: &str = "tuntap";

/// Registers the numbers of all routers, unless uWSGI has no metrics. To be called before uWSGI sets its metrics up, and before the
/// routers are forked.
pub fn register(routers: &[RouterSpec]) {
    if !uwsgi::has_metrics() {
        return;
    }
    let mut all = EXPORTED.lock();
    for (name, spec) in names(routers.iter().map(|spec| spec.device.as_str())).zip(routers) {
        let count = const { NonZeroUsize::new(Exported::COUNT).expect("there are some") };
        let words = SharedWords::new(count).and_then(|words| words.map());
        match words.map(Exported::new) {
            Ok(Some(exported)) => {
                for (number, kind, value) in exported.numbers() {
                    uwsgi::register_metric(&format!("{PREFIX}.{name}.{number}"), kind == ExportedKind::Gauge, value);
                }
                all.push((spec.device.clone(), exported));
            }
            Ok(None) => {}
            Err(errno) => {
                uwsgi::log(
                    Event::RouterIncomplete,
                    &format!("[tuntap-router] {}: it is not among uWSGI's metrics: {errno}", spec.device),
                );
            }
        }
    }
}

/// The numbers of the router with this device.
pub fn of(device: &str) -> Option<Exported> {
    EXPORTED.lock().iter().find(|(name, _)| name == device).map(|(_, exported)| *exported)
}

/// Names of devices as parts of names of metrics. A dot would begin another part, and other characters end uWSGI. Those that
/// were different stay so.
fn names<'a>(devices: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    let mut taken: Vec<String> = Vec::new();
    devices.map(move |device| {
        let is_kept = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
        let plain: String = device.chars().map(|it| if is_kept(it) { it } else { '_' }).collect();
        let numbered = (2..).map(|number| format!("{plain}_{number}"));
        let name = std::iter::once(plain.clone()).chain(numbered).find(|name| !taken.contains(name));
        taken.extend(name.clone());
        name.unwrap_or(plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_stay_apart() {
        let found: Vec<_> = names(["emperor0", "tun.1", "tun:1", "tun_1", "\u{fc}"].into_iter()).collect();
        assert_eq!(found, ["emperor0", "tun_1", "tun_1_2", "tun_1_3", "_"]);
    }
}
