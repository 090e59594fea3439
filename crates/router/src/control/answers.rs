//! The event loop's side of the control thread's questions. Each answer is a bounded piece of work.

use std::sync::Arc;

use super::question::{FlowCounts, PEERS_PER_PAGE, PeerPage, Question, Replaced, Swap};
use crate::event_loop::EventLoop;
use crate::report::peer_stats;
use tuntap_core::policy::grant::Grant;

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
            Question::Flows(reply) => {
                let _ = reply.send(FlowCounts::default());
            }
            Question::Peers(from, reply) => {
                let _ = reply.send(self.peer_page(from));
            }
            Question::Describe(stats) => self.policy = stats,
            Question::Watch(wanted) => self.io.watch_drops(wanted),
        }
    }

    /// Uses another policy. Grants that came while it was made are added to it.
    fn swap(&mut self, Swap { policy, grants }: Swap) -> Arc<tuntap_core::policy::Policy> {
        let before = Arc::clone(self.router.forwarder().policy());
        self.router.set_policy(policy);
        if let Some(control) = &mut self.control {
            control.grants.retain(|(number, _)| *number > grants);
            for (_, grants) in &control.grants {
                self.router.grant(grants.iter().copied());
            }
        }
        before
    }

    /// Grants hold from now on, and in all policies that follow.
    pub(crate) fn grant(&mut self, grants: Vec<Grant>) {
        self.router.grant(grants.iter().copied());
        if let Some(control) = &mut self.control {
            control.granted += 1;
            control.grants.push((control.granted, grants.clone()));
            control.answerer.tell_grants(grants);
        }
    }

    fn peer_page(&self, from: usize) -> PeerPage {
        let mut peers = self.router.peers().skip_while(|peer| (peer.id().index as usize) < from);
        let page: Vec<_> = peers.by_ref().take(PEERS_PER_PAGE).map(peer_stats).collect();
        PeerPage { next: peers.next().map(|peer| peer.id().index as usize), peers: page }
    }
}
