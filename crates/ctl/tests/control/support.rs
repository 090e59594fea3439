//! `support`: what is in the archive, what is not, and where it may lie.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tuntap_api::Snapshot;
use tuntap_api::control::{Log, LogEntry, Routes, RuleList, Saved, ScriptStatus};

use crate::looking::status;
use crate::router::{Router, command, content, fails, install, ok, text};

/// Each of them stands somewhere that the archive is made from.
const SECRETS: [&str; 9] = [
    "s3cret-comment",
    "s3cret-env",
    "s3cret-variable",
    "s3cret-hook",
    "s3cret-url",
    "s3cret-key",
    "s3cret-line",
    "s3cret-else",
    "s3cret-application",
];

const INI: &str = "\
[uwsgi]
# database password: s3cret-comment
plugin = tuntap
tuntap-router = emperor0 /run/tuntap.socket
tuntap-router-routes = 127.0.0.1:1790 /etc/uwsgi/bird.password
env = DATABASE_PASSWORD=s3cret-env
anything = s3cret-variable
hook-as-root = exec:curl -u s3cret-hook
emperor = amqp://guest:s3cret-url@localhost
s3cret-line
";

const LOG: &str = "\
*** Starting uWSGI 2.0.28 ***
[tuntap-router] emperor0: peer 10.137.0.2 joined (pid 7, uid 20001)
GET /login?who=s3cret-application
{\"event\":\"login\",\"who\":\"s3cret-application\"}
{\"time\":1.5,\"level\":\"info\",\"event\":\"peer-left\",\"source\":\"tuntap-router\",\"text\":\"peer 10.137.0.3 left\"}
[tuntap-router] emperor0: connect to amqp://guest:s3cret-url@localhost failed
[uwsgi-tuntap] uwsgi0: token=s3cret-else
";

/// A router with all answers, in which secrets stand, too.
fn router() -> Router {
    Router::new(|request| {
        let answer = match request["verb"].as_str().expect("a verb") {
            "statistics" => json!(Snapshot {
                device: "../emperor0\u{1b}".to_owned(),
                pid: i32::try_from(std::process::id()).expect("a pid"),
                cwd: "/srv/s3cret-env".to_owned(),
                ..Snapshot::default()
            }),
            "status" => json!(status()),
            "rules-list" => json!(RuleList { generation: 7, groups: vec![] }),
            "routes" => json!(Routes::default()),
            "script-status" => {
                json!(ScriptStatus {
                    last_failure: Some("password: s3cret-else".to_owned()),
                    ..ScriptStatus::default()
                })
            }
            "log" => {
                let action = "commit: rule-add".to_owned();
                json!(Log {
                    entries: vec![LogEntry { time: 1, uid: 0, pid: 1, action, generation: None, error: None }]
                })
            }
            "save" => {
                let text = "chain out\ndeny any 192.0.2.0/24\n-----BEGIN PRIVATE KEY-----\ns3cret-key\n".to_owned();
                json!(Saved { text, file: None, generation: 7 })
            }
            other => panic!("{other}"),
        };
        ok(request, &answer)
    })
}

/// A uWSGI that knows its version, and says what the doctor would.
fn uwsgi(router: &Router) -> String {
    let path = router.folder().join("uwsgi");
    let script = "#!/bin/sh\ncase $1 in --version) echo 2.0.28;; *) echo \"WRONG s3cret-env $*\"; exit 1;; esac\n";
    install(&path, content(script));
    path.to_str().expect("UTF-8").to_owned()
}

/// The files of an archive by name, without the folder that they are in.
fn files(archive: &[u8]) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let mut files = BTreeMap::new();
    for entry in tar.entries().expect("a tar archive") {
        let mut entry = entry.expect("an entry");
        assert_eq!((entry.header().mode().expect("a mode"), entry.header().entry_type().is_file()), (0o600, true));
        let path = entry.path().expect("a path").into_owned();
        let (folder, name) = path.to_str().and_then(|path| path.split_once('/')).expect("in a folder");
        assert!(folder.starts_with("uwsgi-tuntap-support-2"), "{folder}");
        assert!(!name.starts_with('/') && !name.contains("../"), "{name}");
        let name = name.to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("UTF-8");
        assert!(files.insert(name, text).is_none(), "two of a name");
    }
    files
}

#[test]
fn archive_has_everything_but_secrets() {
    let router = router();
    let (ini, log, uwsgi) = (router.file("emperor.ini", INI), router.file("uwsgi.log", LOG), uwsgi(&router));
    let path = router.folder().join("support.tar.gz");
    let output = path.to_str().expect("UTF-8");
    let arguments = ["support", &ini, "--log", &log, "--uwsgi", &uwsgi, "--plugins-dir", "/nowhere", "-o", output];
    let shown = router.shows(&arguments);
    assert_eq!(fs::metadata(&path).expect("the archive").permissions().mode() & 0o7777, 0o600);
    let files = files(&fs::read(&path).expect("the archive"));

    for (name, text) in &files {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    assert!(SECRETS.iter().all(|secret| !shown.contains(secret)), "{shown}");
    let folder = "routers/0-_emperor0_";
    let has = |name: &str, wanted: &[&str]| {
        let text = files.get(name).unwrap_or_else(|| panic!("{name} is missing among {:?}", files.keys()));
        wanted.iter().for_each(|wanted| assert!(text.contains(wanted), "{wanted:?} is missing in {name}:\n{text}"));
    };
    has("CONTENTS.txt", &["Read it before you pass it on", "kernel.txt", "doctor.txt"]);
    has("versions.txt", &[concat!("uwsgi-tuntap ", env!("CARGO_PKG_VERSION")), "kernel Linux ", "uWSGI 2.0.28"]);
    has("kernel.txt", &["/dev/net/tun: ", "net.ipv4.ip_forward = ", "modules: "]);
    has("interfaces.txt", &["lo:"]);
    has(
        "config/000-emperor.ini",
        &["\ntuntap-router = emperor0 /run/tuntap.socket\n", "bird.password", "\nenv = (left out)\n"],
    );
    has(
        "doctor.txt",
        &["WRONG (left out) --plugins-dir /nowhere --plugin tuntap --tuntap-doctor ", "ended with Some(1)"],
    );
    has(
        "logs/000-uwsgi.log",
        &["peer 10.137.0.2 joined", "peer 10.137.0.3 left", "*** Starting uWSGI", "amqp://(left out)"],
    );
    assert!(!files["logs/000-uwsgi.log"].contains("login"));
    for (name, wanted) in [
        ("statistics.json", "\"drops\""),
        ("status.json", "\"generation\": 7"),
        ("rules.json", "\"groups\""),
        ("routes.json", "{"),
        ("script.json", "(left out)"),
        ("log.json", "commit: rule-add"),
        ("policy.rules", "deny any 192.0.2.0/24\n(left out)\n"),
        ("router-process.txt", "Seccomp:"),
        ("master-process.txt", "Max open files"),
    ] {
        has(&format!("{folder}/{name}"), &[wanted]);
        assert!(!name.ends_with("json") || serde_json::from_str::<Value>(&files[&format!("{folder}/{name}")]).is_ok());
    }
    // What is told is what is in it.
    for name in files.keys().filter(|name| *name != "CONTENTS.txt") {
        assert!(shown.contains(name.as_str()) && files["CONTENTS.txt"].contains(name.as_str()), "{name}: {shown}");
    }
    assert!(shown.ends_with(&format!("{output} has all of this\n")), "{shown}");
}

#[test]
fn archive_is_new_and_its_owners_alone() {
    let router = router();
    let uwsgi = uwsgi(&router);
    let path = |name: &str| router.folder().join(name).to_str().expect("UTF-8").to_owned();
    let victim = router.file("victim", "unharmed");
    symlink(&victim, path("link.tar.gz")).expect("own folder");
    for (output, wanted) in [("victim", "File exists"), ("link.tar.gz", "File exists"), ("none/x", "No such file")] {
        let error = router.fails(5, &["support", "--uwsgi", &uwsgi, "-o", &path(output)]);
        assert!(error.contains(wanted), "{output}: {error}");
    }
    assert_eq!(fs::read_to_string(&victim).expect("own file"), "unharmed");

    // A name by the time, in the present folder, and with any umask.
    let mut shell = Command::new("sh");
    let line = format!(
        "umask 0; cd {}; exec {} support --uwsgi {uwsgi}",
        path("."),
        command().get_program().to_str().expect("UTF-8")
    );
    let output = shell.args(["-c", &line]).env("UWSGI_TUNTAP_CONTROL", &router.socket).output().expect("sh");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let entries = fs::read_dir(router.folder()).expect("own folder").map(|entry| entry.expect("an entry"));
    let is_archive =
        |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|it| it.starts_with("uwsgi-tuntap-support-"));
    let archives: Vec<fs::DirEntry> = entries.filter(is_archive).collect();
    assert_eq!(archives.len(), 1);
    assert_eq!(archives[0].metadata().expect("a file").permissions().mode() & 0o7777, 0o600);

    let output = router.run(&["support", "--uwsgi", &uwsgi, "-o", "-"]);
    assert!(files(&output.stdout).contains_key("versions.txt"));
    let told = text(&output.stderr);
    assert!(told.contains("versions.txt"));
}

/// Who makes a report needn't know where the instance logs to: it has the file open.
#[test]
fn log_that_the_instance_writes_to_is_found() {
    let router = router();
    let path = router.file("emperor.log", LOG);
    let _held = fs::OpenOptions::new().append(true).open(&path).expect("own file");
    let _other =
        fs::OpenOptions::new().append(true).open(router.file("access.log", "GET / => 200\n")).expect("own file");
    let log = |arguments: &[&str]| {
        let output = router.run(&[&["support", "--uwsgi", "true", "-o", "-"], arguments].concat());
        let files = files(&output.stdout);
        let found = files.iter().find(|(name, _)| name.starts_with("logs/") && name.ends_with("-emperor.log"));
        (found.map(|(_, text)| text.clone()), files["CONTENTS.txt"].clone())
    };
    let (found, contents) = log(&[]);
    let found = found.expect("it is found");
    assert!(found.contains("peer 10.137.0.2 joined") && !found.contains("s3cret-application"), "{found}");
    assert!(contents.contains("access.log: no line of it is about the plugin"), "{contents}");
    // Whoever names one gets no other.
    let named = router.file("named.log", LOG);
    assert_eq!(log(&["--log", &named]).0, None);
}

#[test]
fn journal_is_asked_for_the_unit() {
    let router = router();
    let program = router.folder().join("journalctl");
    let line = "2026-11-26T08:14:43+0000 host uwsgi[1]: ";
    let script = format!("#!/bin/sh\necho \"{line}[tuntap-router] $*\"\necho \"{line}GET /?s3cret-application\"\n");
    install(&program, content(&script));
    let path = format!("{}:{}", router.folder().display(), std::env::var("PATH").expect("a path"));
    let arguments = ["support", "--journal", "uwsgi@a.service", "--journal=-x", "--uwsgi", "true", "-o", "-"];
    let output = command().args(arguments).env("UWSGI_TUNTAP_CONTROL", &router.socket).env("PATH", path).output();
    let output = output.expect("the command starts");
    let files = files(&output.stdout);
    let log = &files["logs/000-journal-uwsgi_a.service"];
    assert!(
        log.starts_with(&format!("{line}[tuntap-router] --quiet ")) && log.ends_with(" --unit=uwsgi@a.service\n"),
        "{log}"
    );
    // No name is an option.
    assert!(files["logs/001-journal--x"].ends_with(" --unit=-x\n"), "{files:#?}");
    assert!(files.values().all(|text| !text.contains("s3cret-application")), "{files:#?}");
}

/// Vassals' logs have one name in folders of their own, and units may differ in what a file's name can't have.
#[test]
fn logs_of_one_name_are_all_there() {
    let router = router();
    let mut arguments = vec!["support".to_owned(), "--uwsgi=true".to_owned(), "--output=-".to_owned()];
    for name in ["one", "two"] {
        let folder = router.folder().join(name);
        fs::create_dir(&folder).expect("own folder");
        fs::write(folder.join("uwsgi.log"), format!("[uwsgi-tuntap] line of {name}\n")).expect("own folder");
        arguments.push(format!("--log={}", folder.join("uwsgi.log").display()));
    }
    let other = router.file("other.log", "GET / => 200\n");
    arguments.push(format!("--log={other}"));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let files = files(&router.run(&arguments).stdout);
    // Whoever has named the wrong one is told.
    let told = format!("last lines about the plugin in {other}: no line of it is about the plugin");
    assert!(files["CONTENTS.txt"].contains(&told), "{}", files["CONTENTS.txt"]);
    for (number, name) in ["one", "two"].into_iter().enumerate() {
        assert_eq!(files[&format!("logs/00{number}-uwsgi.log")], format!("[uwsgi-tuntap] line of {name}\n"));
    }
}

/// What a vassal's user may change leads nowhere, and isn't executed.
#[test]
fn nothing_that_a_vassal_controls_is_followed() {
    const VASSAL: u32 = 30_001;
    let router = router();
    let uwsgi = uwsgi(&router);
    let shadow = router.file("shadow", "root:s3cret");
    let folder = router.folder().join("vassal");
    fs::create_dir(&folder).expect("own folder");
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    symlink(&shadow, path("link.ini")).expect("own folder");
    symlink(&shadow, path("link.log")).expect("own folder");
    fs::write(path("own.ini"), "[uwsgi]\ntuntap-device = uwsgi0 /run/tuntap.socket\n").expect("own folder");
    nix::unistd::mkfifo(Path::new(&path("fifo.ini")), nix::sys::stat::Mode::S_IRWXU).expect("own folder");
    for name in ["own.ini", "fifo.ini", "."] {
        chown(path(name), Some(VASSAL), None).expect("needs root");
    }
    let (link, own, fifo, log) = (path("link.ini"), path("own.ini"), path("fifo.ini"), path("link.log"));
    let output = router.run(&["support", &link, &own, &fifo, "--log", &log, "--uwsgi", &uwsgi, "-o", "-"]);
    let files = files(&output.stdout);
    assert!(files.values().all(|text| !text.contains("root:")), "{files:#?}");
    assert!(files["config/001-own.ini"].contains("tuntap-device = uwsgi0"), "{files:#?}");
    let contents = &files["CONTENTS.txt"];
    for wanted in [
        format!("  {link}: \"link.ini\" is a symbolic link that uid {VASSAL} may have made"),
        format!("in {log}: \"link.log\" is a symbolic link"),
        format!("  {fifo}: it is no regular file"),
        format!("  doctor's view of {own}: somebody else may change the file"),
        "  what the doctor says: there is no ini file to examine".to_owned(),
    ] {
        assert!(contents.contains(&wanted), "{wanted}:\n{contents}");
    }
    assert!(!files.contains_key("doctor.txt"));
}

#[test]
fn what_is_missing_is_told_and_nothing_waits_for_ever() {
    // A router that never answers, a program that never ends, and a log that never ends.
    let silent = Router::new(|_| {
        std::thread::park();
        Vec::new()
    });
    let uwsgi = silent.folder().join("uwsgi");
    install(&uwsgi, content("#!/bin/sh\nsleep 1000\n"));
    let ini = silent.file("emperor.ini", "[uwsgi]\n");
    let log = silent.file("log", &"[tuntap-router] emperor0: a line\n".repeat(1 << 19));
    let uwsgi = uwsgi.to_str().expect("UTF-8");
    let arguments =
        ["--timeout", "1", "support", &ini, "--log", &log, "--uwsgi", uwsgi, "--plugins-dir", "/x", "-o", "-"];
    let output = silent.run(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let files = files(&output.stdout);
    let contents = &files["CONTENTS.txt"];
    for wanted in ["no complete answer within 1 s", "what the doctor says: ", "it didn't end within 1 s"] {
        assert!(contents.contains(wanted), "{wanted}:\n{contents}");
    }
    assert!(files["versions.txt"].contains("it didn't end within 1 s"));
    assert_eq!(files["logs/000-log"].lines().count(), 2000);

    let nowhere =
        command().args(["support", "--control", "/nowhere/x.control", "-o", "-"]).output().expect("it starts");
    let told = text(&nowhere.stderr);
    assert!(told.contains("can't connect"), "{told}");
    // Whoever reads it would miss the log most.
    let wanted = "last lines of logs: name the log with --log, or a unit of systemd with --journal";
    assert!(told.contains(wanted), "{told}");
    assert_eq!(fails(&command().args(["support", "--json"]).output().expect("it starts"), 2).lines().count(), 5);
}
