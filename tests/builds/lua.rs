//! Our scripts beside uWSGI's own Lua plugin, in one process: their Luas have functions of the same names.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::common::http;
use crate::common::netns::Netns;
use crate::common::starter::{self, Starter};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::embedded::{by_path, make};
use crate::repository::run;
use crate::sources::sources;

/// What uWSGI's plugin runs. It has what Luau doesn't: `loadstring`.
const APPLICATION: &str = r#"return function()
    local works, text = pcall(function() error("caught") end)
    local answer = loadstring("return 'answer of ' .. ...")(_VERSION) .. tostring(works)
    return 200, {}, coroutine.wrap(function() coroutine.yield(answer .. text:match("caught")) end)
end
"#;

/// What the router runs. It has what Lua 5.1 doesn't: an interpolated string.
const SCRIPT: &str = r#"
function policy() end
function selftest()
    local works, text = pcall(function() error("caught") end)
    return `{works}` == "false" and string.find(text, "caught") ~= nil
end
"#;

/// Starts an instance with a router that has a script, and an application in Lua.
#[track_caller]
fn assert_both_run(uwsgi: &Path, plugins: &str) {
    let directory = starter::folder();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("own folder");
        path
    };
    let (application, script) = (write("app.lua", APPLICATION), write("script.luau", SCRIPT));
    let ini = format!(
        "[uwsgi]\n{plugins}master = true\nhttp-socket = 127.0.0.1:8080\nhttp-socket-modifier1 = 6\nlua = {}\n\
         tuntap-router = emperor0 {}/t.sock\ntuntap-router-script = {}\n",
        application.display(),
        directory.path().display(),
        script.display(),
    );
    let ini = write("both.ini", &ini);
    let netns = Netns::new();
    netns.sh("ip link set lo up");
    let instance = Starter::program(uwsgi, directory.path()).netns(&netns).ini(&ini).start();
    instance.log.wait_for("script.luau passes its test", wait::LONG);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let response = wait::until("an answer", wait::LONG, || http::get(&netns, address).ok());
    assert!(response.ends_with("answer of Lua 5.1falsecaught"), "{response}");
}

/// uWSGI loads plugins with RTLD_GLOBAL, so that those loaded first have the symbols of all.
#[test]
fn scripts_and_the_lua_plugin_run_side_by_side() {
    if Uwsgi::usual() != Uwsgi::Distribution {
        return;
    }
    let ours = Uwsgi::Distribution.plugin(Subject::Ours);
    let folder = ours.parent().expect("a file is in a folder").display();
    for plugins in ["plugin = tuntap\nplugin = lua51\n", "plugin = lua51\nplugin = tuntap\n"] {
        assert_both_run(&Uwsgi::Distribution.binary(), &format!("plugins-dir = {folder}\n{plugins}"));
    }
}

#[test]
fn binary_with_both_inside_runs_both() {
    let directory = tempfile::tempdir().expect("a folder for uWSGI");
    let mut embed = by_path();
    embed.push(",lua");
    assert_both_run(&make(&sources(directory.path()), &embed), "");
}

#[test]
fn plugin_shows_its_table_only() {
    let plugin = Uwsgi::usual().plugin(Subject::Ours);
    let symbols = run(Command::new("nm").args(["--dynamic", "--defined-only", "--format=just-symbols"]).arg(&plugin));
    assert_eq!(symbols.trim(), "tuntap_plugin");
    let libraries = run(Command::new("objdump").arg("--private-headers").arg(&plugin));
    assert!(libraries.contains("libc.so"), "{libraries}");
    assert!(!libraries.contains("libstdc++"), "the C++ library is inside: {libraries}");
}
