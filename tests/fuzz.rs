//! The fuzzer's checks, run on the seeds and on every input that once broke one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

/// A target's name and its check.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 13] = [
    ("bgp_messages", fuzz::bgp_messages::check),
    ("bgp_speaker", fuzz::bgp_speaker::check),
    ("flows", fuzz::flows::check),
    ("forward", fuzz::forward::check),
    ("frames", fuzz::frames::check),
    ("greeting", fuzz::greeting::check),
    ("ip", fuzz::ip::check),
    ("leases", fuzz::leases::check),
    ("options", fuzz::options::check),
    ("rules", fuzz::rules::check),
    ("rules_file", fuzz::rules_file::check),
    ("segments", fuzz::segments::check),
    ("trunk", fuzz::trunk::check),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("the folder can be read").path()).collect()
}

/// Names without their extensions.
fn names(folder: &Path) -> Vec<String> {
    entries(folder).iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

#[test]
fn every_target_is_replayed() {
    let replayed: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(&folder("fuzz_targets")), replayed, "what `make fuzz` runs");
    assert_eq!(names(&folder("seeds")), replayed, "what it starts from");
}

#[test]
fn seeds_hold() {
    for (name, check) in TARGETS {
        let seeds = entries(&folder("seeds").join(name));
        assert!(seeds.len() >= 10, "only {} seeds of {name}", seeds.len());
        let broken: Vec<_> = seeds
            .iter()
            .filter(|path| {
                let bytes = fs::read(path).expect("the seed can be read");
                std::panic::catch_unwind(|| check(&bytes)).is_err()
            })
            .collect();
        assert!(broken.is_empty(), "{broken:?}");
    }
}
