//! Option values, as uWSGI hands them over.
//!
//! Input: words such as `tuntap-device=uwsgi0`, each ended by a NUL. Words that are not UTF-8, or name no option of ours,
//! never reach the configuration.

use tuntap_plugin::config::{Config, OptionName};
use tuntap_plugin::policy::pattern::{Action, Rule};
use tuntap_plugin::wire::rule::MAX_RULES;

/// Reads the options, one by one and together.
pub fn check(data: &[u8]) {
    let options: Vec<(OptionName, &str)> = data.split(|byte| *byte == 0).filter_map(option).collect();
    let alone: Vec<_> = options.iter().map(|option| Config::from_options([*option])).collect();
    let errors_alone: Vec<_> =
        alone.iter().flat_map(|result| result.as_ref().err()).flat_map(|errors| &errors.0).collect();

    for ((_, value), result) in options.iter().zip(&alone) {
        if let Ok(config) = result {
            check_understood(config);
            check_action(value, config);
        }
    }
    match Config::from_options(options.iter().copied()) {
        Ok(config) => {
            assert!(errors_alone.is_empty(), "passed over: {errors_alone:?}");
            check_understood(&config);
        }
        Err(errors) => {
            let first: Vec<_> = errors.0.iter().take(errors_alone.len()).collect();
            assert_eq!(first, errors_alone, "every wrong value is named, in order");
            for error in &errors.0 {
                let line = error.to_string();
                assert!(line.starts_with(&format!("{} = {}: ", error.option, error.value)), "{line}");
                assert!(options.iter().any(|(option, _)| option.as_str() == error.option), "{line}");
            }
        }
    }
}

fn option(word: &[u8]) -> Option<(OptionName, &str)> {
    let (name, value) = str::from_utf8(word).ok()?.split_once('=')?;
    let option = OptionName::ALL.into_iter().find(|option| option.as_str() == name)?;
    Some((option, value))
}

fn check_understood(config: &Config) {
    check_bounds(config);
    check_again(config);
}

/// No rule of a chain says anything but what its first word says.
fn check_action(value: &str, config: &Config) {
    let rule = config.firewall_in.iter().chain(&config.firewall_out).next();
    if let Some(rule) = rule {
        let words = shlex::split(value).expect("it was split before");
        let expected = if rule.target == Action::Allow { "allow" } else { "deny" };
        assert_eq!(words.first().map(String::as_str), Some(expected), "{value}");
    }
}

/// What everything behind the configuration relies on.
fn check_bounds(config: &Config) {
    let is_device = |name: &str| {
        !matches!(name, "" | "." | "..") && name.len() <= 15 && !name.contains(['/', ':', ' ', '\t', '\n', '\0'])
    };
    let is_socket = |name: &str| !matches!(name, "" | "@") && name.len() <= 102;
    for (index, router) in config.routers.iter().enumerate() {
        assert!(is_device(&router.device) && is_socket(&router.socket), "{router:?}");
        assert!(router.gateway.is_none_or(|address| address.port() != 0), "{router:?}");
        assert!(router.stats.as_ref().is_none_or(|address| !address.as_str().is_empty()), "{router:?}");
        for other in &config.routers[..index] {
            assert!(other.device != router.device && other.socket != router.socket, "{other:?} and {router:?}");
        }
    }
    for device in &config.devices {
        assert!(is_device(&device.name), "{device:?}");
        assert!(device.socket.as_deref().is_none_or(is_socket), "{device:?}");
    }
    assert!(config.routes.iter().all(|route| route.target.port() != 0));
    assert!(config.busy_poll.as_micros() <= 1000);
    assert!(config.device_rules.len() <= MAX_RULES);
}

/// What was understood, written out in full, means the same.
fn check_again(config: &Config) {
    let quoted = |word: &str| shlex::try_quote(word).expect("no NUL in it").into_owned();
    let chain = |name, rules: &[Rule<Action>]| -> Vec<_> {
        let word = |action| if action == Action::Allow { "allow" } else { "deny" };
        rules.iter().map(|rule| (name, format!("{} {} {}", word(rule.target), rule.src, rule.dst))).collect()
    };
    let mut options = chain(OptionName::FirewallIn, &config.firewall_in);
    options.extend(chain(OptionName::FirewallOut, &config.firewall_out));
    for route in &config.routes {
        options.push((OptionName::Route, format!("{} {} {}", route.src, route.dst, route.target)));
    }
    for router in &config.routers {
        let stats = router.stats.as_ref().map_or("", |address| address.as_str());
        let gateway = router.gateway.map(|address| address.to_string()).unwrap_or_default();
        let words = [&router.device, &router.socket, stats].map(quoted).join(" ");
        options.push((OptionName::Router, format!("{words} {gateway}")));
    }
    for device in &config.devices {
        let socket = device.socket.as_deref().unwrap_or_default();
        options.push((OptionName::Device, format!("{} {socket}", device.name)));
    }
    options.push((OptionName::Switch, config.switch.to_string()));
    options.push((OptionName::BusyPoll, config.busy_poll.as_micros().to_string()));

    let again = Config::from_options(options.iter().map(|(name, value)| (*name, value.as_str())))
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        (again.firewall_in, again.firewall_out, again.routes, again.routers, again.devices),
        (
            config.firewall_in.clone(),
            config.firewall_out.clone(),
            config.routes.clone(),
            config.routers.clone(),
            config.devices.clone()
        )
    );
    assert_eq!((again.switch, again.busy_poll), (config.switch, config.busy_poll));
}
