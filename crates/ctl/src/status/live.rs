//! The state of a router's live policy as text for people.

use tuntap_api::control::{Level, Status};

use crate::script;
use crate::text::{Count, escaped};

/// Lines with labels.
pub fn describe(status: &Status) -> String {
    rows(status).into_iter().map(|(label, value)| format!("{label:<10}  {value}\n")).collect()
}

/// The same, as a part of an overview that has told the device.
pub fn indented(status: &Status) -> String {
    rows(status).into_iter().skip(1).map(|(label, value)| format!("  {label:<10}  {value}\n")).collect()
}

fn rows(status: &Status) -> Vec<(&'static str, String)> {
    let changed = if status.is_changed { ", changed since options and rules file were read" } else { "" };
    let mut rows = vec![("device", escaped(&status.device)), ("generation", format!("{}{changed}", status.generation))];
    rows.extend(status.pending.as_ref().map(|pending| {
        let (generation, uid, seconds) = (pending.generation, pending.uid, pending.seconds_left);
        ("pending", format!("generation {generation} by uid {uid} is undone in {seconds} s, unless it is confirmed"))
    }));
    let file = status.rules_file.as_deref().map_or_else(|| "none".to_owned(), escaped);
    rows.extend([
        ("rules", Count(status.rules).to_string()),
        ("rules file", file),
        ("flows", format!("{} of at most {}", Count(status.flows), Count(status.max_flows))),
        ("script", script::summary(&status.script)),
        ("you may", may(status.level).to_owned()),
    ]);
    rows
}

/// What somebody of that level may do.
const fn may(level: Level) -> &'static str {
    match level {
        Level::View => "view",
        Level::Operate => "view and operate",
        Level::Admin => "change everything",
    }
}
