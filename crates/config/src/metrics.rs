//! `tuntap-router-metrics` and `-metrics-peers`.

use super::error::{ConfigError, Problem};
use super::hostnet::HostSetting;
use super::router::{StatsAddress, parse_stats};
use super::{OptionName, RouterSpec, parse};
use tuntap_core::policy::limits::Limits;

/// The number of users whose vassals are in the metrics unless the operator gives another one. Each makes some ten time series.
const DEFAULT_PEERS: usize = 1000;

const METRICS_SYNTAX: &str = OptionName::Metrics.syntax();
const PEERS_SYNTAX: &str = OptionName::MetricsPeers.syntax();

/// How a router serves its metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsSpec {
    /// Where; `None`: nowhere.
    pub address: Option<StatsAddress>,
    /// The number of users whose vassals are in them. It is there once all options were read.
    pub peers: Option<usize>,
}

impl MetricsSpec {
    /// The number of users whose vassals are in the metrics; with 0 there are no metrics of vassals.
    pub fn max_users(&self) -> usize {
        self.peers.unwrap_or(DEFAULT_PEERS)
    }
}

/// Reads `[<device>] <path|@name|addr:port>`.
pub fn address(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, METRICS_SYNTAX)?;
    Ok(HostSetting::metrics(value, device, parse_stats(&word)?))
}

/// Reads `[<device>] <users>`.
pub fn peers(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, PEERS_SYNTAX)?;
    let number = parse::number(&word, 0, Limits::MAX_PEERS as u64)?;
    // A number up to the limit fits its type.
    Ok(HostSetting::metrics_peers(value, device, usize::try_from(number).unwrap_or(Limits::MAX_PEERS)))
}

/// Sets where a router serves its metrics, once.
pub fn set_address(router: &mut RouterSpec, address: &StatsAddress) -> Result<(), Problem> {
    match router.metrics.address.replace(address.clone()) {
        Some(_) => Err(Problem::Repeated),
        None => Ok(()),
    }
}

/// Sets the number of users whose vassals are in a router's metrics, once.
pub fn set_peers(router: &mut RouterSpec, peers: usize) -> Result<(), Problem> {
    match router.metrics.peers.replace(peers) {
        Some(_) => Err(Problem::Repeated),
        None => Ok(()),
    }
}

/// Fills in what the options leave out.
pub fn complete(routers: &mut [RouterSpec]) {
    routers.iter_mut().for_each(|router| _ = router.metrics.peers.get_or_insert(DEFAULT_PEERS));
}

/// Errors about metrics whose addresses other sockets of the instance have, too.
pub fn duplicates(routers: &[RouterSpec]) -> Vec<ConfigError> {
    let mut taken: Vec<String> = Vec::new();
    for router in routers {
        taken.extend(router.socket.clone());
        taken.extend(router.stats.as_ref().map(|address| address.as_str().to_owned()));
        taken.extend(router.control_path());
    }
    let mut errors = Vec::new();
    for router in routers {
        let Some(address) = router.metrics.address.as_ref().map(StatsAddress::as_str) else { continue };
        if taken.iter().any(|name| name == address) {
            let value = format!("{} {address}", router.device);
            errors.push(ConfigError::new(OptionName::Metrics, value, Problem::Duplicate("socket")));
        }
        taken.push(address.to_owned());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const ROUTER: (OptionName, &str) = (OptionName::Router, "a /run/a /run/a.stats");

    fn config(options: &[(OptionName, &str)]) -> Result<Config, String> {
        let all = [ROUTER].into_iter().chain(options.iter().copied());
        Config::from_options(all).map_err(|errors| errors.to_string())
    }

    #[test]
    fn addresses_are_those_of_statistics() {
        for (value, expected) in [
            ("/run/m", StatsAddress::Unix("/run/m".to_owned())),
            ("./9100", StatsAddress::Unix("./9100".to_owned())),
            ("@m", StatsAddress::Unix("@m".to_owned())),
            ("a 127.0.0.1:9100", StatsAddress::Tcp("127.0.0.1:9100".to_owned())),
            ("[::1]:9100", StatsAddress::Tcp("[::1]:9100".to_owned())),
            ("[::]:9100", StatsAddress::Tcp("[::]:9100".to_owned())),
            ("localhost:9100", StatsAddress::Tcp("localhost:9100".to_owned())),
            (":9100", StatsAddress::Tcp(":9100".to_owned())),
        ] {
            let spec = config(&[(OptionName::Metrics, value)]).expect(value).routers.remove(0).metrics;
            assert_eq!((spec.address.as_ref(), spec.max_users()), (Some(&expected), DEFAULT_PEERS), "{value}");
        }
        assert_eq!(config(&[]).expect("valid").routers[0].metrics.address, None);
    }

    #[test]
    fn number_of_peers_may_be_none() {
        for (value, expected) in [("0", 0), ("a 7", 7), ("65536", 65536)] {
            let spec = config(&[(OptionName::MetricsPeers, value)]).expect(value).routers.remove(0).metrics;
            assert_eq!(spec.max_users(), expected);
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for (options, part) in [
            (&[(OptionName::Metrics, "/run/a.stats")][..], "has the same socket"),
            (&[(OptionName::Metrics, "/run/a.control")], "has the same socket"),
            (&[(OptionName::Metrics, "/run/a")], "has the same socket"),
            (&[(OptionName::Metrics, "/run/m"), (OptionName::Metrics, "/run/n")], "is there twice"),
            (&[(OptionName::Metrics, "127.0.0.1:99999")], "127.0.0.1:99999"),
            (
                &[(OptionName::Metrics, "127.0.0.1")],
                "\"127.0.0.1\" is half of a TCP address, expected addr:port or :port",
            ),
            (&[(OptionName::Metrics, "9100")], "\"9100\" is half of a TCP address"),
            (&[(OptionName::Metrics, "127.0.0.1:")], "\"127.0.0.1:\" has no port"),
            (&[(OptionName::Metrics, "::1:9100")], "\"::1:9100\" is no TCP address, expected addr:port, [addr]:port"),
            (&[(OptionName::Metrics, "[127.0.0.1]:9100")], "\"[127.0.0.1]:9100\" is no TCP address"),
            (&[(OptionName::Metrics, "[fe80::1%eth0]:9100")], "is no TCP address"),
            (&[(OptionName::Metrics, "[::1:9100")], "is no TCP address"),
            (&[(OptionName::Metrics, "/run/m:9100")], "a path has no colon"),
            (&[(OptionName::Metrics, "b /run/m")], "no tuntap-router with the device b"),
            (&[(OptionName::Metrics, "")], "expected [<device>] <path|@name|addr:port>"),
            (&[(OptionName::MetricsPeers, "65537")], "65537"),
            (&[(OptionName::MetricsPeers, "-1")], "-1"),
            (&[(OptionName::MetricsPeers, "1"), (OptionName::MetricsPeers, "2")], "is there twice"),
        ] {
            let error = config(options).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
