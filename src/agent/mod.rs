//! Decisions of an agent run: pure, without async, clock or I/O.

pub mod effect;
pub mod message;
pub mod tool;
