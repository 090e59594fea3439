//! `uwsgi-tuntap save`: writes the present policy into a rules file. The router itself can't open files.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tuntap_api::control::{Request, Saved, Status};

use crate::client;
use crate::failure::{Done, Failed};
use crate::session::{STANDARD, Session, usage_error};
use crate::text::{Printable, escaped_lines};

/// The mode of a file that wasn't there before: that of its owner alone. Rules may tell more than everybody should know.
const MODE: u32 = 0o600;

/// Bits of a mode that are kept.
const MODE_BITS: u32 = 0o7777;

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file. Without it, the one that the router has read its rules from; - is standard output
    file: Option<String>,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let file = self.file.as_deref();
        if session.common.json {
            if file.is_some_and(|file| file != STANDARD) {
                usage_error("the argument '--json' cannot be used with a file to save to");
            }
            session.ask::<Saved>(&Request::Save {})?;
            return Ok(Done::Well);
        }
        let mut client = session.connect()?;
        if file == Some(STANDARD) {
            let saved: Saved = client::read(&client.ask(&Request::Save {})?)?;
            let is_terminal = io::stdout().is_terminal();
            let text = if is_terminal { escaped_lines(&saved.text) } else { saved.text };
            session.output.write_all(text.as_bytes())?;
            return Ok(Done::Well);
        }
        let target = match file {
            Some(file) => Target::open(Path::new(file))?,
            None => {
                let status: Status = client::read(&client.ask(&Request::Status {})?)?;
                let file = status.rules_file.ok_or_else(|| {
                    Failed::Local("the router has no rules file (tuntap-router-rules): name one to save to".to_owned())
                })?;
                Target::open_named_by_router(Path::new(&file))?
            }
        };
        let saved: Saved = client::read(&client.ask(&Request::Save {})?)?;
        let has_comments = target.has_comments();
        target.replace(saved.text.as_bytes())?;
        let file = target.path.to_string_lossy();
        let lost = if has_comments { "; the comments that were in it are gone" } else { "" };
        writeln!(session.output, "{}: generation {} is saved{lost}", Printable(&file), saved.generation)?;
        Ok(Done::Well)
    }
}

/// A file to replace, and what was there at the beginning.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    before: Option<Metadata>,
}

impl Target {
    /// Looks at a file that the user has named. It need not exist; a symbolic link stands for its target.
    fn open(path: &Path) -> Result<Self, Failed> {
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => path.to_owned(),
            Err(error) => return Err(failed(path, &error.to_string())),
        };
        let before = metadata(&path).map_err(|error| failed(&path, &error.to_string()))?;
        if before.as_ref().is_some_and(|before| !before.is_file()) {
            return Err(failed(&path, "it is no regular file; - stands for standard output"));
        }
        Ok(Self { path, before })
    }

    /// Looks at a file that a router has named. What a router says may be a lie if somebody has taken it over, and this
    /// command may be root's: so the file must be one of rules already.
    fn open_named_by_router(path: &Path) -> Result<Self, Failed> {
        let unlikely = |what: &str| {
            failed(
                path,
                &format!(
                    "the router calls this its rules file, but {what}; to write it all the same, name it: save FILE"
                ),
            )
        };
        if !path.is_absolute() {
            return Err(unlikely("its path is not absolute"));
        }
        let target = Self::open(path)?;
        if target.before.is_none() {
            return Err(unlikely("there is no such file"));
        }
        let text = fs::read_to_string(&target.path).map_err(|error| failed(path, &error.to_string()))?;
        if is_like_rules(&text) { Ok(target) } else { Err(unlikely("something other than rules is in it")) }
    }

    /// Returns true if the file of before has comments, which a router doesn't know.
    fn has_comments(&self) -> bool {
        self.before.is_some() && fs::read_to_string(&self.path).is_ok_and(|text| text.contains('#'))
    }

    /// Puts a whole new file in place of the old one, with its mode and owner.
    fn replace(&self, text: &[u8]) -> Result<(), Failed> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            let mut draft = tempfile::Builder::new().prefix(".uwsgi-tuntap-").tempfile_in(folder)?;
            draft.write_all(text)?;
            self.keep_owner_and_mode(draft.as_file())?;
            draft.as_file().sync_all()?;
            if !is_same(self.before.as_ref(), metadata(&self.path)?.as_ref()) {
                return Err(io::Error::other("somebody has changed it meanwhile, so it stays as it is"));
            }
            draft.persist(&self.path).map_err(|error| error.error)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| failed(&self.path, &error.to_string()))
    }

    fn keep_owner_and_mode(&self, draft: &File) -> io::Result<()> {
        let Some(before) = &self.before else { return draft.set_permissions(Permissions::from_mode(MODE)) };
        let made = draft.metadata()?;
        if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
            fchown(draft, Some(before.uid()), Some(before.gid()))?;
        }
        draft.set_permissions(Permissions::from_mode(before.mode() & MODE_BITS))
    }
}

/// What is known of a file, if it exists.
fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns true if a file is the same, and nobody has written to it or changed its owner or mode.
fn is_same(before: Option<&Metadata>, now: Option<&Metadata>) -> bool {
    let facts =
        |it: &Metadata| (it.dev(), it.ino(), it.len(), it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec());
    before.map(facts) == now.map(facts)
}

/// Returns true if each line outside of braces begins as one of a rules file.
fn is_like_rules(text: &str) -> bool {
    const WORDS: [&str; 6] = ["chain", "group", "set", "allow", "deny", "reject"];
    let mut is_inside = false;
    text.lines().map(|line| line.split('#').next().unwrap_or_default()).all(|line| {
        let was_inside = is_inside;
        is_inside = (is_inside || line.contains('{')) && !line.contains('}');
        was_inside || line.split_whitespace().next().is_none_or(|word| WORDS.contains(&word))
    })
}

fn failed(path: &Path, what: &str) -> Failed {
    Failed::Local(format!("{}: {what}", Printable(&path.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rules");
        fs::write(&path, text).expect("own folder");
        (folder, path)
    }

    #[test]
    fn mode_owner_and_link_stay() {
        let (folder, path) = file("deny\n");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("own file");
        std::os::unix::fs::chown(&path, Some(1234), Some(5678)).expect("needs root");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("rules", &link).expect("own folder");
        Target::open(&link).expect("a file").replace(b"allow\n").expect("own folder");
        let now = path.symlink_metadata().expect("a file");
        assert_eq!((now.mode() & MODE_BITS, now.uid(), now.gid()), (0o640, 1234, 5678));
        assert_eq!(fs::read_to_string(&path).expect("a file"), "allow\n");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).expect("own folder").count(), 2, "no draft stays");
    }

    #[test]
    fn file_that_changed_meanwhile_stays() {
        let (folder, path) = file("deny\n");
        let target = Target::open(&path).expect("a file");
        let new = Target::open(&folder.path().join("new")).expect("no file yet");
        fs::write(&path, "deny # mine\n").expect("own folder");
        fs::write(&new.path, "").expect("own folder");
        for target in [target, new] {
            let error = target.replace(b"allow\n").expect_err("it has changed").to_string();
            assert!(error.contains("somebody has changed it meanwhile"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).expect("a file"), "deny # mine\n");
        assert_eq!(fs::read_dir(folder.path()).expect("own folder").count(), 2, "no draft stays");
    }

    #[test]
    fn new_file_is_its_owners_alone() {
        let (folder, _) = file("");
        let target = Target::open(&folder.path().join("new")).expect("no file yet");
        target.replace(b"allow\n").expect("own folder");
        assert_eq!(target.path.metadata().expect("a file").mode() & MODE_BITS, MODE);
    }

    #[test]
    fn router_may_name_only_rules() {
        let refusal = |path: &Path| Target::open_named_by_router(path).expect_err("no rules").to_string();
        let (folder, path) =
            file("# ours\nset a {\n  10.0.0.1\n}\nset b = /x\ngroup web owner 5\nchain in\ndeny any @a # b\n\n");
        assert!(Target::open_named_by_router(&path).is_ok());
        fs::write(&path, "root:x:0:0:root:/root:/bin/bash\n").expect("own folder");
        assert!(refusal(&path).contains("something other than rules is in it"));
        assert!(refusal(&folder.path().join("none")).contains("there is no such file"));
        assert!(refusal(Path::new("rules")).contains("not absolute"));
        assert!(refusal(folder.path()).contains("no regular file"));
    }
}
