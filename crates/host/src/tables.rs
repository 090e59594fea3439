//! The nftables tables of all routers of an instance: making them, as far as the kernel can, and logging what they refuse.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::table::{self, Extent};
use tuntap_config::RouterSpec;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::netlink::nftables::Nftables;

/// Makes the tables, in place of those that the connection has made before. If that fails, the connection stays open and
/// keeps the earlier ones. If the kernel can't make all of it, a smaller [`Extent`] is made, and a line is logged, unless an
/// option asks for what is missing. Returns the names of the tables.
pub fn make(
    nftables: &mut Option<Nftables>,
    routers: &[RouterSpec],
    logger: Logger,
) -> Result<Vec<String>, NetlinkError> {
    for extent in Extent::ALL {
        let tables: Vec<_> = routers.iter().filter_map(|router| table::of(router, extent)).collect();
        if tables.is_empty() {
            *nftables = None;
            return Ok(Vec::new());
        }
        let opened = match &mut *nftables {
            Some(opened) => Ok(opened),
            none => Nftables::open().map(|opened| none.insert(opened)),
        };
        let Err(error) = opened.and_then(|opened| opened.replace(&tables)) else {
            let names: Vec<_> = tables.into_iter().map(|table| table.name).collect();
            logger.line(
                Event::HostChanged,
                format_args!("[tuntap-router] made the nftables table inet {}", names.join(", ")),
            );
            return Ok(names);
        };
        if !error.may_be_missing() || routers.iter().any(|router| extent.is_needed_by(router)) {
            return Err(error);
        }
        logger.line(Event::HostFault, format_args!("[tuntap-router] {}: {error}", extent.what_is_missing()));
    }
    *nftables = None;
    Ok(Vec::new())
}

impl Extent {
    /// Returns true if the options of a router ask for something that the next smaller extent lacks.
    fn is_needed_by(self, router: &RouterSpec) -> bool {
        match self {
            Self::Whole => router.protection.asks_for_limits(),
            Self::WithoutLimits => router.protection.was_asked_for(),
            Self::WithoutProtection => true,
        }
    }

    /// The consequence of the next smaller extent, for the log.
    const fn what_is_missing(self) -> &'static str {
        match self {
            Self::Whole => "vassals may have any number of connections, for this kernel can't count them",
            Self::WithoutLimits | Self::WithoutProtection => {
                "vassals reach every service of this host, for this kernel can't keep them from it"
            }
        }
    }
}

/// Least time between two lines about packets that are refused for the same reason. It doubles while that goes on.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_LINE_INTERVAL: Duration = Duration::from_secs(3600);

/// What the tables have refused, and what was logged about it.
#[derive(Debug, Default)]
pub struct RefusedPackets {
    tables: Vec<(String, BTreeMap<String, Refused>)>,
}

#[derive(Debug, Default)]
struct Refused {
    /// Packets that were logged, or that an earlier image has counted.
    told: u64,
    /// The time of the last line, and how long no other one follows it.
    last: Option<(Instant, Duration)>,
}

impl Refused {
    /// How long no other line is to follow one that is logged now. `None` if it is too early for one.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let Some((last, silence)) = self.last else { return Some(LINE_INTERVAL) };
        let since = now.saturating_duration_since(last);
        if since < silence {
            None
        } else if since < silence * 2 {
            Some((silence * 2).min(MAX_LINE_INTERVAL))
        } else {
            Some(LINE_INTERVAL)
        }
    }
}

impl RefusedPackets {
    /// Begins with the present counters of these routers' tables.
    pub fn of(routers: &[RouterSpec], nftables: Option<&mut Nftables>) -> Self {
        let Some(nftables) = nftables else { return Self::default() };
        let tables = routers.iter().map(|router| {
            let name = router.table_name();
            let counted = nftables.counted(&name).unwrap_or_default();
            let refused = counted.into_iter().map(|(reason, told)| (reason, Refused { told, last: None }));
            (name, refused.collect())
        });
        Self { tables: tables.collect() }
    }

    /// Logs what was refused since, now and then a line for each reason. An instance that has dropped its privileges can't
    /// read the counters, and logs nothing.
    pub fn log(&mut self, nftables: &mut Nftables, logger: Logger) {
        for (table, refused) in &mut self.tables {
            for (reason, count) in nftables.counted(table).unwrap_or_default() {
                let refused = refused.entry(reason.clone()).or_default();
                let now = Instant::now();
                // A table that was made anew counts from 0.
                let since = count.checked_sub(refused.told).unwrap_or(count);
                let Some(silence) = refused.silence(now).filter(|_| since > 0) else { continue };
                *refused = Refused { told: count, last: Some((now, silence)) };
                logger.line(
                    Event::PacketsRefused,
                    format_args!(
                        "[tuntap-router] refused packets of vassals: {since} ({reason}); nft list table inet {table}"
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
