//! By which interfaces datagrams and clients came: those that came by a router's device come from peers, whatever their
//! addresses say.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::event_loop::EventLoop;
use tuntap_sys::net::interface_name;

/// How long the name of an interface counts: another one may get its number, and a device that is made anew another number.
const LIFETIME: Duration = Duration::from_secs(1);

/// Most interfaces that are remembered.
const MAX: usize = 64;

/// Whether interfaces are devices of routers, by their numbers.
#[derive(Debug, Default)]
pub struct Ways(HashMap<u32, (bool, Instant)>);

impl Ways {
    /// What is remembered, or found out.
    fn is_device(&mut self, index: u32, now: Instant, find: impl FnOnce() -> bool) -> bool {
        match self.0.get(&index) {
            Some((is_device, asked)) if now.saturating_duration_since(*asked) < LIFETIME => *is_device,
            _ => {
                if self.0.len() >= MAX {
                    self.0.clear();
                }
                let is_device = find();
                self.0.insert(index, (is_device, now));
                is_device
            }
        }
    }
}

impl EventLoop<'_> {
    /// Whether an interface is the device of a router of this instance, its own one under whatever name.
    pub(super) fn is_router_device(&mut self, index: u32) -> bool {
        let mut ways = std::mem::take(&mut self.ways);
        let is_device = ways.is_device(index, Instant::now(), || {
            // One that is gone already was none that a client or another router came by.
            interface_name(self.setup.listener.as_fd(), index).is_ok_and(|name| {
                self.setup.devices.contains(&name) || self.tun().current_name().is_ok_and(|own| own == name)
            })
        });
        self.ways = ways;
        is_device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_ages_and_is_bounded() {
        let now = Instant::now();
        let mut ways = Ways::default();
        assert!(ways.is_device(7, now, || true));
        assert!(ways.is_device(7, now + LIFETIME / 2, || false));
        assert!(!ways.is_device(7, now + LIFETIME, || false));
        (0..1000).for_each(|index| _ = ways.is_device(index, now, || false));
        assert!(ways.0.len() <= MAX);
    }
}
