//! The search of a model for more of the user's tools than it is offered at once.
//!
//! A search is decided where all calls are: when the model's reply is journalled. Its plan holds what was found and what the
//! model is told, so a run that is replayed offers the same, whatever the lists of tools have become by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::effect::{CallKey, Effect};
use super::event::{PinnedTool, Plan};
use super::tool::{Tool, model_name};
use crate::job::ConnectionName;

/// What the model calls to search. No tool of a user's has this name in a run that searches.
pub const SEARCH_TOOLS: &str = "search_tools";

/// Longest query, in characters.
const LONGEST_QUERY: usize = 256;
/// Words of a query that are looked for.
const MOST_TERMS: usize = 16;
/// Tools that one search finds, where the model names no number, and at most.
const USUAL_FINDS: usize = 8;
const MOST_FINDS: usize = 20;
/// Better ones that are offered already are named up to so many.
const NAMED_AS_OFFERED: usize = 5;
/// Characters of a description that are looked through, and that the model is told of a find.
const INDEXED_CHARACTERS: usize = 1_000;
const TOLD_CHARACTERS: usize = 160;

/// How much a word in the name counts; one in the description counts once.
const NAME_WEIGHT: u32 = 3;
/// What a word counts that only contains the word looked for, as `repository` does `repo`.
const PARTLY: f64 = 0.5;
/// Shorter words are looked for whole.
const SHORTEST_PART: usize = 4;
/// The usual parameters of BM25: how soon a word's repetition stops to count, and how much long descriptions are held back.
const SATURATION: f64 = 1.2;
const LENGTH_WEIGHT: f64 = 0.5;

/// How the places of an offer are shared out between the tools that are offered from the start and those found later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchRoom {
    /// Tools that are offered from the start, and stay.
    pub first: usize,
    /// Tools that searches found: the latest ones stay.
    pub finds: usize,
}

impl SearchRoom {
    /// For a model that takes `cap` tools: a quarter for finds, and one place for the search itself. `None` where it takes too
    /// few for that.
    pub fn of(cap: usize) -> Option<Self> {
        let finds = cap / 4;
        (finds > 0).then(|| Self { first: cap - finds - 1, finds })
    }

    /// What is offered once `found` was added to `pinned`, and what had to make room.
    pub(super) fn with(self, pinned: &[PinnedTool], found: &[PinnedTool]) -> (Vec<PinnedTool>, Vec<PinnedTool>) {
        let (first, earlier) = pinned.split_at(self.first.min(pinned.len()));
        let finds: Vec<&PinnedTool> = earlier.iter().chain(found).collect();
        let (gone, kept) = finds.split_at(finds.len().saturating_sub(self.finds));
        let kept = first.iter().chain(kept.iter().copied()).cloned().collect();
        (kept, gone.iter().copied().cloned().collect())
    }
}

/// The search as the model is offered it.
pub fn definition() -> Tool {
    let definition = json!({
        "name": SEARCH_TOOLS,
        "description": "Finds more of the user's tools than are offered here. Use it where no tool on offer does what you need: \
                        say in a few words what you want to do, and with what. What is found is offered to you from your next \
                        step on.",
        "input_schema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to do, and with what: `create calendar event`"},
                "limit": {"type": "integer", "minimum": 1, "maximum": MOST_FINDS, "description": "Most tools to find"},
            },
            "required": ["query"],
        },
    });
    // No connection runs it: the call never leaves the worker.
    let connection = ConnectionName::new("worker").expect("a name of letters");
    Tool::from_definition(&definition, &connection).expect("it has a name")
}

/// Tools by the words of their names and descriptions.
#[derive(Debug)]
pub struct ToolIndex {
    tools: Arc<[Arc<Tool>]>,
    /// For each word the tools that have it, and how much it counts there.
    postings: BTreeMap<String, BTreeMap<usize, u32>>,
    lengths: Vec<f64>,
    mean_length: f64,
}

impl ToolIndex {
    /// An index of tools with unique model names. Takes time in proportion to their texts: milliseconds for hundreds.
    pub fn new(tools: Arc<[Arc<Tool>]>) -> Self {
        let mut postings: BTreeMap<String, BTreeMap<usize, u32>> = BTreeMap::new();
        let mut lengths = vec![0.0; tools.len()];
        for (index, tool) in tools.iter().enumerate() {
            let description: String = tool.description.chars().take(INDEXED_CHARACTERS).collect();
            let names = [tool.name.as_str(), tool.connection.as_str()];
            let weighed = names.map(|name| (name, NAME_WEIGHT)).into_iter().chain([(description.as_str(), 1)]);
            for (text, weight) in weighed {
                for term in terms(&parted(text)) {
                    *postings.entry(term).or_default().entry(index).or_default() += weight;
                    lengths[index] += f64::from(weight);
                }
            }
        }
        let total: f64 = lengths.iter().sum();
        let mean_length = if tools.is_empty() { 1.0 } else { (total / number(tools.len())).max(1.0) };
        Self { tools, postings, lengths, mean_length }
    }

    /// All tools that have something of the query, the best first: by BM25, then by effect and name.
    fn ranked(&self, query: &BTreeSet<String>) -> Vec<&Arc<Tool>> {
        let mut scores: BTreeMap<usize, f64> = BTreeMap::new();
        for term in query.iter().take(MOST_TERMS) {
            let weights = self.weights(term);
            let (all, having) = (number(self.tools.len()), number(weights.len()));
            let rarity = (1.0 + (all - having + 0.5) / (having + 0.5)).ln();
            for (index, weight) in weights {
                let length = 1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * self.lengths[index] / self.mean_length;
                let counted = weight * (SATURATION + 1.0) / (weight + SATURATION * length);
                *scores.entry(index).or_default() += rarity * counted;
            }
        }
        let mut ranked: Vec<(f64, &Arc<Tool>)> =
            scores.into_iter().map(|(index, score)| (score, &self.tools[index])).collect();
        ranked.sort_by(|(one, first), (other, second)| {
            let by_name = |tool: &Arc<Tool>| (tool.effect, tool.model_name.clone());
            other.total_cmp(one).then_with(|| by_name(first).cmp(&by_name(second)))
        });
        ranked.into_iter().map(|(_, tool)| tool).collect()
    }

    /// The tools that have this word, or one that contains it.
    fn weights(&self, term: &str) -> BTreeMap<usize, f64> {
        let mut weights: BTreeMap<usize, f64> = BTreeMap::new();
        let is_part = term.chars().count() >= SHORTEST_PART;
        for (own, tools) in &self.postings {
            let share = match own == term {
                true => 1.0,
                false if is_part && own.contains(term) => PARTLY,
                false => continue,
            };
            for (index, weight) in tools {
                *weights.entry(*index).or_default() += share * f64::from(*weight);
            }
        }
        weights
    }
}

/// The searches of one model turn: each knows what those before it found.
#[derive(Debug)]
pub struct ToolSearch<'a> {
    index: &'a ToolIndex,
    room: SearchRoom,
    pinned: Vec<PinnedTool>,
}

impl<'a> ToolSearch<'a> {
    /// Searches in `index` for a run that offers `pinned`.
    pub(super) fn new(index: &'a ToolIndex, room: SearchRoom, pinned: &[PinnedTool]) -> Self {
        Self { index, room, pinned: pinned.to_vec() }
    }

    /// What becomes of a call with these arguments: what it found, or words about what is wrong with them.
    pub(super) fn plan(&mut self, arguments: &Map<String, Value>) -> Plan {
        match wanted(arguments) {
            Ok((query, limit)) => self.found(&query, limit.min(self.room.finds), arguments),
            Err(reason) => Plan::Refuse { reason },
        }
    }

    fn found(&mut self, query: &BTreeSet<String>, limit: usize, arguments: &Map<String, Value>) -> Plan {
        let is_offered = |tool: &Tool| {
            self.pinned.iter().any(|pinned| (&pinned.name, &pinned.connection) == (&tool.name, &tool.connection))
        };
        // The lists may have changed since: a name that is on offer stays one tool's.
        let is_taken = |tool: &Tool| self.pinned.iter().any(|pinned| pinned.model_name == tool.model_name);
        let (mut new, mut offered): (Vec<&Arc<Tool>>, Vec<&str>) = (Vec::new(), Vec::new());
        for tool in self.index.ranked(query) {
            if new.len() == limit {
                break;
            }
            if !is_offered(tool) && !is_taken(tool) {
                new.push(tool);
            } else if new.is_empty() && offered.len() < NAMED_AS_OFFERED && is_offered(tool) {
                offered.push(&tool.model_name);
            }
        }
        let found: Vec<PinnedTool> = new.iter().map(|tool| tool.pinned()).collect();
        let (pinned, gone) = self.room.with(&self.pinned, &found);
        let told = told(&new, &offered, &gone);
        self.pinned = pinned;
        Plan::Search { key: CallKey::new("", SEARCH_TOOLS, arguments), found, told }
    }
}

/// What is looked for, and how many at most; or, for the model, why that is no search.
fn wanted(arguments: &Map<String, Value>) -> Result<(BTreeSet<String>, usize), String> {
    let hint = "say in a few words what you want to do, and with what";
    let query = match arguments.get("query") {
        Some(Value::String(query)) if query.chars().count() <= LONGEST_QUERY => terms(&parted(query)).collect(),
        Some(Value::String(_)) => return Err(format!("the query is longer than {LONGEST_QUERY} characters; {hint}")),
        _ => return Err(format!("`query` has to be a text; {hint}")),
    };
    let limit = match arguments.get("limit") {
        None | Some(Value::Null) => USUAL_FINDS,
        Some(limit) => match limit.as_f64().filter(|limit| *limit >= 1.0) {
            // Numbers may come with a point; a limit beyond the most is the most.
            Some(limit) => (1..MOST_FINDS).find(|most| number(*most) >= limit.floor()).unwrap_or(MOST_FINDS),
            None => return Err(format!("`limit` has to be a number from 1 to {MOST_FINDS}")),
        },
    };
    let query: BTreeSet<String> = query;
    if query.is_empty() {
        return Err(format!("the query has no word of three letters or more; {hint}"));
    }
    Ok((query, limit))
}

fn told(found: &[&Arc<Tool>], offered: &[&str], gone: &[PinnedTool]) -> String {
    let head = if found.is_empty() {
        "No further tool has these words. Try others; a tool that is not allowed here is not found.".to_owned()
    } else {
        let lines = found.iter().map(|tool| {
            let description: String = tool.description.split_whitespace().collect::<Vec<_>>().join(" ");
            let cut: String = description.chars().take(TOLD_CHARACTERS).collect();
            let more = if cut.len() < description.len() { "…" } else { "" };
            format!("\n{}: {cut}{more}", tool.model_name)
        });
        format!("Offered from your next step on:{}", lines.collect::<String>())
    };
    let mut told = vec![head];
    if !offered.is_empty() {
        told.push(format!("Offered already: {}", offered.join(", ")));
    }
    if !gone.is_empty() {
        let names: Vec<&str> = gone.iter().map(|tool| tool.model_name.as_str()).collect();
        told.push(format!("No longer offered, as there is room for so many only: {}", names.join(", ")));
    }
    told.join("\n")
}

/// The words of three letters or more, in small letters and without a plural's end.
pub(super) fn terms(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| word.chars().count() > 2)
        .map(|word| word.to_lowercase().trim_end_matches('s').to_owned())
}

/// With a space where a small letter meets a large one: names are often written as `createIssue`.
fn parted(text: &str) -> String {
    let mut parted = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    for character in text.chars() {
        if before.is_lowercase() && character.is_uppercase() {
            parted.push(' ');
        }
        parted.push(character);
        before = character;
    }
    parted
}

#[expect(clippy::cast_precision_loss, reason = "tools are counted in thousands")]
fn number(count: usize) -> f64 {
    count as f64
}

/// The tool of a lost call that no pinned one is, as the journal lost that it was found: of the job's connections the one that
/// it is named after, else the first.
pub(super) fn lost_find(connections: &[ConnectionName], tool: &str) -> Option<PinnedTool> {
    let named = connections.iter().find(|connection| tool.starts_with(connection.as_str()));
    let connection = named.or_else(|| connections.first())?.clone();
    let (name, model_name) = (tool.to_owned(), model_name(tool));
    Some(PinnedTool { name, model_name, connection, effect: Effect::Write })
}

#[cfg(test)]
mod tests {
    use super::super::event::{COMMON_VERSION, Entry, Event, SCHEMA_VERSION};
    use super::super::message::Message;
    use super::super::run::Step;
    use super::super::script::{Script, wants};
    use super::*;

    fn tool(name: &str, description: &str) -> Arc<Tool> {
        let definition = json!({"name": name, "description": description});
        Arc::new(Tool::from_definition(&definition, &ConnectionName::new("acme").unwrap()).unwrap())
    }

    /// Four hundred tools of one kind, and some others.
    fn tools() -> Arc<[Arc<Tool>]> {
        let shelves =
            (0..400).map(|shelf| tool(&format!("acme_read_shelf_{shelf:03}"), "Reads a shelf of the archive."));
        let others = [
            tool("acme_createIssue", "Opens an issue in a repository."),
            tool("acme_issue_comment_create", "Writes a comment on an issue."),
            tool("acme_calendar_event_delete", "Removes an event from the calendar.\nFor good. ".repeat(40).as_str()),
            tool("acme_mail_send", "Sends a mail."),
        ];
        shelves.chain(others).collect()
    }

    fn names(index: &ToolIndex, query: &str) -> Vec<String> {
        let query = terms(&parted(query)).collect();
        index.ranked(&query).iter().take(5).map(|tool| tool.name.clone()).collect()
    }

    fn found(plan: &Plan) -> Vec<&str> {
        let Plan::Search { found, .. } = plan else { panic!("{plan:?}") };
        found.iter().map(|tool| tool.name.as_str()).collect()
    }

    fn search(search: &mut ToolSearch<'_>, arguments: &Value) -> Plan {
        search.plan(arguments.as_object().unwrap())
    }

    #[test]
    fn what_shares_rare_words_with_the_query_comes_first_and_always_in_the_same_order() {
        let index = ToolIndex::new(tools());
        assert_eq!(names(&index, "create an issue")[0], "acme_createIssue");
        assert_eq!(names(&index, "comment on issues")[0], "acme_issue_comment_create");
        assert_eq!(names(&index, "delete an event of my calendar")[0], "acme_calendar_event_delete");
        assert_eq!(names(&index, "acme_mail_send")[0], "acme_mail_send");
        assert_eq!(names(&index, "repo"), ["acme_createIssue"], "a part of a word counts as well");
        assert_eq!(names(&index, "archive")[..2], ["acme_read_shelf_000", "acme_read_shelf_001"]);
        assert_eq!(names(&index, "nothing of that kind"), [""; 0]);
        assert_eq!(names(&ToolIndex::new([].into()), "mail"), [""; 0]);
    }

    #[test]
    fn each_search_finds_what_is_not_on_offer_yet_and_the_earliest_finds_make_room() {
        let (index, room) = (ToolIndex::new(tools()), SearchRoom { first: 1, finds: 3 });
        let first = [tool("acme_mail_send", "Sends a mail.").pinned()];
        let mut searches = ToolSearch::new(&index, room, &first);
        let issues = search(&mut searches, &json!({"query": "issue", "limit": 2}));
        assert_eq!(found(&issues), ["acme_createIssue", "acme_issue_comment_create"]);
        let mail = search(&mut searches, &json!({"query": "mail"}));
        let Plan::Search { told, .. } = &mail else { panic!("{mail:?}") };
        assert!(found(&mail).is_empty() && told.contains("Offered already: acme_mail_send"), "{told}");
        let shelves = search(&mut searches, &json!({"query": "shelf", "limit": 99}));
        assert_eq!(found(&shelves).len(), 3, "as many as there is room for");
        let Plan::Search { told, .. } = &shelves else { panic!("{shelves:?}") };
        assert!(told.ends_with("only: acme_createIssue, acme_issue_comment_create"), "{told}");
        let offered: Vec<&str> = searches.pinned.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(offered, ["acme_mail_send", "acme_read_shelf_000", "acme_read_shelf_001", "acme_read_shelf_002"]);
        let events = search(&mut searches, &json!({"query": "calendar", "limit": 1.0}));
        let Plan::Search { told, .. } = &events else { panic!("{events:?}") };
        assert!(told.lines().nth(1).unwrap().chars().count() < 220, "descriptions are cut: {told}");
    }

    #[test]
    fn a_hostile_query_is_answered_in_words() {
        let index = ToolIndex::new(tools());
        let mut searches = ToolSearch::new(&index, SearchRoom { first: 1, finds: 3 }, &[]);
        for arguments in [
            json!({}),
            json!({"query": ""}),
            json!({"query": " \n\t "}),
            json!({"query": "\u{0}\u{1b}[m\u{202e}"}),
            json!({"query": "a b -- '; !"}),
            json!({"query": "x".repeat(257)}),
            json!({"query": "mail ".repeat(100_000)}),
            json!({"query": ["mail"]}),
            json!({"query": null}),
            json!({"query": "mail", "limit": 0}),
            json!({"query": "mail", "limit": -3}),
            json!({"query": "mail", "limit": "all"}),
        ] {
            let plan = search(&mut searches, &arguments);
            let Plan::Refuse { reason } = plan else { panic!("{arguments}: {plan:?}") };
            assert!(reason.len() < 200 && !reason.contains('\u{1b}'), "{reason}");
        }
        let controlled = search(&mut searches, &json!({"query": "\u{1b}mail\u{0}send\u{7f}", "limit": null}));
        assert_eq!(found(&controlled), ["acme_mail_send"], "what can be read of it is looked for");
        let long = search(&mut searches, &json!({"query": "ab cd mails ".repeat(21), "limit": 1e300}));
        assert!(matches!(long, Plan::Search { .. }), "{long:?}");
    }

    #[test]
    fn the_room_leaves_a_place_for_the_search_itself() {
        for cap in 4..300 {
            let room = SearchRoom::of(cap).unwrap();
            assert_eq!(room.first + room.finds + 1, cap);
            assert!(room.first > 0 && room.finds > 0, "{cap}: {room:?}");
        }
        assert_eq!(SearchRoom::of(3), None);
    }

    /// A run with one tool on offer, that may find the others.
    fn searching() -> Script {
        let mut script =
            Script::new(|started| (started.settings.tool_calls, started.settings.frames_results) = (3, true));
        let tools: Arc<[PinnedTool]> = [script.toolset.tools()[0].pinned()].into();
        script.attempt().event(Event::AccountsReady).event(Event::ToolsListed { tools, left_out: 404, finds: 2 });
        script
    }

    fn planned(script: &Script, index: &ToolIndex, arguments: &str) -> Event {
        let reply = wants(&[("s1", SEARCH_TOOLS, arguments)]);
        let examined = super::super::examine::examine(&reply.message, &script.toolset, None);
        let plans =
            super::super::plan::plan(&script.run, &reply.message, &script.toolset, Some(index), examined.arguments);
        Event::ModelReplied { reply: Box::new(reply), plans, answer: None, nano_usd: Some(0) }
    }

    #[test]
    fn what_is_found_is_offered_by_every_replay_and_the_search_counts_as_a_call() {
        let (mut script, index) = (searching(), ToolIndex::new(tools()));
        assert!(script.run.may_have_effects(), "what it may find may write");
        let found = planned(&script, &index, r#"{"query": "mail"}"#);
        assert_eq!(Entry::new(script.now, found.clone()).schema, SCHEMA_VERSION, "no earlier worker knows of it");
        script.event(Event::ModelAsked).event(found);
        assert_eq!(script.next(), Step::CallModel, "nothing leaves");
        let offered: Vec<&str> = script.run.pinned().iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(offered, ["gmail_fetch_mails", "acme_mail_send"]);
        let Some(Message::ToolResult { content, .. }) = script.run.messages().last() else { panic!("no answer") };
        assert!(
            content.starts_with(r#"{"tool_result":"Offered from your next step on:\nacme_mail_send: "#),
            "{content}"
        );
        assert_eq!(script.run.calls_made, 1);
        let empty = planned(&script, &index, r#"{"query": ""}"#);
        assert_eq!(Entry::new(script.now, empty.clone()).schema, COMMON_VERSION);
        script.event(Event::ModelAsked).event(empty);
        assert_eq!(script.run.calls_made, 1, "a refused call is none");
        for _ in 0..2 {
            let found = planned(&script, &index, r#"{"query": "shelf"}"#);
            script.event(Event::ModelAsked).event(found);
        }
        let found = planned(&script, &index, r#"{"query": "calendar"}"#);
        script.event(Event::ModelAsked).event(found);
        assert_eq!(script.failure(), crate::reply::ErrorCode::ToolCallLimit);
    }

    #[test]
    fn a_write_of_a_found_tool_is_said_though_the_journal_lost_that_it_was_found() {
        let mut script = searching();
        script.event(Event::EndLost { call_id: "w1".into(), tool: "acme_mail_send".into() });
        script.model(super::super::script::says("done"));
        let account = script.account();
        assert_eq!((account.effects.len(), account.effects[0].tool.as_str()), (1, "acme_mail_send"));
        assert_eq!(account.effects[0].state, crate::reply::EffectState::Unknown);
    }

    #[test]
    fn a_run_that_does_not_search_has_no_such_tool() {
        let (script, index) = (Script::ready(|_| {}), ToolIndex::new(tools()));
        let Event::ModelReplied { plans, .. } = planned(&script, &index, r#"{"query": "mail"}"#) else { panic!() };
        assert!(matches!(&plans[0], Plan::Refuse { reason } if reason.contains("there is no tool")), "{plans:?}");
    }

    #[test]
    fn the_same_search_without_end_ends_the_run() {
        let index = ToolIndex::new(tools());
        let mut script = searching();
        script.run.started.settings.tool_calls = 60;
        for _ in 0..6 {
            let found = planned(&script, &index, r#"{"query": "mail"}"#);
            script.run.apply(Entry::new(script.now, found)).unwrap();
        }
        assert_eq!(script.failure(), crate::reply::ErrorCode::LoopDetected);
    }
}
