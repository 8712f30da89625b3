//! Addresses, names, numbers and texts to pass on, read out of the words of a prompt.

use serde_json::Value;

/// Words that introduce text which is passed on and not obeyed.
const FREE_TEXT: [&str; 7] =
    [" saying ", " that says ", " with the text ", " with body ", " body: ", " text: ", " with the message "];

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

pub(super) fn free_text(words: &str) -> Option<String> {
    let text = FREE_TEXT.iter().find_map(|marker| after(words, marker))?;
    Some(quoted_or(&text, &[]))
}

/// A mail's subject.
pub(super) fn subject(words: &str) -> Option<String> {
    let text = after(words, "subject ").or_else(|| after(words, "subject: "))?;
    Some(quoted_or(&text, &[" saying", " that says", " and ", " with ", " body"]))
}

/// A name after "called", "named" or "titled".
pub(super) fn named(words: &str) -> Option<String> {
    let text = [" called ", " named ", " titled "].iter().find_map(|marker| after(words, marker))?;
    Some(quoted_or(&text, &[" saying", " in ", " with ", " and ", " tomorrow", " on ", " at "]))
}

/// What a search is about.
pub(super) fn topic(words: &str) -> Option<String> {
    let text = [" about ", " for "].iter().find_map(|marker| after(words, marker))?;
    Some(quoted_or(&text, &[" and ", " in "]).trim_start_matches("the ").to_owned())
}

/// A name behind a hash sign.
pub(super) fn channel(words: &str) -> Option<String> {
    let hashed = words.split_whitespace().find(|word| word.len() > 1 && word.starts_with('#'));
    hashed.map(|word| word.trim_start_matches('#').trim_end_matches(['.', ',', ':', ';', '?']).to_owned())
}

/// The first number, from 1 to 100.
pub(super) fn number(words: &str) -> Option<u64> {
    let number = words.split(|c: char| !c.is_alphanumeric()).find_map(|word| word.parse::<u64>().ok());
    number.map(|number| number.clamp(1, 100))
}

/// Owner and name, as in `northwind/shop`.
pub(super) fn repository(words: &str) -> (Value, Value) {
    let named = words.split_whitespace().find_map(|word| word.trim_end_matches(['.', ',']).split_once('/'));
    named.map_or((Value::Null, Value::Null), |(owner, name)| (owner.into(), name.into()))
}

/// A search in Gmail's language.
pub(super) fn mail_query(words: &str) -> String {
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
