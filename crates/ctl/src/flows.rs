//! `uwsgi-tuntap flows`: connections and what else belongs together.

use std::net::SocketAddr;

use clap::ValueEnum;
use tuntap_api::control::{FlowEntry, FlowFilter, FlowList, FlowOrder, Killed, Request};

use crate::failure::{Done, Failed};
use crate::session::{Session, usage_error};
use crate::table::{Kind, Table};
use crate::text::{Bytes, Count, Uptime, counted, escaped, or_dash, protocol};

/// What is done with flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// List flows, those that were used last first
    List,
    /// List flows, those with the most bytes first
    Top,
    /// Forget flows: their next packets are decided anew, as those of new connections
    Kill,
}

/// What is done with which flows.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What to do with them
    #[arg(default_value = "list")]
    action: Action,
    #[command(flatten)]
    filter: Filter,
    /// List at most so many [default: 100]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Most flows that are listed unless another number is given.
const USUAL_LIMIT: u32 = 100;

/// Which flows. All conditions must hold.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Of the vassal with this process ID
    #[arg(long, value_name = "PID")]
    peer: Option<i32>,
    /// Of vassals of this user
    #[arg(long)]
    uid: Option<u32>,
    /// With this address or network at either end
    #[arg(long, value_name = "ADDRESS[/LEN]")]
    address: Option<String>,
    /// Of this protocol: a name as in rules, or a number
    #[arg(long, value_name = "PROTO")]
    protocol: Option<String>,
    /// With this port at either end
    #[arg(long)]
    port: Option<u16>,
    /// That the rule of this number has decided about
    #[arg(long, value_name = "ID")]
    rule: Option<u32>,
    /// With this verdict
    #[arg(long, value_parser = ["allow", "deny", "reject"])]
    verdict: Option<String>,
}

impl From<Filter> for FlowFilter {
    fn from(filter: Filter) -> Self {
        let Filter { peer, uid, address, protocol, port, rule, verdict } = filter;
        Self { peer, uid, address, protocol, port, rule, verdict }
    }
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let Self { action, filter, limit } = self;
        let filter = FlowFilter::from(filter);
        match action {
            Action::List => list(session, filter, FlowOrder::Recent, limit),
            Action::Top => list(session, filter, FlowOrder::Top, limit),
            // All that match are forgotten, and nobody shall think that there is a limit.
            Action::Kill if limit.is_some() => usage_error("the argument '--limit' cannot be used with 'flows kill'"),
            Action::Kill if filter == FlowFilter::default() => {
                usage_error("flows kill needs a condition, such as --peer")
            }
            Action::Kill => {
                if let Some(killed) = session.ask::<Killed>(&Request::FlowsKill { filter })? {
                    writeln!(session.output, "{} forgotten", counted(killed.flows, "flow", "flows"))?;
                }
                Ok(Done::Well)
            }
        }
    }
}

fn list(session: &mut Session<'_>, filter: FlowFilter, order: FlowOrder, limit: Option<u32>) -> Result<Done, Failed> {
    let request = Request::FlowsList { filter, order, limit: Some(limit.unwrap_or(USUAL_LIMIT)) };
    let Some(list) = session.ask::<FlowList>(&request)? else { return Ok(Done::Well) };
    let mut table = Table::new(&COLUMNS);
    for flow in &list.flows {
        table.row(cells(flow));
    }
    session.table(&table)?;
    let more = list.matching.saturating_sub(list.flows.len() as u64);
    if more > 0 {
        writeln!(session.output, "and {} more (--limit)", Count(more))?;
    }
    Ok(Done::Well)
}

/// The columns of a list.
const COLUMNS: [(&str, Kind); 9] = [
    ("PEER", Kind::Number),
    ("PROTO", Kind::Word),
    ("LOCAL", Kind::Text),
    ("REMOTE", Kind::Text),
    ("VERDICT", Kind::Text),
    ("OUT", Kind::Number),
    ("IN", Kind::Number),
    ("IDLE", Kind::Spare),
    ("STATE", Kind::Spare),
];

/// The cells of [`COLUMNS`].
fn cells(flow: &FlowEntry) -> [String; COLUMNS.len()] {
    [
        if flow.peer == 0 { "-".to_owned() } else { flow.peer.to_string() },
        protocol(flow.protocol),
        SocketAddr::new(flow.local, flow.local_port).to_string(),
        SocketAddr::new(flow.remote, flow.remote_port).to_string(),
        fate(flow),
        Bytes(flow.bytes_out).to_string(),
        Bytes(flow.bytes_in).to_string(),
        Uptime(flow.idle).to_string(),
        escaped(&flow.state),
    ]
}

/// The verdict, whose limits hold the flow back, and what of it passes in the kernel.
pub fn fate(flow: &FlowEntry) -> String {
    let limits = match (flow.limit_out.as_deref(), flow.limit_in.as_deref()) {
        (Some(out), Some(into)) if out != into => format!(", limited by {} out, {} in", escaped(out), escaped(into)),
        (Some(limit), _) | (_, Some(limit)) => format!(", limited by {}", escaped(limit)),
        (None, None) => String::new(),
    };
    verdicts(flow) + &limits + in_kernel(flow)
}

/// Which of its packets pass in the kernel.
fn in_kernel(flow: &FlowEntry) -> &'static str {
    match [&flow.path_out, &flow.path_in].map(|path| path.as_deref() == Some("kernel")) {
        [true, true] => ", in the kernel",
        [true, false] => ", in the kernel (out)",
        [false, true] => ", in the kernel (in)",
        [false, false] => "",
    }
}

/// The verdict with the rules that gave it on the way out and in; both verdicts if they differ.
fn verdicts(flow: &FlowEntry) -> String {
    let numbered = |verdict: &str, rules: [Option<u32>; 2]| {
        let [first, second] = rules.map(|rule| rule.map(|rule| rule.to_string()));
        let second = second.filter(|second| first.as_ref() != Some(second));
        let rules: Vec<String> = [first, second].into_iter().flatten().collect();
        format!("{} {}", escaped(verdict), rules.join("/")).trim_end().to_owned()
    };
    match (flow.verdict_out.as_deref(), flow.verdict_in.as_deref()) {
        (Some(out), Some(into)) if out != into => {
            let (out, into) = (numbered(out, [flow.rule_out, None]), numbered(into, [flow.rule_in, None]));
            format!("out {out}, in {into}")
        }
        (out, into) => or_dash(out.or(into).map(|verdict| numbered(verdict, [flow.rule_out, flow.rule_in]))),
    }
}
