//! `uwsgi-tuntap test`: what would happen to a packet.

use std::net::IpAddr;

use clap::ValueEnum;
use serde::Deserialize;
use tuntap_api::control::{Direction, Request, State, TestPacket, Tested};

use crate::client;
use crate::failure::{Done, Failed};
use crate::session::Session;
use crate::table::{Kind, Table};
use crate::text::escaped;

/// The way of a packet.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Way {
    /// Towards a vassal
    In,
    /// From a vassal
    Out,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateName {
    /// No packet in the opposite direction was let through
    New,
    /// A packet in the opposite direction was let through
    Established,
}

/// The packet.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Towards a vassal, or from one
    direction: Way,
    /// Source address
    #[arg(value_name = "SRC")]
    source: IpAddr,
    /// Destination address
    #[arg(value_name = "DST")]
    destination: IpAddr,
    /// Protocol: a name as in rules, or a number. Without it, TCP if there is a port, else ICMP
    #[arg(value_name = "PROTO")]
    protocol: Option<String>,
    /// Destination port
    port: Option<u16>,
    /// Source port
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// The process of the vassal that sends it. Without it, the vassal that holds the source
    #[arg(long, value_name = "PID")]
    peer: Option<i32>,
    /// The state of its connection. Without it, what the router knows of its flow
    #[arg(long)]
    state: Option<StateName>,
}

/// The part of the answer that the exit code depends on.
#[derive(Deserialize)]
struct Verdict {
    verdict: String,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let answer = session.connect()?.ask(&Request::Test { packet: self.packet() })?;
        if session.common.json {
            writeln!(session.output, "{}", answer.get())?;
        } else {
            show(session, &client::read(&answer)?)?;
        }
        let Verdict { verdict } = client::read(&answer)?;
        Ok(if verdict == "allow" { Done::Well } else { Done::Dropped })
    }

    fn packet(self) -> TestPacket {
        TestPacket {
            direction: match self.direction {
                Way::In => Direction::In,
                Way::Out => Direction::Out,
            },
            src: self.source,
            dst: self.destination,
            protocol: self.protocol,
            src_port: self.sport,
            dst_port: self.port,
            peer: self.peer,
            state: self.state.map(|state| match state {
                StateName::New => State::New,
                StateName::Established => State::Established,
            }),
        }
    }
}

fn show(session: &mut Session<'_>, tested: &Tested) -> Result<(), Failed> {
    let mut table = Table::new(&[
        ("STEP", Kind::Number),
        ("STAGE", Kind::Word),
        ("RESULT", Kind::Text),
        ("BECAUSE OF", Kind::Text),
    ]);
    for (step, number) in tested.steps.iter().zip(1_usize..) {
        let reasons = [step.rule.map(|id| format!("rule {id}")), step.note.as_deref().map(escaped)];
        table.row([
            number.to_string(),
            escaped(&step.stage),
            escaped(&step.result),
            reasons.into_iter().flatten().collect::<Vec<_>>().join(": "),
        ]);
    }
    session.table(&table)?;
    let to = tested.to.as_deref().map(|to| format!(", to {}", escaped(to))).unwrap_or_default();
    let reason = tested.reason.as_deref().map(|reason| format!(", counted as {}", escaped(reason))).unwrap_or_default();
    writeln!(session.output, "verdict: {}{to}{reason}", escaped(&tested.verdict))?;
    Ok(())
}
