//! Every metric with its name and what it says, and what is there before anything has happened.

use std::sync::Mutex;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::labels::{
    ApprovalLabels, BudgetName, CacheResult, InferenceLabels, ModelCallLabels, ModelName, OutcomeLabel, ReasonLabel,
    ToolCallLabels, ToolName,
};
use super::{Metrics, OTHER};
use crate::decision::{Door, Verdict};
use crate::reply::ErrorCode;

/// Upper bounds in seconds: jobs and model calls take from milliseconds to minutes.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

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
            jobs_waiting: add(
                all,
                "jobs_waiting",
                "Jobs that wait in this process for a place, by priority",
                Family::default(),
            ),
            jobs_put_aside: add(
                all,
                "jobs_put_aside",
                "Jobs that were put behind those of others, as many of the same key waited, by priority",
                Family::default(),
            ),
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
            model_fallbacks: add(all, "model_fallbacks", "Switches of runs to another model", Family::default()),
            model_tokens: add(all, "model_tokens", "Tokens, by model and kind", Family::default()),
            model_cost: add(
                all,
                "model_cost_usd",
                "What answered model calls cost in US dollars, at list prices, by model",
                Family::default(),
            ),
            model_cost_unknown: add(
                all,
                "model_cost_unknown",
                "Answered model calls whose cost is not known, by model: no price, or no usage",
                Family::default(),
            ),
            budgets_exceeded: add(
                all,
                "budget_exceeded",
                "Runs that ended as a budget of the operator had no room for their next model call, by budget",
                Family::default(),
            ),
            digest_cost: add(
                all,
                "digest_cost_usd",
                "What the jobs of digests cost in US dollars, at list prices, by digest; where it is known",
                Family::default(),
            ),
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
            reply_posts: add(
                all,
                "reply_posts",
                "Replies at the addresses that jobs name, by what became of each attempt: delivered, gone, failed, fell_back",
                Family::default(),
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
        for outcome in
            ["credentials", "model_gone", "quota_exhausted", "rate_limited", "rejected", "timed_out", "unavailable"]
        {
            drop(self.model_calls.get_or_create(&ModelCallLabels { model: OTHER.to_owned(), outcome }));
        }
        for budget in ["identifier_day", "digest_firing", "day", "month"] {
            drop(self.budgets_exceeded.get_or_create(&BudgetName { budget }));
        }
        let other = ModelName { model: OTHER.to_owned() };
        drop(self.model_cost.get_or_create(&other));
        drop(self.model_cost_unknown.get_or_create(&other));
        for result in ["process", "redis", "scalekit", "mcp"] {
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
}
