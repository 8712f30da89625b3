//! What the process counts, for `GET /metrics`. Labels come from closed sets or from tool lists; never an identifier,
//! a prompt or a job id.

mod exposition;
mod labels;
mod registration;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use self::exposition::Form;
use self::labels::{
    ApprovalLabels, BudgetName, CacheResult, DigestName, FallbackLabels, Fire, InferenceLabels, ModelCallLabels,
    ModelName, OutcomeLabel, PriorityLabel, QueueName, ReasonLabel, ServiceName, TokenLabels, ToolCallLabels, ToolName,
    TypeLabel,
};
use crate::decision::{Door, Verdict};
use crate::money::Amount;

/// Tools that metrics tell apart: those of some dozen providers. What is called beyond is `other`, as users' connections may
/// bring tools without end.
const TOOLS_TOLD_APART: usize = 300;
const OTHER: &str = "other";

/// What an operating system says of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessFigures {
    /// Processor time of all threads.
    pub cpu_seconds: f64,
    /// Memory that is in use.
    pub resident_bytes: u64,
    /// Files and sockets that are open.
    pub open_fds: u64,
    /// As many as there may be.
    pub max_fds: u64,
}

/// All metrics of one process (or of one embedded worker: nothing is global).
pub struct Metrics {
    registry: Registry,
    jobs: Family<OutcomeLabel, Counter>,
    jobs_in_flight: Gauge<i64, AtomicI64>,
    jobs_waiting: Family<PriorityLabel, Gauge>,
    jobs_put_aside: Family<PriorityLabel, Counter>,
    job_duration: Histogram,
    queue_wait: Histogram,
    tool_calls: Family<ToolCallLabels, Counter>,
    tool_call_duration: Histogram,
    tool_retries: Family<ReasonLabel, Counter>,
    tool_cache: Family<CacheResult, Counter>,
    model_calls: Family<ModelCallLabels, Counter>,
    model_retries: Family<ReasonLabel, Counter>,
    model_fallbacks: Family<FallbackLabels, Counter>,
    model_tokens: Family<TokenLabels, Counter>,
    model_cost: Family<ModelName, Counter<f64, AtomicU64>>,
    model_cost_unknown: Family<ModelName, Counter>,
    budgets_exceeded: Family<BudgetName, Counter>,
    digest_cost: Family<DigestName, Counter<f64, AtomicU64>>,
    parked_jobs: Family<ReasonLabel, Gauge>,
    approvals: Family<ApprovalLabels, Counter>,
    dead_letters: Family<ReasonLabel, Counter>,
    replies: Family<TypeLabel, Counter>,
    replies_fell_back: Counter,
    replies_deferred: Counter,
    reply_posts: Family<OutcomeLabel, Counter>,
    digest_fires: Family<Fire, Counter>,
    digest_last_fire: Family<DigestName, Gauge>,
    digest_last_success: Family<DigestName, Gauge>,
    digest_failures: Family<DigestName, Gauge>,
    journals_lost: Counter,
    clock_ahead: Gauge<f64, AtomicU64>,
    queue_members: Family<QueueName, Gauge>,
    queue_members_online: Family<QueueName, Gauge>,
    spans: Family<OutcomeLabel, Counter>,
    up: Family<ServiceName, Gauge>,
    credentials: Family<ServiceName, Gauge>,
    queue_messages: Family<QueueName, Gauge>,
    queue_consumers: Family<QueueName, Gauge>,
    inference_duration: Family<InferenceLabels, Histogram>,
    inference_input: Family<InferenceLabels, Counter>,
    inference_output: Family<InferenceLabels, Counter>,
    execute_tool_duration: Family<ToolName, Histogram>,
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    /// The tools that are told apart.
    tools: Mutex<HashSet<String>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    /// All metrics, as OpenMetrics has them.
    pub fn render(&self) -> String {
        self.render_as(Form::OpenMetrics)
    }

    /// All metrics in this form.
    pub fn render_as(&self, form: Form) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        form.of_open_metrics(text)
    }

    /// What the operating system says of the process just now.
    pub fn process_stands(&self, figures: ProcessFigures) {
        let whole = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.cpu_seconds.inc_by((figures.cpu_seconds - self.cpu_seconds.get()).max(0.0));
        self.resident_bytes.set(whole(figures.resident_bytes));
        self.open_fds.set(whole(figures.open_fds));
        self.max_fds.set(whole(figures.max_fds));
    }

    /// A queue holds so many messages and has so many consumers.
    pub fn queue_stands(&self, queue: &str, messages: u32, consumers: u32) {
        let label = QueueName { queue: queue.to_owned() };
        self.queue_messages.get_or_create(&label).set(messages.into());
        self.queue_consumers.get_or_create(&label).set(consumers.into());
    }

    /// The name by which a tool is counted.
    fn tool_label(&self, tool: &str) -> String {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if tools.contains(tool) {
            return tool.to_owned();
        }
        if tools.len() >= TOOLS_TOLD_APART {
            return OTHER.to_owned();
        }
        tools.insert(tool.to_owned());
        tool.to_owned()
    }

    /// A model call took so long, its repeats included, at this provider.
    pub fn inferred(&self, provider: &'static str, model: &str, seconds: f64, tokens: Option<(u64, u64)>) {
        let labels = InferenceLabels {
            gen_ai_operation_name: "chat",
            gen_ai_provider_name: provider,
            gen_ai_request_model: model.to_owned(),
        };
        self.inference_duration.get_or_create(&labels).observe(seconds);
        let (input, output) = tokens.unwrap_or_default();
        self.inference_input.get_or_create(&labels).inc_by(input);
        self.inference_output.get_or_create(&labels).inc_by(output);
    }

    /// A run takes a place; it is free again when the guard is dropped.
    pub fn job_in_flight(&self) -> InFlight {
        self.jobs_in_flight.inc();
        InFlight(self.jobs_in_flight.clone())
    }

    /// So many jobs of this priority wait in this process for a place.
    pub fn jobs_waiting(&self, priority: &'static str, count: usize) {
        let gauge = self.jobs_waiting.get_or_create(&PriorityLabel { priority });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A job of somebody who has many waiting was put aside.
    pub fn job_put_aside(&self, priority: &'static str) {
        self.jobs_put_aside.get_or_create(&PriorityLabel { priority }).inc();
    }

    /// A job ended: `completed`, or the error's code.
    pub fn job_ended(&self, outcome: &str, working_milliseconds: u64) {
        self.jobs.get_or_create(&OutcomeLabel { outcome: outcome.to_owned() }).inc();
        #[expect(clippy::cast_precision_loss, reason = "a job does not work for 2^53 ms")]
        self.job_duration.observe(working_milliseconds as f64 / 1000.0);
    }

    /// A job waited so long in the queue.
    pub fn queue_waited(&self, seconds: f64) {
        self.queue_wait.observe(seconds);
    }

    /// A tool call has its outcome: `done`, `failed`, `unknown`, `not_run`.
    pub fn tool_called(&self, tool: &str, effect: &'static str, outcome: &'static str, seconds: f64) {
        let tool = self.tool_label(tool);
        self.execute_tool_duration.get_or_create(&ToolName { gen_ai_tool_name: tool.clone() }).observe(seconds);
        self.tool_calls.get_or_create(&ToolCallLabels { tool, effect, outcome }).inc();
        self.tool_call_duration.observe(seconds);
    }

    /// A call to Scalekit is tried again.
    pub fn tool_retried(&self, reason: &str) {
        self.tool_retries.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// A tool list was found in `process`, `redis`, `scalekit` or `mcp`.
    pub fn tools_found(&self, result: &'static str) {
        self.tool_cache.get_or_create(&CacheResult { result }).inc();
    }

    /// How often a tool list was found in `process`, `redis`, `scalekit` or `mcp`.
    pub fn tools_found_in(&self, result: &'static str) -> u64 {
        self.tool_cache.get_or_create(&CacheResult { result }).get()
    }

    /// A model call ended: `answered`, or the error's name.
    pub fn model_called(&self, model: &str, outcome: &'static str) {
        self.model_calls.get_or_create(&ModelCallLabels { model: model.to_owned(), outcome }).inc();
    }

    /// A model call is tried again.
    pub fn model_retried(&self, reason: &str) {
        self.model_retries.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// A run goes on with another model.
    pub fn model_switched(&self, from: &str, to: &str, reason: &'static str) {
        let labels = FallbackLabels { from: from.to_owned(), to: to.to_owned(), reason };
        self.model_fallbacks.get_or_create(&labels).inc();
    }

    /// Tokens of an answered model call.
    pub fn tokens_used(&self, model: &str, input: u64, output: u64, cached: u64) {
        for (kind, count) in [("input", input), ("output", output), ("cached", cached)] {
            self.model_tokens.get_or_create(&TokenLabels { model: model.to_owned(), kind }).inc_by(count);
        }
    }

    /// An answered model call cost so much, where that is known.
    pub fn model_cost(&self, model: &str, cost: Option<Amount>) {
        let model = ModelName { model: model.to_owned() };
        match cost {
            Some(cost) => drop(self.model_cost.get_or_create(&model).inc_by(cost.usd())),
            None => drop(self.model_cost_unknown.get_or_create(&model).inc()),
        }
    }

    /// A run ended as a budget had no room for its next call.
    pub fn budget_exceeded(&self, budget: &'static str) {
        self.budgets_exceeded.get_or_create(&BudgetName { budget }).inc();
    }

    /// A digest's job ended that cost so much.
    pub fn digest_cost(&self, digest: &str, cost: Amount) {
        self.digest_cost.get_or_create(&DigestName { digest: digest.to_owned() }).inc_by(cost.usd());
    }

    /// This machine's clock is so far ahead of the fleet's.
    pub fn clock_ahead(&self, seconds: f64) {
        self.clock_ahead.set(seconds);
    }

    /// A queue has so many members, of which so many are up.
    pub fn queue_members(&self, queue: &str, members: usize, online: usize) {
        for (gauge, count) in [(&self.queue_members, members), (&self.queue_members_online, online)] {
            let label = QueueName { queue: queue.to_owned() };
            gauge.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Spans were `exported`, or `failed` to be, or `dropped` as there was no room.
    pub fn spans(&self, outcome: &str, count: u64) {
        self.spans.get_or_create(&OutcomeLabel { outcome: outcome.to_owned() }).inc_by(count);
    }

    /// Whether `broker` or `redis` takes what the worker needs of it.
    pub fn service_stands(&self, service: &'static str, up: bool) {
        self.up.get_or_create(&ServiceName { service: service.to_owned() }).set(i64::from(up));
    }

    /// Whether `scalekit`, `model` or a named provider of models takes the worker's credentials.
    pub fn credential_stands(&self, service: &str, taken: bool) {
        self.credentials.get_or_create(&ServiceName { service: service.to_owned() }).set(i64::from(taken));
    }

    /// So many runs wait for this, of all workers: one process parks a run and another takes it up, so no process can keep the
    /// count by itself.
    pub fn parked(&self, reason: &str, count: u64) {
        let reason = ReasonLabel { reason: reason.to_owned() };
        self.parked_jobs.get_or_create(&reason).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Somebody decided about a call that waited, or nobody did in time.
    pub fn approval_decided(&self, decision: Verdict, door: Door) {
        let (decision, door) = (decision.as_str(), door.as_str());
        self.approvals.get_or_create(&ApprovalLabels { decision, door }).inc();
    }

    /// A message was given up.
    pub fn dead_lettered(&self, reason: &str) {
        self.dead_letters.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// The broker confirmed a reply.
    pub fn replied(&self, kind: &'static str, fell_back: bool) {
        self.replies.get_or_create(&TypeLabel { r#type: kind }).inc();
        self.replies_fell_back.inc_by(u64::from(fell_back));
    }

    /// A reply queue took nothing: the reply is sent again later.
    pub fn reply_deferred(&self) {
        self.replies_deferred.inc();
    }

    /// A reply was POSTed, or went to a queue as it could not be.
    pub fn reply_posted(&self, outcome: &str) {
        self.reply_posts.get_or_create(&OutcomeLabel { outcome: outcome.to_owned() }).inc();
    }

    /// The store lost a run's journal.
    pub fn journal_lost(&self) {
        self.journals_lost.inc();
    }

    /// A digest's job was `published`, was there already (`duplicate`), or was left out (`skipped`); or the firing stopped
    /// before its end (`failed`).
    pub fn digest_fired(&self, digest: &str, result: &'static str) {
        self.digest_fires.get_or_create(&Fire { digest: digest.to_owned(), result }).inc();
    }

    /// Sets the gauges of a digest: its last fire and success in Unix seconds, where there were any, and failures in a
    /// row.
    pub fn digest_stands(
        &self,
        digest: &str,
        last_fire: Option<Timestamp>,
        last_success: Option<Timestamp>,
        failures: u64,
    ) {
        let name = DigestName { digest: digest.to_owned() };
        if let Some(at) = last_fire {
            self.digest_last_fire.get_or_create(&name).set(at.as_second());
        }
        if let Some(at) = last_success {
            self.digest_last_success.get_or_create(&name).set(at.as_second());
        }
        self.digest_failures.get_or_create(&name).set(i64::try_from(failures).unwrap_or(i64::MAX));
    }
}

/// A place that a run holds.
#[derive(Debug)]
pub struct InFlight(Gauge<i64, AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_the_documented_names() {
        let metrics = Metrics::default();
        metrics.job_ended("completed", 1500);
        metrics.tool_called("gmail_fetch_mails", "read", "done", 0.2);
        metrics.tools_found("redis");
        metrics.replied("agentkit.job.completed", true);
        let place = metrics.job_in_flight();
        let text = metrics.render();
        for line in [
            "agentkit_jobs_total{outcome=\"completed\"} 1",
            "agentkit_job_duration_seconds_count 1",
            "agentkit_tool_calls_total{tool=\"gmail_fetch_mails\",effect=\"read\",outcome=\"done\"} 1",
            "agentkit_tool_cache_total{result=\"redis\"} 1",
            "agentkit_replies_total{type=\"agentkit.job.completed\"} 1",
            "agentkit_jobs_in_flight 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        drop(place);
        assert!(metrics.render().contains("agentkit_jobs_in_flight 0"));
    }
}
