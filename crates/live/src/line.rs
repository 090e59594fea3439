//! What a line of a chain says: a rule, or a limit.

use std::fmt;

use tuntap_api::control::Chain;
use tuntap_config::{LiveRule, Problem, ShapeSpec};
use tuntap_core::policy::shape::Shape;

/// A line of a chain. [`fmt::Display`] writes it in the one form by which lines are compared; reading that gives the same line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A rule of a chain, or a route.
    Rule(LiveRule),
    /// A limit on traffic.
    Shape(Shape),
}

impl Line {
    /// Reads a line of this chain. Users and groups are numbers.
    pub fn read(chain: Chain, text: &str) -> Result<Self, Problem> {
        match chain {
            Chain::In | Chain::Out => LiveRule::filter(text).map(Self::Rule),
            Chain::Route => LiveRule::route(text).map(Self::Rule),
            Chain::Shape => ShapeSpec::read(text)?.numbered().map(Self::Shape),
        }
    }

    /// The rule, if it is one.
    pub const fn rule(&self) -> Option<&LiveRule> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::Shape(_) => None,
        }
    }

    /// The limit, if it is one.
    pub const fn shape(&self) -> Option<&Shape> {
        match self {
            Self::Rule(_) => None,
            Self::Shape(shape) => Some(shape),
        }
    }

    /// The sets that it names.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        self.rule().into_iter().flat_map(LiveRule::sets)
    }

    /// The counter that it names.
    pub fn counter(&self) -> Option<&String> {
        self.rule().and_then(|rule| rule.counter.as_ref())
    }

    /// What has to stay for a line to be the same one: of a rule, selector and target; of a limit, whose traffic it is for.
    pub fn identity(&self) -> String {
        match self {
            Self::Rule(rule) => rule.identity(),
            Self::Shape(Shape { out, inn, selector, .. }) => format!("{out} {inn} {selector}"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(out),
            Self::Shape(shape) => shape.fmt(out),
        }
    }
}

/// The word for a chain in rules files.
pub const fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::In => "in",
        Chain::Out => "out",
        Chain::Route => "route",
        Chain::Shape => "shape",
    }
}
