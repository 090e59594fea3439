//! What is said on the control socket: requests and answers, each one line of JSON. docs/PROTOCOL.md describes them for
//! clients in other languages.
//!
//! A client sends `{"id": 1, "verb": "rules-list"}` and gets `{"id": 1, "ok": …}` or `{"id": 1, "error": {…}}`. `watch` gets
//! `{"id": 1, "ok": {}}`, and then `{"id": 1, "event": {…}}` until the client hangs up. Unknown keys in a request are an error, so that a misspelt condition
//! never goes unnoticed; readers of answers ignore them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ElsewhereStats, RoutesStats};

/// One request. What it may do depends on the level of its sender, see [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Generation, pending commit, script, and the sender's own level: [`Status`].
    Status {},
    /// The rules with their numbers and counters, in the order of evaluation: [`RuleList`].
    RulesList {
        /// Only those of this chain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chain: Option<Chain>,
        /// Only those of this group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// Reads the text of a rules file without using it: [`Checked`].
    RulesCheck {
        /// The text.
        text: String,
    },
    /// What a rules file would change: [`Difference`].
    RulesDiff {
        /// The text.
        text: String,
    },
    /// Changes rules and sets, all of them or none, between two packets: [`Changed`].
    Commit {
        /// The changes, in order.
        changes: Vec<Change>,
        /// The generation that the changes were made for. If the policy has another one, nothing is changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_generation: Option<u64>,
        /// Goes back to the policy before after so many seconds, unless `confirm` comes first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm_seconds: Option<u32>,
        /// Says what would be changed, and changes nothing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
    },
    /// Keeps what a commit with `confirm_seconds` has changed: [`Changed`].
    Confirm {
        /// The generation that the commit made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_generation: Option<u64>,
    },
    /// Goes back from such a commit now: [`Changed`].
    Rollback {},
    /// The sets with their sizes: [`SetList`].
    SetsList {
        /// Only this one, with its members.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// What would happen to a packet: [`Tested`]. Nothing is changed or counted.
    Test {
        /// The packet.
        packet: TestPacket,
    },
    /// Flows that are known: [`FlowList`].
    FlowsList {
        /// Which ones.
        #[serde(default)]
        filter: FlowFilter,
        /// In which order.
        #[serde(default)]
        order: FlowOrder,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Forgets flows, so that their next packets are decided anew, as those of new connections: [`Killed`].
    FlowsKill {
        /// Which ones. An empty filter is refused.
        filter: FlowFilter,
    },
    /// The whole statistics, as on the statistics socket: a [`Snapshot`](crate::Snapshot).
    Statistics {},
    /// The peers, as in the statistics: an array of [`PeerStats`](crate::PeerStats).
    Peers {},
    /// The trunks, as in the statistics: an array of [`TrunkStats`](crate::TrunkStats).
    Trunks {},
    /// The session with the host's routing daemon, and what is known of other hosts: [`Routes`].
    Routes {
        /// Who holds these addresses? At most [`MAX_ADDRESSES`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<IpAddr>,
    },
    /// Compiles a script and runs its self-test, without using it: [`ScriptStatus`].
    ScriptCheck {
        /// The source text.
        text: String,
    },
    /// Uses a script from now on: [`ScriptStatus`]. An empty text uses none.
    ScriptLoad {
        /// The source text.
        text: String,
    },
    /// The script in use: [`ScriptStatus`].
    ScriptStatus {},
    /// Who changed what, and when, the latest last: [`Log`].
    Log {
        /// At most so many entries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Dropped packets as they occur: first an empty object, as soon as the router tells them, then [`Event`]s until the client
    /// hangs up. At most so many per second are told.
    Watch {
        /// Only those of these flows.
        #[serde(default)]
        filter: FlowFilter,
    },
    /// Packets with what becomes of them, as they pass: first an empty object, then [`Event`]s until the client hangs up. What
    /// the client doesn't take in time is counted.
    Capture {
        /// Those that a rule with this selector would match, and answers to them: `<src> <dst> [<protocol> [<port>]]`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selector: Option<String>,
        /// Those of these flows.
        #[serde(default)]
        filter: FlowFilter,
        /// At most so many bytes of each, from its IP header on: up to [`MAX_SNAP_LEN`]; [`SNAP_LEN`] without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snap_len: Option<u32>,
    },
    /// The present policy as the text of a rules file: [`Saved`]. The client writes it.
    Save {},
}

impl Request {
    /// Returns the level that its sender needs. A change may need more, by what it changes.
    pub const fn level(&self) -> Level {
        match self {
            Self::Commit { .. } | Self::Confirm { .. } | Self::Rollback {} | Self::FlowsKill { .. } => Level::Operate,
            Self::ScriptCheck { .. } | Self::ScriptLoad { .. } | Self::Capture { .. } => Level::Admin,
            _ => Level::View,
        }
    }
}

/// Bytes of each captured packet unless a request says how many: the headers, and little of what users say to each other.
pub const SNAP_LEN: u32 = 128;

/// Most bytes of a captured packet: all of the longest one.
pub const MAX_SNAP_LEN: u32 = 65_535;

/// Most addresses in one request for their holders.
pub const MAX_ADDRESSES: usize = 256;

/// The answer to `routes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routes {
    /// The session with the routing daemon, as in the statistics. There is nothing if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<RoutesStats>,
    /// What is known of other hosts, as in the statistics. There is nothing if the router tells no others of its vassals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<ElsewhereStats>,
    /// Who holds the addresses of the request.
    pub holders: Vec<Holders>,
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// The address.
    pub address: IpAddr,
    /// Since when a vassal of this router holds it, in milliseconds since 1970, as others are told. There is nothing if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub here: Option<u64>,
    /// Who holds it elsewhere. There is nothing if nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<HolderElsewhere>,
}

/// Who holds an address elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderElsewhere {
    /// The router whose vassal it is: 16 hexadecimal digits.
    pub router: String,
    /// Since when, in milliseconds since 1970, by that host's clock.
    pub since: u64,
    /// Who tells of it: `routes`, or `trunk` with its number.
    pub source: String,
}

/// What the sender of a request may do. A level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Look at everything.
    View,
    /// Change the groups that one owns, the members of sets, and forget flows.
    Operate,
    /// Change everything.
    Admin,
}

/// A change of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Adds a rule at the end of a group's rules of that chain. The group is made if there is none of that name.
    RuleAdd {
        /// The group; without one it is `live`, which stands before all others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// The chain.
        chain: Chain,
        /// The rule, as in a rules file.
        rule: String,
    },
    /// Inserts a rule before or after another one, into the same group and chain.
    RuleInsert {
        /// Where.
        at: Place,
        /// The rule, as in a rules file.
        rule: String,
    },
    /// Replaces one rule. It keeps its number; it keeps its counters if selector and action stay.
    RuleReplace {
        /// Its number.
        id: u32,
        /// The rule, as in a rules file.
        rule: String,
    },
    /// Deletes a rule.
    RuleDelete {
        /// Its number.
        id: u32,
    },
    /// Replaces all rules of a group. Rules whose selector and action stay keep their numbers and counters.
    GroupReplace {
        /// Its name. The group is made if there is none of that name.
        group: String,
        /// Its rules, as in a rules file: `chain` lines and rules.
        text: String,
        /// Who may change it besides admins, by uid; without it, nothing is changed about that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<u32>,
    },
    /// Deletes a group with its rules.
    GroupDelete {
        /// Its name.
        group: String,
    },
    /// Replaces all groups and sets by those of a rules file. The rules of the options stay.
    FileReplace {
        /// The text.
        text: String,
    },
    /// Makes a set, or replaces its members.
    SetReplace {
        /// Its name.
        name: String,
        /// Addresses and networks.
        members: Vec<String>,
    },
    /// Adds members to a set.
    SetAdd {
        /// Its name.
        name: String,
        /// Addresses and networks.
        members: Vec<String>,
    },
    /// Removes members from a set. Each must be one of its members.
    SetRemove {
        /// Its name.
        name: String,
        /// Addresses and networks.
        members: Vec<String>,
    },
    /// Deletes a set. No rule may name it.
    SetDelete {
        /// Its name.
        name: String,
    },
}

/// A place among the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Before the rule of this number.
    Before(u32),
    /// After the rule of this number.
    After(u32),
}

/// A list of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chain {
    /// Packets towards the vassals (`tuntap-router-firewall-in`).
    In,
    /// Packets from the vassals (`tuntap-router-firewall-out`).
    Out,
    /// Packets from the vassals to other routers (`tuntap-router-route`).
    Route,
    /// Limits on traffic (`tuntap-router-shape`).
    Shape,
}

impl Chain {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::In, Self::Out, Self::Route, Self::Shape];
}

/// A packet to test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestPacket {
    /// From a vassal, or towards one.
    pub direction: Direction,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol: a name as in rules, or a number. Without it, TCP if there is a port, else ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// The process of the vassal that sends it; without it, the vassal that holds the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<i32>,
    /// The state of its connection. Without it, what is known of its flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Towards a vassal.
    In,
    /// From a vassal.
    Out,
}

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No packet in the opposite direction was let through.
    New,
    /// A packet in the opposite direction was let through.
    Established,
}

/// Which flows. All conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// The process of the vassal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<i32>,
    /// The user of the vassal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// An address or a network at either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The protocol: a name as in rules, or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// A port at either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The number of the rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
    /// What is done with their packets: `allow`, `deny` or `reject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

/// The order of a list of flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowOrder {
    /// Those that were used last first.
    #[default]
    Recent,
    /// Those with the most bytes first.
    Top,
}

/// One answer, as it is written: with the request's `id`, and one of the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// What the request had as `id`.
    #[serde(default)]
    pub id: Value,
    /// The result of a request that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Value>,
    /// Something that happened, for `watch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// Why the request failed. Nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people: what was wrong, with the value.
    pub message: String,
    /// The line of a text that is wrong, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

impl Failure {
    /// A failure that has nothing to do with a line.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), line: None }
    }

    /// A request, or a value in it, that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// Something that the sender may not do.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Code::Denied, message)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// A limit that is reached.
    pub fn too_much(message: impl Into<String>) -> Self {
        Self::new(Code::TooMuch, message)
    }
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request can't be read, or a value in it is wrong.
    Invalid,
    /// The sender's level, or his share in a group, doesn't allow it.
    Denied,
    /// There is no rule, group, set or flow like that.
    NotFound,
    /// The policy has another generation than the one expected.
    Generation,
    /// Another change waits for its confirmation.
    Pending,
    /// The change is already made, or there is nothing to confirm.
    Conflict,
    /// A limit is reached.
    TooMuch,
    /// The router has no time for it now.
    Busy,
    /// Something else went wrong.
    Failed,
}

/// The state of the live policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The router's device.
    pub device: String,
    /// The number of the policy.
    pub generation: u64,
    /// The commit that waits for its confirmation.
    pub pending: Option<Pending>,
    /// True if the policy is not that of options and rules file.
    pub is_changed: bool,
    /// The rules file, if there is one.
    pub rules_file: Option<String>,
    /// The script in use.
    pub script: ScriptStatus,
    /// The level of the sender.
    pub level: Level,
    /// Rules in all chains.
    pub rules: u64,
    /// Flows that are known.
    pub flows: u64,
    /// Most flows that are known at a time.
    pub max_flows: u64,
}

/// A commit that waits for its confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The generation that it made.
    pub generation: u64,
    /// Who made it.
    pub uid: u32,
    /// Seconds until the policy goes back to the one before.
    pub seconds_left: u64,
}

/// The rules in the order of evaluation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// The number of the policy.
    pub generation: u64,
    /// The groups, those that are evaluated first come first.
    pub groups: Vec<GroupEntry>,
}

/// A group of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Its name. `ini` has the rules of the options.
    pub name: String,
    /// Who may change it besides admins.
    pub owner: Option<u32>,
    /// Its rules.
    pub rules: Vec<RuleEntry>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// Its number.
    pub id: u32,
    /// The chain that it is in.
    pub chain: Chain,
    /// The rule, as in a rules file.
    pub rule: String,
    /// Packets that it has decided about.
    pub packets: u64,
    /// Their bytes: those of the IP packets, without any header before them.
    pub bytes: u64,
}

/// The result of reading a rules file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Rules in it.
    pub rules: u64,
    /// Groups in it.
    pub groups: u64,
    /// Sets in it.
    pub sets: u64,
    /// What can be read, but is hardly meant: a rule that never matches, a chain that lets nothing pass.
    pub warnings: Vec<Failure>,
}

/// What one policy has more or less than another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Lines as of diff(1): `+`, `-` or a space, and a line of a rules file.
    pub lines: Vec<String>,
    /// Rules that are added.
    pub added: u64,
    /// Rules that are deleted.
    pub deleted: u64,
    /// Rules that stay, with their numbers and counters.
    pub kept: u64,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The number of the policy now.
    pub generation: u64,
    /// The numbers of the rules that were added, in order.
    pub rules: Vec<u32>,
    /// Seconds until the policy goes back to the one before, if the change waits for its confirmation.
    pub confirm_within: Option<u32>,
    /// What was changed.
    pub difference: Difference,
}

/// The sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetList {
    /// In the order of their names.
    pub sets: Vec<SetEntry>,
}

/// A set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEntry {
    /// Its name.
    pub name: String,
    /// The number of its members.
    pub members: u64,
    /// The file that it was read from.
    pub file: Option<String>,
    /// The rules that name it.
    pub rules: Vec<u32>,
    /// Its members, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<Vec<String>>,
}

/// What would happen to a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// `allow`, `deny` or `reject`.
    pub verdict: String,
    /// Where it would go: `tun`, `peer 1234 (10.0.0.2)`, `gateway 192.0.2.1:5000`; nothing if it is dropped.
    pub to: Option<String>,
    /// Why it is dropped, as in the statistics.
    pub reason: Option<String>,
    /// Everything that it passes, in order.
    pub steps: Vec<Step>,
}

/// A station on a packet's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `flow`, `chain-out`, `claim`, `guard`, `peer-rules-out`, `script`, `route`, `switch`, `chain-in`, `peer-rules-in`,
    /// `limit-out`, `limit-in`, `path`.
    pub stage: String,
    /// What is decided there: `pass`, `deny`, `reject`, where the packet goes, whose limit may hold it back, or who passes it on:
    /// `kernel` or `router`.
    pub result: String,
    /// The rule that decided.
    pub rule: Option<u32>,
    /// The rule's text, the claim, the set, or what else explains it.
    pub note: Option<String>,
}

/// A list of flows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    /// The flows.
    pub flows: Vec<FlowEntry>,
    /// How many match, with those that are not in the list.
    pub matching: u64,
}

/// A flow, seen from its vassal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// The process of the vassal, 0 if it has left.
    pub peer: i32,
    /// The user of the vassal.
    pub uid: u32,
    /// The vassal's address.
    pub local: IpAddr,
    /// The vassal's port, or the identifier of an ICMP query.
    pub local_port: u16,
    /// The address at the other end.
    pub remote: IpAddr,
    /// The port at the other end.
    pub remote_port: u16,
    /// The number of the protocol.
    pub protocol: u8,
    /// `new`, `established`, `closing` or `closed`.
    pub state: String,
    /// Verdict on packets from the vassal: `allow`, `deny`, `reject`, or nothing if there was none yet.
    pub verdict_out: Option<String>,
    /// Verdict on packets towards the vassal.
    pub verdict_in: Option<String>,
    /// The rule that decided about packets from the vassal.
    pub rule_out: Option<u32>,
    /// The rule that decided about packets towards the vassal.
    pub rule_in: Option<u32>,
    /// Whose limit holds back packets from the vassal, as in rules files: `any`, `class:bulk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_out: Option<String>,
    /// Whose limit holds back packets towards the vassal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_in: Option<String>,
    /// The number of the policy that decided last.
    pub generation: u64,
    /// Seconds since its last packet.
    pub idle: u64,
    /// Seconds since its first packet.
    pub age: u64,
    /// Packets from the vassal, dropped ones included.
    pub packets_out: u64,
    /// Bytes from the vassal.
    pub bytes_out: u64,
    /// Packets towards the vassal.
    pub packets_in: u64,
    /// Bytes towards the vassal.
    pub bytes_in: u64,
    /// How packets from the vassal go on: `kernel`, or why they take the router's way. Nothing if the router has no path in the
    /// kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_out: Option<String>,
    /// How packets towards the vassal go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_in: Option<String>,
}

/// How many flows were forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// Their number.
    pub flows: u64,
}

/// The state of the script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptStatus {
    /// True if a script decides about new flows.
    pub is_loaded: bool,
    /// SHA-256 of its source text, in hexadecimal.
    pub digest: Option<String>,
    /// The file that it was read from, if it was not loaded live.
    pub file: Option<String>,
    /// Flows that it has decided about.
    pub calls: u64,
    /// Flows that were denied because it failed.
    pub failures: u64,
    /// Its latest failure.
    pub last_failure: Option<String>,
    /// Times that the script before was brought back because this one failed too often.
    pub reverts: u64,
    /// Bytes of memory that it uses.
    pub memory: u64,
    /// Nanoseconds of its slowest call, of processor time.
    pub slowest: u64,
}

/// The changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The latest last.
    pub entries: Vec<LogEntry>,
}

/// A change, or an attempt at one that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Seconds since 1970.
    pub time: u64,
    /// Who.
    pub uid: u32,
    /// From which process.
    pub pid: i32,
    /// What: the verb, and the changes in short.
    pub action: String,
    /// The generation that it made; nothing if it was refused.
    pub generation: Option<u64>,
    /// Why it was refused.
    pub error: Option<String>,
}

/// Something that happened, for `watch` and `capture`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A packet was dropped.
    Drop(Dropped),
    /// A packet was captured.
    Packet(CapturedPacket),
    /// So many drops or packets were left out before the next event, because there were too many.
    LeftOut {
        /// Their number.
        count: u64,
    },
}

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Seconds since 1970.
    pub time: u64,
    /// Milliseconds of that second.
    pub millis: u16,
    /// The process of the vassal that sent it or would have got it.
    pub peer: Option<i32>,
    /// The user of that vassal.
    pub uid: Option<u32>,
    /// Its way.
    pub direction: Direction,
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// The number of the protocol.
    pub protocol: u8,
    /// Length of the IP packet in bytes.
    pub len: u64,
    /// Why it was dropped, as in the statistics.
    pub reason: String,
    /// The rule that dropped it.
    pub rule: Option<u32>,
}

/// A captured packet. One between two vassals is captured twice: where it leaves the one, and where it comes to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Seconds since 1970, when it was decided what becomes of it, or when it went on after it had waited.
    pub time: u64,
    /// Nanoseconds of that second.
    pub nanos: u32,
    /// Its way, as its vassal sees it.
    pub direction: Direction,
    /// The vassal that has sent it or that it is for, if there is one.
    pub peer: Option<CapturedPeer>,
    /// Source address; nothing if its headers can't be read.
    pub src: Option<IpAddr>,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// The number of the protocol.
    pub protocol: Option<u8>,
    /// `allow`, `deny` or `reject`.
    pub verdict: String,
    /// Where it went: `tun`, `peer`, `gateway 192.0.2.1:5000`, `trunk fedcba9876543210`; nothing if it was dropped.
    pub to: Option<String>,
    /// Why it was dropped, as in the statistics.
    pub reason: Option<String>,
    /// The rule of the policy that has decided.
    pub rule: Option<u32>,
    /// The rule among those of its vassal that has decided, from 0.
    pub peer_rule: Option<u32>,
    /// How many packets it stands for: more than one for a super-packet, whose checksums aren't filled in.
    pub segments: u32,
    /// Its length in bytes.
    pub len: u32,
    /// Its first bytes, in Base64 (RFC 4648, section 4).
    pub data: String,
}

/// The vassal of a captured packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPeer {
    /// The number of its connection, which no other one of this router's process has.
    pub connection: u64,
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// The first address that it holds.
    pub address: Option<IpAddr>,
}

/// A rules file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its text.
    pub text: String,
    /// The file of `tuntap-router-rules`, if there is one.
    pub file: Option<String>,
    /// The generation that the text has.
    pub generation: u64,
}
