//! The rules file.

use nix::sys::signal::Signal;
use tuntap_api::control::{Chain, Request, RuleList, Saved, Status};

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::wait;
use crate::world::{Control, V1_6, emperor, vassal};

const RULES: &str = "\
# Who may reach whom.
set office { 192.168.0.1, fd00:77::1 }
set blocked = {dir}/blocked.txt

group web owner 33
chain in
allow @office any tcp 80-81 new log
deny any @blocked

group mail
chain in
deny any any tcp 25 new rate 10/s counter mail
chain out
deny any any tcp 25
";

/// An Emperor whose rules file has this text, written before it starts.
fn with_file(ini: EmperorIni, rules: &str) -> EmperorIni {
    let rules = rules.replace('\n', "\\n");
    ini.before(&format!("printf '{rules}' > {{dir}}/rules && echo 192.168.0.2 > {{dir}}/blocked.txt"))
        .line("tuntap-router-rules = {dir}/rules")
}

/// Starts a vassal whose IPv4 address is blocked. It claims the address by what it sends.
#[track_caller]
fn start_blocked(emperor: &Emperor) -> Net {
    let net = emperor.start_vassal(&vassal("v1", V1, V1_6).without_ping());
    assert!(is_cut_off(&net, EMPEROR));
    net
}

fn groups(control: &mut Control) -> Vec<(String, Option<u32>, usize)> {
    let list: RuleList = control.ask(&Request::RulesList { chain: None, group: None });
    list.groups.into_iter().map(|group| (group.name, group.owner, group.rules.len())).collect()
}

#[test]
fn file_is_read_at_the_start() {
    let emperor = with_file(emperor(), RULES).line("tuntap-router-firewall-in = allow any any icmp").start();
    let _net = start_blocked(&emperor);
    let mut control = Control::open(&emperor);
    let expected = [("web", Some(33), 2), ("mail", None, 2), ("ini", None, 1)];
    let found = groups(&mut control);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, (name, owner, rules)) in found.iter().zip(expected) {
        assert_eq!((found.0.as_str(), found.1, found.2), (name, owner, rules));
    }
    assert!(is_cut_off(&emperor.netns, V1), "the set that is read from a file");
    let status: Status = control.ask(&Request::Status {});
    assert!(!status.is_changed && status.rules_file.is_some(), "{status:?}");
}

#[test]
fn wrong_file_stops_the_start_and_names_the_line() {
    for (text, named) in [
        ("chain in\ndeny any 10.0.0.300\n", "10.0.0.300"),
        ("chain in\n\nallow any @nobody\n", "nobody"),
        ("chain sideways\n", "sideways"),
    ] {
        let mut emperor = with_file(emperor(), text).launch();
        emperor.log.wait_for(named, wait::LONG);
        emperor.wait_for_exit();
        let line = text.lines().position(|line| line.contains(named)).expect("it is there") + 1;
        assert!(emperor.log.text().contains(&format!("/rules:{line}")), "{}", emperor.log.tail());
    }
}

fn reload(emperor: &Emperor) {
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.wait_until_ready(mark, "v1");
}

/// A reload starts from the options and the file. What was changed and not saved is named in the log.
#[test]
fn reload_says_what_is_lost_and_keeps_what_was_saved() {
    let emperor = with_file(emperor(), RULES).start();
    let _net = start_blocked(&emperor);
    let mut control = Control::open(&emperor);
    let id = control.add(Chain::In, "allow any 192.168.0.2 icmp");
    assert!(is_reachable(&emperor.netns, V1));
    drop(control);
    reload(&emperor);
    emperor.log.wait_for("allow any 192.168.0.2 icmp", wait::LONG);
    assert!(is_cut_off(&emperor.vassal_net("v1"), EMPEROR));

    let mut control = Control::open(&emperor);
    assert!(control.rules().iter().all(|rule| !rule.rule.contains("icmp")), "it is lost, and had the number {id}");
    control.add(Chain::In, "allow any 192.168.0.2 icmp");
    let saved: Saved = control.ask(&Request::Save {});
    let file = saved.file.expect("the rules file");
    std::fs::write(&file, &saved.text).expect("own file");
    drop(control);
    reload(&emperor);
    assert!(is_reachable(&emperor.vassal_net("v1"), EMPEROR), "the saved rule applies");
    let mut control = Control::open(&emperor);
    assert!(control.rules().iter().any(|rule| rule.rule.contains("192.168.0.2 icmp")));
}

/// A typo doesn't cost the vassals their network: the rules stay as they were, those of commands included.
#[test]
fn wrong_file_at_a_reload_leaves_the_rules_in_use() {
    let emperor = with_file(emperor(), RULES).start();
    let _net = start_blocked(&emperor);
    let mut control = Control::open(&emperor);
    control.add(Chain::In, "allow any 192.168.0.2 icmp");
    let before = groups(&mut control);
    drop(control);
    let file = emperor.path("rules");
    std::fs::write(&file, "chain in\ndeny\nalow any any\n").expect("own file");
    reload(&emperor);
    emperor.log.wait_for("/rules:3: ", wait::LONG);
    emperor.log.wait_for("in use before the reload stay", wait::LONG);
    assert!(is_reachable(&emperor.vassal_net("v1"), EMPEROR));
    let mut control = Control::open(&emperor);
    assert_eq!(groups(&mut control), before);
    drop(control);

    // A second one, too: what is kept is not the file.
    std::fs::remove_file(&file).expect("it is there");
    reload(&emperor);
    assert!(is_reachable(&emperor.vassal_net("v1"), EMPEROR));
    std::fs::write(&file, "chain in\ndeny any 192.168.0.2 icmp\nallow\n").expect("own file");
    reload(&emperor);
    assert!(is_cut_off(&emperor.vassal_net("v1"), EMPEROR));
    assert_eq!(groups(&mut Control::open(&emperor)), [("file".to_owned(), None, 2), ("ini".to_owned(), None, 0)]);
}

/// If the options have changed, too, the rules of before may leave open what the file was to forbid. So the router waits until
/// the file is good.
#[test]
fn wrong_file_with_other_options_is_waited_for() {
    const OPTION: &str = "tuntap-router-firewall-in = deny any any tcp 25\n";
    let rules = "chain in\ndeny any 192.168.0.2 icmp\nallow\n";
    let emperor = with_file(emperor(), rules).line(OPTION.trim_end()).start();
    let _net = start_blocked(&emperor);
    let ini = emperor.path("emperor.ini");
    let text = std::fs::read_to_string(&ini).expect("own file");
    assert!(text.contains(OPTION), "{text}");
    std::fs::write(&ini, text.replace(OPTION, "")).expect("own file");
    std::fs::write(emperor.path("rules"), "chain in\nalow\n").expect("own file");
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "/rules:2: ", wait::LONG);
    emperor.log.wait_for_since(mark, "it is tried again, and its vassals wait", wait::LONG);
    std::fs::write(emperor.path("rules"), rules).expect("own file");
    emperor.log.wait_for_since(mark, "it is possible now", wait::LONG);
    emperor.wait_until_ready(mark, "v1");
    assert!(is_cut_off(&emperor.netns, V1));
}
