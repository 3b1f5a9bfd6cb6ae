//! Waiting for states.

use std::time::{Duration, Instant};

/// How long a state may take on a loaded machine of two cores before a test fails.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Asks `state` every few milliseconds until it has a value; fails the test after `limit` with `what` it waited for.
///
/// # Panics
/// When the limit has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut state: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = state() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
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
