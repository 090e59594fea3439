//! Simulated runs of the shaper: any tree of limits, any packets, any changes.

mod actions;
mod queues;
mod shares;
mod world;
