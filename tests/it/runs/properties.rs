//! Whatever the world does to a run, the rules of runs hold: played with random models, tools, deaths and pauses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use agentkit_worker::decision::{Decision, Door, Ruling, Verdict};
use agentkit_worker::internals::agent::approval::ApprovalRules;
use agentkit_worker::internals::agent::conclusion;
use agentkit_worker::internals::agent::effect::Effect;
use agentkit_worker::internals::agent::event::{
    Entry, Event, GivenUp, Pause, Plan, SCHEMA_VERSION, Settings, Settled, Started, ToolOutcome,
};
use agentkit_worker::internals::agent::examine::examine;
use agentkit_worker::internals::agent::links::AnswerRules;
use agentkit_worker::internals::agent::message::{AssistantMessage, Finish, Message, ModelReply, ToolCall, Usage};
use agentkit_worker::internals::agent::plan::plan;
use agentkit_worker::internals::agent::ruling::{Objection, rule};
use agentkit_worker::internals::agent::run::{Run, Step};
use agentkit_worker::internals::agent::tool::{Tool, Toolset};
use agentkit_worker::internals::agent::turn::Conclusion;
use agentkit_worker::internals::approval::{Approval, ApprovalConfig, OnExpiry, Writes};
use agentkit_worker::job::{ConnectionName, Envelope, Job};
use agentkit_worker::reply::{EffectState, ErrorCode, ErrorDetail, ReplyEvent};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

/// Histories up to this length are replayed from every prefix, longer ones from some.
const SHORT: usize = 24;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_world_does_the_rules_hold(choices in proptest::collection::vec(any::<u16>(), 0..250)) {
        RandomWorld::new(choices).play();
    }
}

/// The outside world of one run. Every decision is drawn from `choices`; once they are used up nothing bad happens any
/// more, and the model either answers or goes on calling tools for ever.
struct RandomWorld {
    choices: VecDeque<u16>,
    bound: usize,
    stubborn: bool,
    toolset: Toolset,
    run: Run,
    now: Timestamp,
    journal: Vec<String>,
    /// The live state after each entry.
    states: Vec<Run>,
    calls: usize,
    /// Calls that started and have not proved not to have run, with what is known of them.
    started: BTreeMap<String, EffectState>,
    writes: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// Calls that nobody allowed.
    denied: BTreeSet<String>,
    /// Models that the run must not ask again.
    gone: BTreeSet<String>,
}

impl RandomWorld {
    fn new(choices: Vec<u16>) -> Self {
        let mut choices = VecDeque::from(choices);
        let mut draw = |below: u16| choices.pop_front().unwrap_or_default() % below;
        let mut body = json!({"id": "j", "identifier": "user_123", "connections": ["gmail"], "prompt": "hello"});
        if draw(4) == 1 {
            body["output_schema"] = json!({"type": "object", "required": ["count"]});
        }
        let operator = ApprovalConfig {
            writes: [Writes::None, Writes::Untrusted, Writes::All][usize::from(draw(3))],
            on_expiry: [OnExpiry::Deny, OnExpiry::Fail][usize::from(draw(2))],
            wait_seconds: 3 * 3600,
            ..ApprovalConfig::default()
        };
        let settings = Settings {
            model: "model-1".into(),
            instructions: "be brief".into(),
            steps: 1 + u32::from(draw(12)),
            tool_calls: 1 + u32::from(draw(16)),
            tokens: 100 + 100 * u64::from(draw(20)),
            seconds: 60 + 60 * u64::from(draw(10)),
            parallel_reads: usize::from(draw(4)),
            result_bytes: 1000,
            cost_nano_usd: None,
            authorization_seconds: 3600,
            approval: ApprovalRules::stricter(&operator, &Approval::default()),
            frames_results: draw(2) == 1,
            answer: AnswerRules::default(),
        };
        let stubborn = draw(2) == 1;
        let job = Job::from_slice(body.to_string().as_bytes(), &Envelope::default(), 10_000).unwrap();
        let started = Started {
            schema: SCHEMA_VERSION,
            digest: job.digest(),
            job: job.into(),
            settings,
            journal_lost: false,
            writes_lost: false,
            operators: false,
        };
        let connection = ConnectionName::new("gmail").unwrap();
        let definitions = [
            json!({"name": "gmail_fetch_mails"}),
            json!({"name": "gmail_list_labels"}),
            json!({"name": "gmail_mark_read", "annotations": {"idempotent_hint": true}}),
            json!({"name": "gmail_send_message", "input_schema": {"required": ["to"]}}),
        ];
        let tool = |definition| {
            let tool = Tool::from_definition(definition, &connection).unwrap();
            // As to an operator who believes the definitions.
            Tool { effect: tool.hinted.unwrap_or(tool.effect), ..tool }
        };
        let now = Timestamp::UNIX_EPOCH;
        let entry = Entry::new(now, Event::Started(Box::new(started.clone())));
        let run = Run::start(started, now);
        Self {
            bound: 4 * choices.len() + 400,
            choices,
            stubborn,
            toolset: Toolset::new(definitions.iter().map(tool).map(Arc::new).collect()),
            journal: vec![serde_json::to_string(&entry).unwrap()],
            states: vec![run.clone()],
            run,
            now,
            calls: 0,
            started: BTreeMap::new(),
            writes: BTreeSet::new(),
            refused: BTreeSet::new(),
            denied: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    fn play(mut self) {
        self.take_up();
        for _ in 0..self.bound {
            match self.draw(16) {
                1 => self.take_up(),
                2 => self.pause(Pause::Shutdown),
                3 if self.run.reply().is_none() && self.draw(6) == 1 => self.event(Event::JournalLost),
                4 if self.draw(6) == 1 => self.put_aside(),
                _ => {}
            }
            match self.run.next(self.now) {
                Step::CheckAccounts if self.draw(3) == 1 => self.ask_for_authorization(),
                Step::CheckAccounts => self.event(Event::AccountsReady),
                Step::ListTools => {
                    let tools = self.toolset.tools().iter().map(|tool| tool.pinned()).collect();
                    self.event(Event::ToolsListed { tools, left_out: 0, finds: 0 });
                }
                Step::AskApproval(ids) => self.ask_for_approval(&ids),
                Step::AwaitApproval => self.wait_for_approval(),
                Step::ExpireApprovals(approvals) => self.expire(&approvals),
                Step::CallModel => self.call_model(),
                Step::CallTools(ids) => self.call_tools(&ids),
                Step::SettleDoubt(id) => self.settle(&id),
                Step::Finish(conclusion) => {
                    let reply = conclusion::reply(&self.run, *conclusion, self.now);
                    self.check_account(&reply.event);
                    self.event(Event::Finished(Box::new(reply)));
                }
                Step::Deliver(_) => self.event(Event::Delivered),
                Step::Done if self.draw(4) == 1 => {
                    self.event(Event::Reopened);
                    self.gone.clear();
                    self.take_up();
                }
                Step::Done => return self.check_replay(),
            }
        }
        panic!("the run does not end: {:#?}", self.journal);
    }

    /// A number below `below`; 0 once the choices are used up.
    fn draw(&mut self, below: u16) -> u16 {
        self.choices.pop_front().unwrap_or_default() % below
    }

    fn event(&mut self, event: Event) {
        let seconds = [0, 1, 7][usize::from(self.draw(3))];
        self.now += SignedDuration::from_secs(seconds);
        let entry = Entry::new(self.now, event);
        self.journal.push(serde_json::to_string(&entry).unwrap());
        self.run.apply(entry).unwrap_or_else(|error| panic!("{error}: {:#?}", self.journal));
        self.states.push(self.run.clone());
        assert!(self.run.steps() <= self.run.settings().steps);
        assert!(self.started.len() <= self.run.settings().tool_calls as usize);
    }

    /// An operator ends the run, or its workers died with it, whatever it is at.
    fn put_aside(&mut self) {
        if self.run.reply().is_some() {
            return;
        }
        let detail = ErrorDetail::new(ErrorCode::AttemptsExhausted, "died");
        let reply = conclusion::reply(&self.run, Conclusion::failed(detail), self.now);
        self.check_account(&reply.event);
        let step = self.run.doing(self.now);
        self.event(Event::GivenUp(GivenUp { reason: "poison".into(), detail: "died".into(), step }));
        self.event(Event::Finished(Box::new(reply)));
        assert!(self.run.given_up().is_some());
    }

    /// A worker takes the run; the one that had it, if any, died.
    fn take_up(&mut self) {
        self.event(Event::AttemptStarted { worker: "w".into(), alone: false });
    }

    fn pause(&mut self, cause: Pause) {
        self.event(Event::AttemptEnded { cause, detail: String::new() });
        if self.draw(2) == 0 {
            self.event(Event::WakeUpPublished { generation: self.run.wake_up_generation() + 1 });
        }
        let before = self.run.remaining(self.now);
        self.now += SignedDuration::from_hours(5);
        assert_eq!(self.run.remaining(self.now), before, "waiting is no working time");
        self.take_up();
    }

    fn ask_for_authorization(&mut self) {
        let connections = self.run.job().connections.clone();
        let until = self.now + SignedDuration::from_hours(1);
        let (links_end, refused_while_active) = (Some(until), self.draw(2) == 1);
        self.event(Event::AuthorizationRequested { connections, until, links_end, refused_while_active });
        self.pause(Pause::Authorization);
    }

    fn ask_for_approval(&mut self, ids: &[String]) {
        let schema = json!({"required": ["to"]});
        let calls = ids.iter().map(|id| self.run.approval_of(id, schema.clone()).unwrap()).collect();
        self.event(Event::ApprovalAsked { calls, until: self.now + SignedDuration::from_hours(3) });
    }

    /// Somebody decides about one of the calls, as they like, or nobody does.
    fn wait_for_approval(&mut self) {
        let asked = self.run.approvals().asked().iter().find(|asked| asked.verdict.is_none()).unwrap().call.clone();
        let edited = json!({"to": format!("edited {}", self.draw(3))});
        let ruling = match self.draw(4) {
            0 => Ruling::Approve,
            1 => Ruling::Deny,
            2 => Ruling::Edit(edited.as_object().unwrap().clone()),
            _ => return self.pause(Pause::Approval),
        };
        let (job, approval) = (self.run.job().id(), asked.id.clone());
        let arguments_digest = asked.arguments_digest.clone();
        let decision = Decision { job, approval, arguments_digest, ruling, reason: None, by: None };
        match rule(&self.run, &decision, Door::Amqp, self.now) {
            Ok(settled) => {
                if !settled.verdict.allows() {
                    self.denied.insert(asked.call_id);
                }
                self.event(Event::ApprovalDecided(Box::new(settled)));
                let again = rule(&self.run, &decision, Door::Cli, self.now);
                assert_eq!(again, Err(Objection::Already), "what stands is found again");
            }
            Err(Objection::Expired) => self.pause(Pause::Approval),
            Err(refused) => assert!(matches!(refused, Objection::InvalidArguments(_)), "{refused:?}"),
        }
    }

    fn expire(&mut self, approvals: &[String]) {
        for approval in approvals {
            self.denied.insert(self.run.approvals().waits(approval).unwrap().call.call_id.clone());
            let (approval, verdict, door) = (approval.clone(), Verdict::Expired, Door::Expiry);
            let expired = Settled { approval, verdict, door, by: None, reason: None, arguments: None };
            self.event(Event::ApprovalDecided(Box::new(expired)));
        }
    }

    fn call_model(&mut self) {
        check_conversation(self.run.messages());
        match self.draw(12) {
            1 => _ = self.switch_models(),
            2 | 3 => self.compact(),
            _ => {}
        }
        check_conversation(self.run.messages());
        self.event(Event::ModelAsked);
        match self.draw(8) {
            4 if self.switch_models() => return,
            1 => return self.take_up(),
            2 => return self.pause(Pause::Transient),
            3 => self.event(Event::Retried { call: "model".into(), reason: "503".into() }),
            _ => {}
        }
        let reply = self.model_reply();
        let examined = examine(&reply.message, &self.toolset, self.run.job().output_schema.as_ref());
        let plans = plan(&self.run, &reply.message, &self.toolset, None, examined.arguments);
        for (call, plan) in reply.message.calls.iter().zip(&plans) {
            match plan {
                Plan::Refuse { .. } => {
                    self.refused.insert(call.id.clone());
                }
                Plan::Run { tool, key, .. } => {
                    assert!(tool.effect == Effect::Read || !self.run.is_fenced(key), "a fenced call is planned");
                    if tool.effect == Effect::Write {
                        self.writes.insert(call.id.clone());
                    }
                }
                Plan::Search { .. } => panic!("a run searches that may not"),
            }
        }
        self.event(Event::ModelReplied { reply: Box::new(reply), plans, answer: examined.answer, nano_usd: Some(1) });
    }

    /// The conversation is too long.
    fn compact(&mut self) {
        let room = 100 * u64::from(self.draw(10));
        let before = self.run.estimated_tokens(0);
        let results = self.run.results_to_leave_out(0, room);
        if results.is_empty() {
            return;
        }
        self.event(Event::HistoryCompacted { results });
        assert!(self.run.estimated_tokens(0) <= before, "it is no longer than before");
    }

    /// The present model is of no use, and another one takes its place if there is one. Returns whether it does.
    fn switch_models(&mut self) -> bool {
        let chain = ["model-1", "model-2", "model-3"].map(str::to_owned);
        let reason = ["unavailable", "model_gone", "timed_out", "rate_limited"][usize::from(self.draw(4))].to_owned();
        let from = self.run.model().to_owned();
        let Some(to) = self.run.next_model(&chain, &reason).map(str::to_owned) else { return false };
        if reason == "model_gone" {
            self.gone.insert(from.clone());
        }
        assert!(!self.gone.contains(&to), "{to} is gone");
        self.event(Event::ModelSwitched { from, to: to.clone(), reason });
        assert_eq!(self.run.model(), to);
        true
    }

    fn model_reply(&mut self) -> ModelReply {
        const NAMES: [&str; 6] =
            ["gmail_fetch_mails", "gmail_send_message", "gmail_list_labels", "gmail_mark_read", "gmail_nonsense", ""];
        const ARGUMENTS: [&str; 7] =
            ["{\"to\": \"a\"}", "{}", "", "{\"to\": 122.416294033786585}", "[1]", "{", "{\"to\": {\"b\": 1e300}}"];
        const TEXTS: [Option<&str>; 4] = [Some("{\"count\": 1}"), None, Some(" "), Some("done")];
        let over = self.choices.is_empty();
        let wanted = if over { u16::from(self.stubborn) } else { self.draw(5) };
        let mut calls = Vec::new();
        for _ in 0..wanted {
            self.calls += 1;
            let name = NAMES[usize::from(self.draw(6))].to_owned();
            let arguments = ARGUMENTS[usize::from(self.draw(7))].to_owned();
            calls.push(ToolCall { id: format!("call-{}", self.calls), name, arguments });
        }
        let text = TEXTS[usize::from(self.draw(4))].map(str::to_owned);
        let finish = match self.draw(24) {
            1 | 2 => Finish::Length,
            3 => Finish::ContentFilter,
            4 => Finish::Refusal("no".into()),
            5 => Finish::Other("eos".into()),
            _ => Finish::Stop,
        };
        let usage = (self.draw(4) != 1).then_some(Usage {
            input_tokens: 30,
            output_tokens: 10,
            cached_tokens: 0,
            ..Usage::default()
        });
        let message = AssistantMessage { text, calls, provider_items: Vec::new() };
        ModelReply { message, finish, usage, model: None, request_id: None }
    }

    fn call_tools(&mut self, ids: &[String]) {
        self.check_batch(ids);
        for id in ids {
            self.event(Event::ToolStarted { call_id: id.clone() });
            self.started.insert(id.clone(), EffectState::Unknown);
            if self.draw(10) == 1 {
                return self.take_up();
            }
        }
        let mut out = ids.to_vec();
        while !out.is_empty() {
            let id = out.remove(usize::from(self.draw(4)) % out.len());
            match self.draw(12) {
                1 => return self.take_up(),
                2 => return self.not_run(&id, out),
                _ => self.settle(&id),
            }
        }
    }

    /// The authorization is gone: neither this call nor the ones beside it ran.
    fn not_run(&mut self, id: &str, others: Vec<String>) {
        for call_id in std::iter::once(id.to_owned()).chain(others) {
            self.started.remove(&call_id);
            self.event(Event::ToolNotRun { call_id, reason: "401".into() });
        }
        if self.draw(2) == 0 {
            self.ask_for_authorization();
        } else {
            self.pause(Pause::RateLimited);
        }
    }

    fn settle(&mut self, id: &str) {
        let execution_id = None;
        let (state, outcome) = match self.draw(6) {
            1 => (EffectState::Failed, ToolOutcome::Failed { message: "no".into(), execution_id }),
            2 if self.writes.contains(id) => {
                (EffectState::Unknown, ToolOutcome::Unknown { message: "timeout".into(), execution_id })
            }
            3 => (EffectState::Done, ToolOutcome::Done { content: "same".into(), execution_id }),
            4 => (EffectState::Done, ToolOutcome::Done { content: "long ".repeat(300), execution_id }),
            _ => (EffectState::Done, ToolOutcome::Done { content: format!("result of {id}"), execution_id }),
        };
        self.event(Event::ToolFinished { call_id: id.to_owned(), outcome });
        self.started.insert(id.to_owned(), state);
    }

    fn check_batch(&self, ids: &[String]) {
        assert!(!ids.is_empty() && ids.len() <= self.run.settings().parallel_reads.max(1), "{ids:?}");
        for id in ids {
            assert!(!self.refused.contains(id), "the refused call {id} is offered");
            assert!(!self.denied.contains(id), "the denied call {id} is offered");
            assert!(!(self.writes.contains(id) && self.started.contains_key(id)), "the write {id} would run twice");
            let open = self.run.open_call(id).expect("an offered call stands in the open turn");
            let Plan::Run { tool, .. } = &open.plan else { panic!("{id} is not planned to run") };
            assert!(ids.len() == 1 || tool.effect == Effect::Read, "{id} does not run alone");
        }
    }

    /// The reply tells of every call that left, and of nothing else.
    fn check_account(&self, event: &ReplyEvent) {
        let account = match event {
            ReplyEvent::Completed(completed) => &completed.account,
            ReplyEvent::Failed(failed) => &failed.account,
            other => panic!("{other:?} is not the end of a run"),
        };
        assert_eq!(account.tool_calls as usize, self.started.len());
        if !account.models.is_empty() {
            assert_eq!(account.models.iter().map(|used| used.calls).sum::<u32>(), account.usage.model_calls);
            let present = account.models.iter().filter(|used| used.reason.is_none());
            assert_eq!(present.map(|used| used.model.as_str()).collect::<Vec<_>>(), [self.run.model()]);
        }
        let of_state = |state| account.effects.iter().filter(move |effect| effect.state == state);
        assert_eq!(of_state(EffectState::Denied).count(), self.denied.len());
        for state in [EffectState::Done, EffectState::Failed, EffectState::Unknown] {
            let told = account.effects.iter().filter(|effect| effect.tool == "gmail_send_message");
            let told = told.filter(|effect| effect.state == state).count();
            let true_count = self.started.iter().filter(|(id, known)| self.writes.contains(*id) && **known == state);
            assert_eq!(told, true_count.count(), "{state:?}");
        }
    }

    /// What is read back, line by line, is the live state at every point; that a replay is those lines folded is checked
    /// at some.
    fn check_replay(&self) {
        let length = self.journal.len();
        let mut folded = self.states[0].clone();
        for (line, live) in self.journal.iter().zip(&self.states).skip(1) {
            folded.apply(serde_json::from_str(line).unwrap()).unwrap();
            assert_eq!(folded, *live, "after {line}");
        }
        let stride = if length <= SHORT { 1 } else { length / 8 };
        for entries in (1..=length).rev().step_by(stride) {
            let replayed = Run::replay(&self.journal[..entries]).unwrap();
            assert_eq!(replayed.as_ref(), Some(&self.states[entries - 1]), "after {entries} entries");
        }
    }
}

/// The rules of the model APIs: every call answered once, directly after its turn and in its order; no answer without a
/// call.
fn check_conversation(messages: &[Message]) {
    assert!(matches!(messages, [Message::System(_), Message::User(_), ..]));
    let mut unanswered: VecDeque<&str> = VecDeque::new();
    for message in messages {
        if let Message::ToolResult { call_id, .. } = message {
            assert_eq!(unanswered.pop_front(), Some(call_id.as_str()), "in {messages:#?}");
            continue;
        }
        assert!(unanswered.is_empty(), "calls without an answer in {messages:#?}");
        if let Message::Assistant(assistant) = message {
            unanswered.extend(assistant.calls.iter().map(|call| call.id.as_str()));
            let unique: BTreeSet<_> = unanswered.iter().collect();
            assert_eq!(unique.len(), unanswered.len(), "an id twice in {messages:#?}");
        }
    }
    assert!(unanswered.is_empty(), "calls without an answer at the end of {messages:#?}");
}
