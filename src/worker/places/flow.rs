//! Whose a message is, and how soon it is wanted, read from the job in it before anybody has checked that.

use std::sync::Arc;

use serde::Deserialize;

use crate::job::Priority;
use crate::queue::Message;
use crate::worker::fairness::SharedBy;
use crate::worker::message::scheduled::is_scheduled;

/// Bytes of a key: of a user's or a tenant's 100 characters. No job has a longer one.
const LONGEST: usize = 400;

/// The messages of one key with one priority: among themselves they start in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flow {
    /// Who shares places with others; empty for what is no job.
    pub(crate) key: Arc<str>,
    /// Of which priority.
    pub(crate) priority: Priority,
}

/// What counts of a job. The whole of it is checked once it has a place.
#[derive(Default, Deserialize)]
struct Said {
    identifier: Option<String>,
    tenant: Option<String>,
    priority: Option<Priority>,
}

impl Flow {
    /// Where `message` belongs. What cannot be read is all nobody's, and has one share together; so has a body of more than
    /// `max_bytes`, which is not looked at. A digest's job that says nothing is of low priority: a forged header can make
    /// nothing but one's own job wait.
    pub(crate) fn of(message: &Message, shared_by: SharedBy, max_bytes: usize) -> Self {
        let readable = message.body.len() <= max_bytes;
        let said: Option<Said> = readable.then(|| serde_json::from_slice(&message.body).ok()).flatten();
        let Said { identifier, tenant, priority } = said.unwrap_or_default();
        let [identifier, tenant] = [identifier, tenant].map(|name| name.filter(|name| name.len() <= LONGEST));
        let key = match shared_by {
            SharedBy::None => None,
            SharedBy::Identifier => identifier.map(|identifier| format!("identifier:{identifier}")),
            SharedBy::Tenant => tenant
                .map(|tenant| format!("tenant:{tenant}"))
                .or_else(|| identifier.map(|identifier| format!("identifier:{identifier}"))),
        };
        let unsaid = if is_scheduled(message) { Priority::Low } else { Priority::Normal };
        Self { key: key.unwrap_or_default().into(), priority: priority.unwrap_or(unsaid) }
    }

    /// The key as it is configured, without what kind of key it is.
    pub(crate) fn name(key: &str) -> &str {
        key.split_once(':').map_or(key, |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SharedBy::{Identifier, None as Nobody, Tenant};

    fn flow(body: &str, shared_by: SharedBy) -> (String, Priority) {
        let message = Message { body: body.to_owned().into(), ..Message::default() };
        let flow = Flow::of(&message, shared_by, 600);
        (flow.key.to_string(), flow.priority)
    }

    #[test]
    fn a_job_counts_for_its_user_or_its_tenant_and_what_cannot_be_read_for_nobody() {
        let full = r#"{"identifier": "ada", "tenant": "acme", "priority": "high", "x": [{}]}"#;
        for (body, shared_by, key, priority) in [
            (full, Identifier, "identifier:ada", Priority::High),
            (full, Tenant, "tenant:acme", Priority::High),
            (full, Nobody, "", Priority::High),
            (r#"{"identifier": "acme"}"#, Tenant, "identifier:acme", Priority::Normal),
            (r#"{"identifier": 7, "tenant": "acme"}"#, Tenant, "", Priority::Normal),
            (r#"{"identifier": "ada", "priority": "urgent"}"#, Identifier, "", Priority::Normal),
            (r#"{"identifier": "ada", "#, Identifier, "", Priority::Normal),
            (&"[".repeat(100), Identifier, "", Priority::Normal),
            (&format!(r#"{{"identifier": "ada", "prompt": "{}"}}"#, "x".repeat(600)), Identifier, "", Priority::Normal),
            (&format!(r#"{{"identifier": "{}"}}"#, "x".repeat(500)), Identifier, "", Priority::Normal),
            ("", Tenant, "", Priority::Normal),
        ] {
            assert_eq!(flow(body, shared_by), (key.to_owned(), priority), "{body}");
        }
        assert_eq!((Flow::name("tenant:a:b"), Flow::name("")), ("a:b", ""));
    }

    #[test]
    fn what_a_digest_fires_is_of_low_priority_unless_it_says_otherwise() {
        for (body, expected) in [("{}", Priority::Low), (r#"{"priority": "normal"}"#, Priority::Normal)] {
            let mut message = Message { body: body.into(), ..Message::default() };
            message.properties.headers.insert("x-agentkit-scheduled".to_owned(), "1".to_owned());
            assert_eq!(Flow::of(&message, Identifier, 100).priority, expected);
        }
    }
}
