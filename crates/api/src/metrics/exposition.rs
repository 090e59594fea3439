//! The text of metrics: families, samples, labels, in either format.
//!
//! Prometheus' format: <https://prometheus.io/docs/instrumenting/exposition_formats/>. What differs in OpenMetrics: a counter's
//! family is named without `_total`, there is a type for facts, and the text has an end.

use std::fmt::{Display, Write};

use super::Format;

/// What all names begin with.
pub const PREFIX: &str = "uwsgi_tuntap_";

/// The text in the making.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    /// The first label of each sample, with its value.
    device: String,
    text: String,
}

/// A family that was begun.
#[derive(Debug)]
pub struct Family<'a> {
    device: &'a str,
    text: &'a mut String,
    /// The name of its samples.
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

impl Exposition {
    /// Begins a text whose samples are of the router with this device.
    pub fn new(format: Format, device: &str) -> Self {
        Self { format, device: escaped(device), text: String::new() }
    }

    /// Begins a family of counters. `name` is without prefix and without `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, Kind::Counter, help)
    }

    /// Begins a family of gauges. `name` is without prefix.
    pub fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, Kind::Gauge, help)
    }

    /// Begins a family of facts, whose value is 1. `name` is without prefix and without `_info`.
    pub fn info(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, Kind::Info, help)
    }

    fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        let suffix = match kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        let sample = format!("{PREFIX}{name}{suffix}");
        let (family, word) = match (self.format, kind) {
            (Format::Prometheus, Kind::Counter) => (sample.clone(), "counter"),
            (Format::Prometheus, Kind::Gauge | Kind::Info) => (sample.clone(), "gauge"),
            (Format::OpenMetrics, Kind::Counter) => (format!("{PREFIX}{name}"), "counter"),
            (Format::OpenMetrics, Kind::Gauge) => (format!("{PREFIX}{name}"), "gauge"),
            (Format::OpenMetrics, Kind::Info) => (format!("{PREFIX}{name}"), "info"),
        };
        // Writing to memory doesn't fail.
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {word}");
        Family { device: &self.device, text: &mut self.text, name: sample }
    }

    /// Ends the text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    /// Writes a sample without further labels.
    pub fn value(&mut self, value: impl Display) {
        self.sample(&[], value);
    }

    /// Writes a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{{device=\"{}\"", self.name, self.device);
        for (name, value) in labels {
            let _ = write!(self.text, ",{name}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    /// Writes samples with so many labels each.
    pub fn samples<'l, const N: usize, V: Display>(
        &mut self,
        samples: impl IntoIterator<Item = ([(&'l str, &'l str); N], V)>,
    ) {
        samples.into_iter().for_each(|(labels, value)| self.sample(&labels, value));
    }

    /// Writes a sample for each direction: packets towards the vassals, and from them.
    pub fn by_direction(&mut self, towards: impl Display, from: impl Display) {
        self.sample(&[("direction", "in")], towards);
        self.sample(&[("direction", "out")], from);
    }
}

/// A count of microseconds as seconds.
pub fn seconds(micros: u64) -> impl Display {
    struct Seconds(u64);
    impl Display for Seconds {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(formatter, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
        }
    }
    Seconds(micros)
}

/// A label's value, with what would end it escaped.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format) -> String {
        let mut out = Exposition::new(format, "tun\"0\\\n");
        out.info("thing", "A fact.").sample(&[("version", "1\n\"2\"")], 1);
        out.counter("things", "So many things.").samples([([("reason", "a")], 1), ([("reason", "b")], 2)]);
        out.gauge("delay_seconds", "How long.").value(seconds(1_000_042));
        out.finish()
    }

    #[test]
    fn text_of_prometheus() {
        assert_eq!(
            text(Format::Prometheus),
            "# HELP uwsgi_tuntap_thing_info A fact.\n\
             # TYPE uwsgi_tuntap_thing_info gauge\n\
             uwsgi_tuntap_thing_info{device=\"tun\\\"0\\\\\\n\",version=\"1\\n\\\"2\\\"\"} 1\n\
             # HELP uwsgi_tuntap_things_total So many things.\n\
             # TYPE uwsgi_tuntap_things_total counter\n\
             uwsgi_tuntap_things_total{device=\"tun\\\"0\\\\\\n\",reason=\"a\"} 1\n\
             uwsgi_tuntap_things_total{device=\"tun\\\"0\\\\\\n\",reason=\"b\"} 2\n\
             # HELP uwsgi_tuntap_delay_seconds How long.\n\
             # TYPE uwsgi_tuntap_delay_seconds gauge\n\
             uwsgi_tuntap_delay_seconds{device=\"tun\\\"0\\\\\\n\"} 1.000042\n"
        );
    }

    #[test]
    fn open_metrics_names_families_without_suffix_and_ends() {
        let text = text(Format::OpenMetrics);
        assert!(text.starts_with(
            "# HELP uwsgi_tuntap_thing A fact.\n# TYPE uwsgi_tuntap_thing info\nuwsgi_tuntap_thing_info{"
        ));
        assert!(text.contains("# TYPE uwsgi_tuntap_things counter\nuwsgi_tuntap_things_total{"), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
    }
}
