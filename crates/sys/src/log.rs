//! Log lines for the operator, each about an event. The plugin passes them to uWSGI's log; tests collect them.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It belongs to what is wanted.
    Info,
    /// Something doesn't work, or could be better.
    Warning,
    /// A process ends, or can't go on as it was.
    Error,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Makes [`Event`] of a table: the variant, its name in logs, its level, and what it means.
macro_rules! events {
    ($($event:ident = $name:literal, $level:ident, $meaning:literal;)+) => {
        /// What a line is about. Names are never changed, because programs look for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event {
            $(#[doc = $meaning] $event,)+
        }

        impl Event {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$event),+];

            /// The name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$event => $name),+ }
            }

            /// How much it matters.
            pub const fn level(self) -> Level {
                match self { $(Self::$event => Level::$level),+ }
            }

            /// What it means, for the documents.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$event => $meaning),+ }
            }
        }
    };
}

events! {
    DeviceMade = "device-made", Info, "a TUN device was made, or made again";
    DeviceConfigured = "device-configured", Info, "a device has addresses, or another MTU";
    DeviceKept = "device-kept", Info, "a vassal's device lives on after a reload";
    DeviceClosed = "device-closed", Info, "a vassal's device is closed, or left behind";
    DeviceIncomplete = "device-incomplete", Warning, "a vassal's device works without something: IPv6, DNS, rules";
    DeviceMissing = "device-missing", Warning, "a vassal has no device";
    DeviceLost = "device-lost", Error, "a vassal's device can't go on, and its instance ends";
    RouterAwaited = "router-awaited", Warning, "a vassal can't reach its router, and tries again";
    RouterJoined = "router-joined", Info, "a vassal has joined its router";
    RouterLost = "router-lost", Warning, "a vassal has lost its router, and looks for it";
    Listening = "listening", Info, "a router waits somewhere: for vassals, requests, statistics, gateways, trunks, the routing daemon";
    Key = "key", Info, "what the public half of a router's key is";
    ScriptChecked = "script-checked", Info, "the script of the options passes its test";
    RulesWarning = "rules-warning", Warning, "something in a rules file is hardly meant";
    RulesUnusable = "rules-unusable", Warning, "a rules file or script can't be used at a reload, and what was in use stays";
    Advice = "advice", Warning, "the set-up works, but not as somebody may expect";
    UnknownOption = "unknown-option", Warning, "an ini file has a name that is no option";
    AccountMissing = "account-missing", Warning, "a user or group of an option isn't there";
    AccountAppeared = "account-appeared", Info, "a user or group that was missing is there";
    RouterDelayed = "router-delayed", Warning, "a router waits before it starts, and tries again";
    RouterRecovered = "router-recovered", Info, "a router that had to wait can start";
    RouterIncomplete = "router-incomplete", Warning, "a router works without something: memory, priority, descriptors, control socket, trunks";
    RouterFault = "router-fault", Warning, "something failed in a router, which goes on";
    RouterHangs = "router-hangs", Error, "a router or trunk process gives no sign of life, and is killed";
    RouterEnded = "router-ended", Error, "a router can't go on, and ends";
    TrunkProcessEnded = "trunk-process-ended", Error, "a trunk process ends, and is started again";
    PairProcessEnded = "pair-process-ended", Error, "a pair process ends, and is started again";
    Sandbox = "sandbox", Warning, "a process works without a part of its sandbox";
    ReloadLoss = "reload-loss", Warning, "something doesn't survive a reload, and is made anew";
    ReloadChanges = "reload-changes", Warning, "a reload can't apply what was changed";
    Fatal = "fatal", Error, "the start fails, or the process can't go on; the line has the reason";
    Panic = "panic", Error, "a fault in the plugin itself: its place in the source, and why; please report it";
    HostChanged = "host-changed", Info, "a setting of the host was changed, or put back";
    HostMended = "host-mended", Info, "what somebody else had changed on the host is as it was";
    HostLeftAlone = "host-left-alone", Warning, "what somebody else changes again and again is left alone for a while";
    HostFault = "host-fault", Warning, "something on the host isn't as the router needs it";
    AddressConflict = "address-conflict", Warning, "a network or port of a router is in use by others";
    InterfaceMissing = "interface-missing", Warning, "an interface isn't there, or not any more";
    InterfaceAppeared = "interface-appeared", Info, "an interface is there again, or is another one";
    PacketsRefused = "packets-refused", Warning, "the host's table has refused packets of vassals";
    PeersRestored = "peers-restored", Info, "a router has the vassals of the one before it";
    PeerJoined = "peer-joined", Info, "a vassal holds an address from now on";
    PeerLeft = "peer-left", Info, "a vassal is gone";
    PeerTurnedAway = "peer-turned-away", Warning, "a connection of a vassal was refused";
    AcceptFailed = "accept-failed", Warning, "no connection can be accepted for a while";
    AddressHeld = "address-held", Warning, "a vassal wants the address of another one, here or on another host";
    AddressLost = "address-lost", Warning, "a vassal has lost its address to one of another host";
    NotLeased = "not-leased", Warning, "a vassal wants an address that is leased to others, or to nobody";
    NotClaimable = "not-claimable", Warning, "a vassal wants an address that no vassal, or none of its user's, may have";
    ClockAhead = "clock-ahead", Warning, "the clock of another host is wrong, or that of this one";
    HostsIncomplete = "hosts-incomplete", Warning, "not all is known that other hosts tell";
    RequestRefused = "request-refused", Warning, "a vassal doesn't get what it asked for";
    RuleRefused = "rule-refused", Warning, "a rule of a vassal has no effect";
    ToGateway = "to-gateway", Warning, "a vassal sends to the gateway of a router";
    GatewaySlow = "gateway-slow", Warning, "packets to a gateway leave one by one";
    PeerLimited = "peer-limited", Warning, "packets to a vassal are dropped, because they take too much time there";
    PeerDetached = "peer-detached", Warning, "a vassal goes back to frames";
    PeerAttached = "peer-attached", Info, "a vassal is attached again";
    KernelPath = "kernel-path", Info, "flows that a router has decided can pass in the kernel, and by which hooks";
    PairLost = "pair-lost", Warning, "a vassal's packets pass its router, for its pair of devices is gone";
    Rule = "rule", Info, "a rule with the word log has matched";
    Script = "script", Info, "what a script says, or what has become of it";
    ScriptFault = "script-fault", Warning, "a script of before can't be used";
    PolicyChanged = "policy-changed", Info, "rules, sets or script were changed, or went back";
    PolicyLost = "policy-lost", Warning, "changes of before are lost";
    FlowsForgotten = "flows-forgotten", Info, "somebody had flows forgotten";
    Capture = "capture", Info, "somebody captures packets, or does no more";
    TrunkOpened = "trunk-opened", Info, "a trunk, or a connection for one, is open";
    TrunkEnded = "trunk-ended", Warning, "a trunk, or a connection for one, has ended";
    TrunkRefused = "trunk-refused", Warning, "something that came by a trunk was refused, or somebody who is no neighbour";
    TrunkFault = "trunk-fault", Warning, "a trunk process can't do something";
    RoutesEstablished = "routes-established", Info, "routes are exchanged with the routing daemon";
    RoutesEnded = "routes-ended", Warning, "the session with the routing daemon has ended, or didn't come about";
    RoutesRefused = "routes-refused", Warning, "a route or connection of the routing daemon was refused";
    SyscallDenied = "syscall-denied", Error, "the sandbox has denied a system call, and the process ends";
    LinesLeftOut = "lines-left-out", Warning, "lines about vassals or other hosts were left out, because there were too many";
}

/// True if lines are objects of JSON (`tuntap-log-format`).
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// The devices of this instance, which lines of JSON name.
static DEVICES: OnceLock<Vec<String>> = OnceLock::new();

/// Has lines written as JSON from now on, or as text.
pub fn set_json(is_json: bool) {
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// Returns true if lines are written as JSON.
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Says which devices lines may be about. Only the first call counts.
pub fn set_devices(names: impl Iterator<Item = String>) {
    DEVICES.get_or_init(|| names.collect());
}

/// The peer that a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// The address that it holds or wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its process.
    pub pid: i32,
    /// Its user, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is about.
    pub event: Event,
    /// The peer that it is about.
    pub peer: Option<Peer>,
    /// The whole line as people read it, without the line feed.
    pub line: &'a str,
}

/// A line as JSON.
#[derive(Serialize)]
struct Object<'a> {
    time: f64,
    level: &'a str,
    event: &'a str,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    text: &'a str,
}

impl Record<'_> {
    /// The line as an object of JSON (RFC 8259) without a line feed, whatever is in it: docs/OPERATIONS.md has the keys.
    pub fn json(&self) -> String {
        self.json_at(SystemTime::now(), DEVICES.get().map_or(&[], Vec::as_slice))
    }

    /// What stands before and behind a text that is added to the line, but for the time: `{"time":`, the seconds, and then
    /// these. For those who can't make them when they need them.
    pub fn json_around(&self) -> Option<(String, &'static str)> {
        const END: &str = "\"}";
        let json = self.json();
        let begin = json.strip_suffix(END)?.split_once(',')?.1;
        Some((format!(",{begin}"), END))
    }

    fn json_at(&self, time: SystemTime, devices: &[String]) -> String {
        let (source, text) = split_source(self.line);
        let (device, text) = split_device(text, devices);
        let (level, event) = (self.event.level().name(), self.event.name());
        let object = Object { time: seconds(time), level, event, source, device, peer: self.peer, text };
        let json = serde_json::to_string(&object);
        debug_assert!(json.is_ok(), "all keys are strings, and the number is finite");
        json.unwrap_or_default()
    }
}

/// Seconds since 1970, in whole milliseconds.
fn seconds(time: SystemTime) -> f64 {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    // Exact for 280,000 years.
    millis as f64 / 1000.0
}

/// The side that a line begins with, and the rest.
fn split_source(line: &str) -> (&str, &str) {
    let split = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    split.filter(|(source, _)| matches!(*source, "tuntap-router" | "uwsgi-tuntap")).unwrap_or(("uwsgi-tuntap", line))
}

/// The device that a text is about, and the text without it if it stands before a colon.
fn split_device<'a>(text: &'a str, devices: &'a [String]) -> (Option<&'a str>, &'a str) {
    for device in devices {
        let subject = text.strip_prefix("made the device ").or_else(|| text.strip_prefix("left the device "));
        let rest = text.strip_prefix(device.as_str());
        if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(": ")) {
            return (Some(device), rest);
        }
        let is_subject = subject.and_then(|it| it.split(' ').next()) == Some(device);
        if is_subject || rest.is_some_and(|rest| rest.starts_with(' ')) {
            return (Some(device), text);
        }
    }
    (None, text)
}

/// A function that takes lines.
#[derive(Clone, Copy)]
pub struct Logger(pub fn(&Record<'_>));

impl Logger {
    /// Writes a line.
    pub fn line(self, event: Event, text: impl fmt::Display) {
        self.about(event, None, text);
    }

    /// Writes a line about a peer.
    pub fn about(self, event: Event, peer: Option<Peer>, text: impl fmt::Display) {
        self.0(&Record { event, peer, line: &text.to_string() });
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Logger")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn json(event: Event, peer: Option<Peer>, line: &str) -> serde_json::Value {
        let time = UNIX_EPOCH + std::time::Duration::from_millis(1_795_680_883_007);
        let devices = ["tap1", "tap10", "a\"b"].map(str::to_owned);
        let text = Record { event, peer, line }.json_at(time, &devices);
        assert!(!text.contains('\n'), "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn line_of_json_has_everything_that_is_known() {
        let peer = Peer { address: "10.0.0.2".parse().ok(), pid: 7, uid: Some(1000) };
        let line = "[tuntap-router] tap10: peer 10.0.0.2 joined (pid 7, uid 1000)";
        let wanted = serde_json::json!({
            "time": 1_795_680_883.007, "level": "info", "event": "peer-joined", "source": "tuntap-router", "device": "tap10",
            "peer": { "address": "10.0.0.2", "pid": 7, "uid": 1000 }, "text": "peer 10.0.0.2 joined (pid 7, uid 1000)"
        });
        assert_eq!(json(Event::PeerJoined, Some(peer), line), wanted);
    }

    #[test]
    fn device_is_found_where_lines_name_it() {
        for (line, source, device, text) in [
            ("[uwsgi-tuntap] tap1 has the address x", "uwsgi-tuntap", "tap1", "tap1 has the address x"),
            ("[tuntap-router] made the device tap10", "tuntap-router", "tap10", "made the device tap10"),
            ("[uwsgi-tuntap] a\"b: it ends", "uwsgi-tuntap", "a\"b", "it ends"),
        ] {
            let found = json(Event::DeviceMade, None, line);
            let wanted = serde_json::json!([source, device, text]);
            assert_eq!(serde_json::json!([found["source"], found["device"], found["text"]]), wanted);
        }
        for line in ["[tuntap-router] tap: x", "[x] tap1: y", "tuntap-router", "[tuntap-router] no tap1: z", ""] {
            let found = json(Event::Fatal, None, line);
            assert!(found["device"].is_null(), "{found}");
        }
    }

    #[test]
    fn text_can_be_added_later() {
        let record = Record { event: Event::SyscallDenied, peer: None, line: "[tuntap-router] a\"b: x: " };
        let (begin, end) = record.json_around().expect("the text is last");
        let line = format!("{{\"time\":1.5{begin}denied{end}");
        let found: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (found["text"].as_str(), found["event"].as_str()),
            (Some("a\"b: x: denied"), Some("syscall-denied"))
        );
    }

    #[test]
    fn hostile_text_stays_in_its_string() {
        let hostile = "\",\"event\":\"x\"}\n{\0\u{1b}[2J\u{2028}\\";
        let found = json(Event::Script, None, &format!("[tuntap-router] tap1: {hostile}"));
        assert_eq!(found["text"], hostile);
        assert_eq!(found["event"], "script");
    }

    #[test]
    fn each_event_has_a_name_of_its_own() {
        let names: HashSet<_> = Event::ALL.iter().map(|event| event.name()).collect();
        assert_eq!(names.len(), Event::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
    }
}
