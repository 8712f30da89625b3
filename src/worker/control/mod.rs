//! What reaches runs from outside: webhooks and operators.

mod change;
pub(crate) mod decider;
pub(crate) mod decisions;
pub(crate) mod fan_out;
pub(crate) mod operator;
pub(crate) mod webhooks;
