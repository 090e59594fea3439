//! The options for programs.

use serde_json::{Value, json};
use tuntap_config::{OptionSpec, Scope, TABLE};

/// All options as one JSON document.
pub fn render() -> String {
    let options: Vec<Value> = TABLE.iter().map(value).collect();
    Value::from(options).to_string() + "\n"
}

fn value(option: &OptionSpec) -> Value {
    let scope = match option.scope {
        Scope::Router => "router",
        Scope::Device => "device",
        Scope::Both => "both",
        Scope::Action => "action",
    };
    json!({
        "name": option.name,
        "scope": scope,
        "syntax": option.syntax,
        "help": option.help,
        "range": option.range,
        "default": option.default,
        "repeats": option.repeats,
    })
}
