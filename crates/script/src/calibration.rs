//! How fast this machine runs scripts.

use std::sync::OnceLock;
use std::time::Duration;

use mlua::{Lua, LuaOptions, StdLib};
use tuntap_sys::process::thread_time_nanos;

use super::limits::{TIME_BOUNDS, TIME_FACTOR};

/// A loop as a script could have it. It takes some 0.1 ms.
const REFERENCE: &str = "local t = {} for i = 1, 10000 do t[i % 16 + 1] = i * 3 end";

/// The shortest of so many runs counts.
const RUNS: usize = 3;

/// Returns the processor time that a call of a script may take. It is measured once in a process.
pub fn time_limit() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let [least, most] = TIME_BOUNDS;
        reference_time().map_or(least, |time| (time * TIME_FACTOR).clamp(least, most))
    })
}

/// Returns the processor time of the reference loop; `None` if it can't be run.
fn reference_time() -> Option<Duration> {
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).ok()?;
    let reference = lua.load(REFERENCE).into_function().ok()?;
    let run = || {
        let start = thread_time_nanos();
        reference.call::<()>(()).ok()?;
        Some(Duration::from_nanos(thread_time_nanos().saturating_sub(start)))
    };
    (0..RUNS).filter_map(|_| run()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_that_of_the_reference_loop_within_bounds() {
        assert!(reference_time().is_some_and(|time| !time.is_zero()));
        let [least, most] = TIME_BOUNDS;
        assert!((least..=most).contains(&time_limit()));
    }
}
