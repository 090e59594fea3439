//! Failures of scripts.

use thiserror::Error;
use tuntap_api::text::needs_escape;

use super::limits::MAX_ERROR;

/// Why a script can't be used, or failed to decide about a flow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct ScriptError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// For people. It has one line, of at most [`MAX_ERROR`] characters, without control characters.
    pub text: String,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The source text can't be compiled.
    Syntax,
    /// It raised an error.
    Error,
    /// It took too long.
    Time,
    /// It used too much memory.
    Memory,
    /// What it returned, or defines, is not what it should be.
    Value,
    /// It failed its own self-test.
    SelfTest,
}

impl ScriptError {
    /// Makes an error. The text is cut, and its control characters are escaped.
    pub(crate) fn new(kind: ErrorKind, text: &str) -> Self {
        Self { kind, text: printable(text, MAX_ERROR) }
    }
}

impl From<&mlua::Error> for ScriptError {
    fn from(error: &mlua::Error) -> Self {
        match error {
            mlua::Error::MemoryError(_) => Self::new(ErrorKind::Memory, "it needs more memory than a script may have"),
            mlua::Error::CallbackError { cause, .. } | mlua::Error::WithContext { cause, .. } => Self::from(&**cause),
            mlua::Error::SyntaxError { message, .. } => Self::new(ErrorKind::Syntax, first_line(message)),
            mlua::Error::RuntimeError(message) => Self::new(ErrorKind::Error, first_line(message)),
            other => Self::new(ErrorKind::Error, first_line(&other.to_string())),
        }
    }
}

/// Returns the text without the stack that mlua puts below it.
fn first_line(text: &str) -> &str {
    text.split("\nstack traceback:").next().unwrap_or(text).trim_end()
}

/// Escapes what isn't printable in a text, or would change how text is shown, and cuts it where it gets longer than `max`
/// characters.
pub(crate) fn printable(text: &str, max: usize) -> String {
    let mut result = String::new();
    let mut room = max;
    for char in text.chars() {
        let is_plain = !needs_escape(char);
        let len = if is_plain { 1 } else { char.escape_default().count() };
        if len > room {
            result.push('…');
            break;
        }
        room -= len;
        if is_plain {
            result.push(char);
        } else {
            result.extend(char.escape_default());
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_line_and_bounded() {
        assert_eq!(printable("a\nb\x1b[1m\u{202e}ü", 100), "a\\nb\\u{1b}[1m\\u{202e}ü");
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc", 3), "abc");
        assert_eq!(printable("ab\n", 3), "ab…");
    }
}
