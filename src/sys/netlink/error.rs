//! What went wrong between this process and the kernel.

use std::fmt::{self, Display, Formatter};
use std::io;

use nix::errno::Errno;

/// A request that the kernel refused, or that got no usable answer. Says what was tried.
#[derive(Debug)]
pub struct NetlinkError {
    attempt: String,
    cause: io::Error,
    /// The kernel's own words (NLMSGERR_ATTR_MSG), which it has for some of its errors.
    detail: Option<String>,
}

impl NetlinkError {
    pub(super) fn new(attempt: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { attempt: attempt.into(), cause: cause.into(), detail: None }
    }

    pub(super) fn with_detail(self, detail: Option<String>) -> Self {
        Self { detail, ..self }
    }

    /// The error number that the kernel answered with, if it is one.
    pub fn errno(&self) -> Option<Errno> {
        self.cause.raw_os_error().map(Errno::from_raw)
    }
}

impl Display for NetlinkError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { attempt, cause, detail } = self;
        write!(formatter, "{attempt}: {cause}")?;
        match detail {
            Some(detail) => write!(formatter, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        Self::new(error.cause.kind(), error)
    }
}
