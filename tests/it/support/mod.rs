//! What tests stand on.

pub mod http_peer;
