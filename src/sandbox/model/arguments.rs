//! Arguments for a call: values from the prompt and from earlier results, put where the tool's schema has room.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value, json};

use super::answers;
use super::conversation::{Conversation, ToolSpec};
use super::intents::Intent;
use super::words::{address, channel, free_text, mail_query, named, number, repository, subject, topic};

/// Arguments that fit the tool's schema, or the name of a required one that nothing is known about.
pub(super) fn build(
    conversation: &Conversation,
    intent: Intent,
    words: &str,
    tool: &ToolSpec,
) -> Result<Value, String> {
    let mut arguments = known(tool, &values(conversation, intent, words));
    let required = tool.parameters["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        if arguments.get(name).is_some() {
            continue;
        }
        if !takes_null(&tool.parameters["properties"][name]) {
            return Err(name.to_owned());
        }
        arguments[name] = Value::Null;
    }
    Ok(arguments)
}

/// Those values whose names the tool's schema has.
pub(super) fn known(tool: &ToolSpec, values: &[(&str, Value)]) -> Value {
    let properties = tool.parameters["properties"].as_object();
    let has = |name: &str| properties.is_some_and(|properties| properties.contains_key(name));
    let fitting = values.iter().filter(|(name, value)| has(name) && !value.is_null());
    Value::Object(fitting.map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>())
}

/// Whether the tool cannot be called with nothing.
pub(super) fn needs_any(tool: &ToolSpec) -> bool {
    tool.parameters["required"].as_array().is_some_and(|required| !required.is_empty())
}

fn takes_null(schema: &Value) -> bool {
    let types = &schema["type"];
    let listed = types.as_array().is_some_and(|types| types.contains(&json!("null")));
    let any = schema["anyOf"].as_array().is_some_and(|any| any.iter().any(|one| one["type"] == "null"));
    listed || any || types == "null"
}

fn values(conversation: &Conversation, intent: Intent, words: &str) -> Vec<(&'static str, Value)> {
    match intent {
        Intent::ReadMails => {
            let size = json!(number(words).unwrap_or(5));
            vec![("query", mail_query(words).into()), ("max_results", size.clone()), ("limit", size)]
        }
        Intent::ReadCalendar => {
            let (from, to) = window(words, conversation.now);
            vec![
                ("calendar_id", "primary".into()),
                ("time_min", from.into()),
                ("time_max", to.into()),
                ("single_events", true.into()),
                ("order_by", "startTime".into()),
                ("query", "".into()),
            ]
        }
        Intent::ReadChannel => {
            let channel = channel(words).unwrap_or_else(|| "general".to_owned());
            vec![("channel", channel.into()), ("limit", json!(number(words).unwrap_or(10)))]
        }
        Intent::ListChannels | Intent::ListLabels => Vec::new(),
        Intent::ListIssues | Intent::ListPullRequests => {
            let (owner, name) = repository(words);
            vec![
                ("owner", owner),
                ("repo", name),
                ("state", "open".into()),
                ("per_page", json!(number(words).unwrap_or(10))),
            ]
        }
        Intent::SearchNotes => vec![("query", topic(words).map_or_else(|| "plan".into(), Value::from))],
        Intent::DraftMail | Intent::SendMail => mail(conversation, words),
        Intent::SendDraft => vec![("draft_id", answers::last_id(conversation, "draft").into())],
        Intent::PostMessage => {
            vec![("channel", channel(words).into()), ("text", message_text(conversation, words).into())]
        }
        Intent::CreateEvent => {
            let start = tomorrow_at_ten(conversation.now);
            let title = named(words).unwrap_or_else(|| "Meeting".to_owned());
            vec![
                ("summary", title.into()),
                ("start_datetime", start.into()),
                ("event_duration_minutes", json!(30)),
                ("calendar_id", "primary".into()),
            ]
        }
        Intent::CreateIssue => {
            let (owner, name) = repository(words);
            let body = free_text(words).map(Value::from).unwrap_or_default();
            vec![("owner", owner), ("repo", name), ("title", named(words).into()), ("body", body)]
        }
        Intent::CreateNote => {
            let title = named(words).unwrap_or_else(|| "Note".to_owned());
            vec![("title", title.into()), ("content", message_text(conversation, words).into())]
        }
        Intent::MarkRead => {
            let ids = answers::found_ids(conversation);
            let first = ids.first().cloned();
            vec![
                ("message_ids", if ids.is_empty() { Value::Null } else { json!(ids) }),
                ("message_id", first.into()),
                ("remove_label_ids", json!(["UNREAD"])),
            ]
        }
        Intent::TrashMail => vec![("message_id", answers::found_ids(conversation).first().cloned().into())],
    }
}

fn mail(conversation: &Conversation, words: &str) -> Vec<(&'static str, Value)> {
    let body = message_text(conversation, words);
    let first_words = || body.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
    let default = if conversation.steps.is_empty() { first_words() } else { "Summary".to_owned() };
    let subject = subject(words).unwrap_or(default);
    vec![("to", address(words).into()), ("subject", subject.into()), ("body", body.into())]
}

/// What the prompt says to pass on, else what was found so far.
fn message_text(conversation: &Conversation, words: &str) -> String {
    let found = || answers::report(conversation);
    let given = free_text(words);
    given.unwrap_or_else(|| if conversation.steps.is_empty() { "Hello".to_owned() } else { found() })
}

/// Today, tomorrow, or seven days, in UTC.
fn window(words: &str, now: Timestamp) -> (String, String) {
    let lower = words.to_lowercase();
    let (from, days) = match () {
        () if lower.contains("tomorrow") => (1, 1),
        () if lower.contains("week") => (0, 7),
        () => (0, 1),
    };
    let day = |days: i64| {
        let midnight = now.to_zoned(TimeZone::UTC).start_of_day();
        midnight.and_then(|day| day.checked_add(days.days())).map_or(now, |day| day.timestamp()).to_string()
    };
    (day(from), day(from + days))
}

fn tomorrow_at_ten(now: Timestamp) -> String {
    let (tomorrow, _) = window("tomorrow", now);
    tomorrow.replace("T00:00:00Z", "T10:00:00Z")
}
