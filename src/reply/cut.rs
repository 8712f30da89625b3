//! A reply that is too large for a message: what is sent instead.

use serde_json::Value;

use super::{Account, ErrorCode, ErrorDetail, Failed, Notice, Reply, ReplyEvent};

/// What is left out, one after the other, where a shorter text is not enough.
#[derive(Clone, Copy, PartialEq)]
enum LeftOut {
    Nothing,
    Output,
    OutputAndMetadata,
}

impl Reply {
    /// The reply in at most `limit` bytes: the same event with less text, which says so; where that is not enough without
    /// `output` and `metadata`; and where even that is too large a failure. The same reply is always cut in the same way.
    #[must_use]
    pub fn cut_to(&self, limit: usize) -> Self {
        let size = self.size();
        if size <= limit {
            return self.clone();
        }
        let tries = [LeftOut::Nothing, LeftOut::Output, LeftOut::OutputAndMetadata];
        tries.into_iter().find_map(|left_out| self.without(left_out, size, limit)).unwrap_or_else(|| {
            let text = format!("the reply has {size} bytes, and a message may have {limit} at most");
            let error = ErrorDetail::new(ErrorCode::Internal, text)
                .hint("ask for a shorter answer, or raise `amqp.max_message_bytes` as far as the broker allows");
            let known = self.clone().account().map(std::mem::take).unwrap_or_default();
            let account = Account {
                stop_reason: error.code.as_str().to_owned(),
                effects: Vec::new(),
                retries: Vec::new(),
                notices: Vec::new(),
                metadata: Value::Null,
                ..known
            };
            Self { event: ReplyEvent::Failed(Box::new(Failed { error, text: None, account })), ..self.clone() }
        })
    }

    /// The reply without what is left out, and with as much of its text as fits; `None` where nothing of it does.
    fn without(&self, left_out: LeftOut, size: usize, limit: usize) -> Option<Self> {
        let mut reply = self.clone();
        let mut said = format!("This reply was cut: it had {size} bytes, and a message may have {limit} at most.");
        if left_out != LeftOut::Nothing
            && let ReplyEvent::Completed(completed) = &mut reply.event
            && completed.output.take().is_some()
        {
            said.push_str(" `output` was left out.");
        }
        if left_out == LeftOut::OutputAndMetadata
            && let Some(metadata) = reply.metadata()
            && !metadata.take().is_null()
        {
            said.push_str(" `metadata` was left out.");
        }
        let whole = reply.text().map(std::mem::take);
        if let Some(text) = &whole {
            said = format!("{said} The text had {} bytes.", text.len());
        }
        if let Some(account) = reply.account() {
            account.notices.push(Notice { code: "reply_cut".to_owned(), message: said.clone() });
        }
        let Some(whole) = whole else { return (reply.size() <= limit).then_some(reply) };
        let room = limit.checked_sub(reply.size())?;
        let text = if escaped(&whole) <= room {
            whole
        } else {
            let end = format!("\n\n[{said}]");
            let room = room.checked_sub(escaped(&end))?;
            format!("{}{end}", beginning(&whole, room))
        };
        if let Some(place) = reply.text() {
            *place = text;
        }
        Some(reply)
    }

    fn size(&self) -> usize {
        serde_json::to_vec(self).expect("a reply is JSON types only").len()
    }

    fn text(&mut self) -> Option<&mut String> {
        match &mut self.event {
            ReplyEvent::Completed(completed) => Some(&mut completed.text),
            ReplyEvent::Failed(failed) => failed.text.as_mut(),
            _ => None,
        }
    }

    fn account(&mut self) -> Option<&mut Account> {
        match &mut self.event {
            ReplyEvent::Completed(completed) => Some(&mut completed.account),
            ReplyEvent::Failed(failed) => Some(&mut failed.account),
            _ => None,
        }
    }

    fn metadata(&mut self) -> Option<&mut Value> {
        match &mut self.event {
            ReplyEvent::Completed(completed) => Some(&mut completed.account.metadata),
            ReplyEvent::Failed(failed) => Some(&mut failed.account.metadata),
            ReplyEvent::AuthorizationRequired(event) => Some(&mut event.metadata),
            ReplyEvent::ApprovalRequired(event) => Some(&mut event.metadata),
            ReplyEvent::EffectSettled(event) => Some(&mut event.metadata),
            ReplyEvent::DecisionRefused(_) | ReplyEvent::Progress(_) => None,
        }
    }
}

/// The longest beginning of `text` that takes `room` bytes in JSON at most.
fn beginning(text: &str, mut room: usize) -> &str {
    let end = text.char_indices().find(|(_, character)| match room.checked_sub(escaped_character(*character)) {
        Some(rest) => {
            room = rest;
            false
        }
        None => true,
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// Bytes that `text` takes in JSON, without the quotes.
fn escaped(text: &str) -> usize {
    text.chars().map(escaped_character).sum()
}

fn escaped_character(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        control if control < ' ' => 6,
        other => other.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::super::{Completed, Status};
    use super::*;
    use crate::job::JobId;

    const LIMIT: usize = 2000;

    fn completed(text: &str, output: Value, metadata: Value) -> Reply {
        let account = Account { stop_reason: "answered".into(), steps: 3, metadata, ..Account::default() };
        let output = Some(output).filter(|output| !output.is_null());
        let completed = Completed { text: text.into(), output, status: Status::Completed, account };
        let event = ReplyEvent::Completed(Box::new(completed));
        Reply::terminal(&JobId::new("j").unwrap(), Timestamp::UNIX_EPOCH, event)
    }

    /// The reply's data, once it was found to fit, and to be always the same.
    fn cut(reply: &Reply) -> Value {
        let cut = reply.cut_to(LIMIT);
        assert!(cut.size() <= LIMIT, "{} bytes", cut.size());
        assert_eq!((cut.id.as_str(), &cut), ("j:result", &reply.cut_to(LIMIT)));
        assert_eq!(cut.cut_to(LIMIT), cut);
        serde_json::to_value(cut).unwrap()["data"].clone()
    }

    fn notice(data: &Value) -> &str {
        assert_eq!(data["notices"][0]["code"], "reply_cut");
        data["notices"][0]["message"].as_str().unwrap()
    }

    #[test]
    fn a_reply_that_fits_stays_as_it_is() {
        let reply = completed("5", json!(5), json!({"order": 1}));
        assert_eq!(reply.cut_to(LIMIT), reply);
    }

    #[test]
    fn a_long_text_is_cut_where_the_room_ends_and_says_how_long_it_was() {
        for letter in ["a", "ü", "\"", "\n", "\u{1}", "\u{7f}", "\u{2028}", "😀"] {
            let text = letter.repeat(5000);
            let data = cut(&completed(&text, json!({"a": 1}), json!({"order": 1})));
            let kept = data["text"].as_str().unwrap();
            let said = format!("The text had {} bytes.", text.len());
            assert!(kept.starts_with(&letter.repeat(50)) && kept.contains(&said), "{kept}");
            assert!(notice(&data).contains(&said));
            assert_eq!((&data["output"], &data["metadata"]), (&json!({"a": 1}), &json!({"order": 1})));
            assert_eq!(data["status"], "completed");
        }
    }

    #[test]
    fn output_and_metadata_go_only_where_less_text_is_not_enough() {
        let large = json!("x".repeat(LIMIT));
        let data = cut(&completed("short", large.clone(), json!({"order": 1})));
        assert_eq!(
            (&data["text"], &data["output"], &data["metadata"]),
            (&json!("short"), &Value::Null, &json!({"order": 1}))
        );
        assert!(notice(&data).contains("`output` was left out"));
        let data = cut(&completed("short", large.clone(), large));
        assert_eq!((&data["text"], &data["metadata"]), (&json!("short"), &Value::Null));
        assert!(notice(&data).contains("`metadata` was left out"));
    }

    #[test]
    fn what_cannot_be_cut_any_further_is_a_failure_of_the_same_id() {
        let mut reply = completed("short", Value::Null, Value::Null);
        let code = "n".repeat(LIMIT);
        reply.account().unwrap().notices.push(Notice { code, message: String::new() });
        let data = cut(&reply);
        assert_eq!((&data["error"]["code"], &data["steps"]), (&json!("internal"), &json!(3)));
        assert!(data["error"]["message"].as_str().unwrap().contains("2000 at most"), "{data:#}");
    }
}
