//! What reaches runs from outside: webhooks, operators, decisions, jobs by HTTP.

pub(crate) mod change;
pub(crate) mod dead_letters;
pub(crate) mod decider;
pub(crate) mod decisions;
pub(crate) mod fan_out;
pub(crate) mod finding;
pub(crate) mod happenings;
pub(crate) mod job_door;
pub(crate) mod operator;
pub(crate) mod runs;
pub(crate) mod settling;
pub(crate) mod standing;
pub(crate) mod timeline;
pub(crate) mod webhooks;
