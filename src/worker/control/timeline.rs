//! A run as its journal tells it: what happened when, and how it stands.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::agent::event::{Entry, Event, Pause, Plan, ToolOutcome};
use crate::agent::message::ModelReply;
use crate::agent::run::{BadJournal, Run};
use crate::job::ConnectionName;
use crate::money::{Amount, ModelCost};
use crate::reply::{Reply, ReplyEvent};
use crate::text::plain;

/// A run and its journal.
pub(crate) struct Timeline {
    run: Run,
    rows: Vec<Row>,
    state: State,
}

/// One thing that happened.
pub(crate) struct Row {
    pub(crate) at: Timestamp,
    /// The event's name.
    pub(crate) event: &'static str,
    pub(crate) detail: String,
    /// Prompts, arguments, results: shown on demand only.
    pub(crate) content: Vec<String>,
    /// Whether something went wrong.
    pub(crate) is_trouble: bool,
}

/// How a run stands, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    name: &'static str,
    words: String,
}

impl Timeline {
    /// The timeline that the lines of a journal tell, `None` where there are none.
    pub(crate) fn read(lines: &[String]) -> Result<Option<Self>, BadJournal> {
        let Some(run) = Run::replay(lines)? else { return Ok(None) };
        let mut tools = HashMap::new();
        let mut rows = Vec::new();
        let mut state = State { name: "waiting", words: "waiting for a worker".to_owned() };
        // Every line was read a moment ago.
        for entry in lines.iter().filter_map(|line| serde_json::from_str::<Entry>(line).ok()) {
            if let Event::ModelReplied { reply, plans, .. } = &entry.event {
                tools.extend(reply.message.calls.iter().zip(plans).map(|(call, plan)| (call.id.clone(), called(plan))));
            }
            state = state.after(&entry, &run);
            rows.push(Row::of(&entry, &tools));
        }
        Ok(Some(Self { run, rows, state }))
    }

    /// The run.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// What happened, in order.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How it stands, for programs and in words.
    pub(crate) fn state(&self) -> (&'static str, &str) {
        (self.state.name, &self.state.words)
    }

    /// Attempts and model turns; of a run that has ended its reply knows them, too, when the journal does not any more.
    pub(crate) fn counts(&self) -> (u32, u32) {
        match self.run.reply().map(|reply| &reply.event) {
            Some(ReplyEvent::Completed(completed)) => (completed.account.attempts, completed.account.steps),
            Some(ReplyEvent::Failed(failed)) => (failed.account.attempts, failed.account.steps),
            _ => (self.run.attempts(), self.run.steps()),
        }
    }

    /// What it cost so far; of a run that has ended its reply knows it.
    fn cost(&self) -> ModelCost {
        let account = self.run.reply().and_then(|reply| reply.event.account());
        account.map_or_else(|| self.run.cost(), |account| account.usage.cost)
    }

    /// For people: lines without anything that a terminal would obey.
    pub(crate) fn lines(&self, content: bool) -> Vec<String> {
        let job = self.run.job();
        let producer = job.id().producer().map(|name| format!(", a job of {name}")).unwrap_or_default();
        let (attempts, steps) = self.counts();
        let mut lines = vec![
            format!("run {} of {}{producer}", plain(job.id().as_str()), plain(job.identifier.as_str())),
            format!("state: {}", plain(&self.state.words)),
            format!("{attempts} attempt(s), {steps} model turn(s), cost {}", self.cost()),
        ];
        if job.prompt.is_empty() {
            lines.push("its time is over: only its beginning and its end are kept".to_owned());
        }
        lines.push(String::new());
        for row in &self.rows {
            let at = row.at.strftime("%Y-%m-%d %H:%M:%S%.3fZ");
            lines.push(format!("{at}  {:<23} {}", row.event, plain(&row.detail)));
            let content = row.content.iter().filter(|_| content).flat_map(|text| text.lines());
            lines.extend(content.map(|line| format!("{:26}{}", "", plain(line))));
        }
        lines
    }

    /// For programs.
    pub(crate) fn to_json(&self, content: bool) -> Value {
        let job = self.run.job();
        let rows = self.rows.iter().map(|row| {
            let mut value = json!({"at": row.at, "event": row.event, "detail": row.detail});
            if content && !row.content.is_empty() {
                value["content"] = json!(row.content);
            }
            value
        });
        let (attempts, steps) = self.counts();
        let mut timeline = json!({
            "id": job.id().as_str(),
            "identifier": job.identifier,
            "state": self.state.name,
            "state_words": self.state.words,
            "attempts": attempts,
            "steps": steps,
            "cost": self.cost(),
            "timeline": rows.collect::<Vec<_>>(),
        });
        if let Some(producer) = job.id().producer() {
            timeline["producer"] = producer.into();
        }
        timeline
    }
}

impl State {
    fn after(self, entry: &Entry, run: &Run) -> Self {
        let new = |name, words| Self { name, words };
        match &entry.event {
            Event::AttemptStarted { worker, .. } => new("running", format!("running on {worker} since {}", entry.at)),
            Event::AttemptEnded { cause: Pause::Authorization, .. } => {
                let Some(awaited) = run.awaited_authorization() else { return self };
                let names: Vec<&str> = awaited.connections.iter().map(ConnectionName::as_str).collect();
                let words = format!("waiting for the authorization of {} until {}", names.join(", "), awaited.until);
                new("waiting_for_authorization", words)
            }
            Event::AttemptEnded { cause: Pause::Approval, .. } => {
                let Some(until) = run.approvals().until() else { return self };
                new("waiting_for_approval", format!("waiting for a person's approval until {until}"))
            }
            Event::AttemptEnded { detail, .. } => new("waiting", format!("waiting: {detail}")),
            Event::Finished(reply) => {
                new("finished", format!("finished: {}; the reply is not delivered yet", outcome(reply)))
            }
            Event::Delivered => match run.reply() {
                Some(reply) => new("finished", format!("finished: {}", outcome(reply))),
                None => self,
            },
            Event::Reopened => new("waiting", "opened again, waiting for a worker".to_owned()),
            _ => self,
        }
    }
}

/// A reply's outcome in a word or two, `failed/cancelled` for one.
pub(crate) fn outcome(reply: &Reply) -> String {
    match &reply.event {
        ReplyEvent::Completed(completed) => match serde_json::to_value(completed.status) {
            Ok(Value::String(status)) => status,
            _ => "completed".to_owned(),
        },
        ReplyEvent::Failed(failed) => format!("failed/{}", failed.error.code.as_str()),
        ReplyEvent::AuthorizationRequired(_) => "authorization_required".to_owned(),
        ReplyEvent::ApprovalRequired(_) => "approval_required".to_owned(),
        ReplyEvent::DecisionRefused(_) => "decision_refused".to_owned(),
        ReplyEvent::EffectSettled(_) => "effect_settled".to_owned(),
        ReplyEvent::Progress(_) => "in progress".to_owned(),
    }
}

impl Row {
    fn of(entry: &Entry, tools: &HashMap<String, String>) -> Self {
        let tool = |call_id: &str| tools.get(call_id).cloned().unwrap_or_else(|| call_id.to_owned());
        let mut content = Vec::new();
        let detail = match &entry.event {
            Event::Started(started) => {
                content.push(format!("prompt: {}", started.job.prompt));
                let names: Vec<&str> = started.job.connections.iter().map(ConnectionName::as_str).collect();
                format!("{}, model {}", names.join(", "), started.settings.model)
            }
            Event::AttemptStarted { worker, .. } => worker.clone(),
            Event::AttemptEnded { detail, .. } => detail.clone(),
            Event::WakeUpPublished { generation } => format!("number {generation}"),
            Event::AuthorizationRequested { connections, until, .. } => {
                let names: Vec<&str> = connections.iter().map(ConnectionName::as_str).collect();
                format!("{} until {until}", names.join(", "))
            }
            Event::ApprovalAsked { calls, until } => {
                let names: Vec<String> = calls.iter().map(|asked| tool(&asked.call_id)).collect();
                format!("{} until {until}", names.join(", "))
            }
            Event::ApprovalDecided(settled) => {
                content.extend(settled.reason.iter().map(|reason| format!("reason: {reason}")));
                let changed = settled.arguments.iter().map(|arguments| Value::Object(arguments.clone()));
                content.extend(changed.map(|arguments| format!("arguments: {arguments}")));
                let by = settled.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
                format!("{} ({}){by}", settled.verdict.as_str(), settled.door.as_str())
            }
            Event::ToolsListed { tools, left_out, .. } => format!("{} tools, {left_out} left out", tools.len()),
            Event::ModelReplied { reply, plans, nano_usd, .. } => {
                content.extend(reply.message.text.iter().map(|text| format!("text: {text}")));
                let calls = reply.message.calls.iter();
                content.extend(calls.map(|call| format!("call: {} {}", call.name, call.arguments)));
                answered(reply, plans, *nano_usd)
            }
            Event::ModelSwitched { from, to, reason } => format!("{to} instead of {from}: {reason}"),
            Event::HistoryCompacted { results } => format!("{} tool results left out", results.len()),
            Event::Retried { call, reason } => format!("{call}: {reason}"),
            Event::ToolStarted { call_id } => tool(call_id),
            Event::ToolNotRun { call_id, reason } => format!("{}: {reason}; it is made again", tool(call_id)),
            Event::ToolFinished { call_id, outcome } => {
                let (word, text, execution_id) = match outcome {
                    ToolOutcome::Done { content, execution_id } => ("done", content, execution_id),
                    ToolOutcome::Failed { message, execution_id } => ("failed", message, execution_id),
                    ToolOutcome::Unknown { message, execution_id } => ("unknown", message, execution_id),
                };
                content.push(format!("result: {text}"));
                let id = execution_id.as_deref().map(|id| format!(" (execution {id})")).unwrap_or_default();
                format!("{}: {word}{id}", tool(call_id))
            }
            Event::EndLost { call_id, tool } => format!("{tool} ({call_id}) may have been carried out"),
            Event::GivenUp(given_up) => {
                format!("{}: {}; it was at: {}", given_up.reason, given_up.detail, given_up.step)
            }
            Event::Finished(reply) => {
                match &reply.event {
                    ReplyEvent::Completed(completed) => content.push(format!("text: {}", completed.text)),
                    ReplyEvent::Failed(failed) => content.push(format!("error: {}", failed.error.message)),
                    _ => {}
                }
                outcome(reply)
            }
            Event::EffectSettled(said) => format!("{}: {} by {}", said.call_id, said.settlement.as_str(), said.by),
            Event::SettlementDelivered { call_id } => call_id.clone(),
            Event::AccountsReady | Event::ModelAsked | Event::JournalLost | Event::Delivered | Event::Reopened => {
                String::new()
            }
        };
        Self { at: entry.at, event: entry.event.name(), detail, content, is_trouble: is_trouble(&entry.event) }
    }
}

fn is_trouble(event: &Event) -> bool {
    match event {
        Event::ToolFinished { outcome, .. } => !matches!(outcome, ToolOutcome::Done { .. }),
        Event::Finished(reply) => matches!(reply.event, ReplyEvent::Failed(_)),
        Event::Retried { .. }
        | Event::ModelSwitched { .. }
        | Event::EndLost { .. }
        | Event::JournalLost
        | Event::GivenUp(_) => true,
        _ => false,
    }
}

fn called(plan: &Plan) -> String {
    match plan {
        Plan::Run { tool, .. } => tool.name.clone(),
        Plan::Search { found, .. } => format!("a search for tools ({} found)", found.len()),
        Plan::Refuse { .. } => "a refused call".to_owned(),
    }
}

fn answered(reply: &ModelReply, plans: &[Plan], nano_usd: Option<u64>) -> String {
    let calls: Vec<String> = plans.iter().map(called).collect();
    let what = if calls.is_empty() { "an answer".to_owned() } else { format!("wants {}", calls.join(", ")) };
    match reply.usage {
        Some(usage) => {
            let cost = nano_usd.map(|nano| format!(", {}", Amount::of_nano_usd(nano))).unwrap_or_default();
            format!("{what}; {} tokens in, {} out{cost}", usage.input_tokens, usage.output_tokens)
        }
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINISHED: &str = include_str!("../../../tests/data/journal/v1-finished.ndjson");
    const CUT: &str = include_str!("../../../tests/data/journal/v1-cut.ndjson");

    fn timeline(journal: &str) -> Timeline {
        let lines: Vec<String> = journal.lines().map(str::to_owned).collect();
        Timeline::read(&lines).unwrap().unwrap()
    }

    #[test]
    fn every_entry_has_its_line_and_content_is_shown_on_demand_only() {
        let timeline = timeline(FINISHED);
        let (shy, open) = (timeline.to_json(false).to_string(), timeline.to_json(true).to_string());
        assert_eq!(timeline.rows.len(), FINISHED.lines().count());
        let prompt = serde_json::to_string(&timeline.run.job().prompt).unwrap();
        let prompt = prompt.trim_matches('"');
        assert!(!shy.contains(prompt), "{shy}");
        assert!(open.contains(prompt), "{open}");
        assert_eq!(timeline.to_json(false)["state"], "finished");
        assert!(shy.contains("gmail_send_message: unknown"), "{shy}");
    }

    #[test]
    fn the_state_is_told_in_words_at_every_point() {
        assert_eq!(timeline(CUT).to_json(false)["state"], "running");
        let lines: Vec<String> = CUT.lines().map(str::to_owned).collect();
        let states: Vec<String> =
            (1..=lines.len()).map(|end| Timeline::read(&lines[..end]).unwrap().unwrap().state.words).collect();
        assert!(states[0].starts_with("waiting for a worker"), "{states:#?}");
        assert!(states.iter().any(|state| state.starts_with("waiting for the authorization of ")), "{states:#?}");
        assert!(states[states.len() - 1].starts_with("running on "), "{states:#?}");
    }

    #[test]
    fn no_journal_has_no_timeline_and_a_broken_one_is_refused() {
        assert!(Timeline::read(&[]).unwrap().is_none());
        assert!(Timeline::read(&["{".to_owned()]).is_err());
    }
}
