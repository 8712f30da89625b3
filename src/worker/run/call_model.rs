//! Calling the model: one turn, retried in place, abandoned when the worker stops.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::Attempt;
use super::interruption::Interruption;
use crate::agent::event::{Event, MODEL_CALL};
use crate::agent::examine::{self, Examined};
use crate::agent::message::{ModelReply, ToolChoice};
use crate::agent::plan;
use crate::llm::{LlmError, ModelRequest};
use crate::reply::{ErrorCode, ErrorDetail};
use crate::retry::{RetryDecision, retry};
use crate::worker::resources::cooldown::SHORTEST;
use crate::worker::resources::credentials::Service;
use crate::worker::resources::offers::Offer;

/// A rate limit that does not say when to come back.
const RATE_LIMIT_WAIT: Duration = Duration::from_secs(30);

/// What a model said is checked within this time. Its steps are counted before, and take a fraction of it; this is for a
/// process whose threads are all taken.
const EXAMINED_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no answer.
enum Unanswered {
    /// It failed, as often as it may.
    Failed(LlmError),
    /// The run is not ours any more.
    Lost(Interruption),
}

impl Attempt<'_> {
    /// One model turn. What the model said is journalled together with what follows from it first: a call that starts, or the
    /// run's end.
    pub(super) async fn call_model(&mut self) -> Result<(), Interruption> {
        // Boxed, and seldom needed: only after a change of worker.
        if self.offer.is_none() && Box::pin(self.offer()).await?.is_none() {
            return Ok(());
        }
        let model = self.run().settings().model.clone();
        match self.executor.cooldowns.remaining(&model).await {
            None => {}
            Some(wait) if wait < SHORTEST => tokio::select! {
                () = self.stop.cancelled() => return Err(Interruption::Shutdown),
                () = tokio::time::sleep(wait) => {}
            },
            Some(wait) => {
                let reason = format!("the model `{model}` asked to come later");
                return Err(Interruption::RateLimited { wait, outline: reason.clone(), reason });
            }
        }
        self.leased.record(vec![Event::ModelAsked]).await?;
        self.progress("model", None);
        let left = self.run().remaining(self.leased.clock().now());
        let left = Duration::try_from(left).unwrap_or_default();
        let stop = self.stop;
        let asked = tokio::select! {
            () = stop.cancelled() => return Err(Interruption::Shutdown),
            // The deadline is the run's own: its next step says so.
            () = tokio::time::sleep(left) => return Ok(()),
            asked = self.ask() => asked,
        };
        let (reply, retries) = match asked {
            (Ok(reply), retries) => (reply, retries),
            (Err(Unanswered::Lost(why)), _) => return Err(why),
            (Err(Unanswered::Failed(error)), retries) => {
                self.leased.record(retries).await?;
                return self.no_answer(&error).await;
            }
        };
        let settings = self.run().settings();
        let model = settings.model.as_str();
        if let Some(usage) = reply.usage {
            let metrics = &self.executor.metrics;
            metrics.tokens_used(
                self.executor.llm.metric_name(model),
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_tokens,
            );
        }
        debug!(
            step = self.run().steps() + 1,
            model,
            calls = reply.message.calls.len(),
            finish = reply.finish.outline(),
            "model answered"
        );
        let (plans, answer) = match self.offer.clone() {
            Some(offer) => {
                let Examined { arguments, answer } = self.examine(&reply, offer.clone()).await;
                (plan::plan(self.run(), &reply.message, &offer.toolset, arguments), answer)
            }
            None => (Vec::new(), None),
        };
        let mut events = retries;
        events.push(Event::ModelReplied { reply: Box::new(reply), plans, answer });
        self.leased.note(events)
    }

    /// Checks what the model said against schemas that are others' work: what may take longer on a thread of its own, and
    /// not for long.
    async fn examine(&self, reply: &ModelReply, offer: Arc<Offer>) -> Examined {
        let output_schema = self.run().job().output_schema.as_ref();
        if let Some(examined) = examine::examine_at_once(&reply.message, &offer.toolset, output_schema) {
            return examined;
        }
        let (message, output_schema) = (reply.message.clone(), output_schema.cloned());
        let examined =
            tokio::task::spawn_blocking(move || examine::examine(&message, &offer.toolset, output_schema.as_ref()));
        match tokio::time::timeout(EXAMINED_WITHIN, examined).await {
            Ok(Ok(examined)) => examined,
            result => {
                let why = if result.is_err() { "checking it took too long" } else { "it could not be checked" };
                warn!(why, "what the model said is given back to it");
                Examined::impossible(&reply.message, self.run().job().output_schema.as_ref(), why)
            }
        }
    }

    /// The model's answer or last failure, and the repeats that it took. Whether the run is still ours is asked before
    /// each request: another worker may be asking the same.
    async fn ask(&self) -> (Result<ModelReply, Unanswered>, Vec<Event>) {
        let run = self.run();
        let mut retries = Vec::new();
        let Some(offer) = &self.offer else {
            let error = LlmError::Invalid("there are no tools to offer".to_owned());
            return (Err(Unanswered::Failed(error)), retries);
        };
        let id = run.job().id();
        let request = ModelRequest {
            model: &run.settings().model,
            messages: run.messages(),
            tools: &offer.rendered,
            tool_choice: ToolChoice::Auto,
            output_schema: run.job().output_schema.as_ref(),
            max_output_tokens: None,
            run_id: &id.unique(),
            user: run.job().identifier.as_str(),
        };
        let metrics = &self.executor.metrics;
        let complete = || async {
            self.leased.lease().assure().await.map_err(Unanswered::Lost)?;
            let result = self.executor.llm.complete(&request).await;
            if result.is_ok() {
                self.executor.credentials.taken(Service::Model);
            }
            metrics.model_called(
                self.executor.llm.metric_name(request.model),
                result.as_ref().map_or_else(LlmError::code, |_| "answered"),
            );
            result.map_err(Unanswered::Failed)
        };
        let decide = |unanswered: &Unanswered| match unanswered {
            Unanswered::Failed(error) => error.retry(),
            Unanswered::Lost(_) => RetryDecision::Stop,
        };
        let notice = |unanswered: &Unanswered, attempt: u32, wait: Duration| {
            let Unanswered::Failed(error) = unanswered else { return };
            let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let outline = error.outline();
            warn!(step = run.steps() + 1, attempt, wait_milliseconds, error = outline, "the model call is repeated");
            debug!(%error, "the words of the model's server");
            metrics.model_retried(error.code());
            self.progress("retry", None);
            retries.push(Event::Retried { call: MODEL_CALL.to_owned(), reason: error.code().to_owned() });
        };
        let answer = retry(self.executor.rules.model_retry, decide, notice, complete).await;
        (answer, retries)
    }

    /// The key was refused. Some servers say so of a good key that may not use the model which a job names.
    async fn key_refused(&self) {
        let llm = &self.executor.llm;
        let own = &llm.config().model;
        let refused = self.run().settings().model == *own
            || matches!(llm.find_model(own).await, Err(LlmError::Credentials { .. }));
        if refused {
            self.executor.credentials.refused(Service::Model);
        }
    }

    /// What a failure that outlived its retries means for the run.
    async fn no_answer(&mut self, error: &LlmError) -> Result<(), Interruption> {
        let code = match error {
            LlmError::QuotaExhausted { .. } => ErrorCode::ModelQuota,
            LlmError::Rejected { .. } | LlmError::Invalid(_) => ErrorCode::ModelRejected,
            LlmError::ContextTooLong { .. } => ErrorCode::TokenLimit,
            LlmError::ContentFiltered { .. } => ErrorCode::ContentFiltered,
            LlmError::RateLimited { retry_after, .. } => {
                let wait = retry_after.unwrap_or(RATE_LIMIT_WAIT);
                self.executor.cooldowns.begin(&self.run().settings().model, wait).await;
                return Err(Interruption::RateLimited { wait, reason: error.to_string(), outline: error.outline() });
            }
            LlmError::Credentials { .. } => {
                self.key_refused().await;
                return Err(Interruption::Credentials { reason: error.to_string(), outline: error.outline() });
            }
            LlmError::NotSent(_)
            | LlmError::TimedOut
            | LlmError::Interrupted(_)
            | LlmError::Unavailable { .. }
            | LlmError::BadAnswer { .. } => {
                return Err(Interruption::Transient { reason: error.to_string(), outline: error.outline() });
            }
        };
        self.fail(ErrorDetail::new(code, error.to_string())).await
    }
}
