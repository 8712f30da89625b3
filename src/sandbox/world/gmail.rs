//! A mailbox and the tools on it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counter::Counter;
use super::dates::minutes_before;
use super::outcome::{Outcome, ProviderError};
use super::parameters::{Parameters, contains, count, text, texts};

/// Whose mailbox it is.
pub(super) const ADDRESS: &str = "you@northwind.example";

/// The mails of one person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Mailbox {
    address: &'static str,
    mails: Vec<Mail>,
    drafts: Vec<Draft>,
    /// Labels that the user made.
    labels: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mail {
    id: String,
    thread_id: String,
    label_ids: Vec<String>,
    from: String,
    to: String,
    cc: String,
    subject: String,
    body: String,
    date: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Draft {
    id: String,
    message: Mail,
}

#[derive(Deserialize)]
pub(super) struct SeedMail {
    minutes_ago: i64,
    from: String,
    subject: String,
    body: String,
    labels: Vec<String>,
}

impl Mailbox {
    pub(super) fn new(seed: Vec<SeedMail>, now: Timestamp) -> Self {
        let mails = seed.into_iter().enumerate().map(|(index, mail)| mail.into_mail(index, now)).collect();
        Self { address: ADDRESS, mails, drafts: Vec::new(), labels: Vec::new() }
    }
}

impl SeedMail {
    fn into_mail(self, index: usize, now: Timestamp) -> Mail {
        let id = format!("18f2a{index:03x}");
        Mail {
            thread_id: id.clone(),
            id,
            label_ids: self.labels,
            from: self.from,
            to: ADDRESS.to_owned(),
            cc: String::new(),
            subject: self.subject,
            body: self.body,
            date: minutes_before(now, self.minutes_ago),
        }
    }
}

impl Mail {
    fn has(&self, label: &str) -> bool {
        self.label_ids.iter().any(|own| own.eq_ignore_ascii_case(label))
    }

    fn relabel(&mut self, add: &[String], remove: &[String]) {
        self.label_ids.retain(|label| !remove.contains(label));
        for label in add {
            if !self.has(label) {
                self.label_ids.push(label.clone());
            }
        }
    }

    /// As the tools give it; `metadata` and `minimal` leave the body out.
    fn to_json(&self, format: &str) -> Value {
        let mut mail = json!(self);
        let snippet: String = self.body.chars().take(100).collect();
        mail["snippet"] = snippet.into();
        mail["internalDate"] = self.date.as_millisecond().to_string().into();
        if matches!(format, "metadata" | "minimal")
            && let Some(mail) = mail.as_object_mut()
        {
            mail.remove("body");
        }
        mail
    }

    fn matches(&self, query: &str, now: Timestamp) -> bool {
        terms(query).iter().all(|term| match term.strip_prefix('-') {
            Some(term) => !self.matches_term(term, now),
            None => self.matches_term(term, now),
        })
    }

    fn matches_term(&self, term: &str, now: Timestamp) -> bool {
        let Some((operator, value)) = term.split_once(':') else {
            return [&self.subject, &self.body, &self.from].iter().any(|field| contains(field, term));
        };
        match (operator, value) {
            ("is", "read") => !self.has("UNREAD"),
            ("in", "anywhere") => true,
            ("is" | "label" | "in", value) => self.has(value),
            ("from", value) => contains(&self.from, value),
            ("to", value) => contains(&self.to, value),
            ("subject", value) => contains(&self.subject, value),
            ("newer_than", value) => age_limit(value).is_some_and(|minutes| self.date >= minutes_before(now, minutes)),
            ("older_than", value) => age_limit(value).is_some_and(|minutes| self.date < minutes_before(now, minutes)),
            // Operators that are not built do not narrow the search.
            _ => true,
        }
    }
}

/// Splits at spaces outside of quotes and drops the quotes.
fn terms(query: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut quoted = false;
    for character in query.chars() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => terms.push(String::new()),
            _ => terms.last_mut().into_iter().for_each(|term| term.push(character)),
        }
    }
    terms.retain(|term| !term.is_empty());
    terms
}

/// `2d`, `3h`, `1m` (months) and `1y` in minutes.
fn age_limit(value: &str) -> Option<i64> {
    let unit = value.chars().last()?;
    let number: i64 = value.strip_suffix(unit)?.parse().ok()?;
    let minutes = match unit {
        'h' => 60,
        'd' => 1_440,
        'm' => 43_200,
        'y' => 525_600,
        _ => return None,
    };
    number.checked_mul(minutes)
}

pub(super) fn run(
    mailbox: &mut Mailbox,
    action: &str,
    params: &Parameters,
    counter: &mut Counter,
    now: Timestamp,
) -> Outcome {
    match action {
        "fetch_mails" => Ok(fetch(mailbox, params, now)),
        "get_message_by_id" => Ok(find(mailbox, text(params, "message_id"))?.to_json(text(params, "format"))),
        "list_threads" => Ok(list_threads(mailbox, params, now)),
        "get_thread_by_id" => get_thread(mailbox, text(params, "thread_id")),
        "list_labels" => Ok(list_labels(mailbox)),
        "list_drafts" => Ok(json!({"drafts": mailbox.drafts, "resultSizeEstimate": mailbox.drafts.len()})),
        "get_draft" => Ok(json!(mailbox.drafts[draft_index(mailbox, params)?])),
        "get_profile" => Ok(json!({"emailAddress": mailbox.address, "messagesTotal": mailbox.mails.len()})),
        "search_people" | "get_contacts" => Ok(people(mailbox, text(params, "query"))),
        "create_draft" => Ok(create_draft(mailbox, params, counter, now)),
        "update_draft" => update_draft(mailbox, params, counter, now),
        "send_draft" => send_draft(mailbox, params, now),
        "delete_draft" => {
            let index = draft_index(mailbox, params)?;
            mailbox.drafts.remove(index);
            Ok(json!({}))
        }
        "send_message" | "reply_to_thread" => Ok(send(mailbox, params, counter, now)),
        "modify_message_labels" => relabel(mailbox, &[text(params, "message_id").to_owned()], params),
        "batch_modify_messages" => relabel(mailbox, &texts(params, "message_ids"), params).map(|_| json!({})),
        "trash_message" => move_mail(mailbox, params, "TRASH", "INBOX"),
        "untrash_message" => move_mail(mailbox, params, "INBOX", "TRASH"),
        "delete_message" => {
            let id = find(mailbox, text(params, "message_id"))?.id.clone();
            mailbox.mails.retain(|mail| mail.id != id);
            Ok(json!({}))
        }
        "create_label" => Ok(create_label(mailbox, text(params, "name"))),
        _ => Err(ProviderError::not_built(action)),
    }
}

fn fetch(mailbox: &Mailbox, params: &Parameters, now: Timestamp) -> Value {
    let found = search(mailbox, params, now);
    let start: usize = text(params, "page_token").parse().unwrap_or(0);
    let size = count(params, "max_results", 10);
    let page: Vec<Value> =
        found.iter().skip(start).take(size).map(|mail| mail.to_json(text(params, "format"))).collect();
    let mut answer = json!({"messages": page, "resultSizeEstimate": found.len()});
    if start + size < found.len() {
        answer["nextPageToken"] = (start + size).to_string().into();
    }
    answer
}

/// Newest first; spam and trash only where they are asked for.
fn search<'a>(mailbox: &'a Mailbox, params: &Parameters, now: Timestamp) -> Vec<&'a Mail> {
    let query = text(params, "query");
    let labels = texts(params, "label_ids");
    let everywhere = params.get("include_spam_trash").and_then(Value::as_bool).unwrap_or(false)
        || ["in:spam", "in:trash", "in:anywhere"].iter().any(|term| query.contains(term));
    let mut found: Vec<&Mail> = mailbox
        .mails
        .iter()
        .filter(|mail| everywhere || !(mail.has("SPAM") || mail.has("TRASH")))
        .filter(|mail| labels.iter().all(|label| mail.has(label)) && mail.matches(query, now))
        .collect();
    found.sort_by_key(|mail| std::cmp::Reverse(mail.date));
    found
}

fn find<'a>(mailbox: &'a Mailbox, id: &str) -> Result<&'a Mail, ProviderError> {
    mailbox.mails.iter().find(|mail| mail.id == id).ok_or_else(ProviderError::not_found)
}

fn list_threads(mailbox: &Mailbox, params: &Parameters, now: Timestamp) -> Value {
    let mut threads: Vec<Value> = Vec::new();
    for mail in search(mailbox, params, now) {
        if !threads.iter().any(|thread| thread["id"] == mail.thread_id.as_str()) {
            threads.push(json!({"id": mail.thread_id, "snippet": mail.to_json("")["snippet"]}));
        }
    }
    threads.truncate(count(params, "max_results", 10));
    json!({ "threads": threads })
}

fn get_thread(mailbox: &Mailbox, id: &str) -> Outcome {
    let mails: Vec<Value> =
        mailbox.mails.iter().filter(|mail| mail.thread_id == id).map(|mail| mail.to_json("")).collect();
    if mails.is_empty() {
        return Err(ProviderError::not_found());
    }
    Ok(json!({"id": id, "messages": mails}))
}

fn list_labels(mailbox: &Mailbox) -> Value {
    let system = ["INBOX", "UNREAD", "SENT", "DRAFT", "SPAM", "TRASH", "STARRED", "IMPORTANT"];
    let system = system.iter().map(|name| json!({"id": name, "name": name, "type": "system"}));
    let own = mailbox.labels.iter().map(|name| json!({"id": name, "name": name, "type": "user"}));
    json!({ "labels": system.chain(own).collect::<Vec<_>>() })
}

fn people(mailbox: &Mailbox, query: &str) -> Value {
    let mut people: Vec<&str> = mailbox.mails.iter().map(|mail| mail.from.as_str()).collect();
    people.sort_unstable();
    people.dedup();
    let people = people.into_iter().filter(|person| contains(person, query)).map(|person| json!({ "person": person }));
    Value::Array(people.collect())
}

fn compose(mailbox: &Mailbox, params: &Parameters, counter: &mut Counter, label: &str, now: Timestamp) -> Mail {
    let id = format!("18f2b{:03x}", counter.next());
    let thread = text(params, "thread_id");
    Mail {
        thread_id: if thread.is_empty() { id.clone() } else { thread.to_owned() },
        id,
        label_ids: vec![label.to_owned()],
        from: mailbox.address.to_owned(),
        to: text(params, "to").to_owned(),
        cc: text(params, "cc").to_owned(),
        subject: text(params, "subject").to_owned(),
        body: text(params, "body").to_owned(),
        date: now,
    }
}

fn receipt(mail: &Mail) -> Value {
    json!({"id": mail.id, "threadId": mail.thread_id, "labelIds": mail.label_ids})
}

fn send(mailbox: &mut Mailbox, params: &Parameters, counter: &mut Counter, now: Timestamp) -> Value {
    let mail = compose(mailbox, params, counter, "SENT", now);
    let receipt = receipt(&mail);
    mailbox.mails.push(mail);
    receipt
}

fn create_draft(mailbox: &mut Mailbox, params: &Parameters, counter: &mut Counter, now: Timestamp) -> Value {
    let message = compose(mailbox, params, counter, "DRAFT", now);
    let id = format!("r-{}", message.id);
    let answer = json!({"id": id, "message": receipt(&message)});
    mailbox.drafts.push(Draft { id, message });
    answer
}

fn draft_index(mailbox: &Mailbox, params: &Parameters) -> Result<usize, ProviderError> {
    let id = text(params, "draft_id");
    mailbox.drafts.iter().position(|draft| draft.id == id).ok_or_else(ProviderError::not_found)
}

fn update_draft(mailbox: &mut Mailbox, params: &Parameters, counter: &mut Counter, now: Timestamp) -> Outcome {
    let index = draft_index(mailbox, params)?;
    let message = compose(mailbox, params, counter, "DRAFT", now);
    let answer = json!({"id": mailbox.drafts[index].id, "message": receipt(&message)});
    mailbox.drafts[index].message = message;
    Ok(answer)
}

fn send_draft(mailbox: &mut Mailbox, params: &Parameters, now: Timestamp) -> Outcome {
    let index = draft_index(mailbox, params)?;
    let mut mail = mailbox.drafts.remove(index).message;
    mail.label_ids = vec!["SENT".to_owned()];
    mail.date = now;
    let receipt = receipt(&mail);
    mailbox.mails.push(mail);
    Ok(receipt)
}

fn relabel(mailbox: &mut Mailbox, ids: &[String], params: &Parameters) -> Outcome {
    for id in ids {
        find(mailbox, id)?;
    }
    let (add, remove) = (texts(params, "add_label_ids"), texts(params, "remove_label_ids"));
    let mut last = json!({});
    for mail in mailbox.mails.iter_mut().filter(|mail| ids.contains(&mail.id)) {
        mail.relabel(&add, &remove);
        last = receipt(mail);
    }
    Ok(last)
}

fn move_mail(mailbox: &mut Mailbox, params: &Parameters, to: &str, from: &str) -> Outcome {
    let id = find(mailbox, text(params, "message_id"))?.id.clone();
    let mail = mailbox.mails.iter_mut().find(|mail| mail.id == id).ok_or_else(ProviderError::not_found)?;
    mail.relabel(&[to.to_owned()], &[from.to_owned()]);
    Ok(receipt(mail))
}

fn create_label(mailbox: &mut Mailbox, name: &str) -> Value {
    if !mailbox.labels.iter().any(|label| label == name) {
        mailbox.labels.push(name.to_owned());
    }
    json!({"id": name, "name": name, "type": "user"})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::data::embedded;

    #[derive(Deserialize)]
    struct Seed {
        mails: Vec<SeedMail>,
    }

    fn found(query: &str) -> usize {
        let now = "2026-11-22T08:00:00Z".parse().unwrap();
        let seed: Seed = embedded(include_str!("../data/seed.json"));
        let params = json!({"query": query, "max_results": 100});
        search(&Mailbox::new(seed.mails, now), params.as_object().unwrap(), now).len()
    }

    #[test]
    fn a_search_narrows_by_flags_senders_words_and_age() {
        assert_eq!(found("is:unread"), 6);
        assert_eq!(found("is:unread from:priya"), 1);
        assert_eq!(found("subject:\"Contract draft\""), 1);
        assert_eq!(found("invoice"), 2);
        assert_eq!(found("invoice -from:jonas"), 1);
        assert_eq!(found("newer_than:1d"), 6);
        assert_eq!(found("in:spam"), 1);
    }

    #[test]
    fn odd_queries_do_no_harm() {
        for query in ["\"", ":", "-", "newer_than:ü", "newer_than:99999999999999999999d", "is:", "\u{0}"] {
            found(query);
        }
    }
}
