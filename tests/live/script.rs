//! Scripts in a running router.

use tuntap_api::control::{Chain, Changed, Code, FlowFilter, Killed, Request, ScriptStatus};

use crate::common::emperor::{EMPEROR, EmperorIni, V1};
use crate::common::link::Connection;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::wait;
use crate::world::{Control, EMPEROR_6, V1_6, add, assert_connects, commit, connects, emperor, vassal};

const PORTS: &str = "function policy(flow) if flow.dst_port == 7040 then return 'deny' end return 'allow' end";

fn with_script(ini: EmperorIni, text: &str) -> EmperorIni {
    ini.before(&format!("printf '%s' \"{text}\" > {{dir}}/policy.luau"))
        .line("tuntap-router-script = {dir}/policy.luau")
}

fn load(text: &str) -> Request {
    Request::ScriptLoad { text: text.to_owned() }
}

#[test]
fn script_decides_about_new_flows_and_outlives_its_router() {
    let emperor = with_script(emperor(), PORTS).start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let check = |what: &str| {
        for (to, target, from) in [
            (&*emperor.netns, std::net::IpAddr::from(EMPEROR), &net),
            (&*emperor.netns, EMPEROR_6.into(), &net),
            (&net, V1.into(), &*emperor.netns),
            (&net, V1_6.into(), &*emperor.netns),
        ] {
            assert!(!connects(from, to, target, 7040), "{what}: {target}");
            assert_connects(from, to, target, 7041);
        }
    };
    check("at first");
    emperor.kill_router();
    check("after a death");
    let mut control = Control::open(&emperor);
    let status: ScriptStatus = control.ask(&Request::ScriptStatus {});
    assert!(status.is_loaded && status.calls > 0 && status.failures == 0, "{status:?}");
    assert!(emperor.stats().drops("script") > 0);
}

/// The script is asked once for a flow, and again after another one was loaded.
#[test]
fn script_is_loaded_while_streams_run() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut stream = Connection::open(&net, &emperor.netns, EMPEROR);
    stream.assert_passes();
    let mut control = Control::open(&emperor);
    let status: ScriptStatus = control.ask(&load("function policy(flow) return nil end"));
    assert!(status.is_loaded && status.digest.is_some());
    stream.assert_passes();
    let calls = |control: &mut Control| control.ask::<ScriptStatus>(&Request::ScriptStatus {}).calls;
    let before = calls(&mut control);
    for _ in 0..10 {
        stream.assert_passes();
    }
    assert_eq!(calls(&mut control), before, "the stream is known");
    let _: ScriptStatus = control.ask(&load("function policy(flow) return 'deny' end"));
    assert!(is_cut_off(&net, EMPEROR) && is_cut_off(&emperor.netns, V1_6));
    let _: ScriptStatus = control.ask(&load(""));
    assert!(is_reachable(&net, EMPEROR));
    stream.assert_passes();
}

/// What doesn't load, or fails its own test, changes nothing.
#[test]
fn script_that_is_wrong_is_refused() {
    let emperor = with_script(emperor(), PORTS).start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    for (text, named) in [
        ("function policy(flow) return return end", "live script:1:"),
        ("local x = 1", "policy"),
        ("function policy() end function selftest() error('not today') end", "not today"),
        ("function policy() end function selftest() while true do end end", "too long"),
        ("while true do end", "too long"),
    ] {
        for request in [load(text), Request::ScriptCheck { text: text.to_owned() }] {
            let failure = control.try_ask::<ScriptStatus>(&request).expect_err(text);
            assert_eq!(failure.code, Code::Invalid, "{failure:?}");
            assert!(failure.message.contains(named), "{text}: {failure:?}");
        }
    }
    assert!(!connects(&net, &emperor.netns, EMPEROR, 7040), "the script before still decides");
    assert_connects(&net, &emperor.netns, EMPEROR, 7042);
}

/// A script that can't be stopped, throws, eats memory or returns nonsense costs the flows that it is asked about, and nothing
/// else.
#[test]
fn script_that_fails_denies_its_flows_and_goes_back() {
    let emperor = with_script(emperor(), PORTS).start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut stream = Connection::open(&net, &emperor.netns, EMPEROR);
    let router = emperor.router_pid();
    let mut control = Control::open(&emperor);
    for body in [
        "while true do end",
        "pcall(function() while true do end end) return 'allow'",
        "error({})",
        "local t = {} while true do t[#t + 1] = string.rep('x', 1000) end",
        "return 42",
        "return 'allow', 'soon'",
        "return string.find(string.rep('a', 30), string.rep('a?', 30) .. string.rep('a', 30) .. 'b') and 'allow'",
    ] {
        // Only flows to one port fail, so that the stream lives.
        let text = format!("function policy(flow) if flow.dst_port ~= 7043 then return nil end {body} end");
        let status: ScriptStatus = control.ask(&load(&text));
        assert!(status.is_loaded, "{body}");
        let before = status.failures;
        assert!(!connects(&net, &emperor.netns, EMPEROR, 7043), "{body}");
        stream.assert_passes();
        let status: ScriptStatus = control.ask(&Request::ScriptStatus {});
        let is_plain_refusal = body.contains("find");
        assert!(status.failures > before || is_plain_refusal, "{body}: {status:?}");
        assert!(status.last_failure.is_some() || is_plain_refusal, "{body}");
    }
    assert_eq!(emperor.router_pid(), router, "the router lived through all of it");
    // Enough failures in a row bring back the script before.
    let text = "function policy(flow) if flow.protocol == 'tcp' then error('broken') end end";
    let _: ScriptStatus = control.ask(&load(PORTS));
    let status: ScriptStatus = control.ask(&load(text));
    let reverts = status.reverts;
    wait::until_true("the script before is back", wait::LONG, || {
        let _ = connects(&net, &emperor.netns, EMPEROR, 7044);
        control.ask::<ScriptStatus>(&Request::ScriptStatus {}).reverts > reverts
    });
    assert_connects(&net, &emperor.netns, EMPEROR, 7045);
    assert!(!connects(&net, &emperor.netns, EMPEROR, 7040));
}

/// A script only narrows what the rules let pass.
#[test]
fn script_opens_nothing() {
    let emperor = with_script(emperor(), "function policy(flow) return 'allow' end").start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let mut control = Control::open(&emperor);
    control.add(Chain::Out, "deny any any tcp 7046");
    assert!(!connects(&net, &emperor.netns, EMPEROR, 7046));
    let _: Killed = control
        .ask(&Request::FlowsKill { filter: FlowFilter { protocol: Some("tcp".to_owned()), ..FlowFilter::default() } });
    assert!(!connects(&net, &emperor.netns, EMPEROR, 7046));
    let _: Changed = control.ask(&commit(&[add(Chain::Out, "deny any 192.0.2.1")]));
    assert_connects(&net, &emperor.netns, EMPEROR, 7047);
}

#[test]
fn script_that_does_not_load_stops_the_start() {
    let mut emperor = with_script(emperor(), "function policy(flow) retur end").launch();
    emperor.log.wait_for("policy.luau", wait::LONG);
    emperor.wait_for_exit();
}

/// A reload with a script that can't be used goes on with the one before.
#[test]
fn wrong_script_at_a_reload_leaves_the_one_in_use() {
    let emperor = with_script(emperor(), PORTS).start();
    emperor.start_attached(&vassal("v1", V1, V1_6));
    std::fs::write(emperor.path("policy.luau"), "function policy(").expect("own file");
    let mark = emperor.log.mark();
    emperor.signal(nix::sys::signal::Signal::SIGHUP);
    emperor.wait_until_ready(mark, "v1");
    emperor.log.wait_for("in use before the reload stay", wait::LONG);
    let net = emperor.vassal_net("v1");
    assert!(!connects(&net, &emperor.netns, EMPEROR, 7040));
    assert_connects(&net, &emperor.netns, EMPEROR, 7041);
}
