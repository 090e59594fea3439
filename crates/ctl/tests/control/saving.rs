//! `uwsgi-tuntap save`.

use std::os::unix::fs::MetadataExt;

use serde_json::json;
use tuntap_api::control::{Saved, Status};

use crate::looking::status;
use crate::router::{Router, ok, text};

const RULES: &str = "chain in\n\tallow any any established\n";

/// A router that saves [`RULES`], and calls this its rules file.
fn router(file: Option<&str>) -> Router {
    let status = Status { rules_file: file.map(str::to_owned), ..status() };
    let saved = Saved { text: RULES.to_owned(), file: file.map(str::to_owned), generation: 7 };
    Router::new(move |request| ok(request, &if request["verb"] == "save" { json!(saved) } else { json!(status) }))
}

#[test]
fn named_file_is_written() {
    let router = router(None);
    let file = router.file("rules", "anything at all");
    let before = std::fs::metadata(&file).expect("a file");
    assert_eq!(router.shows(&["save", &file]), format!("{file}: generation 7 is saved\n"));
    let after = std::fs::metadata(&file).expect("a file");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), RULES);
    assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
    assert_ne!(after.ino(), before.ino(), "whoever reads the old file reads it whole");
    assert_eq!(router.requests(), [json!({ "verb": "save" })]);
    let folder = router.folder().to_str().expect("UTF-8").to_owned();
    assert!(router.fails(5, &["save", &folder]).contains("it is no regular file"));
    assert!(router.fails(5, &["save", "/nowhere/rules"]).contains("/nowhere/rules: No such file"));
}

/// A router knows no comments.
#[test]
fn comments_that_are_lost_are_told() {
    let router = router(None);
    let file = router.file("rules", "# Who may what.\nchain in\n");
    let told = format!("{file}: generation 7 is saved; the comments that were in it are gone\n");
    assert_eq!(router.shows(&["save", &file]), told);
    assert_eq!(router.shows(&["save", &file]), format!("{file}: generation 7 is saved\n"));
}

#[test]
fn standard_output_and_json_write_no_file() {
    let router = router(Some("/nowhere/rules"));
    assert_eq!(router.shows(&["save", "-"]), RULES);
    let saved = json!({ "text": RULES, "file": "/nowhere/rules", "generation": 7 });
    let shown: serde_json::Value = serde_json::from_str(&router.shows(&["save", "--json"])).expect("JSON");
    assert_eq!(shown, saved);
}

#[test]
fn rules_file_is_the_usual_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules");
    let file = path.to_str().expect("UTF-8");
    std::fs::write(&path, "# mine\ndeny\n").expect("own folder");
    router(Some(file)).shows(&["save"]);
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), RULES);
    // What a router calls its rules file may be a lie.
    std::fs::write(&path, "root:x:0:0:root:/root:/bin/bash\n").expect("own folder");
    let error = router(Some(file)).fails(5, &["save"]);
    assert!(error.contains("something other than rules is in it"), "{error}");
    assert!(std::fs::read_to_string(&path).expect("a file").starts_with("root:"));
    assert!(router(None).fails(5, &["save"]).contains("the router has no rules file"));
}

#[test]
fn file_that_is_edited_meanwhile_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules");
    std::fs::write(&path, "deny\n").expect("own folder");
    let edited = path.clone();
    let router = Router::new(move |request| {
        std::fs::write(&edited, "deny # mine\n").expect("own folder");
        ok(request, &json!({ "text": RULES, "file": null, "generation": 7 }))
    });
    let output = router.run(&["save", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("somebody has changed it meanwhile"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "deny # mine\n");
    assert_eq!(std::fs::read_dir(folder.path()).expect("own folder").count(), 1, "no draft stays");
}
