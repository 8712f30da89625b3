//! What reaches runs from outside: webhooks, operators, decisions.

mod change;
pub(crate) mod decider;
pub(crate) mod decisions;
pub(crate) mod fan_out;
pub(crate) mod operator;
pub(crate) mod runs;
pub(crate) mod webhooks;
