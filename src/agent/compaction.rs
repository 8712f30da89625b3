//! A conversation that nears the model's context window: which tool results are left out of it, and what stands in their
//! place. The choice is journalled, so that a replay leaves out the same, whatever is known of models by then.

use super::counted_tokens::CountedTokens;
use super::effect::Effect;
use super::message::{Message, ToolCall};
use super::state::Run;
use crate::reply::EffectState;

/// Text that the provider has not counted yet has a token for so many bytes: fewer than is usual, so that it is rather
/// overestimated.
const BYTES_PER_TOKEN: u64 = 3;
/// Text that is left out saves a token for so many bytes, by the same caution.
const BYTES_PER_SAVED_TOKEN: u64 = 4;
/// Shorter results stay: what stands in their place takes about as much.
const WORTH_BYTES: usize = 512;
/// A message takes so many bytes beside its text.
const BESIDE_TEXT: usize = 16;
/// So much of the room is filled afterwards, in percent: it is not to happen at each step, as it costs the provider's cache.
const FILLED_AFTERWARDS: u64 = 70;

/// A tool result that may be left out.
struct Candidate<'r> {
    call_id: &'r str,
    bytes: usize,
    /// Tokens that leaving it out saves.
    saves: u64,
}

impl Run {
    /// About how many tokens a request of this conversation has: what the provider counted last, and an estimate of what came
    /// since then. `tools_bytes` is the length of the printed tools.
    pub fn estimated_tokens(&self, tools_bytes: usize) -> u64 {
        let CountedTokens { tokens, messages } = self.counted;
        let uncounted: usize = self.messages[messages..].iter().map(size).sum();
        let uncounted = if messages == 0 { uncounted.saturating_add(tools_bytes) } else { uncounted };
        tokens.saturating_add(uncounted as u64 / BYTES_PER_TOKEN)
    }

    /// The results to leave out, as calls, where a request would have more than `room` tokens: the oldest first, and those that the
    /// model has not seen yet only where that is not enough. None where it has room, or nothing is worth it.
    pub fn results_to_leave_out(&self, tools_bytes: usize, room: u64) -> Vec<String> {
        let mut tokens = self.estimated_tokens(tools_bytes);
        if tokens <= room {
            return Vec::new();
        }
        let seen = self.seen();
        let (old, mut new) = (self.candidates(0..seen), self.candidates(seen..self.messages.len()));
        new.sort_by_key(|candidate| std::cmp::Reverse(candidate.bytes));
        let mut left_out = Vec::new();
        for (candidates, enough) in [(old, room.saturating_mul(FILLED_AFTERWARDS) / 100), (new, room)] {
            for candidate in candidates {
                if tokens <= enough {
                    return left_out;
                }
                tokens = tokens.saturating_sub(candidate.saves);
                left_out.push(candidate.call_id.to_owned());
            }
            if tokens <= room {
                return left_out;
            }
        }
        left_out
    }

    /// The results to leave out where the model's server refused the conversation as too long, whatever is known of its room:
    /// down to half of it, and of those that the model has not seen yet none while there are others.
    pub fn results_to_leave_out_once_refused(&self, tools_bytes: usize) -> Vec<String> {
        let old: Vec<&str> = self.candidates(0..self.seen()).iter().map(|candidate| candidate.call_id).collect();
        let mut left_out = self.results_to_leave_out(tools_bytes, self.estimated_tokens(tools_bytes) / 2);
        if !old.is_empty() {
            left_out.retain(|call_id| old.contains(&call_id.as_str()));
        }
        left_out
    }

    /// So many messages has the model seen.
    fn seen(&self) -> usize {
        self.messages.iter().rposition(|message| matches!(message, Message::Assistant(_))).unwrap_or_default()
    }

    fn candidates(&self, range: std::ops::Range<usize>) -> Vec<Candidate<'_>> {
        let messages = self.messages.iter().enumerate().take(range.end).skip(range.start);
        let candidates = messages.filter_map(|(index, message)| match message {
            Message::ToolResult { call_id, content } if content.len() >= WORTH_BYTES => {
                let per_token = if index < self.counted.messages { BYTES_PER_SAVED_TOKEN } else { BYTES_PER_TOKEN };
                let (call_id, bytes) = (call_id.as_str(), content.len());
                Some(Candidate { call_id, bytes, saves: (bytes as u64).saturating_sub(200) / per_token })
            }
            _ => None,
        });
        candidates.filter(|candidate| !self.left_out.contains(candidate.call_id)).collect()
    }

    /// Whether the results of these calls may be left out now.
    pub(super) fn may_leave_out(&self, calls: &[String]) -> bool {
        let is_result = |id: &String| {
            let results = |message: &Message| matches!(message, Message::ToolResult { call_id, .. } if call_id == id);
            self.messages.iter().any(results) && !self.left_out.contains(id)
        };
        let is_first = |(index, id): (usize, &String)| !calls[..index].contains(id);
        !calls.is_empty() && calls.iter().all(is_result) && calls.iter().enumerate().all(is_first)
    }

    /// How many tool results the model does not have any more.
    pub fn results_left_out(&self) -> usize {
        self.left_out.len()
    }
}

/// The provider counted the conversation as it stands.
pub(super) fn count(run: &mut Run, tokens: u64) {
    run.counted = CountedTokens { tokens, messages: run.messages.len() };
}

/// Leaves out the results of these calls; what was there is said in their place.
pub(super) fn leave_out(run: &mut Run, calls: Vec<String>) {
    for id in calls {
        let found = run
            .messages
            .iter()
            .position(|message| matches!(message, Message::ToolResult { call_id, .. } if *call_id == id));
        let Some(index) = found else { continue };
        let marker = marker(run, &id, index);
        if let Message::ToolResult { content, .. } = &mut run.messages[index] {
            let saved = content.len().saturating_sub(marker.len()) as u64;
            if index < run.counted.messages {
                run.counted.tokens = run.counted.tokens.saturating_sub(saved / BYTES_PER_SAVED_TOKEN);
            }
            *content = marker;
        }
        run.left_out.insert(id);
    }
}

/// What stands in the place of a result: whose it was, and how large.
fn marker(run: &Run, call_id: &str, index: usize) -> String {
    let calls = run.messages[..index].iter().rev().filter_map(|message| match message {
        Message::Assistant(said) => Some(said.calls.iter()),
        _ => None,
    });
    let name = calls.flatten().find(|call: &&ToolCall| call.id == call_id).map_or("a tool", |call| call.name.as_str());
    let bytes = run.messages.get(index).map_or(0, size) - BESIDE_TEXT;
    let made = run.ledger.iter().find(|entry| entry.call_id == call_id && entry.tool.effect != Effect::Read);
    let advice = match made.map(|entry| entry.state) {
        None => "Call it again, for less at a time, if you need it.",
        Some(EffectState::Done) => "What it did is done: do not call it again for its answer.",
        Some(EffectState::Failed) => "It failed.",
        Some(_) => "It may have been carried out: do not repeat it.",
    };
    format!("[Left out, as the conversation would be too long: what `{name}` answered here, {bytes} bytes. {advice}]")
}

/// Bytes of a message, about.
fn size(message: &Message) -> usize {
    let text = match message {
        Message::System(text) | Message::User(text) | Message::ToolResult { content: text, .. } => text.len(),
        Message::Assistant(said) if !said.provider_items.is_empty() => {
            said.provider_items.iter().map(|item| item.to_string().len()).sum()
        }
        Message::Assistant(said) => {
            let calls = said.calls.iter().map(|call| call.name.len() + call.arguments.len() + BESIDE_TEXT);
            said.text.as_ref().map_or(0, String::len) + calls.sum::<usize>()
        }
    };
    text + BESIDE_TEXT
}

#[cfg(test)]
mod tests {
    use super::super::event::Event;
    use super::super::message::Usage;
    use super::super::script::{Script, says, wants};

    const READ: &str = "gmail_fetch_mails";
    const WRITE: &str = "gmail_send_message";

    /// A run that has read so many pages of a thousand bytes.
    fn reader(pages: usize) -> Script {
        let mut script = Script::ready(|started| started.settings.tokens = 1_000_000);
        for page in 0..pages {
            let id = format!("c{page}");
            script.model(wants(&[(&id, READ, &format!("{{\"page\": {page}}}"))])).start(&id);
            script.done(&id, &format!("{page:->1000}"));
        }
        script
    }

    fn leave_out(calls: &[&str]) -> Event {
        Event::HistoryCompacted { results: calls.iter().map(|id| (*id).to_owned()).collect() }
    }

    fn content<'s>(script: &'s Script, id: &str) -> &'s str {
        script.results().into_iter().find(|(call, _)| *call == id).unwrap().1
    }

    #[test]
    fn what_the_provider_counted_stands_and_only_what_came_since_is_estimated() {
        let mut script = Script::ready(|_| {});
        let first = script.run.estimated_tokens(3000);
        assert!((1000..1100).contains(&first), "tools and prompt: {first}");
        let mut turn = wants(&[("c1", READ, "{}")]);
        turn.usage = Some(Usage { input_tokens: 5000, output_tokens: 10, cached_tokens: 0, ..Usage::default() });
        script.model(turn).start("c1").done("c1", &"x".repeat(3000));
        let then = script.run.estimated_tokens(3000);
        assert!((6000..6100).contains(&then), "the tools are in the count: {then}");
        let mut silent = wants(&[("c2", READ, "{\"a\": 1}")]);
        silent.usage = None;
        script.model(silent);
        let silent = script.run.estimated_tokens(3000);
        assert!(silent > then, "no figure is no zero: {silent}");
    }

    #[test]
    fn the_oldest_results_go_first_until_there_is_room_for_a_while() {
        let script = reader(10);
        let tokens = script.run.estimated_tokens(0);
        assert_eq!(script.run.results_to_leave_out(0, tokens), [""; 0], "there is room");
        // All but the last one are in what the provider counted.
        let mut counted = reader(10);
        let mut turn = wants(&[("last", READ, "{}")]);
        turn.usage = Some(Usage { input_tokens: 3000, output_tokens: 10, cached_tokens: 0, ..Usage::default() });
        counted.model(turn).start("last").done("last", &"y".repeat(1000));
        let tokens = counted.run.estimated_tokens(0);
        let left_out = counted.run.results_to_leave_out(0, tokens - 1);
        assert_eq!(left_out[..3], ["c0", "c1", "c2"], "{left_out:?}");
        assert!(!left_out.contains(&"last".to_owned()) && left_out.len() < 10, "{left_out:?}");
        counted.event(Event::HistoryCompacted { results: left_out });
        assert!(counted.run.estimated_tokens(0) <= (tokens - 1) * 3 / 4, "{}", counted.run.estimated_tokens(0));
        assert_eq!(counted.run.results_to_leave_out(0, tokens - 1), [""; 0], "not at each step");
    }

    #[test]
    fn what_the_model_has_not_seen_yet_goes_only_where_nothing_else_is_left_and_the_largest_first() {
        let mut script = reader(2);
        script.model(wants(&[("a", READ, "{\"a\": 1}"), ("b", READ, "{\"b\": 1}")])).start("a").start("b");
        script.done("a", &"a".repeat(2000)).done("b", &"b".repeat(9000));
        let room = script.run.estimated_tokens(0) - 1000;
        assert_eq!(script.run.results_to_leave_out(0, room), ["c0", "c1", "b"]);
        assert_eq!(script.run.results_to_leave_out(0, 0), ["c0", "c1", "b", "a"], "as much as there is");
        assert_eq!(script.run.results_to_leave_out_once_refused(0), ["c0", "c1"], "one refusal takes no new ones");
        let mut refused = reader(2);
        refused.event(leave_out(&["c0"]));
        assert_eq!(refused.run.results_to_leave_out_once_refused(0), ["c1"], "but for those that are all there is");
        script.event(leave_out(&["c0", "c1", "b", "a"]));
        assert_eq!(script.run.results_to_leave_out(0, 0), [""; 0], "nothing goes twice, and no words go");
    }

    #[test]
    fn the_model_is_told_what_was_there_and_not_to_repeat_what_was_done() {
        let mut script = reader(1);
        let to = |name: &str| format!("{{\"to\": \"{name}\"}}");
        script.model(wants(&[("w1", WRITE, &to("a")), ("w2", WRITE, &to("b")), ("w3", WRITE, &to("c"))]));
        script.start("w1").done("w1", &"sent ".repeat(200)).start("w2").failed("w2", &"no ".repeat(300));
        script.start("w3").unknown("w3");
        script.event(leave_out(&["c0", "w1", "w2", "w3"]));
        let told = content(&script, "c0");
        assert!(
            told.contains("`gmail_fetch_mails`") && told.contains("1000 bytes") && told.contains("Call it again"),
            "{told}"
        );
        for (id, words) in [("w1", "do not call it again"), ("w2", "It failed"), ("w3", "do not repeat it")] {
            assert!(content(&script, id).contains(words), "{}", content(&script, id));
        }
        script.model(says("done"));
        let notice = script.account().notices.into_iter().find(|notice| notice.code == "history_compacted").unwrap();
        assert!(notice.message.starts_with("4 tool results"), "{notice:?}");
    }

    #[test]
    fn only_results_that_are_there_are_left_out_once_and_between_turns() {
        let mut script = reader(2);
        for calls in [&[][..], &["c9"], &["c0", "c0"], &["c0", "c9"]] {
            assert!(script.try_event(leave_out(calls)).is_err(), "{calls:?}");
        }
        assert!(script.run.check(&[leave_out(&["c0"]), leave_out(&["c1"])]).is_err());
        script.event(leave_out(&["c0"]));
        assert!(script.try_event(leave_out(&["c0"])).is_err());
        script.model(wants(&[("c2", READ, "{\"a\": 1}")]));
        assert!(script.try_event(leave_out(&["c1"])).is_err(), "in the middle of a turn");
    }

    #[test]
    fn a_question_that_was_refused_as_too_long_cost_nothing() {
        let mut script = reader(1);
        script.event(Event::ModelAsked).event(leave_out(&["c0"])).model(says("done"));
        assert!(!script.account().usage.unknown);
    }
}
