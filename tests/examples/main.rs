//! Each folder of `examples/` with files for uWSGI is started as its comments say, and does what they promise.
#![allow(clippy::print_stderr, reason = "a failed test reports the end of its logs")]

#[path = "../common/mod.rs"]
mod common;

mod example;
mod world;

mod auto;
mod credentials;
mod doctor;
mod firewall;
mod hosts;
mod ipv6;
mod leases;
mod live;
mod long;
mod minimal;
mod no_emperor;
mod ports;
mod readme;
mod service;
mod services;
mod shape;
mod stats;
mod trunk;
mod tutorial;
mod two_hosts;

/// The tests of crates/script run what is in here.
const SCRIPTS: &str = "scripts";

#[test]
fn every_example_has_its_tests() {
    let entries = std::fs::read_dir(example::examples()).expect("the repository has examples");
    let folders: Vec<String> = entries
        .map(|entry| entry.expect("a readable folder"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("a plain name"))
        .collect();
    assert!(!folders.is_empty());
    for folder in folders.iter().filter(|folder| *folder != SCRIPTS) {
        let module = format!("\nmod {};\n", folder.replace('-', "_"));
        assert!(include_str!("main.rs").contains(&module), "examples/{folder} has no module here:{module}");
    }
}
