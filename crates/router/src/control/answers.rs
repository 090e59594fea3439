//! The event loop's side of the control thread's questions. Each answer is a bounded piece of work.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::flows::policy_rule;
use super::question::{PEERS_PER_PAGE, PeerPage, Question, Replaced, Swap};
use crate::event_loop::EventLoop;
use crate::grant_updates::Newcomers;
use crate::report::peer_stats;
use crate::script::LoopScript;
use tuntap_api::control::{Direction, Dropped};
use tuntap_core::router::DropRecord;

/// Questions that are answered in one turn.
const BUDGET: usize = 2;

impl EventLoop<'_> {
    /// Answers what the control thread has asked.
    pub(crate) fn answer_questions(&mut self) {
        for _ in 0..BUDGET {
            let Some(question) = self.control.as_ref().and_then(|control| control.answerer.next()) else { return };
            self.answer(question);
        }
    }

    /// A reply that fails is one that nobody waits for any more.
    fn answer(&mut self, question: Question) {
        match question {
            Question::Swap(swap, reply) => {
                let before = self.swap(swap);
                // If nobody takes it, it is freed here.
                let _ = reply.send(Replaced(before));
            }
            Question::FlowCounts(reply) => _ = reply.send(self.flow_counts()),
            Question::Flows(from, filter, reply) => _ = reply.send(self.flow_page(from, &filter)),
            Question::KillFlows(from, filter, reply) => _ = reply.send(self.kill_flow_page(from, &filter)),
            Question::Test(packet, reply) => _ = reply.send(self.test(&packet)),
            Question::Peers(from, reply) => _ = reply.send(self.peer_page(from)),
            Question::Statistics(reply) => {
                _ = reply.send(Box::new(self.snapshot_with(Vec::new(), Instant::now())));
            }
            Question::CountKernel(reply) => {
                self.router.count_kernel_usage(&mut self.io);
                _ = reply.send(());
            }
            Question::Trunks(reply) => _ = reply.send(self.trunk_stats(Instant::now())),
            Question::Routes(addresses, reply) => _ = reply.send(self.routes(&addresses)),
            Question::LoadScript(script, reply) => {
                let loaded = self.io.script.as_mut().map(|it| it.load(script.as_ref()));
                _ = reply.send(loaded.unwrap_or(Ok(())));
            }
            Question::ScriptStatus(reply) => {
                _ = reply.send(self.io.script.as_ref().map(LoopScript::status).unwrap_or_default());
            }
            Question::Describe(stats) => self.policy = stats,
            Question::Capture(number, capture, reply) => {
                if let Some((_, snap_len)) = &capture {
                    self.io.begin_capture(number, *snap_len);
                }
                self.router.set_capture(&mut self.io, number, capture.map(|(filter, _)| filter));
                _ = reply.send(());
            }
            Question::Watch(wanted, reply) => {
                self.io.watch_drops(wanted);
                self.router.set_watch(wanted);
                _ = reply.send(());
            }
        }
    }

    /// Uses another policy. Grants and limits that came while it was made are added to it.
    fn swap(&mut self, Swap { policy, newcomers }: Swap) -> Arc<tuntap_core::policy::Policy> {
        let before = Arc::clone(self.router.forwarder().policy());
        self.router.set_policy(&mut self.io, policy);
        if let Some(control) = &mut self.control {
            control.newcomers.retain(|(number, _)| *number > newcomers);
            for (_, newcomers) in &control.newcomers {
                newcomers.take_effect(&mut self.router, &mut self.io);
            }
        }
        self.read_groups();
        before
    }

    /// What is for newcomers holds from now on, and in all policies that follow.
    pub(crate) fn welcome(&mut self, newcomers: Newcomers) {
        newcomers.take_effect(&mut self.router, &mut self.io);
        if let Some(control) = &mut self.control {
            control.welcomed += 1;
            control.newcomers.push((control.welcomed, newcomers.clone()));
            control.answerer.tell_newcomers(newcomers);
        }
        self.read_groups();
    }

    /// Tells the control thread of the packets that were dropped in this turn.
    pub(crate) fn tell_drops(&mut self, now: Instant) {
        for record in self.io.take_drops() {
            let dropped = self.dropped(&record);
            self.io.tell_drop(now, dropped);
        }
    }

    fn dropped(&self, record: &DropRecord) -> Dropped {
        let peer = record.peer.and_then(|id| self.router.peer(id)).map(|peer| peer.credentials());
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let packet = &record.packet;
        Dropped {
            time: time.as_secs(),
            millis: u16::try_from(time.subsec_millis()).unwrap_or_default(),
            peer: peer.map(|peer| peer.pid),
            uid: peer.map(|peer| peer.uid),
            direction: match record.direction {
                tuntap_wire::rule::Direction::In => Direction::In,
                tuntap_wire::rule::Direction::Out => Direction::Out,
            },
            src: packet.src,
            src_port: packet.ports.map(|(src, _)| src),
            dst: packet.dst,
            dst_port: packet.ports.map(|(_, dst)| dst),
            protocol: packet.protocol,
            len: packet.len as u64,
            reason: record.reason.name().to_owned(),
            rule: record.rule.and_then(policy_rule),
        }
    }

    fn peer_page(&mut self, from: usize) -> PeerPage {
        if from == 0 {
            self.router.count_kernel_usage(&mut self.io);
        }
        let mut peers = self.router.peers().skip_while(|peer| (peer.id().index as usize) < from);
        let page: Vec<_> = peers.by_ref().take(PEERS_PER_PAGE).map(|peer| peer_stats(&self.router, peer)).collect();
        PeerPage { next: peers.next().map(|peer| peer.id().index as usize), peers: page }
    }
}
