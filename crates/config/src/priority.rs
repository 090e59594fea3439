//! `tuntap-router-priority`.

use super::error::Problem;

/// Nice values, from the most to the least favourable (sched(7)).
const NICE: std::ops::RangeInclusive<i8> = -20..=19;

/// The most favourable value: with a lesser one, ten flooding vassals left an honest one too little on two cores.
pub const DEFAULT: Option<i8> = Some(*NICE.start());

/// Reads `<-20..19|off>`.
pub fn parse(value: &str) -> Result<Option<i8>, Problem> {
    match value.trim() {
        "off" => Ok(None),
        word => {
            let nice = word.parse().ok().filter(|nice| NICE.contains(nice));
            nice.map(Some).ok_or_else(|| Problem::Priority(word.to_owned()))
        }
    }
}
