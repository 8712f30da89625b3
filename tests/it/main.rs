//! Behaviour of the whole, one file each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod support;

mod llm;
