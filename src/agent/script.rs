//! A run as the tests of this folder play it: a small job, four tools, and a world that does what it is told.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::approval::ApprovalRules;
use super::event::{COMMON_VERSION, Entry, Event, Pause, Settings, Started, ToolOutcome};
use super::examine::{Examined, examine};
use super::links::AnswerRules;
use super::message::{AssistantMessage, Finish, Message, ModelReply, ToolCall, Usage};
use super::plan::plan;
use super::run::{BadJournal, Run, Step};
use super::state::Conclusion;
use super::tool::{Tool, Toolset};
use crate::job::{ConnectionName, Envelope, Job};
use crate::reply::{ErrorCode, Reply, ReplyEvent};

/// A run under way, its journal, and the time.
pub(super) struct Script {
    pub(super) run: Run,
    pub(super) now: Timestamp,
    pub(super) journal: Vec<String>,
    pub(super) toolset: Toolset,
}

/// What the run of `Script::new` starts with.
pub(super) fn started() -> Started {
    let body = json!({"id": "j", "identifier": "user_123", "connections": ["gmail"], "prompt": "hello"});
    let job = Job::from_slice(body.to_string().as_bytes(), &Envelope::default(), 10_000).unwrap();
    let settings = Settings {
        model: "model-1".into(),
        instructions: "be brief".into(),
        steps: 20,
        tool_calls: 60,
        tokens: 100_000,
        seconds: 600,
        parallel_reads: 2,
        result_bytes: 10_000,
        cost_nano_usd: None,
        authorization_seconds: 3600,
        approval: ApprovalRules::default(),
        frames_results: false,
        answer: AnswerRules::default(),
    };
    Started {
        schema: COMMON_VERSION,
        digest: job.digest(),
        job: job.into(),
        settings,
        journal_lost: false,
        writes_lost: false,
        operators: false,
    }
}

/// An answer of the model with calls, each `id`, `name` and `arguments`.
pub(super) fn wants(calls: &[(&str, &str, &str)]) -> ModelReply {
    let call = |(id, name, arguments): &(&str, &str, &str)| ToolCall {
        id: (*id).into(),
        name: (*name).into(),
        arguments: (*arguments).into(),
    };
    let message = AssistantMessage { calls: calls.iter().map(call).collect(), ..AssistantMessage::default() };
    ModelReply {
        message,
        finish: Finish::Stop,
        usage: Some(Usage { input_tokens: 10, output_tokens: 5, cached_tokens: 2, ..Usage::default() }),
        model: None,
        request_id: None,
    }
}

/// An answer of the model in words.
pub(super) fn says(text: &str) -> ModelReply {
    let mut reply = wants(&[]);
    reply.message.text = Some(text.into());
    reply
}

impl Script {
    /// Nothing has happened yet.
    pub(super) fn new(change: impl FnOnce(&mut Started)) -> Self {
        let mut started = started();
        change(&mut started);
        let now = Timestamp::UNIX_EPOCH;
        let entry = Entry::new(now, Event::Started(Box::new(started.clone())));
        let connection = ConnectionName::new("gmail").unwrap();
        let mut definitions = vec![
            json!({"name": "gmail_fetch_mails"}),
            json!({"name": "gmail_list_labels"}),
            json!({"name": "gmail_mark_read", "annotations": {"idempotent_hint": true}}),
        ];
        definitions.push(json!({"name": "gmail_send_message", "input_schema": {
            "type": "object", "required": ["to"], "properties": {"to": {"type": "string"}}
        }}));
        let tool = |definition| {
            let tool = Tool::from_definition(definition, &connection).unwrap();
            // As to an operator who believes the definitions.
            Tool { effect: tool.hinted.unwrap_or(tool.effect), ..tool }
        };
        let toolset = Toolset::new(definitions.iter().map(tool).map(Arc::new).collect());
        Self { run: Run::start(started, now), now, journal: vec![serde_json::to_string(&entry).unwrap()], toolset }
    }

    /// The run has its accounts and tools and asks the model next.
    pub(super) fn ready(change: impl FnOnce(&mut Started)) -> Self {
        let mut script = Self::new(change);
        let tools = script.toolset.tools().iter().map(|tool| tool.pinned()).collect();
        script.attempt().event(Event::AccountsReady).event(Event::ToolsListed { tools, left_out: 0, finds: 0 });
        script
    }

    /// Journals and applies `event`, one second after the last one; the replayed run must equal the live one.
    pub(super) fn event(&mut self, event: Event) -> &mut Self {
        self.now += SignedDuration::from_secs(1);
        let entry = Entry::new(self.now, event);
        self.journal.push(serde_json::to_string(&entry).unwrap());
        self.run.apply(entry).unwrap();
        assert_eq!(Run::replay(&self.journal).unwrap().as_ref(), Some(&self.run));
        self
    }

    /// What `event` would meet.
    pub(super) fn try_event(&self, event: Event) -> Result<(), BadJournal> {
        let checked = self.run.check(std::slice::from_ref(&event));
        let mut run = self.run.clone();
        let applied = run.apply(Entry::new(self.now, event));
        assert_eq!(checked, applied, "what is proved legal is applied, and nothing else");
        assert!(applied.is_ok() || run == self.run, "an event that may not follow changes nothing");
        applied
    }

    pub(super) fn attempt(&mut self) -> &mut Self {
        self.event(Event::AttemptStarted { worker: "w".into(), alone: false })
    }

    pub(super) fn pause(&mut self, cause: Pause) -> &mut Self {
        self.event(Event::AttemptEnded { cause, detail: String::new() })
    }

    pub(super) fn asleep(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }

    /// The model answers, for nothing.
    pub(super) fn model(&mut self, reply: ModelReply) -> &mut Self {
        self.priced(reply, Some(0))
    }

    pub(super) fn priced(&mut self, reply: ModelReply, nano_usd: Option<u64>) -> &mut Self {
        let Examined { arguments, answer } =
            examine(&reply.message, &self.toolset, self.run.job().output_schema.as_ref());
        let plans = plan(&self.run, &reply.message, &self.toolset, None, arguments);
        self.event(Event::ModelAsked).event(Event::ModelReplied { reply: Box::new(reply), plans, answer, nano_usd })
    }

    pub(super) fn start(&mut self, id: &str) -> &mut Self {
        self.event(Event::ToolStarted { call_id: id.into() })
    }

    pub(super) fn not_run(&mut self, id: &str) -> &mut Self {
        self.event(Event::ToolNotRun { call_id: id.into(), reason: "429".into() })
    }

    pub(super) fn done(&mut self, id: &str, content: &str) -> &mut Self {
        let outcome = ToolOutcome::Done { content: content.into(), execution_id: Some(format!("x-{id}")) };
        self.event(Event::ToolFinished { call_id: id.into(), outcome })
    }

    pub(super) fn failed(&mut self, id: &str, message: &str) -> &mut Self {
        let outcome = ToolOutcome::Failed { message: message.into(), execution_id: None };
        self.event(Event::ToolFinished { call_id: id.into(), outcome })
    }

    pub(super) fn unknown(&mut self, id: &str) -> &mut Self {
        let outcome = ToolOutcome::Unknown { message: "timeout".into(), execution_id: None };
        self.event(Event::ToolFinished { call_id: id.into(), outcome })
    }

    pub(super) fn next(&self) -> Step {
        self.run.next(self.now)
    }

    /// The calls that may run now.
    pub(super) fn batch(&self) -> Vec<String> {
        match self.next() {
            Step::CallTools(ids) => ids,
            step => panic!("{step:?} instead of calls"),
        }
    }

    /// The code with which the run fails now.
    pub(super) fn failure(&self) -> ErrorCode {
        match self.next() {
            Step::Finish(conclusion) => match *conclusion {
                Conclusion::Failed(error) => error.code,
                other @ Conclusion::Answered { .. } => panic!("{other:?} instead of a failure"),
            },
            step => panic!("{step:?} instead of a failure"),
        }
    }

    /// All tool results in the conversation, by call.
    pub(super) fn results(&self) -> Vec<(&str, &str)> {
        let results = self.run.messages().iter().filter_map(|message| match message {
            Message::ToolResult { call_id, content } => Some((call_id.as_str(), content.as_str())),
            _ => None,
        });
        results.collect()
    }

    /// What the worker told the model beside tool results.
    pub(super) fn notes(&self) -> Vec<&str> {
        let notes = self.run.messages().iter().skip(2).filter_map(|message| match message {
            Message::User(text) => Some(text.as_str()),
            _ => None,
        });
        notes.collect()
    }

    /// The terminal reply as of now.
    pub(super) fn reply(&self) -> Reply {
        let Step::Finish(conclusion) = self.next() else { panic!("the run is not at its end") };
        super::conclusion::reply(&self.run, *conclusion, self.now)
    }

    pub(super) fn account(&self) -> crate::reply::Account {
        match self.reply().event {
            ReplyEvent::Completed(completed) => completed.account,
            ReplyEvent::Failed(failed) => failed.account,
            other => panic!("{other:?} is not the end of a run"),
        }
    }
}
