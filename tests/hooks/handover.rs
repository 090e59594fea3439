//! An image that finds a handover which it can't read says so and goes on, as at a first start. The variable in the
//! environment names the process that wrote it, which a shell that executes uWSGI can be.

use crate::common::emperor::{EmperorIni, V1};
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::site::{assert_works, emperor, emperor_ini, unshared, vassal, with_app};

/// Values that no image of this version leaves, and what is said of them. `$$` is the process's own number.
const UNREADABLE: [(&str, &str); 6] = [
    (r#"{"version":9,"sections":{}} $$"#, "is of version 9, and this plugin reads version 1"),
    (r#"{"pid":7,"devices":[]} $$"#, "is of version 0, and this plugin reads version 1"),
    (r#"{"version":1,"sections":7} $$"#, "the document of what is handed over makes no sense"),
    (r#"{"version":1,"sections":{"host":7,"accounts":7}} $$"#, "the host is set up anew after the reload"),
    ("1000000 7 $$", "descriptor 1000000 is not what it was before the reload"),
    ("parent of 7 {}", "doesn't say where it is"),
];

fn with_handover(ini: EmperorIni, value: &str, environment: &str) -> EmperorIni {
    ini.before(&format!("export {environment} UWSGI_TUNTAP_HANDOVER=\"{}\"", value.replace('"', "\\\"")))
}

#[test]
fn emperor_goes_on_without_a_handover_that_it_cant_read() {
    for (value, line) in UNREADABLE {
        let emperor = with_app(with_handover(emperor_ini(), value, "UWSGI_RELOADS=1").start());
        emperor.log.wait_for(line, wait::SHORT);
        let net = emperor.start_vassal(&vassal(&emperor));
        assert_works(&emperor, &net);
    }
}

#[test]
fn device_is_made_where_its_handover_cant_be_read() {
    let emperor = emperor();
    for value in [r#"{"version":9,"sections":{}} $$"#, r#"{"version":1,"sections":{"devices":[]}} $$"#] {
        let instance = with_handover(unshared(&emperor).line("master = true"), value, "").launch();
        instance.log.wait_for("[uwsgi-tuntap] the devices did not survive the reload: ", wait::LONG);
        wait::until_true("the instance is reachable", wait::LONG, || is_reachable(&emperor.netns, V1));
    }
}

/// Every child inherits the environment.
#[test]
fn handover_to_another_process_is_left_alone() {
    let value = r#"{"version":9,"sections":{}} 1"#;
    let emperor = with_app(with_handover(emperor_ini(), value, "UWSGI_RELOADS=1").start());
    let net = emperor.start_vassal(&vassal(&emperor));
    assert_works(&emperor, &net);
    assert!(!emperor.log.text().contains("version 9"), "it is no concern of this process");
}
