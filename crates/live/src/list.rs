//! Answers that change nothing.

use std::collections::BTreeMap;

use tuntap_api::control::{
    Chain, Change, Checked, Difference, Failure, GroupEntry, Level, Pending, RuleEntry, RuleList, Saved, ScriptStatus,
    SetEntry, SetList, Status,
};
use tuntap_core::policy::counters::CounterSlot;

use crate::difference::difference;
use crate::document::Rule;
use crate::edit::{self, Edited, Known, no_set};
use crate::file::{self, Member, RulesFile};
use crate::{Caller, Live, Now};

/// Nanoseconds of a second, for rounding up.
const JUST_BELOW_A_SECOND: std::time::Duration = std::time::Duration::from_nanos(999_999_999);

impl Live {
    /// The state of the live policy. Script and flows are the caller's to fill in.
    pub fn status(&self, caller: Caller, now: Now) -> Status {
        Status {
            device: self.base.router.device.clone(),
            generation: self.document.generation,
            pending: self.pending(now),
            is_changed: self.is_changed(),
            rules_file: self.base.router.live.rules.clone(),
            script: ScriptStatus::default(),
            level: caller.level,
            rules: count(self.document.rules().count()),
            flows: 0,
            max_flows: 0,
        }
    }

    /// The commit that waits for its confirmation.
    pub fn pending(&self, now: Now) -> Option<Pending> {
        let pending = self.pending.as_ref()?;
        let left = pending.deadline.saturating_sub(now.monotonic);
        let seconds_left = left.saturating_add(JUST_BELOW_A_SECOND).as_secs();
        Some(Pending { generation: pending.generation, uid: pending.uid, seconds_left })
    }

    /// Returns true if the rules and sets are not those of options and rules file.
    pub fn is_changed(&self) -> bool {
        !self.document.says_the_same(&self.initial) || !self.has_script_of_options()
    }

    pub(crate) fn rules(&self, chain: Option<Chain>, group: Option<&str>) -> Result<RuleList, Failure> {
        if let Some(name) = group.filter(|name| !self.document.groups.iter().any(|group| group.name == **name)) {
            return Err(Failure::not_found(format!("there is no group \"{name}\"")));
        }
        let groups = self.document.groups.iter().filter(|entry| group.is_none_or(|name| entry.name == name));
        let is_wanted = |rule: &&Rule| chain.is_none_or(|chain| rule.chain == chain);
        let entries = groups.map(|group| GroupEntry {
            name: group.name.clone(),
            owner: group.owner,
            rules: group.rules.iter().filter(is_wanted).map(|rule| self.rule_entry(rule)).collect(),
        });
        Ok(RuleList { generation: self.document.generation, groups: entries.collect() })
    }

    fn rule_entry(&self, rule: &Rule) -> RuleEntry {
        let counted = self.counters.get(CounterSlot(rule.slot));
        RuleEntry {
            id: rule.id,
            chain: rule.chain,
            rule: rule.rule.to_string(),
            packets: counted.packets,
            bytes: counted.bytes,
        }
    }

    /// The text of a rule, for those who explain what it did.
    pub fn rule_text(&self, id: u32) -> Option<String> {
        self.document.rules().find(|rule| rule.id == id).map(|rule| rule.rule.to_string())
    }

    pub(crate) fn check(&self, text: &str) -> Result<Checked, Failure> {
        let file = RulesFile::read(text, &Known(&self.document))?;
        file.check_for(&self.base.router)?;
        Ok(Checked {
            rules: count(file.rules()),
            groups: count(file.groups.len()),
            sets: count(file.sets.len()),
            warnings: file.warnings.into_iter().map(Failure::from).collect(),
        })
    }

    pub(crate) fn diff(&self, caller: Caller, text: &str) -> Result<Difference, Failure> {
        // Whoever may look at the rules may ask what another text would change.
        let admin = Caller { level: Level::Admin, ..caller };
        let change = [Change::FileReplace { text: text.to_owned() }];
        let edited = self.edited(admin, &change)?;
        Ok(difference(&self.document, &edited.document))
    }

    /// The document with these changes made.
    pub(crate) fn edited(&self, caller: Caller, changes: &[Change]) -> Result<Edited, Failure> {
        let edited = edit::apply(&self.document, caller, changes, self.retired.iter().copied())?;
        let lacks = |rule: &Rule| file::lacks_traffic(&self.base.router, rule.rule.shape()?);
        let wrong = edited.document.rules().find_map(lacks);
        wrong.map_or(Ok(edited), |message| Err(Failure::invalid(message)))
    }

    pub(crate) fn sets(&self, name: Option<&str>) -> Result<SetList, Failure> {
        if let Some(name) = name.filter(|name| !self.document.sets.contains_key(*name)) {
            return Err(no_set(name));
        }
        let mut rules: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for rule in self.document.rules() {
            for set in rule.rule.sets() {
                let ids = rules.entry(set).or_default();
                if ids.last() != Some(&rule.id) {
                    ids.push(rule.id);
                }
            }
        }
        let wanted = self.document.sets.iter().filter(|(set, _)| name.is_none_or(|name| *set == name));
        let entries = wanted.map(|(set, contents)| SetEntry {
            name: set.clone(),
            members: count(contents.members().len()),
            file: contents.file().map(str::to_owned),
            rules: rules.remove(set.as_str()).unwrap_or_default(),
            list: name.map(|_| contents.members().iter().map(|member| Member(*member).to_string()).collect()),
        });
        Ok(SetList { sets: entries.collect() })
    }

    pub(crate) fn save(&self) -> Saved {
        Saved {
            text: file::write(&self.document),
            file: self.base.router.live.rules.clone(),
            generation: self.document.generation,
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
