//! Connects processes in their own network namespaces through a router in user space, as a plugin of uWSGI.
//!
//! Data flows down this list; a module may use those below it, never those above.

#[cfg(feature = "plugin")]
mod ffi;

pub mod device;
pub mod doctor;
pub mod router;

pub mod hostnet;

pub mod config;
pub mod policy;
pub mod wire;

#[cfg(feature = "faults")]
pub mod faults;
pub mod log;
pub mod sys;
