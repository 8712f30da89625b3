//! What reaches runs from outside: webhooks and operators.

pub mod operator;
pub mod webhooks;
