//! The script of the options (`tuntap-router-script`).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;
use tuntap_script::limits::MAX_SOURCE;
use tuntap_script::{Compiled, ScriptError, check};

/// A script that was read from a file and has passed its test. Made by the master, before it forks the router's process, which
/// can't read files.
#[derive(Debug, Clone)]
pub struct ScriptFile {
    /// The file.
    pub path: String,
    /// Its text.
    pub text: String,
    /// What the router runs.
    pub compiled: Compiled,
}

/// Why a file has no script that can be used.
#[derive(Debug, Error)]
pub enum ScriptFileError {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
    /// It is too long.
    #[error("it has more than {MAX_SOURCE} bytes")]
    TooLong,
    /// It is no good.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

impl ScriptFile {
    /// Reads, compiles and tests a script.
    pub fn read(path: &Path) -> Result<Self, ScriptFileError> {
        let mut bytes = Vec::new();
        let most = MAX_SOURCE as u64;
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() > MAX_SOURCE {
            return Err(ScriptFileError::TooLong);
        }
        let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let compiled = check(&text, &name)?;
        Ok(Self { path: path.to_string_lossy().into_owned(), text, compiled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<ScriptFile, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("test.luau");
        std::fs::write(&path, text).expect("own folder");
        ScriptFile::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_read_and_tested() {
        let file = read(b"function policy(flow) end").expect("a script");
        assert_eq!(file.text, "function policy(flow) end");
        assert!(file.path.ends_with("/test.luau"));
        for (text, part) in [
            (&b"function policy("[..], "test.luau:1:"),
            (b"function policy() end function selftest() return false end", "selftest returned false"),
            (b"\xff\xfe", "invalid utf-8"),
            (&[b' '; MAX_SOURCE + 1], "more than 65536 bytes"),
        ] {
            let error = read(text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        let error = ScriptFile::read(Path::new("/nowhere/x.luau")).expect_err("there is none").to_string();
        assert!(error.contains("No such file"), "{error}");
    }
}
