//! `uwsgi-tuntap trunks`: how a router stands with routers of other hosts.

use tuntap_api::TrunkStats;
use tuntap_api::control::Request;

use crate::failure::{Done, Failed};
use crate::session::Session;
use crate::table::{Kind, Table};
use crate::text::{Bytes, Count, escaped};

/// Nothing can be chosen.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(&self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let Some(trunks) = session.ask::<Vec<TrunkStats>>(&Request::Trunks {})? else { return Ok(Done::Well) };
        if trunks.is_empty() {
            writeln!(session.output, "no trunks (tuntap-router-trunk-peer)")?;
            return Ok(Done::Well);
        }
        let mut table = Table::new(&[
            ("ROUTER", Kind::Word),
            ("NAME", Kind::Text),
            ("STATE", Kind::Word),
            ("SINCE", Kind::Number),
            ("ANNOUNCED", Kind::Number),
            ("TOLD", Kind::Number),
            ("FROM IT", Kind::Number),
            ("TO IT", Kind::Number),
            ("DROPS", Kind::Number),
            ("REFUSED", Kind::Number),
            ("ROUND TRIP", Kind::Number),
        ]);
        for trunk in &trunks {
            table.row([
                escaped(&trunk.router),
                escaped(&trunk.name),
                escaped(&trunk.state),
                format!("{} s", trunk.state_seconds),
                trunk.announced.to_string(),
                trunk.told.to_string(),
                Bytes(trunk.rx_bytes).to_string(),
                Bytes(trunk.tx_bytes).to_string(),
                Count(drops(trunk)).to_string(),
                Count(refused(trunk)).to_string(),
                trunk.round_trip_micros.map_or_else(|| "-".to_owned(), |micros| format!("{micros} us")),
            ]);
        }
        session.table(&table)?;
        Ok(Done::Well)
    }
}

/// Packets to it that were dropped.
pub const fn drops(trunk: &TrunkStats) -> u64 {
    let dropped = &trunk.dropped;
    dropped.queue_full + dropped.queue_late + dropped.not_open + dropped.hops
}

/// What it sent that was refused.
const fn refused(trunk: &TrunkStats) -> u64 {
    let refused = &trunk.refused;
    refused.foreign_announcement
        + refused.unusable_address
        + refused.looped
        + refused.long_path
        + refused.other_teller
        + refused.too_many
        + refused.spoofed_source
        + refused.malformed_packet
}
