//! What a request does: its sender's level is checked, and the live policy, the event loop or both are asked. An answer that
//! says that something was changed is sent when the event loop forwards by it, and it is stored for the next router.

use std::cmp::Reverse;
use std::fmt::Display;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::captured;
use super::client::{Client, Watch, Watched};
use super::documents::DocumentWriter;
use super::filter::Filter;
use super::question::{Asker, FlowCounts, Question, Replaced, Swap};
use super::script;
use super::server::log;
use super::test_packet::Described;
use crate::Setup;
use tuntap_api::control::{
    Code, Event, Failure, FlowEntry, FlowFilter, FlowList, FlowOrder, Killed, Level, MAX_ADDRESSES, Request, Routes,
    Status, TestPacket,
};
use tuntap_api::{PeerStats, PolicyStats, Snapshot};
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::RuleCounters;
use tuntap_live::{Base, Caller, Document, Live, Now, Stored};
use tuntap_offload::maps::Maps;
use tuntap_sys::log::{Event as LogEvent, Logger};
use tuntap_sys::process::monotonic_time;

/// Longest `id` of a request in bytes. Each event of a client that watches has it.
const MAX_ID_LEN: usize = 1024;

/// Least interval between lines about what goes wrong again and again.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Most peers in an answer.
const MAX_PEERS: usize = 1 << 16;

/// Flows in an answer to a request without a limit, and most flows in one.
const USUAL_FLOWS: usize = 1000;
const MAX_FLOWS: usize = 1 << 16;

/// Flows beyond the limit that are collected before the last ones in the order are left out.
const FLOWS_PER_SORT: usize = 1 << 13;

/// What the live policy of a router is made of.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The options, with the grants and limits up to now.
    pub base: Base,
    /// The document of options and rules file.
    pub initial: Document,
    /// Memory for the counters of rules.
    pub counters: RuleCounters,
    /// The networks that could be set up on the host.
    pub networks: Vec<IpNet>,
    /// The source text of the script that the options name.
    script_file: Option<String>,
    /// The maps of the path in the kernel, if there is one.
    maps: Option<Arc<Maps>>,
    /// The name of the router's device, for the log.
    pub device: String,
    /// Writes to the log.
    pub logger: Logger,
}

impl Origin {
    /// What the options of a router say.
    pub fn new(setup: &Setup, counters: RuleCounters) -> Self {
        Self {
            base: setup.base.clone(),
            initial: setup.initial.clone(),
            script_file: setup.script.as_ref().map(|file| file.text.clone()),
            counters,
            networks: setup.spec.addresses.clone(),
            maps: setup.kernel_path.as_ref().map(|endpoint| Arc::clone(&endpoint.maps)),
            device: setup.tun.name().to_owned(),
            logger: setup.logger,
        }
    }

    /// Takes away the networks that couldn't be set up on the host. Vassals get addresses of no others.
    pub fn fit(&self, mut policy: Arc<Policy>) -> Arc<Policy> {
        if policy.networks != self.networks {
            Arc::make_mut(&mut policy).networks.clone_from(&self.networks);
        }
        policy
    }

    /// The live policy. `stored` is what a router before this one has written.
    pub fn live(&self, stored: Option<Vec<u8>>) -> Live {
        let stored = stored.and_then(|text| {
            let unusable = |reason| {
                log(
                    self.logger,
                    &self.device,
                    LogEvent::PolicyLost,
                    format_args!("{reason}; the policy is that of options and rules file"),
                )
            };
            Stored::read(&text).map_err(unusable).ok()
        });
        Live::new(self.base.clone(), self.initial.clone(), self.script_file.clone(), stored, self.counters)
    }
}

/// Answers requests.
#[derive(Debug)]
pub struct Requests {
    pub(super) origin: Origin,
    pub(super) live: Live,
    pub(super) asker: Asker,
    documents: DocumentWriter,
    /// So many messages about newcomers are in the live policy.
    newcomers: u64,
    /// True if the event loop tells which packets are dropped.
    is_watching: bool,
    /// The captures that the event loop has: a bit for each, by its number.
    pub(super) captures: u8,
    last_line: Option<Instant>,
}

/// The answer to `watch`.
#[derive(Debug, Serialize)]
struct Watching {}

/// After a test that has asked the script, this thread rests for so many times as long as the test took.
const TEST_PAUSES: u32 = 9;

/// What each request has besides its verb.
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

impl Requests {
    /// Goes on with a live policy, by which the event loop forwards already.
    pub const fn new(origin: Origin, live: Live, asker: Asker, documents: DocumentWriter) -> Self {
        Self { origin, live, asker, documents, newcomers: 0, is_watching: false, captures: 0, last_line: None }
    }

    /// Forgets everything but what is stored.
    pub fn start_anew(&mut self) {
        self.live = self.origin.live(self.documents.latest());
        let policy = self.live.policy();
        // If the event loop has ended, this process ends, too.
        let _ = self.swap(policy);
    }

    /// Becomes readable when the event loop has told something.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.asker.bell()
    }

    /// Returns how long there is time until [`Self::look_after`] has to be called.
    pub fn time_left(&self) -> Option<Duration> {
        Some(self.live.deadline()?.saturating_sub(monotonic_time()))
    }

    /// Goes back from a commit that wasn't confirmed in time, and takes over the grants and limits that the event loop has got.
    pub fn look_after(&mut self) {
        self.asker.silence();
        while let Some(newcomers) = self.asker.next_newcomers() {
            newcomers.join(&mut self.origin.base);
            self.newcomers += 1;
            let Base { grants, late_shapes, .. } = self.origin.base.clone();
            let policy = self.live.set_accounts(grants, late_shapes);
            let _ = self.use_what_has_changed(Some(policy));
        }
        if self.asker.has_script_reverted() {
            self.live.revert_script();
            let _ = self.use_what_has_changed(None);
        }
        if let Some(expired) = self.live.expire(now()) {
            self.line(LogEvent::PolicyChanged, expired.message);
            let _ = self.use_what_has_changed(Some(expired.policy));
        }
    }

    /// Answers a line.
    pub fn serve(&mut self, client: &mut Client, line: &[u8]) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        #[cfg(feature = "faults")]
        tuntap_sys::faults::point("control");
        let envelope = match serde_json::from_slice::<Envelope<'_>>(line) {
            Ok(envelope) if line.starts_with(b"{") => envelope,
            Ok(_) => return client.refuse(Failure::invalid("a request is an object of JSON".to_owned())),
            Err(error) => {
                return client
                    .refuse(Failure::invalid(format!("this is no request, which is an object of JSON: {error}")));
            }
        };
        let id = envelope.id.filter(|id| id.get().len() <= MAX_ID_LEN);
        if envelope.id.is_some() != id.is_some() {
            return client.refuse(Failure::invalid(format!("an id may have {MAX_ID_LEN} bytes at most")));
        }
        let result = read(line).and_then(|request| self.answer(client, id, &request));
        match result {
            Ok(result) => client.answer(id, Ok(result)),
            Err(failure) => client.answer(id, Err(failure)),
        }
    }

    /// Returns the answer. That to `watch` says that events follow.
    fn answer(
        &mut self,
        client: &mut Client,
        id: Option<&RawValue>,
        request: &Request,
    ) -> Result<Box<RawValue>, Failure> {
        let caller = client.caller;
        // The live policy refuses changes itself, and notes who has tried them.
        if !is_change(request) {
            check_level(caller.level, request.level())?;
        }
        match request {
            Request::ScriptStatus {} => raw(&self.script_status()?),
            Request::ScriptCheck { text } => raw(&script::check(text)?),
            Request::ScriptLoad { text } => raw(&self.load_script(caller, text)?),
            Request::Statistics {} => {
                let statistics = self.asker.ask(Question::Statistics)?;
                raw(&Snapshot { peers: self.peers()?, ..*statistics })
            }
            Request::Peers {} => raw(&self.peers()?),
            Request::Trunks {} => raw(&self.asker.ask(Question::Trunks)?),
            Request::Routes { addresses } => raw(&self.routes(addresses)?),
            Request::Watch { filter } => {
                let filter = Filter::of_drops(filter)?;
                self.watch(true)?;
                client.watch = Some(Watch { id: id.map(ToOwned::to_owned), what: Watched::Drops(filter), left_out: 0 });
                raw(&Watching {})
            }
            Request::Capture { selector, filter, snap_len } => {
                let selector = selector.as_deref().map(captured::selection).transpose()?;
                let what = self.capture(caller, Filter::new(filter)?.of_capture(selector), *snap_len)?;
                client.watch = Some(Watch { id: id.map(ToOwned::to_owned), what, left_out: 0 });
                raw(&Watching {})
            }
            Request::Status {} => self.status(caller),
            Request::Test { packet } => self.test(packet),
            Request::FlowsList { filter, order, limit } => raw(&self.flows(filter, *order, *limit)?),
            Request::FlowsKill { filter } => raw(&self.kill_flows(caller, filter)?),
            Request::RulesList { .. } if self.origin.maps.is_some() => {
                self.asker.ask(Question::CountKernel)?;
                self.ask_live(caller, request)
            }
            _ => self.ask_live(caller, request),
        }
    }

    /// Asks the live policy, and sees to it that what it has changed holds before the answer is sent.
    fn ask_live(&mut self, caller: Caller, request: &Request) -> Result<Box<RawValue>, Failure> {
        let before = self.live.revision();
        let outcome = match self.live.handle(caller, request, now()) {
            Ok(outcome) => outcome,
            Err(failure) => {
                // Who was refused is noted, too. If that can't be stored, the next router doesn't know it.
                if self.live.revision() != before {
                    let _ = self.store();
                }
                check_level(caller.level, request.level())?;
                return Err(failure);
            }
        };
        let answer = raw(&outcome.answer)?;
        if self.live.revision() != before {
            self.use_what_has_changed(outcome.policy)?;
        }
        if let Some(message) = outcome.message {
            self.line(LogEvent::PolicyChanged, message);
        }
        Ok(answer)
    }

    /// Stores the live policy, and makes the event loop forward by it. If either can't be, everything stays as it was.
    pub(super) fn use_what_has_changed(&mut self, policy: Option<Arc<Policy>>) -> Result<(), Failure> {
        let swap = |this: &Self| policy.map_or(Ok(()), |policy| this.swap(policy));
        let describe = |this: &Self| this.asker.tell(Question::Describe(describe(&this.live, now())));
        let result = self.store().and_then(|()| swap(self)).and_then(|()| describe(self));
        if let Err(failure) = &result {
            self.line(LogEvent::RouterFault, format_args!("the policy can't be changed: {}", failure.message));
            self.start_anew();
        }
        result
    }

    fn store(&mut self) -> Result<(), Failure> {
        store(&self.live, &mut self.documents)
    }

    fn swap(&self, policy: Arc<Policy>) -> Result<(), Failure> {
        let swap = Swap { policy: self.origin.fit(policy), newcomers: self.newcomers };
        let Replaced(before) = self.asker.ask(|reply| Question::Swap(swap, reply))?;
        drop(before);
        self.wait_for_kernel();
        Ok(())
    }

    /// Waits until no program in the kernel runs any more that has seen a verdict of before. The event loop has made it void, so that
    /// nothing passes by it from then on.
    pub(super) fn wait_for_kernel(&self) {
        let waited = self.origin.maps.as_ref().map_or(Ok(()), |maps| maps.wait_for_programs());
        if let Err(errno) = waited {
            self.line(
                LogEvent::RouterFault,
                format_args!("a packet that the kernel passes on right now may not know of the change yet: {errno}"),
            );
        }
    }

    fn status(&self, caller: Caller) -> Result<Box<RawValue>, Failure> {
        let FlowCounts { known, max } = self.asker.ask(Question::FlowCounts)?;
        let script = self.script_status()?;
        raw(&Status { script, flows: known, max_flows: max, ..self.live.status(caller, now()) })
    }

    /// Asks for the way of a packet, and adds the texts of the rules on it.
    fn test(&self, packet: &TestPacket) -> Result<Box<RawValue>, Failure> {
        let packet = Described::new(packet)?;
        let start = Instant::now();
        let mut tested = self.asker.ask(|reply| Question::Test(packet, reply))??;
        if self.live.document().has_script {
            // The loop had to build a machine for the script. Whoever tests again and again takes only a part of its time.
            thread::sleep(start.elapsed() * TEST_PAUSES);
        }
        for step in &mut tested.steps {
            if let Some(text) = step.rule.and_then(|id| self.live.rule_text(id)) {
                step.note = Some(text);
            }
        }
        raw(&tested)
    }

    /// Asks for the flows page by page, and keeps the first ones of the order that is wanted.
    fn flows(&self, filter: &FlowFilter, order: FlowOrder, limit: Option<u32>) -> Result<FlowList, Failure> {
        let limit = limit.map_or(USUAL_FLOWS, |limit| limit as usize).min(MAX_FLOWS);
        let filter = Arc::new(Filter::new(filter)?);
        let sort = |flows: &mut Vec<FlowEntry>| {
            match order {
                FlowOrder::Recent => flows.sort_by_key(|flow| flow.idle),
                FlowOrder::Top => flows.sort_by_key(|flow| Reverse(flow.bytes_out.saturating_add(flow.bytes_in))),
            }
            flows.truncate(limit);
        };
        let mut list = FlowList::default();
        let mut from = Some(0);
        while let Some(number) = from {
            let mut page = self.asker.ask(|reply| Question::Flows(number, Arc::clone(&filter), reply))?;
            list.matching += page.flows.len() as u64;
            list.flows.append(&mut page.flows);
            if list.flows.len() > limit + FLOWS_PER_SORT {
                sort(&mut list.flows);
            }
            from = page.next;
        }
        sort(&mut list.flows);
        Ok(list)
    }

    fn kill_flows(&self, caller: Caller, filter: &FlowFilter) -> Result<Killed, Failure> {
        let filter = Arc::new(Filter::new(filter)?);
        if filter.is_empty() {
            return Err(Failure::invalid("an empty filter would forget all flows".to_owned()));
        }
        let mut killed = 0;
        let mut from = Some(0);
        while let Some(number) = from {
            let (count, next) = self.asker.ask(|reply| Question::KillFlows(number, Arc::clone(&filter), reply))?;
            killed += count;
            from = next;
        }
        self.wait_for_kernel();
        self.line(
            LogEvent::FlowsForgotten,
            format_args!("uid {} (pid {}) had {killed} flows forgotten", caller.uid, caller.pid),
        );
        Ok(Killed { flows: killed })
    }

    fn peers(&self) -> Result<Vec<PeerStats>, Failure> {
        let mut peers = Vec::new();
        let mut from = Some(0);
        while let Some(place) = from.filter(|_| peers.len() < MAX_PEERS) {
            let mut page = self.asker.ask(|reply| Question::Peers(place, reply))?;
            peers.append(&mut page.peers);
            from = page.next;
        }
        Ok(peers)
    }

    fn routes(&self, addresses: &[IpAddr]) -> Result<Routes, Failure> {
        if addresses.len() > MAX_ADDRESSES {
            return Err(Failure::invalid(format!("a request may ask about {MAX_ADDRESSES} addresses at most")));
        }
        self.asker.ask(|reply| Question::Routes(addresses.to_vec(), reply))
    }

    /// Has the event loop tell which packets are dropped, or not.
    pub fn watch(&mut self, wanted: bool) -> Result<(), Failure> {
        if wanted != self.is_watching {
            self.asker.ask(|reply| Question::Watch(wanted, reply))?;
            self.is_watching = wanted;
        }
        Ok(())
    }

    /// Passes on what the event loop has told about dropped packets, and, if it is time for that, how many were left out.
    pub fn tell_watchers(&self, clients: &mut [Client], tells_left_out: bool) {
        let watches_drops =
            |client: &&mut Client| client.watch.as_ref().is_some_and(|watch| matches!(watch.what, Watched::Drops(_)));
        let mut watching: Vec<_> = clients.iter_mut().filter(watches_drops).collect();
        while let Some(dropped) = self.asker.drops.next() {
            let event = Event::Drop(dropped);
            let Event::Drop(dropped) = &event else { continue };
            for client in &mut watching {
                let is_wanted = client.watch.as_ref().is_some_and(|watch| match &watch.what {
                    Watched::Drops(filter) => filter.matches_drop(dropped),
                    Watched::Capture(..) => false,
                });
                if is_wanted && !client.tell(&event) {
                    client.watch.iter_mut().for_each(|watch| watch.left_out += 1);
                }
            }
        }
        if !tells_left_out {
            return;
        }
        let left_out = self.asker.drops.take_left_out();
        for client in watching {
            let own = client.watch.iter_mut().map(|watch| std::mem::take(&mut watch.left_out)).sum::<u64>();
            let count = left_out + own;
            if count > 0 && !client.tell(&Event::LeftOut { count }) {
                client.watch.iter_mut().for_each(|watch| watch.left_out += count);
            }
        }
    }

    /// Writes to the log.
    pub fn line(&self, event: LogEvent, text: impl Display) {
        log(self.origin.logger, &self.origin.device, event, text);
    }

    /// Writes to the log, unless it has just done that.
    pub fn line_now_and_then(&mut self, event: LogEvent, text: impl Display) {
        let now = Instant::now();
        if self.last_line.is_none_or(|time| now >= time + LINE_INTERVAL) {
            self.last_line = Some(now);
            self.line(event, text);
        }
    }
}

/// Stores a live policy for the next router.
pub fn store(live: &Live, documents: &mut DocumentWriter) -> Result<(), Failure> {
    let failed = |error: &dyn Display| {
        Failure::new(Code::Failed, format!("the policy can't be stored for the next router: {error}"))
    };
    let text = serde_json::to_vec(&live.stored()).map_err(|error| failed(&error))?;
    documents.write(&text).map_err(|error| failed(&error))
}

/// What the statistics say about a live policy.
pub fn describe(live: &Live, now: Now) -> PolicyStats {
    let document = live.document();
    PolicyStats {
        generation: document.generation,
        rules: document.rules().count() as u64,
        pending: live.pending(now).is_some(),
    }
}

/// Returns true for requests that the log of changes has.
const fn is_change(request: &Request) -> bool {
    matches!(request, Request::Commit { .. } | Request::Confirm { .. } | Request::Rollback {})
}

/// The time, on both clocks.
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Now { monotonic: monotonic_time(), unix }
}

fn check_level(level: Level, needed: Level) -> Result<(), Failure> {
    if level >= needed {
        return Ok(());
    }
    let word = |level| match level {
        Level::View => "view",
        Level::Operate => "operate",
        Level::Admin => "admin",
    };
    let message = format!("this needs the level {}, and yours is {}", word(needed), word(level));
    Err(Failure::denied(message))
}

/// Reads a request without its `id`.
fn read(line: &[u8]) -> Result<Request, Failure> {
    let mut value: serde_json::Value =
        serde_json::from_slice(line).map_err(|error| Failure::invalid(error.to_string()))?;
    value.as_object_mut().ok_or_else(|| Failure::invalid("a request is an object".to_owned()))?.remove("id");
    serde_json::from_value(value).map_err(|error| Failure::invalid(error.to_string()))
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, Failure> {
    serde_json::value::to_raw_value(value).map_err(|error| Failure::new(Code::Failed, error.to_string()))
}
