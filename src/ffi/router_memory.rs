//! Memory of routers that outlives their processes, and what of it the next image of the instance takes over: flows, and the
//! live policy, to say what of it is lost.

use std::num::NonZeroUsize;

use parking_lot::Mutex;

use super::options::config;
use super::rules_file::Opening;
use super::uwsgi;
use tuntap_config::RouterSpec;
use tuntap_core::policy::counters::SharedMemory;
use tuntap_live::{Document, Stored};
use tuntap_router::{Earlier, KeptMemory, Memory};
use tuntap_sys::handover::{Handover, HandoverError, Received};
use tuntap_sys::log::Event;
use tuntap_sys::memory::SharedWords;

/// What the image before has left, by the name of the router's device.
static EARLIER: Mutex<Vec<(String, Earlier)>> = Mutex::new(Vec::new());

/// What this image is about to leave.
static KEPT: Mutex<Vec<(String, Memory)>> = Mutex::new(Vec::new());

/// Words of all flows of a router.
fn flow_words() -> NonZeroUsize {
    NonZeroUsize::new(SharedMemory::flow_words(config().limits.flows)).unwrap_or(NonZeroUsize::MIN)
}

/// The live policy that the image before has left for a router with that device.
pub fn stored(device: &str) -> Option<Stored> {
    let earlier = EARLIER.lock();
    let (_, Earlier { documents, .. }) = earlier.iter().find(|(name, _)| name == device)?;
    Stored::read(&documents.as_ref()?.latest()?).ok()
}

/// The memory of a router that is about to start with this policy. Logs what live changes of it a reload has ended, unless the
/// policy is the one before.
pub fn of(spec: &RouterSpec, Opening { initial, is_of_before, .. }: &Opening) -> Result<Memory, String> {
    let mut memory = Memory::new(flow_words()).map_err(|errno| format!("memory that outlives the router: {errno}"))?;
    let mut earlier = EARLIER.lock();
    if let Some(index) = earlier.iter().position(|(device, _)| *device == spec.device) {
        let (_, Earlier { flows, documents }) = earlier.swap_remove(index);
        // With another number of flows it has another form.
        let flows = flows.and_then(|file| SharedWords::adopt(file, flow_words()));
        let compared = (!is_of_before).then_some(initial);
        documents
            .and_then(|documents| documents.latest())
            .iter()
            .for_each(|text| tell_what_is_lost(spec, text, compared));
        if let Some(flows) = flows {
            memory.flows = flows;
        }
    }
    Ok(memory)
}

/// Without a document to compare with, the next router has everything but a commit that waits.
fn tell_what_is_lost(spec: &RouterSpec, text: &[u8], initial: Option<&Document>) {
    let lost = |stored: Stored| {
        initial.map_or_else(|| stored.dropped_commit().into_iter().collect(), |initial| stored.lost_at_reload(initial))
    };
    let lines = Stored::read(text).map_or_else(|error| vec![error], lost);
    for line in lines {
        uwsgi::log(Event::PolicyLost, &format!("[tuntap-router] {}: {line}", spec.device));
    }
}

/// Keeps the memory of routers that have ended, for the next image.
pub fn keep(memory: Vec<(String, Memory)>) {
    *KEPT.lock() = memory;
}

/// Takes over what the image before has left.
pub fn take_over(received: &mut Received) {
    match received.section::<KeptMemory>() {
        Ok(kept) => *EARLIER.lock() = kept.map(|kept| kept.take(received)).unwrap_or_default(),
        Err(error) => uwsgi::log(
            Event::ReloadLoss,
            &format!("[tuntap-router] flows are not known any more after the reload: {error}"),
        ),
    }
}

/// Gives back the memory of routers that this image doesn't have.
pub fn forget_others() {
    EARLIER.lock().retain(|(device, _)| config().routers.iter().any(|router| router.device == *device));
}

/// Takes what is to be handed over.
pub fn to_hand_over() -> Vec<(String, Memory)> {
    std::mem::take(&mut *KEPT.lock())
}

/// Adds it to what is handed over.
pub fn hand_over<'a>(memory: &'a [(String, Memory)], handover: &mut Handover<'a>) -> Result<(), HandoverError> {
    let mut kept = KeptMemory::default();
    memory.iter().for_each(|(device, memory)| memory.hand_over(device, &mut kept, handover));
    if kept.is_empty() { Ok(()) } else { handover.add(&kept) }
}
