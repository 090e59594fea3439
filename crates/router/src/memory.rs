//! Memory of a router that outlives its process, and in part the image of its instance: flows, counters of rules, and the live
//! policy. The master makes it before the fork, and keeps it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::control::Documents;
use tuntap_core::policy::counters::RuleCounters;
use tuntap_sys::handover::{Handover, Received, Section, Slot};
use tuntap_sys::memory::SharedWords;

/// Words for the counters of rules.
const COUNTER_WORDS: NonZeroUsize =
    NonZeroUsize::new(RuleCounters::words(RuleCounters::SLOTS)).expect("there are slots");

/// The memory.
#[derive(Debug)]
pub struct Memory {
    /// Counters of rules.
    pub counters: SharedWords,
    /// Flows.
    pub flows: SharedWords,
    /// The live policy.
    pub documents: Documents,
}

impl Memory {
    /// Makes memory in which nothing is. Flows take so many words.
    pub fn new(flow_words: NonZeroUsize) -> nix::Result<Self> {
        Ok(Self {
            counters: SharedWords::new(COUNTER_WORDS)?,
            flows: SharedWords::new(flow_words)?,
            documents: Documents::new()?,
        })
    }

    /// Returns the descriptors that have to stay open.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.counters.descriptor(), self.flows.descriptor()].into_iter().chain(self.documents.descriptors())
    }

    /// Adds what the next image of the instance takes over.
    pub fn hand_over<'a>(&'a self, device: &str, kept: &mut KeptMemory, handover: &mut Handover<'a>) {
        let flows = handover.add_descriptor(self.flows.descriptor());
        let documents = self.documents.descriptors().map(|file| handover.add_descriptor(file));
        kept.routers.insert(device.to_owned(), Kept { flows, documents });
    }
}

/// What an image leaves to the next one: the flows of each router, and the live policy, to compare it with that of the new
/// options and rules file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct KeptMemory {
    /// By the name of the router's device.
    routers: BTreeMap<String, Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    flows: Slot,
    documents: [Slot; 2],
}

impl Section for KeptMemory {
    const NAME: &'static str = "routers";
}

/// What was taken over.
#[derive(Debug)]
pub struct Earlier {
    /// The flows.
    pub flows: Option<OwnedFd>,
    /// The live policy.
    pub documents: Option<Documents>,
}

impl KeptMemory {
    /// Returns true if nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.routers.is_empty()
    }

    /// Takes over what was kept of each router, by the name of its device.
    pub fn take(self, received: &mut Received) -> Vec<(String, Earlier)> {
        let take = |(device, kept): (String, Kept)| {
            let flows = received.descriptor(kept.flows);
            let [first, second] = kept.documents.map(|slot| received.descriptor(slot));
            let documents = first.zip(second).map(|(first, second)| Documents::adopt([first, second]));
            (device, Earlier { flows, documents })
        };
        self.routers.into_iter().map(take).collect()
    }
}
