//! Waiting for states.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a state may take on a loaded machine of two cores before a test fails.
pub const LIMIT: Duration = Duration::from_secs(20);
/// First pause between two looks; it doubles up to [`LONGEST_PAUSE`], so that a long wait does not load the machine.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Asks `state` again and again until it has a value; fails the test after `limit` with `what` it waited for.
///
/// # Panics
/// When the limit has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut state: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        // Asked before the clock, so that a state reached in the last moment counts.
        let late = start.elapsed() >= limit;
        if let Some(value) = state() {
            return value;
        }
        assert!(!late, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The same for a condition.
///
/// # Panics
/// When the limit has passed.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// The same until nothing is left; says what is, if it stays.
///
/// # Panics
/// When the limit has passed.
#[track_caller]
pub fn wait_none<T: Debug>(what: &str, limit: Duration, mut left: impl FnMut() -> Vec<T>) {
    let start = Instant::now();
    wait_until(what, Duration::MAX, || {
        // Asked before the clock, so that a state reached in the last moment counts.
        let late = start.elapsed() >= limit;
        let left = left();
        assert!(!late || left.is_empty(), "waited {limit:?} in vain for: {what}; there is still {left:?}");
        left.is_empty()
    });
}
