//! The two text formats, and which of them a client gets.

/// A text format of metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, which everything reads.
    #[default]
    Prometheus,
    /// That of OpenMetrics (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain";

impl Format {
    /// The value of the header field Content-Type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the format for a client with this header field Accept (RFC 9110, section 12.5.1). OpenMetrics is for those alone
    /// that name it, and prefer it to plain text or like it as much.
    pub fn accepted(accept: &str) -> Self {
        let mut open = None;
        let mut plain = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let place = if media_type.eq_ignore_ascii_case(OPEN_METRICS) {
                &mut open
            } else if media_type.eq_ignore_ascii_case(PLAIN) {
                &mut plain
            } else {
                continue;
            };
            let (mut quality, mut is_known) = (MAX_QUALITY, true);
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim() {
                    "q" | "Q" => quality = self::quality(value),
                    // What we write is valid by this version, and by the draft before it.
                    "version" if media_type.eq_ignore_ascii_case(OPEN_METRICS) => {
                        is_known = matches!(value, "1.0.0" | "0.0.1");
                    }
                    _ => {}
                }
            }
            if is_known {
                *place = (*place).max(Some(quality));
            }
        }
        match open {
            Some(open) if open > 0 && open >= plain.unwrap_or_default() => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }
}

/// The weight of a media type that says none, in thousandths.
const MAX_QUALITY: u16 = 1000;

/// Reads a weight, in thousandths. One that can't be read is none.
fn quality(value: &str) -> u16 {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let is_digits = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, is_digits) {
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or_default(),
        ("1", true) => MAX_QUALITY,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_gets_what_it_prefers() {
        for (accept, expected) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html, */*;q=0.1", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=1.0.0", Format::OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", Format::OpenMetrics),
            // Prometheus 2.42.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format::Prometheus),
            ("text/plain , application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=0.000, */*", Format::Prometheus),
            ("application/openmetrics-text;version=2.0.0", Format::Prometheus),
            ("application/openmetrics-text;q=banana", Format::Prometheus),
            ("application/openmetrics-text;q=0.0001", Format::Prometheus),
            (";;,,;q=,=", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }
}
