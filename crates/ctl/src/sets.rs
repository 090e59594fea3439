//! `uwsgi-tuntap set`: named sets of addresses and networks.

use clap::Subcommand;
use tuntap_api::control::{Change, Request, SetList};

use crate::change::How;
use crate::failure::{Done, Failed};
use crate::session::{Session, read_text};
use crate::table::{Kind, Table};
use crate::text::{Count, escaped};

/// What is done with sets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists the sets with their sizes
    List,
    /// Prints the members of a set, one in each line
    Show {
        /// Its name
        name: String,
    },
    /// Adds members to a set
    Add(Named),
    /// Removes members from a set; each must be one of its members
    Remove(Named),
    /// Makes a set, or replaces all its members
    Replace(Named),
    /// Deletes a set that no rule names
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        how: How,
    },
}

/// A set, and members.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// Its name
    name: String,
    /// Addresses and networks
    #[arg(value_name = "MEMBER", required_unless_present = "file")]
    members: Vec<String>,
    /// Take members from this file, too: separated by white space, with comments behind #; - is standard input
    #[arg(long)]
    file: Option<String>,
    #[command(flatten)]
    how: How,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        match self {
            Self::List => list(session),
            Self::Show { name } => show(session, name),
            Self::Add(named) => named.commit(session, |name, members| Change::SetAdd { name, members }),
            Self::Remove(named) => named.commit(session, |name, members| Change::SetRemove { name, members }),
            Self::Replace(named) => named.commit(session, |name, members| Change::SetReplace { name, members }),
            Self::Delete { name, how } => how.commit(session, vec![Change::SetDelete { name }], None),
        }
    }
}

impl Named {
    fn commit(
        mut self,
        session: &mut Session<'_>,
        change: impl FnOnce(String, Vec<String>) -> Change,
    ) -> Result<Done, Failed> {
        if let Some(file) = &self.file {
            self.members.extend(members(&read_text(file)?));
        }
        self.how.commit(session, vec![change(self.name, self.members)], None)
    }
}

/// The members in the text of a file.
fn members(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    words.map(str::to_owned)
}

fn list(session: &mut Session<'_>) -> Result<Done, Failed> {
    let Some(list) = session.ask::<SetList>(&Request::SetsList { name: None })? else { return Ok(Done::Well) };
    let mut table =
        Table::new(&[("NAME", Kind::Text), ("MEMBERS", Kind::Number), ("RULES", Kind::Text), ("FILE", Kind::Text)]);
    for set in &list.sets {
        let rules = set.rules.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        table.row([
            escaped(&set.name),
            Count(set.members).to_string(),
            if rules.is_empty() { "-".to_owned() } else { rules },
            set.file.as_deref().map_or_else(|| "-".to_owned(), escaped),
        ]);
    }
    session.table(&table)?;
    Ok(Done::Well)
}

fn show(session: &mut Session<'_>, name: String) -> Result<Done, Failed> {
    let list = session.ask::<SetList>(&Request::SetsList { name: Some(name) })?;
    for member in list.iter().flat_map(|list| &list.sets).flat_map(|set| set.list.iter().flatten()) {
        writeln!(session.output, "{}", escaped(member))?;
    }
    Ok(Done::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_words_outside_of_comments() {
        let found: Vec<String> = members("# all\n10.0.0.1 10.1.0.0/16 # two\r\n\n fd00::/8\n").collect();
        assert_eq!(found, ["10.0.0.1", "10.1.0.0/16", "fd00::/8"]);
    }
}
