//! What a tool does to the world, and what follows from it when an outcome is in doubt.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::job::OfferedEffects;
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

impl OfferedEffects {
    /// Whether tools of this effect are offered.
    pub fn allows(self, effect: Effect) -> bool {
        self == Self::All || effect == Effect::Read
    }
}

/// First words after the connector's name that only read. Kept short on purpose: a verb that is missing costs a retry, a verb
/// too many costs a second mail. `query` and `check` are none: what runs a query may write, and a task is checked off.
const READING_VERBS: [&str; 10] =
    ["get", "list", "search", "fetch", "find", "read", "describe", "count", "lookup", "view"];
/// Words that make it something else, wherever they stand behind it: it does more than one thing, or what its caller says.
const DOUBTFUL_WORDS: [&str; 22] = [
    "and",
    "or",
    "then",
    "sql",
    "soql",
    "graphql",
    "query",
    "statement",
    "command",
    "script",
    "code",
    "execute",
    "exec",
    "eval",
    "run",
    "create",
    "update",
    "upsert",
    "delete",
    "replace",
    "write",
    "mark",
];

/// What is known of a tool's effect without its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stated {
    /// For whoever does not believe the definition: its hints have made it stricter at most.
    pub doubted: Effect,
    /// For whoever believes it.
    pub believed: Effect,
}

/// The effect of a tool: by the verb of a well-known kind of name (`gmail_fetch_mails`, `notionmcp_notion-search`), else
/// [`Effect::Write`]; and by the definition's hints (`annotations.read_only_hint`, `idempotent_hint`, `destructive_hint`, or
/// camelCase as tools born in MCP have them).
pub fn stated_effect(name: &str, definition: &Value) -> Stated {
    let annotations = definition.get("annotations");
    let hint = |snake: &str, camel: &str| {
        let annotations = annotations?;
        annotations.get(snake).or_else(|| annotations.get(camel))?.as_bool()
    };
    let (read_only, idempotent) = (hint("read_only_hint", "readOnlyHint"), hint("idempotent_hint", "idempotentHint"));
    let destructive = hint("destructive_hint", "destructiveHint") == Some(true);
    let by_name = effect_by_name(name);
    let believed = match (read_only, idempotent) {
        (Some(true), _) => Effect::Read,
        (_, Some(true)) => Effect::Idempotent,
        (None, None) => by_name,
        _ => Effect::Write,
    };
    let stricter = if read_only == Some(false) || destructive { Effect::Write } else { by_name };
    Stated { doubted: by_name.max(stricter), believed }
}

/// The effect that a tool's own hints tell (MCP: `readOnlyHint`, `idempotentHint`, both false where they are not said).
pub fn effect_by_hints(definition: &Value) -> Effect {
    let hint = |name: &str| definition.get("annotations").and_then(|all| all.get(name)?.as_bool()) == Some(true);
    match (hint("readOnlyHint"), hint("idempotentHint")) {
        (true, _) => Effect::Read,
        (false, true) => Effect::Idempotent,
        (false, false) => Effect::Write,
    }
}

/// The effect that a tool's name tells.
pub fn effect_by_name(name: &str) -> Effect {
    if has_reading_verb(name) { Effect::Read } else { Effect::Write }
}

/// The verb is the first word of the name after the connector's; `notionmcp_notion-search` repeats the connector.
fn has_reading_verb(name: &str) -> bool {
    let Some((connector, rest)) = name.split_once('_') else { return false };
    let mut words = words(rest).into_iter();
    let first = words.next().unwrap_or_default();
    let verb = if connector.starts_with(&first) { words.next().unwrap_or_default() } else { first };
    READING_VERBS.contains(&verb.as_str()) && !words.any(|word| DOUBTFUL_WORDS.contains(&word.as_str()))
}

/// The words of a name, in whichever way they are joined: `find_or_create`, `findOrCreate`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for character in name.chars() {
        let begins = !before.is_uppercase() && character.is_uppercase();
        if !character.is_alphanumeric() || begins {
            words.push(String::new());
        }
        if character.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
        before = character;
    }
    let (first, rest) = words.split_at(1);
    first.iter().chain(rest.iter().filter(|word| !word.is_empty())).cloned().collect()
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

    fn stated(name: &str, annotations: impl Into<Value>) -> (Effect, Effect) {
        let Stated { doubted, believed } =
            stated_effect(name, &json!({"name": name, "annotations": annotations.into()}));
        (doubted, believed)
    }

    #[test]
    fn hints_are_read_in_both_spellings_and_make_a_tool_only_stricter_unless_they_are_believed() {
        use Effect::{Idempotent, Read, Write};
        for (name, annotations, expected) in [
            ("acme_zap", json!({"read_only_hint": true}), (Write, Read)),
            ("gmail_send_message", json!({"readOnlyHint": true}), (Write, Read)),
            ("acme_zap", json!({"idempotentHint": true, "readOnlyHint": false}), (Write, Idempotent)),
            ("acme_get_zap", json!({"readOnlyHint": false}), (Write, Write)),
            ("acme_get_zap", json!({"readOnlyHint": true}), (Read, Read)),
            ("acme_get_zap", json!({"destructive_hint": true}), (Write, Read)),
            ("acme_get_zap", json!({"idempotentHint": false}), (Read, Write)),
            ("acme_zap", json!({"read_only_hint": "yes"}), (Write, Write)),
            ("acme_get_zap", Value::Null, (Read, Read)),
        ] {
            assert_eq!(stated(name, annotations.clone()), expected, "{name} {annotations}");
        }
    }

    #[test]
    fn the_verb_of_a_name_decides_and_doubt_means_write() {
        for name in
            ["gmail_fetch_mails", "gmail_list_labels", "slack_get_channel", "notionmcp_notion-search", "acme_getItems"]
        {
            assert_eq!(effect_by_name(name), Effect::Read, "{name}");
        }
        for name in
            ["gmail_send_message", "gmail_getaway_book", "get", "c-mcp_fetcher", "gmail_watch_mailbox", "", "é_é"]
        {
            assert_eq!(effect_by_name(name), Effect::Write, "{name}");
        }
        for name in [
            "snowflake_query",
            "bigquery_query_run",
            "postgres_read_query",
            "acme_get_sql",
            "salesforce_list_soql",
            "hubspot_find_or_create_contact",
            "hubspot_findOrCreateContact",
            "gmail_fetch_and_delete",
            "docs_search-and-replace",
            "todo_check_task",
            "acme_get_exec_command",
        ] {
            assert_eq!(effect_by_name(name), Effect::Write, "{name} may write");
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
