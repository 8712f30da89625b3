//! What several behaviours need.

pub(crate) mod sandbox_client;
