//! Reconciling the host's network with what the routers have set up, while an instance runs.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::conflict::{self, Networks};
use super::link::{self, Inventory, Loss};
use super::retry::Advice;
use super::table::Extent;
use super::{HostNetwork, table};
use tuntap_config::RouterSpec;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::netlink::nftables::Nftables;
use tuntap_sys::netlink::{Netlink, NetlinkError, Notices};
use tuntap_sys::process::thread_time_nanos;

/// Time between two passes without a notification: the kernel doesn't notify of everything that matters.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(5);

/// Least time between two passes, so that several changes in a row are seen together.
const LEAST_INTERVAL: Duration = Duration::from_millis(200);

/// A router whose device was deleted has a new one within this time.
const TIME_TO_MAKE_A_DEVICE: Duration = Duration::from_secs(4);

/// Passes may take at most one part in so many of a processor's time.
const SHARE_OF_TIME: u32 = 20;

/// How long to wait after a pass that has cost this processor time. Wall-clock time doesn't count: on a busy machine, a pass
/// of a millisecond may take seconds.
fn pause_after(cost: Duration) -> Duration {
    LEAST_INTERVAL.max(cost * SHARE_OF_TIME)
}

/// When the next pass is due.
#[derive(Debug, Default)]
pub struct Schedule {
    was_noticed: bool,
    not_before: Option<Instant>,
    at: Option<Instant>,
    /// True if there was a pass since the ports were mapped.
    has_run: bool,
}

fn thread_time() -> Duration {
    Duration::from_nanos(thread_time_nanos())
}

impl HostNetwork {
    /// Mends what others have changed. To be called periodically, and when [`Self::watched`] is readable. What another
    /// program changes again and again is left alone for a while. Interfaces that were missing are set up when they appear.
    pub fn reconcile(&mut self, logger: Logger) {
        if !self.has_something() {
            return;
        }
        let now = Instant::now();
        let schedule = &mut self.schedule;
        schedule.was_noticed |= self.notices.as_ref().is_some_and(Notices::take);
        let is_due = schedule.was_noticed || schedule.at.is_none_or(|time| now >= time);
        if !is_due || schedule.not_before.is_some_and(|time| now < time) {
            return;
        }
        schedule.was_noticed = false;
        let spent_before = thread_time();
        if let Err(error) = self.reconcile_now(now, logger) {
            self.warnings.add(logger, Event::HostFault, format_args!("the host's network can't be looked at: {error}"));
        }
        self.warnings.end_pass();
        let retries = &self.retries;
        self.failures.retain(|key, _| retries.remembers(key));
        let end = Instant::now();
        let not_before = end + pause_after(thread_time().saturating_sub(spent_before));
        let next = self.retries.next(end).into_iter().chain([end + RECONCILE_INTERVAL]).min();
        self.schedule.not_before = Some(not_before);
        self.schedule.at = next.map(|time| time.max(not_before));
        self.schedule.has_run = true;
    }

    fn reconcile_now(&mut self, now: Instant, logger: Logger) -> Result<(), NetlinkError> {
        if let Some(nftables) = &mut self.nftables {
            self.refused.log(nftables, logger);
        }
        let mut netlink = Netlink::open()?;
        let inventory = Inventory::take(&mut netlink)?;
        for router in self.routers.clone() {
            let known = self.known.get(&router.device).copied();
            self.warn_if_missing(&inventory, &router.device, now, logger);
            let (index, losses) = inventory.losses(&mut netlink, &router, known);
            for loss in losses {
                self.mend(&mut netlink, &router, index.unwrap_or_default(), &loss, now, logger);
            }
        }
        // Nothing is to be forwarded without the tables.
        if self.reconcile_tables(now, logger)? {
            self.reconcile_forwarding(&inventory, now, logger);
        }
        if !self.schedule.has_run {
            // Packets that were on their way while the ports were being mapped may have begun connections past the mappings.
            if let Err(error) = self.mapped.end_stale(&self.routers) {
                self.warnings.add(logger, Event::HostFault, error);
            }
        }
        self.warn_about_conflicts(&mut netlink, inventory, logger)
    }

    /// Warns about a missing device. A router whose device is deleted makes a new one at once. A device that is missing for
    /// longer was moved to another network namespace.
    fn warn_if_missing(&mut self, inventory: &Inventory, device: &str, now: Instant, logger: Logger) {
        let index = self.known.get(device).copied();
        if inventory.link(device).is_some() || inventory.other_name(device, index).is_some() {
            self.missing.remove(device);
            return;
        }
        let since = *self.missing.entry(device.to_owned()).or_insert(now);
        if now.duration_since(since) >= TIME_TO_MAKE_A_DEVICE {
            self.warnings.add(
                logger,
                Event::InterfaceMissing,
                format_args!(
                    "{device} isn't in this network namespace any more: vassals reach nothing until this instance is \
                     reloaded (SIGHUP), which makes it anew"
                ),
            );
        }
    }

    fn mend(
        &mut self,
        netlink: &mut Netlink,
        router: &RouterSpec,
        index: u32,
        loss: &Loss,
        now: Instant,
        logger: Logger,
    ) {
        let device = &router.device;
        let key = format!("{device} {index} {}", loss.key());
        if self.may_mend(&key, &format_args!("{device} {loss}"), now, logger) {
            match link::mend(netlink, router, index, loss) {
                Ok(()) => logger.line(Event::HostMended, format_args!("[tuntap-router] {device} {loss}: mended")),
                Err(error) => self.fail(key, format!("{device} {loss}: {error}"), now, logger),
            }
        }
    }

    /// Returns true if something is to be mended now. Logs a line when it is left alone.
    fn may_mend(&mut self, key: &str, what: &impl Display, now: Instant, logger: Logger) -> bool {
        match self.retries.ask(key, now) {
            Advice::Mend => {
                self.failures.remove(key);
                true
            }
            Advice::Wait => {
                if let Some(line) = self.failures.get(key) {
                    self.warnings.add(logger, Event::HostFault, line);
                }
                false
            }
            Advice::GiveUp(pause) => {
                logger.line(Event::HostLeftAlone, format_args!(
                    "[tuntap-router] {what}, again and again: somebody else wants it so, and it is left alone for {} s",
                    pause.as_secs()
                ));
                false
            }
        }
    }

    /// Warns about what can't be mended. It is tried again soon.
    fn fail(&mut self, key: String, line: String, now: Instant, logger: Logger) {
        self.retries.failed(&key, now);
        self.warnings.add(logger, Event::HostFault, &line);
        self.failures.insert(key, line);
    }

    /// Makes the tables if they are missing. Nobody else can remove them, but a reload may have failed to make them. Returns
    /// true if they exist.
    fn reconcile_tables(&mut self, now: Instant, logger: Logger) -> Result<bool, NetlinkError> {
        if let Some(names) = &self.tables {
            let are_there = |nftables: &mut Nftables| nftables.has(names).unwrap_or(true);
            if names.is_empty() || self.nftables.as_mut().is_some_and(are_there) {
                return Ok(true);
            }
        }
        let wanted = self.routers.iter().filter_map(|router| table::of(router, Extent::Whole));
        let names: Vec<_> = wanted.map(|table| table.name).collect();
        let what = format!("the nftables table inet {} is missing", names.join(", "));
        if !self.may_mend("table", &what, now, logger) {
            return Ok(false);
        }
        if let Err(error) = self.make_tables(logger) {
            self.fail("table".to_owned(), error.to_string(), now, logger);
            return Ok(false);
        }
        self.mapped.end_stale(&self.routers)?;
        Ok(true)
    }

    fn reconcile_forwarding(&mut self, inventory: &Inventory, now: Instant, logger: Logger) {
        self.warn_about_missing_interfaces(logger);
        let renamed = self.renamed(inventory);
        for name in self.interfaces() {
            let Some(link) = inventory.link(&name) else { continue };
            if renamed.contains(&name) {
                continue;
            }
            match self.known.insert(name.clone(), link.index) {
                Some(index) if index == link.index => {}
                Some(_) => logger.line(
                    Event::InterfaceAppeared,
                    format_args!("[tuntap-router] {name} is another interface than before"),
                ),
                None => logger.line(Event::InterfaceAppeared, format_args!("[tuntap-router] {name} is there now")),
            }
        }
        for wanted in self.wanted_settings(logger) {
            let Some(value) = wanted.due_value() else { continue };
            let interface = wanted.interface();
            if renamed.iter().any(|name| name == interface) {
                continue;
            }
            let index = self.known.get(interface).copied().unwrap_or_default();
            let what = format!("{} is {value}", wanted.path().display());
            let key = format!("{what} {index}");
            if self.may_mend(&key, &what, now, logger)
                && let Err(error) = self.changes.make(&wanted, logger)
            {
                self.fail(key, error.to_string(), now, logger);
            }
        }
    }

    /// Devices of routers that were renamed, so that another interface may have their names.
    fn renamed(&self, inventory: &Inventory) -> Vec<String> {
        let devices = self.routers.iter().map(|router| &router.device);
        let is_taken = |device: &&String| inventory.other_name(device, self.known.get(*device).copied()).is_some();
        devices.filter(is_taken).cloned().collect()
    }

    /// Warns about networks that came later, by DHCP or with a VPN, and overlap those of routers.
    fn warn_about_conflicts(
        &mut self,
        netlink: &mut Netlink,
        inventory: Inventory,
        logger: Logger,
    ) -> Result<(), NetlinkError> {
        let (mut links, addresses) = inventory.into_parts();
        // A device that was renamed is still the router's own.
        for router in &self.routers {
            let index = self.known.get(&router.device).copied();
            if let Some(own) = links.iter_mut().find(|link| index == Some(link.index)) {
                own.name.clone_from(&router.device);
            }
        }
        let mut networks = Networks { links, addresses, routes: Vec::new(), resolvers: conflict::host_resolvers() };
        let (mut routes, mut are_read) = (Vec::new(), false);
        for router in &self.routers {
            // The list of routes may be long. It is only read if one of them may overlap.
            if !are_read && conflict::may_be(router, &networks, netlink) {
                routes = netlink.all_routes()?;
                are_read = true;
            }
            networks.routes.clone_from(&routes);
            if let Some(conflict) = conflict::find(router, &networks) {
                self.warnings.add(logger, Event::AddressConflict, conflict);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn pass_that_has_to_wait_for_a_processor_is_no_reason_for_a_pause() {
        let before = thread_time();
        thread::sleep(Duration::from_millis(300));
        assert_eq!(pause_after(thread_time() - before), LEAST_INTERVAL);
        assert_eq!(pause_after(Duration::from_secs(1)), Duration::from_secs(20));
    }
}
