//! Calling the model: one turn, retried in place, abandoned when the worker stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::interruption::Interruption;
use super::trace_content;
use super::{Attempt, Executor};
use crate::agent::event::{Event, MODEL_CALL};
use crate::agent::examine::{self, Examined};
use crate::agent::message::{ModelReply, ToolChoice};
use crate::agent::plan;
use crate::llm::{LlmError, ModelRequest};
use crate::money::Amount;
use crate::reply::{ErrorCode, ErrorDetail};
use crate::retry::{RetryDecision, retry};
use crate::trace::{Kind, Span};
use crate::worker::resources::credentials::Service;
use crate::worker::resources::fallbacks::RATE_LIMIT_WAIT;
use crate::worker::resources::offers::Offer;

/// What a model said is checked within this time. Its steps are counted before, and take a fraction of it; this is for a
/// process whose threads are all taken.
const EXAMINED_WITHIN: Duration = Duration::from_secs(10);

/// What the span of an answered request says.
fn model_answered(span: &mut Span, reply: &ModelReply) {
    if !span.is_on() {
        return;
    }
    span.set_some("gen_ai.response.model", reply.model.clone());
    let finish = if reply.message.calls.is_empty() { reply.finish.outline() } else { "tool_calls" };
    span.list("gen_ai.response.finish_reasons", [finish.to_owned()]);
    if let Some(usage) = reply.usage {
        span.count("gen_ai.usage.input_tokens", usage.input_tokens);
        span.count("gen_ai.usage.output_tokens", usage.output_tokens);
        span.count("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
    }
    trace_content::answered(span, &reply.message, &reply.finish);
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// It failed, as often as it may.
    Failed(LlmError),
    /// The run is not ours any more, or has to wait.
    Lost(Interruption),
    /// A budget of the operator has no room for it.
    OverBudget(Box<ErrorDetail>),
}

impl Attempt<'_> {
    /// One model turn. What the model said is journalled together with what follows from it first: a call that starts, or the
    /// run's end.
    pub(super) async fn call_model(&mut self) -> Result<(), Interruption> {
        if !self.may_ask_model().await? {
            return Ok(());
        }
        // Boxed, and seldom needed: only after a change of worker or model.
        if self.offer.is_none() && Box::pin(self.offer()).await?.is_none() {
            return Ok(());
        }
        self.compact_history()?;
        self.leased.record(vec![Event::ModelAsked]).await?;
        self.progress("model", None);
        let left = self.run().remaining(self.leased.clock().now());
        let left = Duration::try_from(left).unwrap_or_default();
        let stop = self.stop;
        let (mut span, began) = (self.model_span(), Instant::now());
        let asked = tokio::select! {
            () = stop.cancelled() => {
                span.fail("shutdown");
                return Err(Interruption::Shutdown);
            }
            // The deadline is the run's own: its next step says so.
            () = tokio::time::sleep(left) => {
                span.fail("deadline_exceeded");
                return Ok(());
            }
            asked = self.ask(&mut span) => asked,
        };
        let (reply, retries) = match asked {
            (Ok(reply), retries) => (reply, retries),
            (Err(Unanswered::Lost(why)), _) => return Err(why),
            (Err(Unanswered::OverBudget(error)), retries) => {
                span.fail(error.code.as_str());
                drop(span);
                self.leased.record(retries).await?;
                return self.fail(*error).await;
            }
            (Err(Unanswered::Failed(error)), retries) => {
                span.fail(error.code());
                drop(span);
                self.inferred(began, None);
                self.leased.record(retries).await?;
                return self.no_answer(&error).await;
            }
        };
        model_answered(&mut span, &reply);
        drop(span);
        self.inferred(began, Some(&reply));
        let model = self.run().model();
        self.executor.fallbacks.answered(model);
        let cost = self.price_of(&reply);
        let (metrics, name) = (&self.executor.metrics, self.executor.llm.metric_name(model));
        if let Some(usage) = reply.usage {
            metrics.tokens_used(&name, usage.input_tokens, usage.output_tokens, usage.cached_tokens);
        }
        metrics.model_cost(&name, cost);
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
                let index = self.index_for(&reply.message).await;
                (plan::plan(self.run(), &reply.message, &offer.toolset, index.as_deref(), arguments), answer)
            }
            None => (Vec::new(), None),
        };
        self.searched(&plans);
        let mut events = retries;
        events.push(Event::ModelReplied {
            reply: Box::new(reply),
            plans,
            answer,
            nano_usd: cost.map(Amount::nano_usd),
        });
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
    async fn ask(&self, span: &mut Span) -> (Result<ModelReply, Unanswered>, Vec<Event>) {
        let run = self.run();
        let mut retries = Vec::new();
        let Some(offer) = &self.offer else {
            let error = LlmError::Invalid("there are no tools to offer".to_owned());
            return (Err(Unanswered::Failed(error)), retries);
        };
        let id = run.job().id();
        let request = ModelRequest {
            model: run.model(),
            messages: run.messages(),
            tools: &offer.rendered,
            tool_choice: ToolChoice::Auto,
            output_schema: run.job().output_schema.as_ref(),
            max_output_tokens: None,
            run_id: &id.unique(),
            user: run.job().identifier.as_str(),
        };
        let metrics = &self.executor.metrics;
        let requests = AtomicU32::new(0);
        let complete = || async {
            self.leased.lease().assure().await.map_err(Unanswered::Lost)?;
            let held = self.hold_for(&request, requests.fetch_add(1, Ordering::Relaxed)).await?;
            let result = self.executor.llm.complete(&request).await;
            if let Some(held) = held {
                self.executor.spending.settle(held, self.cost_of(&result)).await;
            }
            if result.is_ok() {
                self.executor.credentials.taken(Service::Provider(self.executor.llm.provider(request.model)));
            }
            metrics.model_called(
                &self.executor.llm.metric_name(request.model),
                result.as_ref().map_or_else(LlmError::code, |_| "answered"),
            );
            result.map_err(Unanswered::Failed)
        };
        let decide = |unanswered: &Unanswered| match unanswered {
            Unanswered::Failed(error) => error.retry(),
            Unanswered::Lost(_) | Unanswered::OverBudget(_) => RetryDecision::Stop,
        };
        let notice = |unanswered: &Unanswered, attempt: u32, wait: Duration| {
            let Unanswered::Failed(error) = unanswered else { return };
            let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let outline = error.outline();
            warn!(step = run.steps() + 1, attempt, wait_milliseconds, error = outline, "the model call is repeated");
            debug!(%error, "the words of the model's server");
            metrics.model_retried(error.code());
            span.event("retry", vec![("error.type", error.code().to_owned())]);
            self.progress("retry", None);
            retries.push(Event::Retried { call: MODEL_CALL.to_owned(), reason: error.code().to_owned() });
        };
        let answer = retry(self.executor.rules.model_retry, decide, notice, complete).await;
        (answer, retries)
    }

    /// The span of one request, its repeats included.
    fn model_span(&self) -> Span {
        let (llm, model) = (&self.executor.llm, self.run().model());
        let mut span = self.span.child(Kind::Client, || format!("chat {model}"));
        if !span.is_on() {
            return span;
        }
        let (server, port) = llm.server(model);
        span.set("gen_ai.operation.name", "chat");
        span.set("gen_ai.provider.name", llm.operator(model));
        span.set("gen_ai.request.model", model.to_owned());
        span.set("gen_ai.conversation.id", self.run().job().id().to_string());
        span.set("gen_ai.output.type", if self.run().job().output_schema.is_some() { "json" } else { "text" });
        span.set_some("gen_ai.request.max_tokens", llm.config().max_output_tokens.map(i64::from));
        span.set_some("gen_ai.request.temperature", llm.config().temperature);
        span.set_some("server.address", server);
        span.set_some("server.port", port.map(i64::from));
        trace_content::asked(&mut span, self.run().messages());
        span
    }

    /// Counts a request, its repeats included.
    fn inferred(&self, began: Instant, reply: Option<&ModelReply>) {
        let (llm, model) = (&self.executor.llm, self.run().model());
        let tokens = reply.and_then(|reply| reply.usage).map(|usage| (usage.input_tokens, usage.output_tokens));
        let seconds = began.elapsed().as_secs_f64();
        self.executor.metrics.inferred(llm.operator(model), &llm.metric_name(model), seconds, tokens);
    }

    /// The key was refused. Some servers say so of a good key that may not use the model which a job names; whoever tells
    /// everybody of its models has to have taken the key once before that is believed.
    async fn key_refused(&self) {
        let Executor { llm, credentials, .. } = self.executor;
        let model = self.run().model();
        let provider = llm.provider(model);
        let service = Service::Provider(provider);
        let refused = model == llm.config().model
            || matches!(llm.show_key(provider).await, Err(LlmError::Credentials { .. }))
            || provider != llm.provider(&llm.config().model) && !credentials.was_taken(service);
        if refused {
            credentials.refused(service);
        }
    }

    /// What a failure that outlived its retries means for the run.
    async fn no_answer(&mut self, error: &LlmError) -> Result<(), Interruption> {
        let wait = match error {
            LlmError::RateLimited { retry_after, .. } => Some(retry_after.unwrap_or(RATE_LIMIT_WAIT)),
            _ => None,
        };
        if self.leaves_after(error, wait).await? {
            return Ok(());
        }
        let code = match error {
            LlmError::QuotaExhausted { .. } => ErrorCode::ModelQuota,
            LlmError::Rejected { .. } | LlmError::ModelGone { .. } | LlmError::Invalid(_) => ErrorCode::ModelRejected,
            LlmError::ContextTooLong { .. } => ErrorCode::TokenLimit,
            LlmError::ContentFiltered { .. } => ErrorCode::ContentFiltered,
            LlmError::RateLimited { .. } => {
                let wait = wait.unwrap_or(RATE_LIMIT_WAIT);
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
        self.fail(self.last_failure(code, error)).await
    }
}
