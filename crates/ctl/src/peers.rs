//! `uwsgi-tuntap peers`: the vassals that a router has.

use std::cmp::Reverse;

use tuntap_api::PeerStats;
use tuntap_api::control::Request;

use crate::failure::{Done, Failed};
use crate::session::Session;
use crate::shaped;
use crate::status::{address_of, drops_of, transport};
use crate::table::{Kind, Table};
use crate::text::{Bytes, Count, counted};

/// Which peers.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// List at most so many, those with the most traffic first
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let Some(mut peers) = session.ask::<Vec<PeerStats>>(&Request::Peers {})? else { return Ok(Done::Well) };
        peers.sort_by_key(|peer| Reverse(peer.tx.saturating_add(peer.rx)));
        let mut table = Table::new(&[
            ("PID", Kind::Number),
            ("UID", Kind::Number),
            ("ADDRESS", Kind::Text),
            ("FROM IT", Kind::Number),
            ("TO IT", Kind::Number),
            ("DROPS", Kind::Number),
            ("QUEUED", Kind::Number),
            ("TRANSPORT", Kind::Text),
        ]);
        let limit = self.limit.unwrap_or(usize::MAX);
        for peer in peers.iter().take(limit) {
            table.row([
                peer.pid.to_string(),
                peer.uid.to_string(),
                address_of(peer),
                Bytes(peer.rx).to_string(),
                Bytes(peer.tx).to_string(),
                Count(drops_of(peer)).to_string(),
                Bytes(peer.queued).to_string(),
                transport(peer),
            ]);
            shaped::lines(&peer.shape).into_iter().for_each(|line| table.title(format!("  {line}")));
        }
        session.table(&table)?;
        let all = peers.len();
        let shown = if limit < all { format!("{limit} of ") } else { String::new() };
        writeln!(session.output, "{shown}{}", counted(all as u64, "peer", "peers"))?;
        Ok(Done::Well)
    }
}
