//! What reaches runs from outside: webhooks and operators.

pub(crate) mod operator;
pub(crate) mod webhooks;
