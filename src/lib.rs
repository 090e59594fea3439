//! Connects processes in their own network namespaces through a router in user space, as a plugin of uWSGI.
//!
//! What is here knows uWSGI; the crates beside it don't. `docs/ARCHITECTURE.md` has the plan.

#[cfg(feature = "plugin")]
mod ffi;
