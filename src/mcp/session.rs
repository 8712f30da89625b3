//! What is agreed with a server of the legacy era.

use secrecy::SecretString;
use serde_json::{Value, json};

/// The revisions of the legacy era, the newest first; that of 2024 has a transport of its own, which some servers of this one
/// name all the same.
pub(super) const REVISIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// The first revision whose requests carry a header with it.
const FIRST_WITH_HEADER: &str = "2025-06-18";

/// What a server and we have agreed about.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) revision: &'static str,
    /// Servers without state give none. It gives rights: who has it is in the session.
    pub(super) id: Option<SecretString>,
}

impl Session {
    /// Whether the server knows it by a name, and can have forgotten it.
    pub(super) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    pub(super) fn has_revision_header(&self) -> bool {
        self.revision >= FIRST_WITH_HEADER
    }
}

/// Who we are, as servers are told.
pub(super) fn client_info() -> Value {
    json!({"name": "agentkit-worker", "version": env!("CARGO_PKG_VERSION")})
}

/// Whether this is a revision that begins with `initialize`.
pub(super) fn is_legacy(revision: &str) -> bool {
    REVISIONS.contains(&revision)
}
