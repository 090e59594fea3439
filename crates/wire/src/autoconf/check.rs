//! Checks of messages in JSON.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use super::{MAX_REASON_LEN, VERSION, is_claimable};

/// Why a message can't be used.
#[derive(Debug, Error)]
pub enum MessageError {
    /// It is not JSON, or a key is missing or has a value of the wrong type.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The message, or an item of a list in it, is not a JSON object.
    #[error("{0}: no JSON object")]
    NoObject(&'static str),
    /// It has another version.
    #[error("version {0}, this is {VERSION}")]
    Version(u64),
    /// A list is too long.
    #[error("more than {1} {0}")]
    TooMany(&'static str, usize),
    /// A word can't be read as what it should be.
    #[error("\"{0}\" is no {1}")]
    Word(String, &'static str),
    /// The MTU is out of bounds.
    #[error("an MTU of {0} bytes")]
    Mtu(u64),
}

/// Reads a JSON object in which the values of these keys are lists of objects. `serde_json` doesn't check the value of
/// an unknown key in full, and accepts a list where a struct is expected. So the whole message is parsed as JSON first.
pub(super) fn json<T: DeserializeOwned>(payload: &[u8], lists_of_objects: &[&'static str]) -> Result<T, MessageError> {
    let whole: Value = serde_json::from_slice(payload)?;
    if !whole.is_object() {
        return Err(MessageError::NoObject("the message"));
    }
    for key in lists_of_objects {
        if !whole.get(key).and_then(Value::as_array).is_none_or(|list| list.iter().all(Value::is_object)) {
            return Err(MessageError::NoObject(key));
        }
    }
    Ok(serde_json::from_slice(payload)?)
}

pub(super) fn check_version(version: u64) -> Result<(), MessageError> {
    if version == u64::from(VERSION) { Ok(()) } else { Err(MessageError::Version(version)) }
}

pub(super) fn check_len<T>(what: &'static str, list: &[T], most: usize) -> Result<(), MessageError> {
    if list.len() <= most { Ok(()) } else { Err(MessageError::TooMany(what, most)) }
}

/// Reads an address that can be claimed.
pub(super) fn claimable(word: &str) -> Result<IpAddr, MessageError> {
    word.parse().ok().filter(|address| is_claimable(*address)).ok_or_else(|| wrong(word, "unicast address"))
}

/// The text as it may be logged: cut, and without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(MAX_REASON_LEN).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

pub(super) fn wrong(word: &str, what: &'static str) -> MessageError {
    MessageError::Word(printable(word), what)
}
