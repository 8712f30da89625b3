//! Asking a person about calls that must not leave without one, and waiting for what is said.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tracing::info;

use super::interruption::Interruption;
use super::{Attempt, RunRules};
use crate::agent::event::{AskedCall, Event, Settled};
use crate::agent::run::Run;
use crate::approval::link::Bound;
use crate::clock::{after, milliseconds_between};
use crate::decision::{Door, Verdict};
use crate::reply::{ApprovalEntry, ApprovalRequired, Reply, ReplyEvent};
use crate::retry::spread;

impl Attempt<'_> {
    /// Journals that these calls wait. Their caller is told next: nobody can decide about what the journal does not know.
    pub(super) async fn ask_approval(&mut self, call_ids: &[String]) -> Result<(), Interruption> {
        // What edited arguments will have to fit is needed, too.
        if self.offer.is_none() && Box::pin(self.offer()).await?.is_none() {
            return Ok(());
        }
        let asked: Vec<AskedCall> =
            call_ids.iter().filter_map(|id| self.run().approval_of(id, self.arguments_schema(id))).collect();
        let wait = Duration::from_secs(self.run().settings().approval.wait_seconds);
        let until = after(self.leased.clock().now(), wait);
        info!(calls = asked.len(), %until, "approval required");
        self.leased.record(vec![Event::ApprovalAsked { calls: asked, until }]).await
    }

    /// Tells the caller where that is not certain yet, and parks the run.
    pub(super) async fn await_approval(&mut self) -> Result<(), Interruption> {
        let now = self.leased.clock().now();
        // Noted before anybody can decide.
        if let Some(until) = self.run().approvals().until() {
            let keep = Duration::from_millis(milliseconds_between(now, until));
            self.executor.parked.park_for_approval(self.run().job(), self.message, keep).await;
        }
        if !self.run().approvals().told() {
            self.tell_of_approvals().await?;
        }
        self.progress("parked", None);
        Err(Interruption::Approval { wait: next_look_at_approvals(self.executor.rules, self.run(), now) })
    }

    /// Nobody has decided in time.
    pub(super) async fn expire_approvals(&mut self, approvals: &[String]) -> Result<(), Interruption> {
        let expired = |approval: &String| {
            let (approval, verdict, door) = (approval.clone(), Verdict::Expired, Door::Expiry);
            Event::ApprovalDecided(Box::new(Settled {
                approval,
                verdict,
                door,
                by: None,
                reason: None,
                arguments: None,
            }))
        };
        self.leased.record(approvals.iter().map(expired).collect()).await?;
        for _ in approvals {
            self.executor.metrics.approval_decided(Verdict::Expired, Door::Expiry);
        }
        info!(calls = approvals.len(), "nobody decided in time");
        Ok(())
    }

    /// One event for all calls that wait: the same one each time, so that a caller can drop the second.
    async fn tell_of_approvals(&self) -> Result<(), Interruption> {
        let (run, job) = (self.run(), self.run().job());
        let asked = run.approvals().asked();
        let Some(first) = asked.first() else { return Ok(()) };
        let event = ReplyEvent::ApprovalRequired(Box::new(ApprovalRequired {
            approvals: asked.iter().filter_map(|asked| self.approval_entry(&asked.call, asked.until)).collect(),
            waiting_until: first.until,
            metadata: job.metadata.clone(),
        }));
        let reply = Reply::interim(&job.id(), &format!("approval:{}", run.steps()), first.at, event);
        self.tell(&reply).await
    }

    fn approval_entry(&self, asked: &AskedCall, until: Timestamp) -> Option<ApprovalEntry> {
        let run = self.run();
        let (tool, arguments, summary) = run.planned(&asked.call_id)?;
        let bound = Bound { approval: &asked.id, arguments_digest: &asked.arguments_digest, until };
        Some(ApprovalEntry {
            id: asked.id.clone(),
            call_id: asked.call_id.clone(),
            tool: tool.name.clone(),
            connection: tool.connection.as_str().to_owned(),
            effect: tool.effect.as_str().to_owned(),
            summary,
            arguments: arguments.clone(),
            arguments_digest: asked.arguments_digest.clone(),
            arguments_schema: asked.arguments_schema.clone(),
            editable: run.settings().approval.edit,
            read_before: run.approvals().read_before().to_vec(),
            link: self.executor.approval_links.link(&bound),
        })
    }

    /// Null where the tool is gone, or says nothing of its arguments that can be read.
    fn arguments_schema(&self, call_id: &str) -> Value {
        let definition = || {
            let (tool, ..) = self.run().planned(call_id)?;
            let found = self.offer.as_ref()?.toolset.find(&tool.model_name)?;
            serde_json::from_str(found.parameters.get()).ok()
        };
        definition().unwrap_or_default()
    }
}

/// At the end of the wait at the latest. A decision wakes the run at once; should that wake-up get lost, a look finds it.
pub(crate) fn next_look_at_approvals(rules: RunRules, run: &Run, now: Timestamp) -> Duration {
    let left = run.approvals().until().map_or(0, |until| milliseconds_between(now, until));
    let (_, longest) = rules.poll;
    spread(longest, run.job().id().as_str()).min(Duration::from_millis(left.max(1)))
}
