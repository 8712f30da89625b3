//! How a job stands, as its journal tells whoever asks from outside.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::agent::event::{Entry, Event, Pause};
use crate::agent::run::{BadJournal, Run};
use crate::job::{ConnectionName, Identifier, Job, JobId};
use crate::reply::{Reply, ReplyEvent};

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// No worker has begun its run.
    Queued,
    /// A worker has its run, or had it when it died.
    Running,
    /// Its run waits: for a person, for its next attempt, or for a worker.
    Waiting,
    /// Its run ended with an answer.
    Completed,
    /// Its run ended without one.
    Failed,
}

/// A job as whoever may read it sees it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct JobStanding {
    /// The job's id, as its caller knows it.
    pub(crate) id: JobId,
    /// The end user whose accounts it uses.
    pub(crate) identifier: Identifier,
    /// How far it has come.
    pub(crate) state: JobState,
    /// Requests to the model that were answered so far, once its run has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<u32>,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<Waiting>,
    /// Its terminal reply, a CloudEvent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<Reply>,
}

/// What a run waits for.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Waiting {
    /// `authorization`, `approval`, `rate_limited`, `retry`, or `worker`: a free one, or one that can reach the journal.
    pub(crate) reason: &'static str,
    /// Until when at most, where a person is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) until: Option<Timestamp>,
    /// The connections that the user must authorize.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) connections: Vec<ConnectionName>,
    /// Where the user does that; only for who may send jobs of this user. Whoever opens a link binds their account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) links: Vec<WaitingLink>,
    /// The calls that wait for approval.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) approvals: Vec<WaitingCall>,
}

/// A link by which the user authorizes a connection.
#[derive(Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct WaitingLink {
    /// The connection.
    pub(crate) connection: ConnectionName,
    /// The link.
    pub(crate) link: String,
    /// Until when it works, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub(crate) expires_at: Option<Timestamp>,
}

/// Without the link.
impl std::fmt::Debug for WaitingLink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WaitingLink").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// A call that waits for approval, as a decision names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct WaitingCall {
    /// The approval's id, as in `POST /v1/approvals/{id}`.
    pub(crate) id: String,
    /// The model's id of the call.
    pub(crate) call_id: String,
    /// The decision is about these arguments.
    pub(crate) arguments_digest: String,
}

impl JobStanding {
    /// Of a job whose run nobody has begun.
    pub(crate) fn queued(job: &Job) -> Self {
        let (id, identifier) = (job.id().of_nobody(), job.identifier.clone());
        Self { id, identifier, state: JobState::Queued, step: None, waiting: None, reply: None }
    }

    /// As the lines of a journal tell, `None` where there are none.
    pub(crate) fn read(lines: &[String]) -> Result<Option<Self>, BadJournal> {
        let Some(run) = Run::replay(lines)? else { return Ok(None) };
        // Every line was read a moment ago.
        let entries = lines.iter().rev().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let last = entries.map(|entry| entry.event).find_map(|event| match event {
            Event::AttemptEnded { cause, .. } => Some(Some(cause)),
            Event::AttemptStarted { .. } | Event::Started(_) | Event::Reopened => Some(None),
            _ => None,
        });
        Ok(Some(Self::of(&run, last.flatten())))
    }

    /// Whether nothing follows.
    pub(crate) fn has_ended(&self) -> bool {
        self.reply.is_some()
    }

    /// `paused`: why the last attempt has ended.
    fn of(run: &Run, paused: Option<Pause>) -> Self {
        let reply = run.reply().cloned();
        let (state, waiting) = match (reply.as_ref().map(|reply| &reply.event), run.is_under_way()) {
            (Some(ReplyEvent::Completed(_)), _) => (JobState::Completed, None),
            (Some(_), _) => (JobState::Failed, None),
            (None, true) => (JobState::Running, None),
            (None, false) => (JobState::Waiting, Some(Waiting::of(run, paused))),
        };
        // Of a run that has ended its reply knows them, too, when the journal does not any more.
        let step = match reply.as_ref().map(|reply| &reply.event) {
            Some(ReplyEvent::Completed(completed)) => completed.account.steps,
            Some(ReplyEvent::Failed(failed)) => failed.account.steps,
            _ => run.steps(),
        };
        let (id, identifier) = (run.job().id().of_nobody(), run.job().identifier.clone());
        Self { id, identifier, state, step: Some(step), waiting, reply }
    }
}

impl Waiting {
    fn of(run: &Run, paused: Option<Pause>) -> Self {
        let none =
            Self { reason: "worker", until: None, connections: Vec::new(), links: Vec::new(), approvals: Vec::new() };
        if let Some(awaited) = run.awaited_authorization() {
            let connections = awaited.connections.clone();
            return Self { reason: "authorization", until: Some(awaited.until), connections, ..none };
        }
        if let Some(until) = run.approvals().until() {
            let waits = run.approvals().asked().iter().filter(|asked| asked.verdict.is_none());
            let approvals = waits.map(|asked| WaitingCall {
                id: asked.call.id.clone(),
                call_id: asked.call.call_id.clone(),
                arguments_digest: asked.call.arguments_digest.clone(),
            });
            return Self { reason: "approval", until: Some(until), approvals: approvals.collect(), ..none };
        }
        match paused {
            Some(Pause::RateLimited) => Self { reason: "rate_limited", ..none },
            Some(Pause::Transient) => Self { reason: "retry", ..none },
            _ => none,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINISHED: &str = include_str!("../../../tests/data/journal/v1-finished.ndjson");

    #[test]
    fn a_run_stands_as_its_journal_tells_at_every_point() {
        let lines: Vec<String> = FINISHED.lines().map(str::to_owned).collect();
        assert_eq!(JobStanding::read(&[]).unwrap(), None);
        let all: Vec<JobStanding> =
            (1..=lines.len()).map(|end| JobStanding::read(&lines[..end]).unwrap().unwrap()).collect();
        let (first, last) = (&all[0], &all[lines.len() - 1]);
        assert_eq!((first.state, first.waiting.as_ref().unwrap().reason), (JobState::Waiting, "worker"));
        assert!(all.iter().any(|standing| standing.state == JobState::Running));
        let parked = all.iter().filter_map(|standing| standing.waiting.as_ref());
        let parked = parked.filter(|waiting| waiting.reason == "authorization").collect::<Vec<_>>();
        assert!(parked.iter().all(|waiting| waiting.until.is_some() && !waiting.connections.is_empty()), "{all:#?}");
        assert!(last.has_ended() && last.waiting.is_none() && last.step > Some(0), "{last:#?}");
        assert!(
            all.iter().all(
                |standing| standing.has_ended() == matches!(standing.state, JobState::Completed | JobState::Failed)
            )
        );
    }
}
