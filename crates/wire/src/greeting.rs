//! The credentials that a device may send before its first frame.

use thiserror::Error;

/// First bytes of a device that sends its credentials. They are no frame and have no header; SCM_CREDENTIALS (unix(7))
/// travels with them.
pub const CREDENTIALS_MAGIC: &[u8; 12] = b"uwsgi-tuntap";

/// First bytes that begin neither a frame nor credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("first bytes that are neither a frame nor credentials")]
pub struct BadStart;

/// Returns the offset of the first frame in a stream's first bytes. A device may send credentials that its router
/// doesn't need, because the option is set on the device's side only. `None` if more bytes are needed to decide.
pub fn frames_start(bytes: &[u8]) -> Result<Option<usize>, BadStart> {
    match bytes.first() {
        None => Ok(None),
        // A frame begins with modifier1, which is 0 everywhere.
        Some(first) if *first != CREDENTIALS_MAGIC[0] => Ok(Some(0)),
        Some(_) if bytes.starts_with(CREDENTIALS_MAGIC) => Ok(Some(CREDENTIALS_MAGIC.len())),
        Some(_) if CREDENTIALS_MAGIC.starts_with(bytes) => Ok(None),
        Some(_) => Err(BadStart),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unasked_credentials_are_skipped() {
        assert_eq!(frames_start(b"\0\x14\0\0frame"), Ok(Some(0)));
        assert_eq!(frames_start(b"uwsgi-tuntap\0\x14\0\0"), Ok(Some(12)));
        assert_eq!(frames_start(b"uwsgi"), Ok(None));
        assert_eq!(frames_start(b""), Ok(None));
        assert_eq!(frames_start(b"uwsgj"), Err(BadStart));
    }
}
