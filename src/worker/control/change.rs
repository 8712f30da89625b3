//! What a webhook says: whose account may have changed.

use serde_json::Value;

use crate::job::{ConnectionName, Identifier};
use crate::parking::{Parked, WaitsFor};

/// Says that the user's authorization got no better, so nobody need be woken. A run that tries a call again may cause it.
const REFRESH_FAILED: &str = "connected_account.token_refresh_failed";

/// An account that may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    pub(super) identifier: Identifier,
    /// Not every event names it.
    pub(super) connection: Option<ConnectionName>,
}

impl Change {
    /// Reads a `connected_account.…` event (Scalekit's envelope: `type`, `data {identifier, connection_name?, …}`) that may
    /// be good news.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(body).ok()?;
        let kind = event.get("type")?.as_str()?;
        if !kind.starts_with("connected_account.") || kind == REFRESH_FAILED {
            return None;
        }
        let data = event.get("data")?;
        Some(Self {
            identifier: Identifier::new(data.get("identifier")?.as_str()?)?,
            connection: data.get("connection_name").and_then(Value::as_str).and_then(ConnectionName::new),
        })
    }

    pub(super) fn concerns(&self, parked: &Parked) -> bool {
        let concerned = |connection| parked.connections.contains(connection);
        parked.waits_for == WaitsFor::Authorization && self.connection.as_ref().is_none_or(concerned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::JobId;

    fn read(event: &Value) -> Option<Change> {
        Change::read(event.to_string().as_bytes())
    }

    #[test]
    fn an_account_event_tells_who_and_perhaps_which_connection() {
        let mut event = json!({
            "spec_version": "1", "id": "evt_1", "type": "connected_account.status_updated", "object": "ConnectedAccount",
            "data": {"identifier": "user_123", "connection_name": "gmail", "status": "ACTIVE", "old_status": "PENDING_AUTH"},
        });
        let identifier = Identifier::new("user_123").unwrap();
        let connection = ConnectionName::new("gmail");
        assert_eq!(read(&event), Some(Change { identifier: identifier.clone(), connection }));
        for unnamed in [Value::Null, json!(7), json!(""), json!("gmail/../x")] {
            event["data"]["connection_name"] = unnamed;
            assert_eq!(read(&event), Some(Change { identifier: identifier.clone(), connection: None }));
        }
    }

    #[test]
    fn a_change_concerns_whoever_waits_for_the_account_and_nobody_who_waits_for_approval() {
        let connection = |name: &str| ConnectionName::new(name).unwrap();
        let change = |named: Option<&str>| Change {
            identifier: Identifier::new("user_123").unwrap(),
            connection: named.map(connection),
        };
        let parked = |waits_for, connections: &[&str]| Parked {
            job: JobId::new("j").unwrap(),
            waits_for,
            connections: connections.iter().copied().map(connection).collect(),
            message: String::new(),
        };
        let unauthorized = parked(WaitsFor::Authorization, &["gmail", "slack"]);
        let unapproved = parked(WaitsFor::Approval, &[]);
        for (named, concerned) in [(None, true), (Some("slack"), true), (Some("notion"), false)] {
            assert_eq!(change(named).concerns(&unauthorized), concerned, "{named:?}");
            assert!(!change(named).concerns(&unapproved), "{named:?}");
        }
    }

    #[test]
    fn what_is_no_account_event_means_nothing() {
        let long = "x".repeat(101);
        for event in [
            json!({"type": "directory.user_created", "data": {"identifier": "user_123"}}),
            json!({"type": "connected_account.token_refresh_failed", "data": {"identifier": "user_123"}}),
            json!({"type": "connected_account.updated"}),
            json!({"type": "connected_account.updated", "data": []}),
            json!({"type": "connected_account.updated", "data": {"identifier": ""}}),
            json!({"type": "connected_account.updated", "data": {"identifier": long}}),
            json!({"type": ["connected_account.updated"], "data": {"identifier": "user_123"}}),
            json!({"trigger_type": "gmail.new_mail", "subscription_id": "sub_1", "payload_state": "INLINE"}),
            json!(null),
        ] {
            assert_eq!(read(&event), None, "{event}");
        }
        for body in ["", "{", "\u{0}", "[[[["] {
            assert_eq!(Change::read(body.as_bytes()), None);
        }
        assert_eq!(Change::read(&b"[".repeat(200_000)), None, "nesting without end");
        assert_eq!(Change::read(b"{\"type\": \"\xff\"}"), None);
    }
}
