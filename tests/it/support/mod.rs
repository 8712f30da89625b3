//! What tests stand on.

pub(crate) mod http_peer;
