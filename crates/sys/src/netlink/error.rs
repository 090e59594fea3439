//! Errors of netlink requests.

use std::fmt::{self, Display, Formatter};
use std::io;

use nix::errno::Errno;

/// A request that the kernel refused, or that got no usable answer. The text says what was tried.
#[derive(Debug)]
pub struct NetlinkError {
    attempt: String,
    cause: io::Error,
    /// The kernel's explanation (NLMSGERR_ATTR_MSG), which some errors have.
    detail: Option<String>,
    /// A possible reason, for the operator.
    hint: Option<String>,
}

impl NetlinkError {
    pub(super) fn new(attempt: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { attempt: attempt.into(), cause: cause.into(), detail: None, hint: None }
    }

    pub(super) fn with_detail(self, detail: Option<String>) -> Self {
        Self { detail, ..self }
    }

    pub(super) fn with_hint(self, hint: String) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The error number, if the error has one.
    pub fn errno(&self) -> Option<Errno> {
        self.cause.raw_os_error().map(Errno::from_raw)
    }

    /// Returns true if an IPv6 address was refused because the kernel has IPv6 turned off. EACCES: by the sysctl
    /// `disable_ipv6`; the others: a kernel without, or with it turned off at boot.
    pub fn means_ipv6_is_off(&self) -> bool {
        let refusals = [Errno::EACCES, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT];
        self.errno().is_some_and(|errno| refusals.contains(&errno))
    }
}

impl Display for NetlinkError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { attempt, cause, detail, hint } = self;
        write!(formatter, "{attempt}: {cause}")?;
        if let Some(detail) = detail {
            write!(formatter, " ({detail})")?;
        }
        hint.as_ref().map_or(Ok(()), |hint| write!(formatter, "; {hint}"))
    }
}

impl std::error::Error for NetlinkError {}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        Self::new(error.cause.kind(), error)
    }
}
