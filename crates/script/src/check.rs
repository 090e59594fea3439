//! Compiling and testing a script before it is used.

use std::fmt::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::error::{ErrorKind, ScriptError};
use super::guard::Guard;
use super::host::{Host, Surroundings};
use super::limits::MAX_SOURCE;
use super::vm::{Vm, compile};

/// A script that was checked. It is cheap to clone, and can be sent to another thread.
///
/// Bytecode is only as good as the compiler that made it: keep the source text where scripts outlive a process, and check it
/// again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Luau bytecode.
    pub(crate) bytecode: Arc<[u8]>,
    /// What stands before the line in its messages.
    pub(crate) name: Arc<str>,
    /// SHA-256 of the source text, in hexadecimal.
    pub digest: Arc<str>,
    /// The sets that it has named while it was loaded and tested. A policy should have them.
    pub sets: Vec<String>,
    /// The counters that it has named while it was loaded and tested.
    pub counters: Vec<String>,
}

/// Compiles a script, runs it in a virtual machine of its own, and runs its `selftest`, if it has one. `name` stands before
/// the line in messages, such as its file's name. Sets are empty and counters are zero there, unless the self-test replaces
/// `set` and `counter`. What it logs is dropped.
///
/// Any thread may call this, without a watchdog. It takes some milliseconds, or a second if the script does its worst.
pub fn check(source: &str, name: &str) -> Result<Compiled, ScriptError> {
    if source.len() > MAX_SOURCE {
        let text = format!("the script has {} bytes, at most {MAX_SOURCE} are allowed", source.len());
        return Err(ScriptError::new(ErrorKind::Syntax, &text));
    }
    // The compiler would take the text for bytecode that is an error message.
    if source.contains('\0') {
        return Err(ScriptError::new(ErrorKind::Syntax, "the script has a zero byte, so it is not a text"));
    }
    let bytecode = compile(source.as_bytes()).map_err(|error| syntax_error(&error, name))?;
    let vm = Vm::new(&bytecode, name, Guard::new(None), Surroundings::new(Host::default()))?;
    vm.self_test()?;
    let (sets, counters) = vm.surroundings().names();
    Ok(Compiled { bytecode: bytecode.into(), name: name.into(), digest: hex(source).into(), sets, counters })
}

/// Luau's message begins with the line.
fn syntax_error(error: &mlua::Error, name: &str) -> ScriptError {
    let ScriptError { text, .. } = ScriptError::from(error);
    ScriptError::new(ErrorKind::Syntax, &format!("{name}:{text}"))
}

fn hex(source: &str) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(source) {
        // Writing to a string doesn't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_sha256sum() {
        assert_eq!(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
