//! `uwsgi-tuntap keys`: the public halves of routers' keys, by which routers of other hosts know them.

use std::path::{Path, PathBuf};

use tuntap_agent::{KeyFileError, PrivateKey};
use tuntap_config::KEY_FOLDER;

use crate::failure::{Done, Failed};
use crate::session::Session;
use crate::table::{Kind, Table};

/// Which keys.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file of a key, as in tuntap-router-key; without one, all keys in /var/lib/uwsgi-tuntap are shown
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Make the key if the file isn't there
    #[arg(long, requires = "file")]
    generate: bool,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// A key can't be read.
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        if let Some(file) = self.file {
            let key = if self.generate {
                PrivateKey::load_or_create(&file).map(|(key, _)| key)
            } else {
                PrivateKey::load(&file)
            };
            writeln!(session.output, "{}", key.map_err(failed)?.public())?;
            return Ok(Done::Well);
        }
        let mut table = Table::new(&[("DEVICE", Kind::Word), ("ROUTER", Kind::Word), ("PUBLIC KEY", Kind::Word)]);
        for file in files(Path::new(KEY_FOLDER))? {
            let key = PrivateKey::load(&file).map_err(failed)?;
            let device = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            table.row([device, key.router_id().to_string(), key.public().to_string()]);
        }
        session.table(&table)?;
        Ok(Done::Well)
    }
}

fn failed(error: KeyFileError) -> Failed {
    Failed::Local(error.to_string())
}

/// The key files of a folder, sorted by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failed> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failed::Local(format!("{}: {error}", folder.display())))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "key")).collect();
    files.sort();
    Ok(files)
}
