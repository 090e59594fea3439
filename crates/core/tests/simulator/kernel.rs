//! A model of the path in the kernel: the verdicts that it has, the pairs, and what passes by them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use tuntap_core::kernel_path::{FlowId, KernelFlow, PairDrops, Revoke, Usage};
use tuntap_core::policy::registry::PeerId;

/// A verdict that the kernel has, and what has passed by it.
#[derive(Debug, Clone)]
pub struct Given {
    pub flow: KernelFlow,
    pub packets: u64,
    pub bytes: u64,
    pub last: Instant,
    /// What the router was told of it.
    told: (u64, u64),
    is_void: bool,
}

/// A peer's pair.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    pub is_made: bool,
    claims: BTreeSet<IpAddr>,
}

/// Packets and bytes that the router was told of: by which peer they came, and to which one they went.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    pub from: Option<PeerId>,
    pub to: Option<PeerId>,
    pub packets: u64,
    pub bytes: u64,
}

/// The kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    generation: u32,
    given: BTreeMap<FlowId, Given>,
    /// Those that it has lost.
    lost: Vec<KernelFlow>,
    pub pairs: BTreeMap<PeerId, Pair>,
    /// True if it takes no verdict.
    pub is_full: bool,
    /// Packets that have passed by verdicts of this router.
    pub passed: u64,
}

impl Kernel {
    pub const fn new() -> Self {
        Self {
            generation: 1,
            given: BTreeMap::new(),
            lost: Vec::new(),
            pairs: BTreeMap::new(),
            is_full: false,
            passed: 0,
        }
    }

    /// The verdicts by which packets pass.
    pub fn live(&self) -> impl Iterator<Item = &Given> {
        self.given.values().filter(|given| !given.is_void && given.flow.generation == self.generation)
    }

    /// Verdicts that were not withdrawn.
    pub fn count(&self) -> usize {
        self.given.len()
    }

    /// Packets come by a verdict. The kernel lets them pass only from addresses that the sender holds.
    pub fn pass(&mut self, id: FlowId, packets: u64, len: u64, now: Instant) {
        let Some(given) = self.given.get_mut(&id) else { return };
        let is_from_holder = given.flow.from.is_none_or(|from| {
            self.pairs.get(&from).is_some_and(|pair| pair.is_made && pair.claims.contains(&given.flow.key.src))
        });
        if is_from_holder {
            (given.packets, given.bytes, given.last) = (given.packets + packets, given.bytes + packets * len, now);
            self.passed += packets;
        }
    }

    /// Makes a pair. Returns what is wrong with the wish.
    pub fn make_pair(&mut self, peer: PeerId) -> Result<(), String> {
        let before = self.pairs.insert(peer, Pair::default());
        before.map_or(Ok(()), |before| Err(format!("a second pair for {peer:?}, which has {before:?}")))
    }

    pub fn drop_pair(&mut self, peer: PeerId) -> Result<(), String> {
        if let Some(given) = self.live().find(|given| [given.flow.from, given.flow.to].contains(&Some(peer))) {
            return Err(format!("the pair of {peer:?} is dropped, and {:?} needs it", given.flow));
        }
        self.pairs.remove(&peer).map(drop).ok_or_else(|| format!("{peer:?} has no pair to drop"))
    }

    pub fn set_claim(&mut self, peer: PeerId, address: IpAddr, is_held: bool) -> Result<(), String> {
        let Some(pair) = self.pairs.get_mut(&peer).filter(|pair| pair.is_made) else {
            return Err(format!("{peer:?} claims {address}, and has no pair"));
        };
        if is_held {
            pair.claims.insert(address);
        } else {
            pair.claims.remove(&address);
        }
        Ok(())
    }

    /// The addresses that a pair lets in.
    pub fn claims(&self, peer: PeerId) -> Option<&BTreeSet<IpAddr>> {
        self.pairs.get(&peer).filter(|pair| pair.is_made).map(|pair| &pair.claims)
    }

    pub fn offload(&mut self, flow: &KernelFlow, now: Instant) -> Result<bool, String> {
        let ends = [flow.from, flow.to];
        if ends == [None; 2] || flow.key.src.is_ipv4() != flow.key.dst.is_ipv4() {
            return Err(format!("{flow:?} makes no sense"));
        }
        let has_pair = |peer| self.pairs.get(&peer).is_some_and(|pair| pair.is_made);
        if let Some(peer) = ends.into_iter().flatten().find(|peer| !has_pair(*peer)) {
            return Err(format!("{flow:?}, and {peer:?} has no pair"));
        }
        if flow.generation != self.generation || self.given.contains_key(&flow.id) {
            return Err(format!("{flow:?} in generation {}, or twice", self.generation));
        }
        if let Some(other) =
            self.live().find(|other| other.flow.key == flow.key && other.flow.from.is_some() == flow.from.is_some())
        {
            return Err(format!("{flow:?} has the key of {:?}", other.flow));
        }
        if self.is_full {
            return Ok(false);
        }
        let given = Given { flow: *flow, packets: 0, bytes: 0, last: now, told: (0, 0), is_void: false };
        self.given.insert(flow.id, given);
        Ok(true)
    }

    pub fn revoke(&mut self, which: Revoke) -> Result<(), String> {
        match which {
            Revoke::All { generation } => {
                let before = std::mem::replace(&mut self.generation, generation);
                if generation == 0 || generation == before {
                    return Err(format!("generation {generation} after {before}"));
                }
            }
            Revoke::Peer(peer) => {
                let of_peer = |given: &&mut Given| [given.flow.from, given.flow.to].contains(&Some(peer));
                self.given.values_mut().filter(of_peer).for_each(|given| given.is_void = true);
            }
            Revoke::Flow(id) => {
                if let Some(given) = self.given.get_mut(&id) {
                    given.is_void = true;
                }
            }
        }
        Ok(())
    }

    /// What has passed by a verdict, and what of it the router didn't know.
    pub fn usage(&mut self, id: FlowId, now: Instant) -> Option<(Usage, Told)> {
        let given = self.given.get_mut(&id)?;
        let (packets, bytes) = std::mem::replace(&mut given.told, (given.packets, given.bytes));
        let usage = Usage { packets: given.packets, bytes: given.bytes, idle: now.duration_since(given.last) };
        let KernelFlow { from, to, .. } = given.flow;
        Some((usage, Told { from, to, packets: given.packets - packets, bytes: given.bytes - bytes }))
    }

    pub fn withdraw(&mut self, flow: &KernelFlow, now: Instant) -> Result<(Usage, Told), String> {
        let told = Told { from: flow.from, to: flow.to, packets: 0, bytes: 0 };
        if let Some(at) = self.lost.iter().position(|lost| lost == flow) {
            self.lost.remove(at);
            return Ok((Usage::default(), told));
        }
        let known = self.given.get(&flow.id).map(|given| given.flow);
        if known != Some(*flow) {
            return Err(format!("{flow:?} is withdrawn, and the kernel has {known:?}"));
        }
        let usage = self.usage(flow.id, now);
        self.given.remove(&flow.id);
        usage.ok_or_else(|| "it was there".to_owned())
    }

    pub fn drops(&self, _peer: PeerId) -> PairDrops {
        PairDrops::default()
    }

    /// It has lost a verdict.
    pub fn lose(&mut self, id: FlowId) {
        if let Some(given) = self.given.remove(&id) {
            self.passed -= given.packets - given.told.0;
            self.lost.push(given.flow);
        }
    }
}
