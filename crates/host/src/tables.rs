//! The tables of all routers of an instance: made at once, as far as the kernel can, and looked at for what they refuse.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::table::{self, Extent};
use tuntap_config::RouterSpec;
use tuntap_sys::log::Logger;
use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::netlink::nftables::Nftables;

/// Makes the tables in place of those of an earlier image, by the connection that these belong to, which stays open and
/// keeps them if that fails. A kernel that can't make all of them makes what it could always make, with a line, unless an
/// option asks for more. Returns their names.
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
            logger.line(format_args!("[tuntap-router] made the nftables table inet {}", names.join(", ")));
            return Ok(names);
        };
        if !error.may_be_missing() || routers.iter().any(|router| extent.is_needed_by(router)) {
            return Err(error);
        }
        logger.line(format_args!("[tuntap-router] {}: {error}", extent.what_is_missing()));
    }
    *nftables = None;
    Ok(Vec::new())
}

impl Extent {
    /// Returns true if a router must not be without it: its options ask for what the next smaller one lacks.
    fn is_needed_by(self, router: &RouterSpec) -> bool {
        match self {
            Self::Whole => router.protection.asks_for_limits(),
            Self::WithoutLimits => router.protection.was_asked_for(),
            Self::WithoutProtection => true,
        }
    }

    /// What the next smaller one lacks.
    const fn what_is_missing(self) -> &'static str {
        match self {
            Self::Whole => "vassals may have any number of connections, for this kernel can't count them",
            Self::WithoutLimits | Self::WithoutProtection => {
                "vassals reach every service of this host, for this kernel can't keep them from it"
            }
        }
    }
}

/// Least between two lines about packets that are refused for one reason. What goes on is told less and less often.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
const MAX_LINE_INTERVAL: Duration = Duration::from_secs(3600);

/// What the tables have refused, and what was said of it.
#[derive(Debug, Default)]
pub struct RefusedPackets {
    tables: Vec<(String, BTreeMap<String, Refused>)>,
}

#[derive(Debug, Default)]
struct Refused {
    /// Packets of which a line has told, or that an earlier image has counted.
    told: u64,
    /// When the last line was, and how long there is no other one.
    last: Option<(Instant, Duration)>,
}

impl Refused {
    /// How long to be silent after a line of now. `None`: it is too early for one.
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
    /// Begins with what the tables of these routers have counted already.
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

    /// Tells of what was refused since, a line for each reason now and then. An instance that has dropped its privileges
    /// can't read the counters.
    pub fn log(&mut self, nftables: &mut Nftables, logger: Logger) {
        for (table, refused) in &mut self.tables {
            for (reason, count) in nftables.counted(table).unwrap_or_default() {
                let refused = refused.entry(reason.clone()).or_default();
                let now = Instant::now();
                // A table that was made anew counts from nothing.
                let since = count.checked_sub(refused.told).unwrap_or(count);
                let Some(silence) = refused.silence(now).filter(|_| since > 0) else { continue };
                *refused = Refused { told: count, last: Some((now, silence)) };
                logger.line(format_args!(
                    "[tuntap-router] refused packets of vassals: {since} ({reason}); nft list table inet {table}"
                ));
            }
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
