//! The one way in which tests start a uWSGI, or a program that becomes one.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::instance::Instance;
use super::log::Log;
use super::netns::Netns;
use super::processes::{Family, Process, VARIABLE};
use super::uwsgi::{MOUNT, Uwsgi, uwsgi_dir};

/// Seconds after which [`Starter::output`] kills the program.
const LIMIT: &str = "60";
/// The whole environment of a started program, with what [`Starter::environment`] adds.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A folder for an instance. Its path is short, because a unix socket's path is; everybody may enter it, because a
/// vassal that dropped its privileges reads its ini file again when it reloads.
pub fn folder() -> TempDir {
    let dir = tempfile::Builder::new().prefix("tt").tempdir_in("/tmp").expect("/tmp is writable");
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("own folder");
    dir
}

/// Text with a folder's path for each `{dir}`.
pub fn in_dir(text: &str, dir: &Path) -> String {
    text.replace("{dir}", &dir.to_string_lossy())
}

#[derive(Debug)]
enum Place {
    /// The test's own namespaces.
    Here,
    /// A named network namespace, and a mount namespace of its own.
    Netns(String),
    /// The network and mount namespaces and the root of a process.
    Beside(i32),
}

/// A program that is to be started, and what it gets: namespaces, environment, limits, user, capabilities. `{dir}` in
/// arguments and shell lines stands for its folder.
#[derive(Debug)]
pub struct Starter {
    place: Place,
    directory: PathBuf,
    mounts_uwsgi: bool,
    shell: Vec<String>,
    wrapper: Vec<OsString>,
    program: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    log: Option<String>,
    family: Family,
}

impl Starter {
    /// A program with its working directory.
    pub fn program(program: impl AsRef<OsStr>, directory: &Path) -> Self {
        Self {
            place: Place::Here,
            directory: directory.to_owned(),
            mounts_uwsgi: false,
            shell: Vec::new(),
            wrapper: Vec::new(),
            program: vec![program.as_ref().to_owned()],
            environment: Vec::new(),
            log: None,
            family: Family::new(),
        }
    }

    /// One of the tests' uWSGI binaries in a network namespace, where a bind mount in the folder has binary and plugins.
    pub fn mounted(uwsgi: Uwsgi, directory: &Path, netns: &Netns) -> Self {
        std::fs::create_dir_all(in_dir(MOUNT, directory)).expect("own folder");
        let program = in_dir(&uwsgi.mounted_binary().to_string_lossy(), directory);
        Self { mounts_uwsgi: true, ..Self::program(program, directory) }.netns(netns)
    }

    /// One of the tests' uWSGI binaries in the namespaces of a process that [`Self::mounted`] has started with this
    /// folder.
    pub fn beside(uwsgi: Uwsgi, directory: &Path, pid: i32) -> Self {
        let program = in_dir(&uwsgi.mounted_binary().to_string_lossy(), directory);
        Self { place: Place::Beside(pid), ..Self::program(program, directory) }
    }

    /// Has the program run in a network namespace.
    pub fn netns(self, netns: &Netns) -> Self {
        Self { place: Place::Netns(netns.name().to_owned()), ..self }
    }

    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.program.push(argument.as_ref().to_owned());
        self
    }

    pub fn arguments<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::argument)
    }

    /// The ini file that a uWSGI reads.
    pub fn ini(self, file: &Path) -> Self {
        self.argument("--ini").argument(file)
    }

    /// A line that a shell runs in the program's namespaces before it starts the program, which is `"$@"`. The program
    /// doesn't start if the line fails.
    pub fn shell(mut self, line: &str) -> Self {
        self.shell.push(line.to_owned());
        self
    }

    /// A program, with its first arguments, that executes the started one.
    pub fn wrapper<A: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = A>) -> Self {
        self.wrapper.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// A user of the program, with the group of the same number and no other groups.
    pub fn user(self, id: u32) -> Self {
        self.wrapper(["setpriv", "--reuid", &id.to_string(), "--regid", &id.to_string(), "--clear-groups"])
    }

    /// What the bounding set of the program's capabilities is changed by, as setpriv(1) takes it.
    pub fn bounding_set(self, change: &str) -> Self {
        self.wrapper(["setpriv", "--bounding-set", change, "--inh-caps", "-all"])
    }

    /// How many descriptors the program may have open.
    pub fn descriptors(self, limit: u32) -> Self {
        self.wrapper(["prlimit".to_owned(), format!("--nofile={limit}:{limit}")])
    }

    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The name of the log file in the folder.
    pub fn log(self, name: &str) -> Self {
        Self { log: Some(name.to_owned()), ..self }
    }

    /// Starts the program; what it prints goes to its log.
    pub fn start(self) -> Instance {
        let name = self.log.clone().unwrap_or_else(|| format!("log-{}", self.family.marker()));
        let log = Log::new(self.directory.join(name));
        let output = File::options().create(true).append(true).open(log.path()).expect("own folder");
        // An instance that dropped its privileges may open it once more.
        output.set_permissions(Permissions::from_mode(0o666)).expect("own file");
        // The kernel kills the program with the test's thread, should that not get to drop the instance.
        let child = self
            .command(&["setpriv", "--pdeathsig", "KILL"])
            .stdout(output.try_clone().expect("a file can be shared"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .expect("setpriv can be started");
        Instance::new(child, self.family, log)
    }

    /// Runs the program to its end, which comes by force after a minute.
    pub fn output(self) -> Finished {
        let output = self.command(&["timeout", "-s", "KILL", LIMIT]).output().expect("timeout can be started");
        let left = self.family.members();
        if !left.is_empty() {
            self.family.kill_all();
        }
        Finished { output, left }
    }

    fn command(&self, first: &[&str]) -> Command {
        let mut words: Vec<OsString> = first.iter().map(Into::into).collect();
        match &self.place {
            Place::Here => {}
            Place::Netns(name) => words.extend(["ip", "netns", "exec", name].map(Into::into)),
            Place::Beside(pid) => {
                words.extend(["nsenter", "--net", "--mount", "--root", "-t", &pid.to_string()].map(Into::into));
            }
        }
        let mut shell = String::new();
        if self.mounts_uwsgi {
            // `ip netns exec` makes a mount namespace, which this mount ends with.
            shell += &format!("mount --bind \"$0\" {MOUNT} && ");
        }
        self.shell.iter().for_each(|line| shell += &format!("{{ {line}; }} && "));
        if !shell.is_empty() {
            words.extend(["sh".into(), "-c".into(), (shell + "exec \"$@\"").into(), uwsgi_dir().into()]);
        }
        words.extend(self.wrapper.iter().chain(&self.program).cloned());
        let mut words = words.iter().map(|word| match word.to_str() {
            Some(text) => in_dir(text, &self.directory).into(),
            None => word.clone(),
        });
        let mut command = Command::new(words.next().expect("a program"));
        command
            .args(words)
            .current_dir(&self.directory)
            .env_clear()
            .env("PATH", PATH)
            .env(VARIABLE, self.family.marker())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }
}

/// A program that ran to its end.
#[derive(Debug)]
pub struct Finished {
    pub output: Output,
    /// What it left running, and what is killed by now.
    pub left: Vec<Process>,
}

impl Finished {
    /// All that it printed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned() + &String::from_utf8_lossy(&self.output.stderr)
    }
}
