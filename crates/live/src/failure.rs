//! Failures of requests.

use tuntap_api::control::{Code, Failure};

/// A failure without a line.
pub fn failure(code: Code, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into(), line: None }
}

/// A value that is wrong.
pub fn invalid(message: impl Into<String>) -> Failure {
    failure(Code::Invalid, message)
}

/// Something that the sender may not do.
pub fn denied(message: impl Into<String>) -> Failure {
    failure(Code::Denied, message)
}

/// Something that is not there.
pub fn not_found(message: impl Into<String>) -> Failure {
    failure(Code::NotFound, message)
}

/// A limit that is reached.
pub fn too_much(message: impl Into<String>) -> Failure {
    failure(Code::TooMuch, message)
}
