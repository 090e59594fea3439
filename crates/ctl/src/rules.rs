//! `uwsgi-tuntap rules`: lists, checks and changes rules.

use clap::{Subcommand, ValueEnum};
use tuntap_api::control::{Chain, Change, Changed, Checked, Difference, Place, Request, RuleList};

use crate::change::{self, How};
use crate::failure::{Done, Failed, without_line};
use crate::rules_file;
use crate::session::{Session, read_text, shown_name};
use crate::table::{Kind, Table};
use crate::text::{Bytes, Count, counted, escaped};

/// A list of rules.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ChainName {
    /// Packets towards the vassals
    In,
    /// Packets from the vassals
    Out,
    /// Packets from the vassals to other routers
    Route,
    /// Limits on traffic
    Shape,
}

impl From<ChainName> for Chain {
    fn from(name: ChainName) -> Self {
        match name {
            ChainName::In => Self::In,
            ChainName::Out => Self::Out,
            ChainName::Route => Self::Route,
            ChainName::Shape => Self::Shape,
        }
    }
}

/// What is done with rules.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists the rules in the order of evaluation, with their numbers and counters
    List {
        /// Only those of this chain
        #[arg(long)]
        chain: Option<ChainName>,
        /// Only those of this group
        #[arg(long)]
        group: Option<String>,
    },
    /// Reads a rules file without using it, and says what is wrong with it as FILE:LINE: MESSAGE
    Check {
        /// The file; - is standard input
        file: String,
    },
    /// Shows what a rules file would change
    Diff {
        /// The file; - is standard input
        file: String,
    },
    /// Replaces all groups and sets by those of a rules file, or the rules of one group
    Replace {
        /// The file; - is standard input
        file: String,
        /// Replace only the rules of this group, by the chains and rules of the file
        #[arg(long)]
        group: Option<String>,
        /// Who may change the group besides admins
        #[arg(long, value_name = "UID|USER", requires = "group", value_parser = rules_file::user)]
        owner: Option<u32>,
        #[command(flatten)]
        how: How,
    },
    /// Adds a rule at the end of a group
    Add {
        /// The chain
        chain: ChainName,
        /// The rule, as in a rules file: such as allow any 10.0.0.2 tcp 80-443 new
        #[arg(required = true)]
        rule: Vec<String>,
        /// The group; without it it is live, which is evaluated first
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Inserts a rule before or after another one, into the same group and chain
    Insert {
        #[command(flatten)]
        at: At,
        /// The rule, as in a rules file
        #[arg(required = true)]
        rule: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Replaces one rule, which keeps its number
    Set {
        /// The number of the rule
        id: u32,
        /// The rule, as in a rules file
        #[arg(required = true)]
        rule: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Deletes rules, or a group with all its rules
    Delete {
        /// The numbers of the rules
        #[arg(value_name = "ID", required_unless_present = "group", conflicts_with = "group")]
        ids: Vec<u32>,
        /// Delete this group
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Keeps a change that was made with --confirm
    Confirm {
        /// Only if it has made this generation
        #[arg(long, value_name = "GENERATION")]
        expect: Option<u64>,
    },
    /// Goes back from a change that was made with --confirm, now
    Rollback,
}

/// A place among the rules.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(required = true, multiple = false)]
pub struct At {
    /// Before the rule of this number
    #[arg(long, value_name = "ID")]
    before: Option<u32>,
    /// After the rule of this number
    #[arg(long, value_name = "ID")]
    after: Option<u32>,
}

impl At {
    /// The place. Only the first counts if clap has let two pass.
    fn place(self) -> Option<Place> {
        self.before.map(Place::Before).or(self.after.map(Place::After))
    }
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        match self {
            Self::List { chain, group } => list(session, chain.map(Chain::from), group),
            Self::Check { file } => check(session, &file),
            Self::Diff { file } => diff(session, &file),
            Self::Replace { file, group, owner, how } => {
                let change = match group {
                    Some(group) => Change::GroupReplace { group, text: read_text(&file)?, owner },
                    None => Change::FileReplace { text: rules_file::read(&file)? },
                };
                how.commit(session, vec![change], Some(&file))
            }
            Self::Add { chain, rule, group, how } => {
                let change = Change::RuleAdd { group, chain: chain.into(), rule: rules_file::line(&rule.join(" "))? };
                how.commit(session, vec![change], None)
            }
            Self::Insert { at, rule, how } => {
                let rule = rules_file::line(&rule.join(" "))?;
                let change = at.place().map(|at| Change::RuleInsert { at, rule });
                how.commit(session, change.into_iter().collect(), None)
            }
            Self::Set { id, rule, how } => {
                let rule = rules_file::line(&rule.join(" "))?;
                how.commit(session, vec![Change::RuleReplace { id, rule }], None)
            }
            Self::Delete { ids, group, how } => {
                let rules = ids.into_iter().map(|id| Change::RuleDelete { id });
                let groups = group.into_iter().map(|group| Change::GroupDelete { group });
                how.commit(session, rules.chain(groups).collect(), None)
            }
            Self::Confirm { expect } => settle(session, &Request::Confirm { expected_generation: expect }, "confirmed"),
            Self::Rollback => settle(session, &Request::Rollback {}, "rolled back"),
        }
    }
}

fn list(session: &mut Session<'_>, chain: Option<Chain>, group: Option<String>) -> Result<Done, Failed> {
    let Some(list) = session.ask::<RuleList>(&Request::RulesList { chain, group })? else { return Ok(Done::Well) };
    let mut table = Table::new(&[
        ("ID", Kind::Number),
        ("CHAIN", Kind::Word),
        ("RULE", Kind::Text),
        ("PACKETS", Kind::Number),
        ("BYTES", Kind::Number),
    ]);
    for group in &list.groups {
        let owner = group.owner.map(|uid| format!(", owner uid {uid}")).unwrap_or_default();
        let empty = if group.rules.is_empty() { ": no rules" } else { "" };
        table.title(format!("group {}{owner}{empty}", escaped(&group.name)));
        for rule in &group.rules {
            table.row([
                rule.id.to_string(),
                chain_name(rule.chain).to_owned(),
                escaped(&rule.rule),
                counted_of(rule.chain, Count(rule.packets)),
                counted_of(rule.chain, Bytes(rule.bytes)),
            ]);
        }
    }
    writeln!(session.output, "generation {}", list.generation)?;
    session.table(&table)?;
    Ok(Done::Well)
}

/// What a line has counted. Limits count in the statistics instead.
fn counted_of(chain: Chain, count: impl std::fmt::Display) -> String {
    if chain == Chain::Shape { "-".to_owned() } else { count.to_string() }
}

const fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::In => "in",
        Chain::Out => "out",
        Chain::Route => "route",
        Chain::Shape => "shape",
    }
}

fn check(session: &mut Session<'_>, file: &str) -> Result<Done, Failed> {
    let text = rules_file::read(file)?;
    let Some(checked) = session.ask_about::<Checked>(file, &Request::RulesCheck { text })? else {
        return Ok(Done::Well);
    };
    let name = escaped(shown_name(file));
    for warning in &checked.warnings {
        let line = warning.line.map(|line| format!(":{line}")).unwrap_or_default();
        writeln!(session.output, "{name}{line}: warning: {}", escaped(without_line(&warning.message, warning.line)))?;
    }
    let Checked { rules, groups, sets, .. } = checked;
    writeln!(
        session.output,
        "{name}: {} in {}, {}",
        counted(rules, "rule", "rules"),
        counted(groups, "group", "groups"),
        counted(sets, "set", "sets")
    )?;
    Ok(Done::Well)
}

fn diff(session: &mut Session<'_>, file: &str) -> Result<Done, Failed> {
    let text = rules_file::read(file)?;
    if let Some(difference) = session.ask_about::<Difference>(file, &Request::RulesDiff { text })? {
        session.output.write_all(change::lines(&difference).as_bytes())?;
        writeln!(session.output, "{}", change::summary(&difference))?;
    }
    Ok(Done::Well)
}

/// Ends the wait of a change for its confirmation.
fn settle(session: &mut Session<'_>, request: &Request, what: &str) -> Result<Done, Failed> {
    if let Some(changed) = session.ask::<Changed>(request)? {
        session.output.write_all(change::lines(&changed.difference).as_bytes())?;
        writeln!(session.output, "{what}: the policy has generation {}", changed.generation)?;
    }
    Ok(Done::Well)
}
