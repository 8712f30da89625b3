//! The product from outside, one file per behaviour.

#![expect(clippy::unwrap_used, reason = "a test's helper fails the test by panicking")]

mod scalekit;
mod support;
