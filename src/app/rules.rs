//! The configuration in the terms of those it is for, and the clients of Scalekit and the model.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::audit::Audit;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::encryption::Encryption;
use crate::http;
use crate::llm::{Llm, Profiles};
use crate::metrics::Metrics;
use crate::queue::Publisher;
use crate::scalekit::{OnCredentials, Scalekit};
use crate::schedule;
use crate::worker::message::scheduled::ScheduledJobs;
use crate::worker::message::sender::Senders;
use crate::worker::message::signature::HeaderKey;
use crate::worker::resources::tool_source::ToolSources;
use crate::worker::rules::{Lifetimes, WorkerRules};
use crate::worker::run::RunRules;

/// Scalekit and the model, as configured.
pub(crate) fn edges(
    config: &Config,
    clock: &SharedClock,
    metrics: &Arc<Metrics>,
    on_credentials: Option<OnCredentials>,
) -> anyhow::Result<(Arc<Scalekit>, Arc<Llm>)> {
    let client =
        |tls, keys| http::Client::with_tls(&config.http_client, tls, keys, clock.clone()).context("http_client");
    let http = client(&config.scalekit.tls, "scalekit.tls")?;
    let scalekit = match Scalekit::new(config.scalekit.clone(), http, clock.clone()) {
        Ok(scalekit) => scalekit,
        Err(problems) => bail!("scalekit: {}", problems.join("; ")),
    };
    let counted = metrics.clone();
    let scalekit = scalekit.on_retry(Arc::new(move |_, reason| counted.tool_retried(reason)));
    let scalekit = match on_credentials {
        Some(hook) => scalekit.on_credentials(hook),
        None => scalekit,
    };
    let http = client(&config.model.tls, "model.tls")?;
    let mut llm = Llm::new(config.model.clone(), Profiles::built_in(), http).map_err(anyhow::Error::msg)?;
    for (name, provider) in &config.providers.0 {
        let http =
            http::Client::with_tls(&config.http_client, &provider.tls, format!("providers.{name}.tls"), clock.clone());
        let added = llm.with_provider(name, provider, http.context("http_client")?);
        llm = added.map_err(|problem| anyhow::anyhow!("providers.{name}.{problem}"))?;
    }
    Ok((Arc::new(scalekit), Arc::new(llm)))
}

/// Where tools come from, as configured.
pub(crate) fn tool_sources(
    config: &Config,
    clock: &SharedClock,
    scalekit: &Arc<Scalekit>,
) -> anyhow::Result<Arc<ToolSources>> {
    let retry = config.scalekit.control_retry;
    let client = |tls, keys: String| {
        http::Client::with_tls(&config.http_client, tls, keys, clock.clone()).context("http_client")
    };
    let http = client(&config.scalekit.tls, "scalekit.tls".to_owned())?;
    let mut sources = ToolSources::new(scalekit.clone(), clock.clone()).over_mcp(&config.connections, retry, &http);
    for (name, server) in &config.mcp {
        let http = client(&server.tls, format!("mcp.{name}.tls"))?;
        sources = sources
            .server(name, server, retry, http)
            .map_err(|problem| anyhow::anyhow!("mcp.{name}.url: {problem}"))?;
    }
    Ok(Arc::new(sources))
}

pub(super) fn executor_rules(config: &Config) -> RunRules {
    let authorization = config.authorization;
    RunRules {
        model_retry: config.model.retry,
        tool_retry: config.scalekit.tool_retry,
        drain: Duration::from_secs(config.worker.drain_tool_seconds),
        poll: (
            Duration::from_secs(authorization.poll_seconds),
            Duration::from_secs(authorization.poll_seconds_at_most),
        ),
        relink_disconnected: authorization.relink_disconnected,
        settle_by_logs: config.tools.settle_by_logs,
    }
}

/// How long journals and leases last.
pub fn lifetimes(config: &Config) -> Lifetimes {
    Lifetimes {
        lease: Duration::from_secs(config.worker.lease_seconds),
        unfinished: Duration::from_secs(config.worker.keep_unfinished_seconds),
        delivered: Duration::from_secs(config.worker.keep_delivered_seconds),
        sealed: Duration::from_secs(config.worker.keep_sealed_seconds),
    }
}

/// Who may send what.
pub(crate) fn senders(config: &Config) -> Senders {
    Senders { producers: config.producers.all.clone(), user: config.amqp.stated_user.clone() }
}

/// Places for runs, and jobs that wait for one beside them.
pub(super) fn places(config: &Config) -> (usize, usize) {
    config.worker.places(config.fairness.window(config.worker.concurrency))
}

pub(super) fn worker_rules(config: &Config, name: String, encryption: Encryption, audit: Audit) -> WorkerRules {
    let worker = &config.worker;
    let (concurrency, window) = places(config);
    WorkerRules {
        name,
        concurrency,
        window,
        max_job_bytes: worker.max_job_bytes,
        lifetimes: lifetimes(config),
        transient: worker.transient,
        rate_limited: worker.rate_limited,
        crash_limit: worker.strikes,
        hold_at_most: Duration::from_secs(worker.hold_delivery_seconds),
        after_loss: worker.after_journal_loss,
        senders: senders(config),
        header_key: HeaderKey::of(&config.scalekit.client_secret),
        encryption,
        audit,
    }
}

/// What a scheduler publishes through.
pub(crate) fn scheduled_jobs(publisher: Arc<dyn Publisher>, config: &Config) -> Arc<dyn Publisher> {
    Arc::new(ScheduledJobs { publisher, key: HeaderKey::of(&config.scalekit.client_secret) })
}

/// What a scheduler of the name `owner` is told.
pub(crate) fn scheduler_rules(config: &Config, owner: String) -> schedule::Rules {
    schedule::Rules {
        owner,
        lease: Duration::from_secs(config.digests.lease_seconds),
        authorization_wait: Duration::from_secs(config.job.authorization_wait_seconds),
    }
}
