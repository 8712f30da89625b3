//! Arguments for a call: values from the prompt and from earlier results, put where the tool's schema has room.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value, json};

use super::answers;
use super::conversation::{Conversation, ToolSpec};
use super::rules::Intent;

/// Words that introduce text which is passed on and not obeyed.
const FREE_TEXT: [&str; 7] =
    [" saying ", " that says ", " with the text ", " with body ", " body: ", " text: ", " with the message "];

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

/// The first mail address among the words.
pub(super) fn address(words: &str) -> Option<String> {
    let trimmed = words.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned());
    trimmed
        .into_iter()
        .find(|word| word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.')))
}

/// The segment without quoted text and without what follows words such as "saying".
pub(super) fn without_free_text(segment: &str) -> String {
    let lower = segment.to_lowercase();
    // Byte positions agree only where lowering changed no lengths.
    let start = FREE_TEXT.iter().filter_map(|marker| lower.find(marker)).min().filter(|_| lower.len() == segment.len());
    let kept = start.and_then(|start| segment.get(..start)).unwrap_or(segment);
    let outside = kept.split(['"', '“', '”']).step_by(2);
    outside.collect::<Vec<_>>().join(" ")
}

fn free_text(words: &str) -> Option<String> {
    let text = FREE_TEXT.iter().find_map(|marker| after(words, marker))?;
    Some(quoted_or(&text, &[]))
}

fn subject(words: &str) -> Option<String> {
    let text = after(words, "subject ").or_else(|| after(words, "subject: "))?;
    Some(quoted_or(&text, &[" saying", " that says", " and ", " with ", " body"]))
}

/// A name after "called", "named" or "titled".
fn named(words: &str) -> Option<String> {
    let text = [" called ", " named ", " titled "].iter().find_map(|marker| after(words, marker))?;
    Some(quoted_or(&text, &[" saying", " in ", " with ", " and ", " tomorrow", " on ", " at "]))
}

/// What a search is about.
fn topic(words: &str) -> Option<String> {
    let text = [" about ", " for "].iter().find_map(|marker| after(words, marker))?;
    Some(quoted_or(&text, &[" and ", " in "]).trim_start_matches("the ").to_owned())
}

fn after(words: &str, marker: &str) -> Option<String> {
    let lower = words.to_lowercase();
    let start = lower.find(marker).filter(|_| lower.len() == words.len())? + marker.len();
    words.get(start..).map(|text| text.trim().to_owned())
}

/// The text up to the closing quote, or up to the first of the ends, without the last full stop.
fn quoted_or(text: &str, ends: &[&str]) -> String {
    if let Some(quoted) = text.strip_prefix(['"', '“']) {
        return quoted.split(['"', '”']).next().unwrap_or_default().to_owned();
    }
    let end = ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    text[..end].trim().trim_end_matches(['.', ',', ';']).to_owned()
}

fn channel(words: &str) -> Option<String> {
    let hashed = words.split_whitespace().find(|word| word.len() > 1 && word.starts_with('#'));
    hashed.map(|word| word.trim_start_matches('#').trim_end_matches(['.', ',', ':', ';', '?']).to_owned())
}

fn number(words: &str) -> Option<u64> {
    let number = words.split(|c: char| !c.is_alphanumeric()).find_map(|word| word.parse::<u64>().ok());
    number.map(|number| number.clamp(1, 100))
}

fn repository(words: &str) -> (Value, Value) {
    let named = words.split_whitespace().find_map(|word| word.trim_end_matches(['.', ',']).split_once('/'));
    named.map_or((Value::Null, Value::Null), |(owner, name)| (owner.into(), name.into()))
}

fn mail_query(words: &str) -> String {
    let lower = words.to_lowercase();
    let mut terms = Vec::new();
    if lower.contains("unread") {
        terms.push("is:unread".to_owned());
    }
    let sender = after(words, " from ").and_then(|text| text.split_whitespace().next().map(str::to_owned));
    if let Some(sender) = sender
        .filter(|sender| !["my", "the", "today", "this", "last", "yesterday"].contains(&sender.to_lowercase().as_str()))
    {
        terms.push(format!("from:{}", sender.trim_end_matches(['.', ',', '?'])));
    }
    let about = topic(&without_free_text(words)).filter(|topic| !topic.contains('@') && topic.split(' ').count() <= 3);
    terms.extend(about.filter(|about| !["me", "today"].contains(&about.as_str())));
    terms.join(" ")
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
