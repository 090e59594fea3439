//! Alerts, dashboard and document name metrics that exist.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tuntap_api::Snapshot;
use tuntap_api::metrics::{Format, Metrics, RuleTotals};

const ALERTS: &str = "packaging/prometheus/uwsgi-tuntap.rules.yml";
const ALERT_TESTS: &str = "packaging/prometheus/uwsgi-tuntap.rules.test.yml";
const DASHBOARD: &str = "packaging/grafana/uwsgi-tuntap.json";
const DOCUMENT: &str = "docs/OPERATIONS.md";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file is there")
}

/// The metrics of a router that has everything.
fn all_metrics() -> String {
    let snapshot = Snapshot::from_json(read("crates/api/tests/statistics.json").as_bytes()).expect("statistics");
    let users = HashMap::new();
    let rules = vec![RuleTotals { id: 1, packets: 1, bytes: 1 }];
    Metrics { snapshot: &snapshot, departed: Vec::new(), users: &users, max_users: 10, rules }
        .render(Format::Prometheus)
}

/// By name: type, labels besides the device, and what it is.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>, String)> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next()) {
            (Some("#"), Some("HELP")) => {
                let name = words.next().expect("a name").to_owned();
                families.entry(name).or_default().2 = words.next().expect("a help").to_owned();
            }
            (Some("#"), Some("TYPE")) => {
                let name = words.next().expect("a name").to_owned();
                families.entry(name).or_default().0 = words.next().expect("a type").to_owned();
            }
            _ => {
                let (name, rest) = line.split_once('{').expect("a sample");
                let (labels, _) = rest.split_once("} ").expect("its labels");
                let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
                families.entry(name.to_owned()).or_default().1.extend(labels.filter(|label| label != "device"));
            }
        }
    }
    families
}

/// The names of metrics in expressions.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |character: char| character.is_ascii_lowercase() || character == '_';
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("uwsgi_tuntap_") {
        let rest = &text[at..];
        names.insert(rest[..rest.find(|character| !is_name(character)).unwrap_or(rest.len())].to_owned());
    }
    names
}

#[track_caller]
fn assert_known(names: &BTreeSet<String>, at_least: usize, what: &str) {
    let families = families(&all_metrics());
    assert!(names.len() >= at_least, "{what} names only {names:?}");
    for name in names {
        assert!(families.contains_key(name), "{what} names {name}, which no router has");
    }
}

#[track_caller]
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("promtool (scripts/setup test)");
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("SUCCESS"), "{arguments:?}: {told}");
}

#[test]
fn alerts_are_right() {
    promtool(&["check", "rules", ALERTS]);
    promtool(&["test", "rules", ALERT_TESTS]);
    assert_known(&named(&read(ALERTS)), 8, ALERTS);
    let tests = read(ALERT_TESTS);
    let alerts = read(ALERTS);
    let alerts: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}")), "{alert} has no test");
    }
}

#[test]
fn dashboard_shows_metrics_that_exist() {
    let text = read(DASHBOARD);
    assert_known(&named(&text), 15, DASHBOARD);
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut expressions) = (BTreeSet::new(), Vec::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "two panels have one number: {panel}");
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("expressions");
        assert!(!targets.is_empty() && panel["title"].is_string(), "{panel}");
        for target in targets {
            assert_labels_known(target);
            // Grafana fills in its variables before Prometheus sees them.
            expressions.push(target["expr"].as_str().expect("an expression").replace("$__rate_interval", "5m"));
        }
    }
    parse(&expressions);
    for variable in ["datasource", "instance", "device"] {
        let all = dashboard["templating"]["list"].as_array().expect("variables");
        assert!(all.iter().any(|entry| entry["name"] == variable), "{variable}");
    }
}

/// A query by a label that its metrics don't have is valid, and shows one line for all. So is a legend, which shows nothing.
#[track_caller]
fn assert_labels_known(target: &Value) {
    let families = families(&all_metrics());
    let expression = target["expr"].as_str().expect("an expression");
    let of_metrics = named(expression).into_iter().flat_map(|name| families[&name].1.clone());
    // What scrapes it names the host.
    let known: BTreeSet<String> = of_metrics.chain(["device", "instance"].map(str::to_owned)).collect();
    let words = |text: &str, begin: &str, end: char| -> Vec<String> {
        let parts = text.split(begin).skip(1).filter_map(|part| part.split(end).next());
        parts.flat_map(|part| part.split(',')).map(|word| word.trim().to_owned()).collect()
    };
    let by = words(expression, " by (", ')');
    let shown = words(target["legendFormat"].as_str().unwrap_or_default(), "{{", '}');
    assert!(by.iter().all(|label| known.contains(label)), "{by:?}, but there are {known:?}: {target}");
    let is_sum = !by.is_empty() || expression.contains("sum(") || expression.contains("max(");
    let kept = if is_sum { by.into_iter().collect() } else { known };
    assert!(shown.iter().all(|label| kept.contains(label)), "{shown:?}, but there are {kept:?}: {target}");
}

/// Has promtool read expressions, as those of recording rules.
#[track_caller]
fn parse(expressions: &[String]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.yml");
    let rules = expressions.iter().enumerate().map(|(number, expression)| {
        format!("      - {{record: 'panel:{number}', expr: '{}'}}\n", expression.replace('\'', "''"))
    });
    let text = format!("groups:\n  - name: panels\n    rules:\n{}", rules.collect::<String>());
    fs::write(&file, text).expect("own folder");
    promtool(&["check", "rules", file.to_str().expect("a name in UTF-8")]);
}

/// The table of metrics in the document is what the router serves, row by row.
#[test]
fn document_lists_all_metrics() {
    let cell = |labels: &BTreeSet<String>| match labels.is_empty() {
        true => String::new(),
        false => format!("`{}`", labels.iter().cloned().collect::<Vec<_>>().join("`, `")),
    };
    let rows = families(&all_metrics());
    let rows =
        rows.iter().map(|(name, (kind, labels, help))| format!("| `{name}` | {kind} | {} | {help} |", cell(labels)));
    let expected = rows.collect::<Vec<_>>().join("\n");
    let document = read(DOCUMENT);
    assert!(document.contains(&expected), "{DOCUMENT} should have these rows:\n{expected}");
}
