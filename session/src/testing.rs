//! Stand-ins for tests of this crate and of those that use it: never part of a release build.

pub mod fake_agent;
