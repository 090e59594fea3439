//! `uwsgi-tuntap watch`: dropped packets as they occur.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde_json::value::RawValue;
use tuntap_api::control::{Direction, Dropped, Event, Request};

use crate::ending::Ending;
use crate::failure::{Done, Failed};
use crate::flows::Filter;
use crate::session::Session;
use crate::text::{counted, escaped, protocol, time_of_day};

/// Which packets.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
}

impl Arguments {
    /// Does it until the router goes, the output is closed, or Ctrl-C ends the command.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let mut client = session.connect()?;
        let ending = Ending::new(&client)?;
        ending.with_output(&io::stdout())?;
        client.subscribe(&Request::Watch { filter: self.filter.into() })?;
        loop {
            let Some(event) = ending.next_event(&mut client)? else { return Ok(Done::Well) };
            let line = if session.common.json { event.get().to_owned() } else { line(&event) };
            writeln!(session.output, "{line}")?;
            // Whoever reads it shall have it now.
            session.output.flush()?;
        }
    }
}

/// An event in a line. One of a kind that is unknown is shown as it came.
fn line(event: &RawValue) -> String {
    match serde_json::from_str(event.get()) {
        Ok(Event::Drop(dropped)) => drop_line(&dropped),
        Ok(Event::Packet(_)) => format!("(an event that nobody has asked for: {})", escaped(event.get())),
        Ok(Event::LeftOut { count }) => format!("({} left out)", counted(count, "drop", "drops")),
        Err(_) => format!("(an event that this version doesn't know: {})", escaped(event.get())),
    }
}

fn drop_line(dropped: &Dropped) -> String {
    let Dropped { time, millis, peer, uid, direction, src, src_port, dst, dst_port, protocol: number, len, .. } =
        dropped;
    let way = match direction {
        Direction::In => "in ",
        Direction::Out => "out",
    };
    let (from, to) = (endpoint(*src, *src_port), endpoint(*dst, *dst_port));
    let mut line = format!(
        "{}.{millis:03}  {way}  {} {from} -> {to}, {len} B: {}",
        time_of_day(*time),
        protocol(*number),
        escaped(&dropped.reason)
    );
    line.extend(dropped.rule.map(|rule| format!(", rule {rule}")));
    line.extend(peer.map(|peer| format!(", peer {peer}")));
    line.extend(uid.map(|uid| format!(", uid {uid}")));
    line
}

pub fn endpoint(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}
