//! What the process counts, for `GET /metrics`. Labels come from closed sets or from tool lists; never an identifier,
//! a prompt or a job id.

mod exposition;
mod labels;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

pub use self::exposition::Form;
use self::labels::{
    ApprovalLabels, CacheResult, DigestName, Fire, InferenceLabels, Kind, ModelCallLabels, OutcomeLabel, QueueName,
    ReasonLabel, ServiceName, TokenLabels, ToolCallLabels, ToolName,
};
use crate::decision::{Door, Verdict};
use crate::reply::ErrorCode;

/// Upper bounds in seconds: jobs and model calls take from milliseconds to minutes.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

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
    job_duration: Histogram,
    queue_wait: Histogram,
    tool_calls: Family<ToolCallLabels, Counter>,
    tool_call_duration: Histogram,
    tool_retries: Family<ReasonLabel, Counter>,
    tool_cache: Family<CacheResult, Counter>,
    model_calls: Family<ModelCallLabels, Counter>,
    model_retries: Family<ReasonLabel, Counter>,
    model_tokens: Family<TokenLabels, Counter>,
    parked_jobs: Family<ReasonLabel, Gauge>,
    approvals: Family<ApprovalLabels, Counter>,
    dead_letters: Family<ReasonLabel, Counter>,
    replies: Family<Kind, Counter>,
    replies_fell_back: Counter,
    replies_deferred: Counter,
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

impl Default for Metrics {
    fn default() -> Self {
        fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
            registry.register(name, help, metric.clone());
            metric
        }
        let seconds = || Histogram::new(SECONDS);
        let mut registry = Registry::default();
        let foreign = &mut registry;
        let inference_duration = add(
            foreign,
            "gen_ai_client_inference_duration_seconds",
            "Duration of model calls, repeats included",
            Family::<InferenceLabels, Histogram>::new_with_constructor(seconds),
        );
        let inference_input = add(
            foreign,
            "gen_ai_client_inference_usage_input_tokens",
            "Input tokens of answered model calls, cached ones included",
            Family::default(),
        );
        let inference_output = add(
            foreign,
            "gen_ai_client_inference_usage_output_tokens",
            "Output tokens of answered model calls",
            Family::default(),
        );
        let execute_tool_duration = add(
            foreign,
            "gen_ai_execute_tool_duration_seconds",
            "Duration of tool calls, repeats included",
            Family::<ToolName, Histogram>::new_with_constructor(seconds),
        );
        let cpu_seconds = add(foreign, "process_cpu_seconds", "Processor time of the process", Counter::default());
        let resident_bytes = add(foreign, "process_resident_memory_bytes", "Memory in use", Gauge::default());
        let open_fds = add(foreign, "process_open_fds", "Files and sockets that are open", Gauge::default());
        let max_fds = add(foreign, "process_max_fds", "As many as there may be", Gauge::default());
        let all = registry.sub_registry_with_prefix("agentkit");
        all.register("build", "The program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let metrics = Self {
            inference_duration,
            inference_input,
            inference_output,
            execute_tool_duration,
            cpu_seconds,
            resident_bytes,
            open_fds,
            max_fds,
            tools: Mutex::default(),
            queue_messages: add(
                all,
                "queue_messages",
                "Messages of the queue that are ready for delivery",
                Family::default(),
            ),
            queue_consumers: add(
                all,
                "queue_consumers",
                "Consumers of the queue, those of all processes together",
                Family::default(),
            ),
            jobs: add(all, "jobs", "Jobs that ended, by outcome", Family::default()),
            clock_ahead: add(
                all,
                "clock_ahead_seconds",
                "How far this machine's clock is ahead of the journal's store; it is put right by that",
                Gauge::default(),
            ),
            queue_members: add(
                all,
                "queue_members",
                "Nodes that have a copy of the queue; told where amqp.management_url is set",
                Family::default(),
            ),
            queue_members_online: add(all, "queue_members_online", "Those of them that are up", Family::default()),
            spans: add(
                all,
                "spans",
                "Spans of traces, by what became of them: exported, failed (no collector took them), dropped (no room)",
                Family::default(),
            ),
            up: add(
                all,
                "up",
                "1 where the service takes what the worker needs of it, 0 where it does not",
                Family::default(),
            ),
            credentials: add(
                all,
                "credentials_accepted",
                "0 while the service refuses the worker's credentials, else 1",
                Family::default(),
            ),
            jobs_in_flight: add(all, "jobs_in_flight", "Runs that hold a place in this process", Gauge::default()),
            job_duration: add(all, "job_duration_seconds", "Working time of ended jobs", Histogram::new(SECONDS)),
            queue_wait: add(
                all,
                "queue_wait_seconds",
                "From publishing to delivery of jobs that say when they were published",
                Histogram::new(SECONDS),
            ),
            tool_calls: add(all, "tool_calls", "Tool calls, by tool, effect and outcome", Family::default()),
            tool_call_duration: add(
                all,
                "tool_call_duration_seconds",
                "Duration of tool calls",
                Histogram::new(SECONDS),
            ),
            tool_retries: add(all, "tool_retries", "Repeated calls to Scalekit, by reason", Family::default()),
            tool_cache: add(all, "tool_cache", "Look-ups of tool lists, by where they were found", Family::default()),
            model_calls: add(all, "model_calls", "Model calls, by model and outcome", Family::default()),
            model_retries: add(all, "model_retries", "Repeated model calls, by reason", Family::default()),
            model_tokens: add(all, "model_tokens", "Tokens, by model and kind", Family::default()),
            parked_jobs: add(
                all,
                "parked_jobs",
                "Runs that wait, of all workers that share the index, by reason; asked for at each scrape",
                Family::default(),
            ),
            approvals: add(all, "approvals", "Calls that waited for a person, by decision and door", Family::default()),
            dead_letters: add(all, "dead_letters", "Messages given up, by reason", Family::default()),
            replies: add(all, "replies", "Replies confirmed by the broker, by type", Family::default()),
            replies_fell_back: add(
                all,
                "replies_fell_back",
                "Replies whose queue did not exist, kept in the common reply queue",
                Counter::default(),
            ),
            replies_deferred: add(
                all,
                "replies_deferred",
                "Tries to send a reply to a queue that took nothing; each is made again later",
                Counter::default(),
            ),
            digest_fires: add(
                all,
                "digest_fires",
                "Jobs published for digests, by digest and result",
                Family::default(),
            ),
            digest_last_fire: add(
                all,
                "digest_last_fire_timestamp_seconds",
                "The last occurrence of which something was published, by digest",
                Family::default(),
            ),
            digest_last_success: add(
                all,
                "digest_last_success_timestamp_seconds",
                "The last occurrence of which a job completed, by digest",
                Family::default(),
            ),
            digest_failures: add(
                all,
                "digest_failures_in_a_row",
                "Jobs in a row that did not complete, by digest",
                Family::default(),
            ),
            journals_lost: add(all, "journals_lost", "Runs whose journal the store lost", Counter::default()),
            registry,
        };
        metrics.begin();
        metrics
    }
}

impl Metrics {
    /// Every series that somebody may want to be woken by is there from the beginning: the first of what is counted would be no
    /// increase otherwise.
    fn begin(&self) {
        for outcome in ErrorCode::ALL.map(ErrorCode::as_str).into_iter().chain(["completed", "authorization_required"])
        {
            drop(self.jobs.get_or_create(&OutcomeLabel { outcome: outcome.to_owned() }));
        }
        for outcome in ["exported", "failed", "dropped"] {
            self.spans(outcome, 0);
        }
        for reason in
            ["invalid_job", "producer_not_allowed", "poison", "delivery_limit", "damaged_journal", "unfounded"]
        {
            drop(self.dead_letters.get_or_create(&ReasonLabel { reason: reason.to_owned() }));
        }
        for (effect, outcome) in
            [("read", "failed"), ("idempotent", "failed"), ("write", "failed"), ("write", "unknown")]
        {
            drop(self.tool_calls.get_or_create(&ToolCallLabels { tool: OTHER.to_owned(), effect, outcome }));
        }
        for outcome in ["credentials", "quota_exhausted", "rate_limited", "rejected", "timed_out", "unavailable"] {
            drop(self.model_calls.get_or_create(&ModelCallLabels { model: OTHER.to_owned(), outcome }));
        }
        for result in ["process", "redis", "scalekit"] {
            drop(self.tool_cache.get_or_create(&CacheResult { result }));
        }
        for decision in [Verdict::Approve, Verdict::Deny, Verdict::Edit, Verdict::Expired] {
            for door in [Door::Amqp, Door::Http, Door::Link, Door::Cli, Door::Expiry] {
                if (decision == Verdict::Expired) == (door == Door::Expiry) {
                    let (decision, door) = (decision.as_str(), door.as_str());
                    drop(self.approvals.get_or_create(&ApprovalLabels { decision, door }));
                }
            }
        }
    }

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

    /// A tool list was found in `process`, `redis` or `scalekit`.
    pub fn tools_found(&self, result: &'static str) {
        self.tool_cache.get_or_create(&CacheResult { result }).inc();
    }

    /// How often a tool list was found in `process`, `redis` or `scalekit`.
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

    /// Tokens of an answered model call.
    pub fn tokens_used(&self, model: &str, input: u64, output: u64, cached: u64) {
        for (kind, count) in [("input", input), ("output", output), ("cached", cached)] {
            self.model_tokens.get_or_create(&TokenLabels { model: model.to_owned(), kind }).inc_by(count);
        }
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
        self.up.get_or_create(&ServiceName { service }).set(i64::from(up));
    }

    /// Whether `scalekit` or `model` takes the worker's credentials.
    pub fn credential_stands(&self, service: &'static str, taken: bool) {
        self.credentials.get_or_create(&ServiceName { service }).set(i64::from(taken));
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
        self.replies.get_or_create(&Kind { r#type: kind }).inc();
        self.replies_fell_back.inc_by(u64::from(fell_back));
    }

    /// A reply queue took nothing: the reply is sent again later.
    pub fn reply_deferred(&self) {
        self.replies_deferred.inc();
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
