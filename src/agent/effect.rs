//! What a tool does to the world, and what follows from it when an outcome is in doubt.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::key::digest;

/// What a tool does to the world. Ordered by how careful one must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Changes nothing; may run at any time, several at once.
    Read,
    /// Changes something, and running it twice is the same as running it once.
    Idempotent,
    /// Changes something each time it runs.
    Write,
}

impl Effect {
    /// The effect's name, as in metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Idempotent => "idempotent",
            Self::Write => "write",
        }
    }
}

/// First words after the connector's name that only read, for tools whose definition carries no hints.
/// Kept short on purpose: a verb that is missing costs a retry, a verb too many costs a second mail.
const READING_VERBS: [&str; 12] =
    ["get", "list", "search", "fetch", "find", "read", "query", "describe", "count", "check", "lookup", "view"];

/// The effect of a tool: the operator's override, else the definition's hints (`annotations.read_only_hint`,
/// `idempotent_hint`, or camelCase as tools born in MCP have them), else the verb of a well-known kind of name
/// (`gmail_fetch_mails`, `notionmcp_notion-search`), else [`Effect::Write`].
pub fn effect_of(name: &str, definition: &Value, overrides: &BTreeMap<String, Effect>) -> Effect {
    if let Some(effect) = overrides.get(name) {
        return *effect;
    }
    let annotations = definition.get("annotations");
    let hint = |snake: &str, camel: &str| {
        let annotations = annotations?;
        annotations.get(snake).or_else(|| annotations.get(camel))?.as_bool()
    };
    match (hint("read_only_hint", "readOnlyHint"), hint("idempotent_hint", "idempotentHint")) {
        (Some(true), _) => Effect::Read,
        (_, Some(true)) => Effect::Idempotent,
        (None, None) if has_reading_verb(name) => Effect::Read,
        _ => Effect::Write,
    }
}

/// The verb is the first word of the name after the connector's; `notionmcp_notion-search` repeats the connector.
fn has_reading_verb(name: &str) -> bool {
    let Some((connector, rest)) = name.split_once('_') else { return false };
    let mut words = rest.split(['_', '-']);
    let first = words.next().unwrap_or_default();
    let verb = if connector.starts_with(first) { words.next().unwrap_or_default() } else { first };
    READING_VERBS.contains(&verb)
}

/// What is known of whether a tool ran, when its call came back without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ran {
    /// Proven that it did not: no byte left, or it was refused at Scalekit's own gate.
    No,
    /// It may have run: time-out, reset, 5xx after the request left, or a worker that died meanwhile.
    Perhaps,
}

/// What may happen to a call whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// It may run again.
    RunAgain,
    /// It must not run again; its outcome is reported as unknown.
    Unknown,
}

/// The in-doubt rule: a write is resent only where it is proven that it did not run.
pub fn in_doubt(effect: Effect, ran: Ran) -> InDoubt {
    match (effect, ran) {
        (_, Ran::No) | (Effect::Read | Effect::Idempotent, Ran::Perhaps) => InDoubt::RunAgain,
        (Effect::Write, Ran::Perhaps) => InDoubt::Unknown,
    }
}

/// Names a call by what it would do: the same tool with the same arguments gives the same key, in whatever order the
/// arguments stand. Used to fence a write whose outcome is unknown and to notice loops.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallKey(String);

impl CallKey {
    /// The key of `tool` on `connection` with `arguments`.
    pub fn new(connection: &str, tool: &str, arguments: &Map<String, Value>) -> Self {
        // serde_json's map is sorted by key (its `preserve_order` is off), so the text is canonical.
        let text = serde_json::to_string(&(connection, tool, arguments)).expect("JSON values print");
        Self(digest(text, 12))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn effect(name: &str, annotations: impl Into<Value>) -> Effect {
        effect_of(name, &json!({"name": name, "annotations": annotations.into()}), &BTreeMap::new())
    }

    #[test]
    fn an_override_beats_every_hint() {
        let overrides = BTreeMap::from([("gmail_fetch_mails".to_owned(), Effect::Write)]);
        let definition = json!({"annotations": {"read_only_hint": true}});
        assert_eq!(effect_of("gmail_fetch_mails", &definition, &overrides), Effect::Write);
    }

    #[test]
    fn hints_are_read_in_both_spellings() {
        assert_eq!(effect("acme_zap", json!({"read_only_hint": true})), Effect::Read);
        assert_eq!(effect("acme_zap", json!({"readOnlyHint": true})), Effect::Read);
        assert_eq!(effect("acme_zap", json!({"idempotentHint": true, "readOnlyHint": false})), Effect::Idempotent);
        assert_eq!(effect("acme_get_zap", json!({"readOnlyHint": false})), Effect::Write);
        assert_eq!(effect("acme_zap", json!({"read_only_hint": "yes"})), Effect::Write);
    }

    #[test]
    fn without_hints_the_verb_decides_and_doubt_means_write() {
        for name in ["gmail_fetch_mails", "gmail_list_labels", "slack_get_channel", "notionmcp_notion-search"] {
            assert_eq!(effect(name, Value::Null), Effect::Read, "{name}");
        }
        for name in ["gmail_send_message", "gmail_getaway_book", "get", "c-mcp_fetcher", "gmail_watch_mailbox", ""] {
            assert_eq!(effect(name, Value::Null), Effect::Write, "{name}");
        }
    }

    #[test]
    fn a_write_in_doubt_is_never_run_again() {
        assert_eq!(in_doubt(Effect::Write, Ran::Perhaps), InDoubt::Unknown);
    }

    #[test]
    fn a_write_that_did_not_run_may_run() {
        assert_eq!(in_doubt(Effect::Write, Ran::No), InDoubt::RunAgain);
    }

    #[test]
    fn reads_and_idempotent_calls_may_run_again() {
        for effect in [Effect::Read, Effect::Idempotent] {
            for ran in [Ran::No, Ran::Perhaps] {
                assert_eq!(in_doubt(effect, ran), InDoubt::RunAgain);
            }
        }
    }

    #[test]
    fn a_call_key_does_not_depend_on_the_order_of_arguments() {
        let one = serde_json::from_str(r#"{"a": 1, "b": {"x": 1, "y": 2}}"#).unwrap();
        let other = serde_json::from_str(r#"{"b": {"y": 2, "x": 1}, "a": 1}"#).unwrap();
        assert_eq!(CallKey::new("gmail", "t", &one), CallKey::new("gmail", "t", &other));
        assert_ne!(CallKey::new("gmail", "t", &one), CallKey::new("gmail-2", "t", &other));
    }
}
