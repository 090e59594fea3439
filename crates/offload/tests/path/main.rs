//! The programs between real devices, in namespaces that each test makes. The router is a thread that copies packets between the TUN
//! devices, and counts them: what isn't counted there has passed in the kernel.

mod hostile;
mod maker;
mod pairs;
mod traffic;
mod world;
