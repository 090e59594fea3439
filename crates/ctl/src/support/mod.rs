//! `uwsgi-tuntap support`: one archive with what a report of a fault needs, and without secrets.

mod archive;
mod facts;
mod logs;
mod open;
mod program;
mod redact;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde_json::Value;
use tuntap_api::control::{Request, Saved};
use tuntap_survey::control;

use crate::client::{self, Client};
use crate::doctor;
use crate::failure::{Done, Failed};
use crate::session::{Common, STANDARD, Session};
use crate::text::Printable;
use crate::top::Sources;

use archive::{Archive, MAX_PART, file_name};
use logs::HeldLog;
use open::Opened;
use program::Kept;
use redact::Secrets;

/// Most routers that are asked.
const MAX_ROUTERS: usize = 8;

/// Most bytes of an ini file.
const MAX_INI: u64 = 256 << 10;

/// Most ini files.
const MAX_INIS: usize = 200;

/// Bytes at the end of a log that are looked through, of each file.
const LOG_TAIL: u64 = 4 << 20;

/// Most lines about the plugin that are kept of a log, the last ones.
const MAX_LOG_LINES: usize = 2000;

/// Lines that are asked of the journal.
const JOURNAL_LINES: &str = "20000";

/// What lines about the plugin have in them. Applications log JSON, too, so that it takes the side that the plugin's own lines name.
const LOG_MARKS: [&str; 7] = [
    "[tuntap-router]",
    "[uwsgi-tuntap]",
    "\"source\":\"tuntap-router\"",
    "\"source\":\"uwsgi-tuntap\"",
    "uWSGI tuntap ",
    "*** Starting uWSGI",
    "tuntap_plugin",
];

/// The mode of the archive: it is its owner's alone.
const MODE: u32 = 0o600;

/// What is collected, and where it goes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The Emperor's ini file, and then those of its vassals, or any of them. Without it, those are taken that the routers'
    /// instances were started with
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the archive goes; - is standard output. Without it, uwsgi-tuntap-support-DATE-TIME.tar.gz in this folder
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A log of uWSGI, of which the last lines about the plugin are taken; may be repeated. Without --log and --journal, those are
    /// taken that the routers' instances write to
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// A unit of systemd, of whose journal the last lines about the plugin are taken; may be repeated
    #[arg(long, value_name = "UNIT")]
    journal: Vec<String>,
    #[command(flatten)]
    examination: doctor::Examination,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// The archive can't be written. What can't be had is noted in it.
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let name = format!("uwsgi-tuntap-support-{}", utc(now));
        let mut collection =
            Collection { archive: Archive::default(), secrets: Secrets::default(), timeout: session.common.wait() };
        // Files come first: what is secret in them is left out of all that follows.
        let sources = Sources::new(session.common.wanted());
        let routers = find_routers(&sources, &session.common, &mut collection.archive);
        let masters = masters_of(&routers);
        let files = if self.files.is_empty() { started_with(&masters) } else { self.files };
        let trusted = collection.ini_files(&files);
        collection.machine(&self.examination.uwsgi);
        collection.doctor(&self.examination, &trusted);
        for (number, router) in routers.into_iter().enumerate() {
            collection.router(number, router);
        }
        if self.log.is_empty() && self.journal.is_empty() {
            collection.logs_of(&masters);
        }
        self.log.iter().enumerate().for_each(|(number, file)| collection.log_file(number, file));
        self.journal.iter().enumerate().for_each(|(number, unit)| collection.journal(number, unit));

        let contents = collection.archive.contents();
        if self.output.as_deref() == Some(Path::new(STANDARD)) {
            collection.archive.write(&name, now, &mut session.output)?;
            // Standard output has the archive.
            let _ = io::stderr().write_all(contents.as_bytes());
            return Ok(Done::Well);
        }
        let path = self.output.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        write_new(&path, |file| collection.archive.write(&name, now, file))?;
        writeln!(session.output, "{contents}\n{} has all of this", Printable(&path.to_string_lossy()))?;
        Ok(Done::Well)
    }
}

/// A router, and who has made its socket.
struct Router {
    client: Client,
    /// The master of its instance, unless somebody else has passed the socket on.
    master: i32,
}

/// Connects to all routers, or to the one that is named.
fn find_routers(sources: &Sources, common: &Common, archive: &mut Archive) -> Vec<Router> {
    let what = "routers";
    let sockets = sources.sockets().unwrap_or_else(|failed| {
        archive.miss(what, &failed.to_string());
        Vec::new()
    });
    if sockets.len() > MAX_ROUTERS {
        archive.miss(
            what,
            &format!("only the first {MAX_ROUTERS} of {} are in it: --control names another", sockets.len()),
        );
    }
    let mut routers = Vec::new();
    for socket in sockets.into_iter().take(MAX_ROUTERS) {
        let master = control::connect(&socket).map_or(0, |connection| connection.pid);
        match sources.connect(&socket, common.wait()) {
            Ok(client) => routers.push(Router { client, master }),
            Err(failed) => archive.miss(format!("router of {socket}"), &failed.to_string()),
        }
    }
    if routers.is_empty() {
        archive.miss(what, "none was found that runs in this network namespace, and that this user may ask");
    }
    routers
}

/// The masters of the routers' instances, each once.
fn masters_of(routers: &[Router]) -> Vec<i32> {
    let masters: BTreeSet<i32> = routers.iter().map(|router| router.master).filter(|pid| *pid > 0).collect();
    masters.into_iter().collect()
}

/// The ini files on the command lines of the routers' instances, where these are root's or one's own.
fn started_with(masters: &[i32]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for master in masters {
        let Ok(line) = fs::read(format!("/proc/{master}/cmdline")) else { continue };
        let Ok(folder) = fs::read_link(format!("/proc/{master}/cwd")) else { continue };
        for word in line.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()) {
            let file = word.split_once('=').map_or(word, |(_, file)| file);
            let file = folder.join(file);
            if file.extension().is_some_and(|extension| extension == "ini") && !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// What is collected.
struct Collection {
    archive: Archive,
    secrets: Secrets,
    /// How long a router or a program may take for one answer.
    timeout: Duration,
}

impl Collection {
    /// Adds ini files without secrets. Returns those that nobody else could have changed.
    fn ini_files(&mut self, files: &[PathBuf]) -> Vec<PathBuf> {
        if files.is_empty() {
            self.archive.miss("configuration", "name the ini files of the Emperor and its vassals");
        }
        if files.len() > MAX_INIS {
            self.archive
                .miss("configuration", &format!("only the first {MAX_INIS} of {} files are in it", files.len()));
        }
        let mut trusted = Vec::new();
        for (number, path) in files.iter().take(MAX_INIS).enumerate() {
            let shown = path.display().to_string();
            let read = Opened::new(path).and_then(|opened| {
                let is_others = opened.is_others;
                let (bytes, has_more) = opened.tail(MAX_INI)?;
                if has_more {
                    return Err(format!("it is longer than {} KiB", MAX_INI >> 10));
                }
                Ok((String::from_utf8_lossy(&bytes).into_owned(), is_others))
            });
            match read {
                Ok((text, is_others)) => {
                    let name = path.file_name().map(|name| file_name(&name.to_string_lossy())).unwrap_or_default();
                    let text = self.secrets.ini(&text);
                    self.archive.add(format!("config/{number:03}-{name}"), shown, &text);
                    if is_others {
                        self.archive.miss(
                            format!("doctor's view of {}", path.display()),
                            "somebody else may change the file, and uWSGI would do as it says",
                        );
                    } else {
                        trusted.push(path.clone());
                    }
                }
                Err(why) => self.archive.miss(shown, &why),
            }
        }
        trusted
    }

    fn machine(&mut self, uwsgi: &Path) {
        let version = self.program(Command::new(uwsgi).arg("--version"));
        let version = version.unwrap_or_else(|why| format!("{why}\n"));
        self.archive.add("versions.txt", "versions", &format!("{}uWSGI {version}", facts::versions()));
        self.archive.add("kernel.txt", "what the kernel has, and its settings", &facts::kernel());
        self.archive.add("interfaces.txt", "interfaces and their counters", &facts::interfaces());
    }

    fn doctor(&mut self, examination: &doctor::Examination, files: &[PathBuf]) {
        let what = "what the doctor says";
        if files.is_empty() {
            return self.archive.miss(what, "there is no ini file to examine");
        }
        let result = examination.command(files).map_err(|failed| failed.to_string());
        let result = result.and_then(|mut command| self.program(&mut command));
        self.archive.add_result("doctor.txt", what, result);
    }

    /// Asks a router for all that it says. One that doesn't answer once isn't asked again.
    fn router(&mut self, number: usize, router: Router) {
        let Router { mut client, master } = router;
        let of = client.name().to_owned();
        let statistics = match self.ask(&mut client, &Request::Statistics {}) {
            Ok(statistics) => statistics,
            Err(Failed::Refused(refusal)) => {
                self.archive.miss(format!("statistics of {of}"), &refusal.to_string());
                Value::Null
            }
            Err(failed) => return self.archive.miss(format!("router of {of}"), &failed.to_string()),
        };
        let device = statistics["device"].as_str().unwrap_or_default();
        let folder = format!("routers/{number}-{}", file_name(device));
        let pid = statistics["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        for (name, pid) in [("router", pid), ("master", master)] {
            if pid > 0 {
                let facts = facts::process(pid);
                self.archive.add_result(
                    &format!("{folder}/{name}-process.txt"),
                    &format!("process {pid}, the {name}"),
                    facts,
                );
            }
        }
        if !statistics.is_null() {
            let text = pretty(&statistics);
            self.archive.add(format!("{folder}/statistics.json"), format!("statistics of {of}"), &text);
        }
        for (file, what, request) in [
            ("status.json", "state of the live policy", Request::Status {}),
            ("rules.json", "rules with their counters", Request::RulesList { chain: None, group: None }),
            ("routes.json", "session with the routing daemon", Request::Routes { addresses: Vec::new() }),
            ("script.json", "state of the script", Request::ScriptStatus {}),
            ("log.json", "who changed the policy, and when", Request::Log { limit: None }),
        ] {
            let what = format!("{what}, {of}");
            match self.ask(&mut client, &request) {
                Ok(answer) => self.archive.add(format!("{folder}/{file}"), what, &pretty(&answer)),
                Err(failed) => self.archive.miss(what, &failed.to_string()),
            }
        }
        let what = format!("policy as a rules file, {of}");
        let saved = client.ask(&Request::Save {}).and_then(|answer| client::read::<Saved>(&answer));
        match saved {
            Ok(saved) => self.archive.add(format!("{folder}/policy.rules"), what, &self.secrets.lines(&saved.text)),
            Err(failed) => self.archive.miss(what, &failed.to_string()),
        }
    }

    /// An answer without secrets.
    fn ask(&self, client: &mut Client, request: &Request) -> Result<Value, Failed> {
        let answer = client.ask(request)?;
        let mut value: Value = client::read(&answer)?;
        self.secrets.json(&mut value);
        Ok(value)
    }

    /// Adds the logs that instances write to: files, and the journals of their units.
    fn logs_of(&mut self, masters: &[i32]) {
        let mut files: Vec<HeldLog> = Vec::new();
        for held in masters.iter().flat_map(|master| logs::files_of(*master)) {
            if files.iter().all(|other| other.name != held.name) {
                files.push(held);
            }
        }
        let units: BTreeSet<String> = masters.iter().filter_map(|master| logs::unit_of(*master)).collect();
        if files.is_empty() && units.is_empty() {
            let why = "name the log with --log, or a unit of systemd with --journal";
            self.archive.miss("last lines of logs", why);
        }
        files.iter().enumerate().for_each(|(number, held)| self.log_text(number, &held.name, Opened::held(&held.fd)));
        units.iter().enumerate().for_each(|(number, unit)| self.journal(number, unit));
    }

    fn log_file(&mut self, number: usize, path: &Path) {
        self.log_text(number, path, Opened::new(path));
    }

    /// Vassals' logs may all have one name, in folders of their own.
    fn log_text(&mut self, number: usize, path: &Path, opened: Result<Opened, String>) {
        let what = format!("last lines about the plugin in {}", path.display());
        let name = path.file_name().map(|name| file_name(&name.to_string_lossy())).unwrap_or_default();
        let text = opened.and_then(|opened| opened.tail(LOG_TAIL));
        let text = text.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned());
        self.log(&format!("{number:03}-{name}"), what, text);
    }

    fn journal(&mut self, number: usize, unit: &str) {
        let what = format!("last lines about the plugin in the journal of {unit}");
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--output=short-iso", "--lines", JOURNAL_LINES]);
        command.arg(format!("--unit={unit}"));
        let text = self.output(&mut command, Kept::Last);
        self.log(&format!("{number:03}-journal-{}", file_name(unit)), what, text);
    }

    /// Adds what a log says of the plugin. One that says nothing is hardly the one that was meant.
    fn log(&mut self, name: &str, what: String, text: Result<String, String>) {
        match text.map(|text| self.log_lines(&text)) {
            Ok(text) if text.is_empty() => self.archive.miss(what, "no line of it is about the plugin"),
            Ok(text) => self.archive.add_log(format!("logs/{name}"), what, &text),
            Err(why) => self.archive.miss(what, &why),
        }
    }

    /// Lines about the plugin, the last ones of many, without secrets. All others are the applications' own.
    fn log_lines(&self, text: &str) -> String {
        let ours: Vec<&str> = text.lines().filter(|line| LOG_MARKS.iter().any(|mark| line.contains(mark))).collect();
        let last = &ours[ours.len().saturating_sub(MAX_LOG_LINES)..];
        self.secrets.lines(&last.join("\n"))
    }

    /// What a program prints, without secrets.
    fn program(&self, command: &mut Command) -> Result<String, String> {
        self.output(command, Kept::First)
    }

    fn output(&self, command: &mut Command, kept: Kept) -> Result<String, String> {
        program::run(command, MAX_PART, kept, self.timeout).map(|text| self.secrets.lines(&text))
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A time in seconds since 1970 as a part of a file's name.
fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default();
    time.strftime("%Y%m%d-%H%M%S").to_string()
}

/// Writes a file that isn't there yet, so that nobody can have put a link in its place. It is its owner's alone.
fn write_new(path: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), Failed> {
    let failed = |error: io::Error| Failed::Local(format!("{}: {error}", Printable(&path.to_string_lossy())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).map_err(failed)?;
    let result = file.set_permissions(Permissions::from_mode(MODE)).and_then(|()| write(&mut file));
    result.map_err(|error| {
        // A part of an archive is of no use.
        let _ = fs::remove_file(path);
        failed(error)
    })
}
