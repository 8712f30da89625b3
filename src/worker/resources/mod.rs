//! What runs share: whether a job is taken, looks at accounts, whether the worker's credentials are taken, who takes over
//! from which model, where tools come from, tool lists, offers to models, magic links, the index of parked runs, and the
//! making of each value once.

pub(crate) mod accounts;
pub(crate) mod admission;
pub(crate) mod cooldown;
pub(crate) mod credentials;
pub(crate) mod fallbacks;
pub(crate) mod magic_links;
pub(crate) mod offers;
pub(crate) mod parked_index;
pub(crate) mod poster;
mod session_tokens;
pub(crate) mod single_flight;
pub(crate) mod spending;
pub(crate) mod tool_catalog;
pub(crate) mod tool_error;
pub(crate) mod tool_source;
