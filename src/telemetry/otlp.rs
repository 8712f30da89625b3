//! Sends spans to a collector over OTLP: in batches, beside everything else, and never waited for but at the end, for a moment.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use url::Url;

use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::queue::amqp::QueueNames;
use crate::trace::{TraceRules, Tracer};

/// Spans that may wait: those of some hundred runs. What comes beyond, while the collector is slow, is dropped and counted.
const ROOM: usize = 8192;
/// Spans in one request: about half a megabyte at most where there is no content.
const BATCH: usize = 512;
/// A span waits for others for so long.
const LINGER: Duration = Duration::from_secs(1);
/// A collector that takes longer than this for a batch does not get it.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// What is left at the end is sent within this time, or not at all.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// Where traces go; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The collector's address, without `/v1/traces`; empty: nothing is traced.
    pub otlp_endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Whether spans hold what users, models and tools said.
    pub content: bool,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub enum OtlpProtocol {
    /// Protobuf over HTTP/1.1, below `/v1/traces`.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
}

impl TelemetryConfig {
    /// Everything that is wrong with it, each as `key: problem`.
    pub fn problems(&self) -> Vec<String> {
        if self.otlp_endpoint.is_empty() {
            return Vec::new();
        }
        match Url::parse(&self.otlp_endpoint) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Vec::new(),
            Ok(_) => vec!["otlp_endpoint: must begin with http:// or https:// (for gRPC too)".to_owned()],
            Err(error) => vec![format!("otlp_endpoint: not an address: {error}")],
        }
    }

    fn exporter(&self) -> Result<SpanExporter, ExporterBuildError> {
        match self.protocol {
            OtlpProtocol::HttpProtobuf => SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(format!("{}/v1/traces", self.otlp_endpoint.trim_end_matches('/')))
                .with_timeout(SEND_WITHIN)
                .build(),
            OtlpProtocol::Grpc => SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&self.otlp_endpoint)
                .with_timeout(SEND_WITHIN)
                .build(),
        }
    }
}

/// The sending of spans, to be ended with [`Export::finish`].
pub(crate) struct Export(Option<(CancellationToken, JoinHandle<()>)>);

/// A tracer as configured, and what sends its spans. Nothing is sent and nothing made where no collector is named.
pub(crate) fn start(
    config: &TelemetryConfig,
    process: &str,
    names: &QueueNames,
    clock: SharedClock,
    metrics: &Arc<Metrics>,
) -> Result<(Tracer, Export), String> {
    if config.otlp_endpoint.is_empty() {
        return Ok((Tracer::default(), Export(None)));
    }
    let mut exporter = config.exporter().map_err(|error| format!("telemetry.otlp_endpoint: {error}"))?;
    // What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
    let own = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", process.to_owned()),
    ];
    let named = Resource::builder().build();
    let resource = match named.get(&"service.name".into()) {
        Some(name) if !name.as_str().starts_with("unknown_service") => Resource::builder().with_attributes(own).build(),
        _ => Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).with_attributes(own).build(),
    };
    exporter.set_resource(&resource);
    let rules = TraceRules {
        room: ROOM,
        content: config.content,
        process: process.to_owned(),
        queue: names.jobs(),
        replies: names.replies(),
    };
    let (tracer, spans) = Tracer::new(rules, clock, metrics.clone());
    let ending = CancellationToken::new();
    let task = tokio::spawn(send_all(exporter, spans, metrics.clone(), ending.clone()));
    Ok((tracer, Export(Some((ending, task)))))
}

impl Export {
    /// Sends what is left, for as long as that may take at most.
    pub(crate) async fn finish(self) {
        let Some((ending, mut task)) = self.0 else { return };
        ending.cancel();
        if tokio::time::timeout(FLUSH_WITHIN, &mut task).await.is_err() {
            warn!("the collector took too long for the last spans; they are lost");
            task.abort();
        }
    }
}

/// Sends what comes, until the end is said and nothing is left.
async fn send_all(
    exporter: SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
    ending: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut well = true;
    loop {
        tokio::select! {
            biased;
            count = spans.recv_many(&mut batch, BATCH) => if count == 0 { return },
            () = ending.cancelled() => spans.close(),
        }
        if batch.len() < BATCH && !ending.is_cancelled() {
            tokio::select! { () = tokio::time::sleep(LINGER) => {}, () = ending.cancelled() => {} }
        }
        while batch.len() < BATCH
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        if batch.is_empty() {
            continue;
        }
        let count = batch.len() as u64;
        match exporter.export(std::mem::take(&mut batch)).await {
            Ok(()) => {
                metrics.spans("exported", count);
                if !std::mem::replace(&mut well, true) {
                    info!("the collector takes spans again");
                }
            }
            Err(error) => {
                metrics.spans("failed", count);
                if std::mem::replace(&mut well, false) {
                    warn!(
                        spans = count,
                        "the collector takes no spans; they are lost, and counted in agentkit_spans_total"
                    );
                }
                debug!(%error, "why the collector takes no spans");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_or_nothing() {
        let problems = |endpoint: &str| {
            let otlp_endpoint = endpoint.to_owned();
            TelemetryConfig { otlp_endpoint, protocol: OtlpProtocol::Grpc, content: false }.problems().len()
        };
        for good in ["", "http://127.0.0.1:4318", "https://collector.example/otlp/"] {
            assert_eq!(problems(good), 0, "{good}");
        }
        for bad in ["collector:4317", "ftp://collector", "nonsense", "unix:///run/otlp"] {
            assert_eq!(problems(bad), 1, "{bad}");
        }
    }
}
