//! Lines of the log as JSON.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::client::{Client, add};
use crate::common::emperor::{EMPEROR, Emperor, V1};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::emperor;

const JSON: &str = "tuntap-log-format = json";

/// The plugin's lines. What begins like one is one.
fn objects(emperor: &Emperor) -> Vec<Value> {
    let text = emperor.log.text();
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits for a line with this event that has these keys and values, and returns it.
#[track_caller]
fn wait_for(emperor: &Emperor, event: &str, wanted: &Value) -> Value {
    let is_it = |object: &Value| {
        object["event"] == event && wanted.as_object().expect("keys").iter().all(|(key, value)| object[key] == *value)
    };
    wait::until(&format!("{event} {wanted}"), wait::LONG, || objects(emperor).into_iter().find(is_it))
}

#[test]
fn lines_are_objects_with_events() {
    let emperor = emperor().line(JSON).line("tuntap-router-adress\"},{\\ = x").start();
    for (event, wanted) in [
        ("device-made", json!({"level": "info", "source": "tuntap-router", "device": "emperor0"})),
        ("unknown-option", json!({"level": "warning", "source": "tuntap-router"})),
    ] {
        wait_for(&emperor, event, &wanted);
    }
    let listening = wait_for(&emperor, "listening", &json!({"device": "emperor0"}));
    assert!(listening["text"].as_str().is_some_and(|text| text.starts_with("listening on ")), "{listening}");
    assert!(listening["time"].as_f64().is_some_and(|time| time > 1.7e9), "{listening}");

    let vassal = VassalIni::new(Uwsgi::usual(), Subject::Ours, "app", V1, EMPEROR).line(JSON);
    let net = emperor.start_attached(&vassal);
    wait_for(&emperor, "router-joined", &json!({"source": "uwsgi-tuntap", "device": "uwsgi0"}));
    let joined = wait_for(&emperor, "peer-joined", &json!({"device": "emperor0"}));
    let pid = emperor.stats().0["peers"][0]["pid"].clone();
    assert_eq!((&joined["peer"]["address"], &joined["peer"]["pid"]), (&json!(V1), &pid), "{joined}");
    assert!(joined["text"].as_str().is_some_and(|text| text.starts_with("peer 192.168.0.2 joined (pid ")), "{joined}");

    Client::root(&emperor).ok(&add("in", "deny 192.0.2.1 any"));
    wait_for(&emperor, "policy-changed", &json!({"level": "info"}));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(emperor.stats().router_pid()), Signal::SIGKILL).expect("it runs");
    wait_for(&emperor, "peers-restored", &json!({"device": "emperor0"}));
    drop(net);
    std::fs::remove_file(emperor.path("vassals/app.ini")).expect("it is there");
    wait_for(&emperor, "peer-left", &json!({"peer": joined["peer"]}));
    let text = emperor.log.text();
    assert!(!text.contains("[tuntap-router]") && !text.contains("[uwsgi-tuntap]"), "{text}");
}

#[test]
fn start_that_fails_says_so_in_the_same_form() {
    let wrong = emperor().line("tuntap-router-mtu = \"1\"").line(JSON).launch();
    let fatal = wait_for(&wrong, "fatal", &json!({"level": "error", "source": "tuntap-router"}));
    assert!(fatal["text"].as_str().is_some_and(|text| text.contains("tuntap-router-mtu = \"1\": ")), "{fatal}");
    let unknown = emperor().line("tuntap-log-format = xml").launch();
    unknown.log.wait_for("[uwsgi-tuntap] tuntap-log-format = xml: ", wait::LONG);
}

#[test]
fn text_is_the_usual_form() {
    for line in ["", "tuntap-log-format = text"] {
        let emperor = emperor().line(line).start();
        emperor.log.wait_for("[tuntap-router] made the device emperor0\n", wait::LONG);
        assert!(objects(&emperor).is_empty());
    }
}
