//! `uwsgi-tuntap doctor`: has uWSGI examine ini files (its option `tuntap-doctor`). uWSGI itself reads them, so that they
//! mean what they always do.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failed;
use crate::text::Printable;

/// The plugin's file.
const PLUGIN: &str = "tuntap_plugin.so";

/// Where the plugin is, seen from the folder of this command: beside it after `make`, where Debian's package has it, and where
/// `make install` puts it. In Debian the last one has the C plugin.
const FOLDERS: [&str; 3] = ["", "../lib/uwsgi/tuntap-rs", "../lib/uwsgi/plugins"];

/// What is examined.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The Emperor's ini file, and then those of its vassals, or any of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    examination: Examination,
}

/// By which uWSGI it is examined.
#[derive(Debug, clap::Args)]
pub struct Examination {
    /// The uWSGI that examines them
    #[arg(long, value_name = "PROGRAM", default_value = "uwsgi")]
    pub uwsgi: PathBuf,
    /// The folder of the plugin. Without it, that of this command, or lib/uwsgi/tuntap-rs or lib/uwsgi/plugins beside it
    #[arg(long, value_name = "FOLDER")]
    plugins_dir: Option<PathBuf>,
}

impl Examination {
    /// The command that examines files.
    ///
    /// # Errors
    /// The plugin isn't found.
    pub fn command(&self, files: &[PathBuf]) -> Result<Command, Failed> {
        let folder = self.plugins_dir.clone().map_or_else(find_plugin, Ok)?;
        let mut command = Command::new(&self.uwsgi);
        command.arg("--plugins-dir").arg(folder).args(["--plugin", "tuntap"]);
        for file in files {
            command.arg("--tuntap-doctor").arg(file);
        }
        Ok(command)
    }
}

impl Arguments {
    /// Becomes uWSGI, so that its output and its exit code are this command's.
    ///
    /// # Errors
    /// The plugin or uWSGI isn't found.
    pub fn run(self) -> Failed {
        let error = match self.examination.command(&self.files) {
            Ok(mut command) => command.exec(),
            Err(failed) => return failed,
        };
        let program = self.examination.uwsgi.to_string_lossy();
        Failed::Local(format!("{}: {error}; name a uWSGI with --uwsgi", Printable(&program)))
    }
}

fn find_plugin() -> Result<PathBuf, Failed> {
    let program = env::current_exe().and_then(|program| program.canonicalize());
    let program = program.map_err(|error| Failed::Local(format!("this command's own file: {error}")))?;
    let own_folder = program.parent().unwrap_or(Path::new("/"));
    let folders = FOLDERS.map(|folder| own_folder.join(folder));
    folders.iter().find(|folder| folder.join(PLUGIN).is_file()).cloned().ok_or_else(|| {
        let [beside, packaged, installed] = folders.map(|folder| folder.join(PLUGIN).display().to_string());
        Failed::Local(format!(
            "the plugin is none of {beside}, {packaged} and {installed}: name its folder with --plugins-dir"
        ))
    })
}
