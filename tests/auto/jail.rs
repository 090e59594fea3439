//! Jails in which there is nothing that could configure a network, and resolv.conf in them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::Uwsgi;
use crate::common::{http, wait};
use crate::world::{EMPEROR_V6, HOST, OUTSIDE, Vassal, emperor, emperor_on, host_and_outside, pings, v4, v6, with_v6};

const DNS: &str = "tuntap-router-dns = 192.0.2.53";
const WRITTEN: &str = "nameserver 192.0.2.53\n";

/// A folder that becomes a vassal's root.
fn jail(emperor: &Emperor) -> std::path::PathBuf {
    let jail = emperor.path("jail");
    fs::create_dir_all(jail.join("etc")).expect("own folder");
    jail
}

/// An Emperor whose vassals may have an empty root directory. A uWSGI with Python inside starts Python behind the chroot,
/// also without an application, and ends if Python's library isn't there.
fn emperor_without_python() -> EmperorIni {
    emperor_on(Uwsgi::Distribution)
}

/// An Emperor between its vassals and the world.
fn emperor_of_the_world(ini: EmperorIni, host: Netns) -> Emperor {
    with_v6(ini).line(DNS).line("tuntap-router-nat = veth0").line("emperor-use-clone = net,fs").start_in(host)
}

/// Hides all programs from the vassal, before uWSGI calls any plugin.
fn without_programs(vassal: Vassal) -> Vassal {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/games", "/usr/sbin", "/usr/libexec"];
    let covers: Vec<_> =
        folders.iter().map(|folder| format!("{{ test ! -d {folder} || mount -t tmpfs none {folder}; }}")).collect();
    // The last folder has mount(8) itself. /bin and /sbin are links into it.
    vassal.line(format!(
        "exec-pre-jail = mount --make-rprivate / && {} && mount -t tmpfs none /usr/bin",
        covers.join(" && ")
    ))
}

/// Answers connections to a port of the outside host with the address that they come from, until the test's process ends.
fn serve_outside(outside: &Netns, address: &str) {
    let address: IpAddr = address.parse().expect("an address");
    let listener = outside.run(|| TcpListener::bind((address, 80))).expect("the outside host's address");
    std::thread::spawn(move || {
        while let Ok((mut client, from)) = listener.accept() {
            let _ = client.write_all(from.ip().to_string().as_bytes());
        }
    });
}

/// The address from which a process of this namespace comes, as the outside host sees it.
fn seen_from_outside(net: &Net, address: &str) -> std::io::Result<String> {
    let address: IpAddr = address.parse().expect("an address");
    let mut stream = net.run(|| TcpStream::connect_timeout(&(address, 80).into(), wait::SHORT))?;
    stream.set_read_timeout(Some(wait::SHORT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Fails if the vassal could run any program.
#[track_caller]
fn assert_nothing_can_be_run(emperor: &Emperor) {
    let mark = emperor.log.mark();
    without_programs(Vassal::auto(emperor, "control")).line("exec-in-jail = true").add(emperor);
    emperor.log.wait_for_since(mark, "running \"true\" (in-jail)", wait::LONG);
    emperor.log.wait_for_since(mark, "execvp(): No such file or directory", wait::LONG);
    assert!(!emperor.log.since(mark).contains("vassal control.ini is ready"));
}

/// Neither in the jail nor outside of it is there a program that could have configured anything.
#[test]
fn empty_chroot_has_a_network() {
    let (host, outside) = host_and_outside();
    let emperor = emperor_of_the_world(emperor_without_python(), host);
    let jail = jail(&emperor);
    let vassal = Vassal::auto(&emperor, "app").line("chroot = {dir}/jail").line("tuntap-device-dns = true");
    let net = without_programs(vassal).start(&emperor);
    assert!(pings(&net, EMPEROR) && pings(&emperor.netns, v4(&net)));
    assert!(pings(&net, EMPEROR_V6) && pings(&emperor.netns, v6(&net)));
    for (there, here) in OUTSIDE.into_iter().zip(HOST) {
        serve_outside(&outside, there);
        assert_eq!(seen_from_outside(&net, there).expect("a way outside"), here);
    }
    assert_nothing_can_be_run(&emperor);
    let pid = emperor.vassal_pid("app").expect("it runs");
    let identity = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).expect("own folder");
    assert_eq!(identity(Path::new(&format!("/proc/{pid}/root"))), identity(&jail));
    let found: Vec<_> = fs::read_dir(&jail).expect("own folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(found, ["etc"], "nothing that could be executed");
    let text = fs::read_to_string(jail.join("etc/resolv.conf")).expect("it was written");
    assert!(text.ends_with(WRITTEN), "{text}");
}

#[test]
fn servers_of_both_families_are_written() {
    let emperor = emperor_without_python().line(DNS).line("tuntap-router-dns = fd00:53::53").start();
    let jail = jail(&emperor);
    Vassal::auto(&emperor, "app").line("chroot = {dir}/jail").line("tuntap-device-dns = true").start(&emperor);
    let text = fs::read_to_string(jail.join("etc/resolv.conf")).expect("it was written");
    assert!(text.ends_with(&format!("{WRITTEN}nameserver fd00:53::53\n")), "{text}");
}

/// What a uWSGI with Python inside needs in its jail, and no more.
#[test]
fn chroot_with_pythons_library_has_an_application() {
    let emperor = emperor_on(Uwsgi::Pypi).line("emperor-use-clone = net,fs").start();
    let jail = jail(&emperor);
    // The library of the interpreter that this uWSGI was built with.
    let asked =
        Command::new("/usr/bin/python3").args(["-c", "import os; print(os.path.dirname(os.__file__))"]).output();
    let library = String::from_utf8(asked.expect("Python can be started").stdout).expect("a path");
    let library = library.trim();
    let inside = jail.join(library.strip_prefix('/').expect("an absolute path"));
    fs::create_dir_all(&inside).expect("own folder");
    let app =
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'from the jail']\n";
    fs::write(jail.join("app.py"), app).expect("own folder");
    let vassal = Vassal::auto(&emperor, "app")
        .line(format!("exec-pre-jail = mount --make-rprivate / && mount --bind {library} {}", inside.display()))
        .line("chroot = {dir}/jail")
        .line("http-socket = :8080")
        .line("chdir = /")
        .line("wsgi-file = /app.py");
    let net = vassal.start(&emperor);
    let response = http::get(&emperor.netns, (v4(&net), 8080)).expect("an answer");
    assert!(response.ends_with("from the jail"), "{response}");
}

/// The application itself, in a vassal that never had a program, asks outside hosts of both families who it is.
#[test]
fn application_without_programs_reaches_the_world() {
    let (host, outside) = host_and_outside();
    let emperor = emperor_of_the_world(emperor(), host);
    let app = format!(
        "import socket\n\
         def application(environ, start_response):\n\
         \x20   seen = []\n\
         \x20   for address in {OUTSIDE:?}:\n\
         \x20       with socket.create_connection((address, 80), 5) as connection:\n\
         \x20           seen.append(connection.recv(100).decode())\n\
         \x20   start_response('200 OK', [])\n\
         \x20   return [' '.join(seen).encode()]\n"
    );
    fs::write(emperor.path("app.py"), app).expect("own folder");
    OUTSIDE.iter().for_each(|address| serve_outside(&outside, address));
    let vassal = Vassal::auto(&emperor, "app")
        .line(emperor.uwsgi.python_line().trim_end())
        .line("http-socket = :8080")
        .line("wsgi-file = {dir}/app.py");
    let net = without_programs(vassal).start(&emperor);
    let response = http::get(&emperor.netns, (v4(&net), 8080)).expect("an answer");
    assert!(response.ends_with(&HOST.join(" ")), "{response}");
    assert_nothing_can_be_run(&emperor);
}

/// The Emperor starts the vassal in a mount namespace, and uWSGI moves it to a root of its own.
#[test]
fn root_of_its_own_has_a_network() {
    let emperor = emperor().line(DNS).line("emperor-use-clone = net,fs").start();
    let jail = jail(&emperor);
    fs::create_dir(jail.join("old")).expect("own folder");
    let vassal = Vassal::auto(&emperor, "app")
        .line("exec-post-jail = mount --make-rprivate /")
        .line("exec-post-jail = mount --bind {dir}/jail {dir}/jail")
        .line("pivot_root = {dir}/jail {dir}/jail/old")
        .line("hook-as-root = umount:/old detach")
        .line("tuntap-device-dns = uwsgi0 /etc/resolv.conf");
    vassal.add(&emperor);
    wait::until_true("it has written the file", wait::LONG, || {
        fs::read_to_string(jail.join("etc/resolv.conf")).is_ok_and(|text| text.ends_with(WRITTEN))
    });
    let net = emperor.vassal_net("app");
    wait::until_true("it has a network", wait::LONG, || pings(&net, EMPEROR));
}

/// Each worker has a jail of its own to complete, and all of them write the same file.
#[test]
fn workers_that_keep_their_privileges_write_one_file() {
    let emperor = emperor().line(DNS).start();
    let jail = jail(&emperor);
    let vassal = Vassal::auto(&emperor, "app")
        .line("master-as-root = true")
        .line("processes = 4")
        .line("chroot = {dir}/jail")
        .line("tuntap-device-dns = true");
    vassal.add(&emperor);
    wait::until_true("the vassal has a network", wait::LONG, || {
        let net = emperor.vassal_pid("app").and_then(|pid| Net::of_process(pid).ok());
        net.is_some_and(|net| net.has_device("uwsgi0") && pings(&net, EMPEROR))
    });
    wait::until_true("all workers are there", wait::LONG, || emperor.log.text().contains("spawned uWSGI worker 4"));
    wait::until_true("the file is written", wait::SHORT, || {
        fs::read_to_string(jail.join("etc/resolv.conf")).is_ok_and(|text| text.ends_with(WRITTEN))
    });
    let names = || fs::read_dir(jail.join("etc")).expect("own folder").flatten().map(|entry| entry.file_name());
    wait::until_true("no draft is left", wait::SHORT, || names().collect::<Vec<_>>() == ["resolv.conf"]);
    assert!(!emperor.log.text().contains("tuntap-device-dns: "), "nobody failed");
}

/// An Emperor whose /etc is a copy of the machine's, so that a failure harms nobody.
fn emperor_with_etc() -> EmperorIni {
    let steps = [
        "cp -a /etc {dir}/etc",
        "rm -f {dir}/etc/resolv.conf",
        "cp {dir}/mine {dir}/etc/resolv.conf",
        "mount --bind {dir}/etc /etc",
    ];
    emperor().line(DNS).line(format!("exec-asap = echo host >{{dir}}/mine && {}", steps.join(" && ")))
}

#[track_caller]
fn assert_host_keeps_its_file(emperor: &Emperor) {
    assert_eq!(fs::read_to_string(emperor.path("etc/resolv.conf")).expect("there"), "host\n");
    let names = fs::read_dir(emperor.path("etc")).expect("own folder").flatten().map(|entry| entry.file_name());
    let drafts = names.filter(|name| name.to_string_lossy().contains("tuntap"));
    assert_eq!(drafts.count(), 0, "no draft either");
}

#[test]
fn hosts_own_file_is_refused() {
    let emperor = emperor_with_etc().start();
    Vassal::auto(&emperor, "app").line("tuntap-device-dns").add(&emperor);
    emperor.log.wait_for("/etc/resolv.conf: that is the host's own file, which a vassal must not replace", wait::LONG);
    assert_host_keeps_its_file(&emperor);
    // This is the same folder by another name.
    Vassal::auto(&emperor, "two").line("tuntap-device-dns = {dir}/etc/resolv.conf").add(&emperor);
    let line = emperor.in_dir("{dir}/etc/resolv.conf: that is the host's own file");
    emperor.log.wait_for(&line, wait::LONG);
    assert_host_keeps_its_file(&emperor);
}

/// In a mount namespace of its own the host's folders are still the host's.
#[test]
fn hosts_own_file_is_refused_in_a_copy_of_its_mounts() {
    let emperor = emperor_with_etc().line("emperor-use-clone = net,fs").start();
    Vassal::auto(&emperor, "app").line("tuntap-device-dns = /etc/resolv.conf").add(&emperor);
    emperor.log.wait_for("that is the host's own file", wait::LONG);
    assert_host_keeps_its_file(&emperor);
}

/// A vassal's user may have put links where root is going to write.
#[test]
fn links_are_not_followed() {
    let emperor = emperor_with_etc().start();
    let (home, precious) = (emperor.path("home"), emperor.path("precious"));
    fs::create_dir(&home).expect("own folder");
    fs::write(&precious, "precious").expect("own folder");
    symlink(&precious, home.join("resolv.conf")).expect("own folder");
    let vassal = Vassal::auto(&emperor, "app").line("tuntap-device-dns = {dir}/home/resolv.conf");
    vassal.start(&emperor);
    assert!(fs::read_to_string(home.join("resolv.conf")).expect("there").ends_with(WRITTEN));
    assert_eq!(fs::read_to_string(&precious).expect("there"), "precious");

    symlink("/etc", emperor.path("link")).expect("own folder");
    Vassal::auto(&emperor, "two").line("tuntap-device-dns = {dir}/link/resolv.conf").add(&emperor);
    emperor.log.wait_for("link/resolv.conf: Too many levels of symbolic links", wait::LONG);
}

#[test]
fn router_without_servers_has_nothing_written() {
    let emperor = emperor_without_python().start();
    let jail = jail(&emperor);
    Vassal::auto(&emperor, "app").line("chroot = {dir}/jail").line("tuntap-device-dns").start(&emperor);
    assert!(emperor.log.text().contains("the router names no DNS servers"));
    assert!(!jail.join("etc/resolv.conf").exists());
}
