//! What operators see of real routers: metrics for Prometheus and in uWSGI's own statistics, and captures of packets.
#![allow(clippy::print_stderr, reason = "a failed test reports the state of its processes")]

#[path = "../common/mod.rs"]
mod common;

mod scrape;

mod capture;
mod metrics;
mod packaging;
mod uwsgi_metrics;
