//! A job's trace, read as one story by whoever collects it.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::collector::{Collector, attributes};
use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::scripted_model::{ScriptedModel, turn};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const UNWANTED: &str = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The spans of one trace.
struct Story(Vec<Span>);

impl Story {
    /// Those of this name, by their beginning.
    fn named(&self, name: &str) -> Vec<&Span> {
        let mut found: Vec<&Span> = self.0.iter().filter(|span| span.name == name).collect();
        found.sort_by_key(|span| span.start_time_unix_nano);
        found
    }

    fn only(&self, name: &str) -> &Span {
        let found = self.named(name);
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        found[0]
    }

    /// What is below a span, by name.
    fn below(&self, parent: &Span) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.0.iter().filter(|span| span.parent_span_id == parent.span_id).map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

fn of(span: &Span) -> BTreeMap<String, String> {
    attributes(&span.attributes)
}

fn assert_has(span: &Span, expected: &[(&str, &str)]) {
    let found = of(span);
    for (key, value) in expected {
        assert_eq!(found.get(*key).map(String::as_str), Some(*value), "{key} of {}: {found:#?}", span.name);
    }
}

#[tokio::test]
async fn a_run_that_was_parked_and_then_lost_its_worker_is_one_story() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let (first, second) = (Collector::over_http().await, Collector::over_grpc().await);
    let model = ScriptedModel::start([
        turn::fetch_mails(),
        turn::hang(),
        turn::text("heron"),
        turn::text("done"),
        turn::text("said"),
    ])
    .await;
    service.peer.set_account("gmail", USER, "EXPIRED").await;
    let poll = ("AUTHORIZATION__POLL_SECONDS", "1");
    let tells = [poll, ("TELEMETRY__OTLP_ENDPOINT", first.url.as_str())];
    let worker = service.worker(&model, &tells).await;
    let job = |id: &str| json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": "walrus"});
    let wanted = format!("00-{TRACE}-{CALLER}-01");
    service.send_with("job-1", job("job-1"), &[("traceparent", &wanted)]).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.authorization_required");
    service.peer.set_account("gmail", USER, "ACTIVE").await;
    model.wait_for_requests(2).await;
    first.span("execute_tool gmail_fetch_mails").await;
    worker.running.signal("KILL");

    let tells = [
        poll,
        ("TELEMETRY__OTLP_ENDPOINT", second.url.as_str()),
        ("TELEMETRY__PROTOCOL", "grpc"),
        ("TELEMETRY__CONTENT", "true"),
    ];
    let worker = service.worker(&model, &tells).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    service.send_with("job-2", job("job-2"), &[("traceparent", UNWANTED)]).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    // What is left is sent before the end.
    worker.stop().await;
    with_a_silent_collector(&service, &model).await;
    model.finish();

    let named: BTreeMap<&str, &str> = [("service.name", "agentkit-worker")].into();
    for collector in [&first, &second] {
        let resource = collector.resource();
        assert!(named.iter().all(|(key, value)| resource[*key] == *value), "{resource:#?}");
        assert!(resource.contains_key("service.instance.id") && resource.contains_key("service.version"));
    }
    let all: Vec<Span> = first.spans().into_iter().chain(second.spans()).collect();
    assert!(all.iter().all(|span| hex(&span.trace_id) == TRACE), "a caller who wants no trace has none: {all:#?}");
    structure(&service, &Story(all));
    let said = |spans: Vec<Span>| format!("{:?}", spans.iter().map(of).collect::<Vec<_>>());
    let (without, with) = (said(first.spans()), said(second.spans()));
    for word in ["walrus", "heron"] {
        assert!(!without.contains(word), "{word} is said though nobody asked for it");
        assert!(with.contains(word), "{word} is missing in {with}");
    }
    let asked = second.spans().into_iter().find(|span| span.name.starts_with("chat ")).unwrap();
    let input: Value = serde_json::from_str(&of(&asked)["gen_ai.input.messages"]).unwrap();
    assert_eq!(input[0], json!({"role": "user", "parts": [{"type": "text", "content": "walrus"}]}));
    assert_eq!((&input[1]["parts"][0]["type"], &input[2]["role"]), (&json!("tool_call"), &json!("tool")));
}

/// Nobody waits for a collector, up to the end.
async fn with_a_silent_collector(service: &ProxiedService<'_>, model: &ScriptedModel) {
    let silent = HttpPeer::start(|_| Answer::Hang).await;
    let worker = service.worker(model, &[("TELEMETRY__OTLP_ENDPOINT", silent.url.as_str())]).await;
    let job = json!({"id": "job-3", "identifier": USER, "connections": ["gmail"], "prompt": "say it"});
    service.send_job("job-3", job).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    let (status, log) = worker.stop().await;
    assert!(status.success(), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("the collector took too long")), "{log:#?}");
}

/// Who is below whom, what is linked, and what is said of it.
fn structure(service: &ProxiedService<'_>, story: &Story) {
    let (jobs, reply) = (service.amqp.names().jobs(), format!("send {}", service.amqp.names().replies()));
    let messages = story.named(&format!("process {jobs}"));
    let attempts = story.named("invoke_agent agentkit-worker");
    assert_eq!((messages.len(), attempts.len()), (3, 3), "{:#?}", story.0);
    for (index, (message, attempt)) in messages.iter().zip(&attempts).enumerate() {
        assert_eq!(hex(&message.parent_span_id), CALLER);
        assert_eq!((message.kind(), attempt.kind()), (SpanKind::Consumer, SpanKind::Internal));
        assert_has(
            message,
            &[
                ("messaging.system", "rabbitmq"),
                ("messaging.destination.name", &jobs),
                ("messaging.operation.type", "process"),
                ("messaging.message.id", "job-1"),
            ],
        );
        assert_eq!(attempt.parent_span_id, message.span_id);
        assert_has(
            attempt,
            &[
                ("gen_ai.operation.name", "invoke_agent"),
                ("gen_ai.agent.name", "agentkit-worker"),
                ("gen_ai.conversation.id", "job-1"),
                ("gen_ai.request.model", "gpt-4o"),
                ("agentkit.attempt", &(index + 1).to_string()),
            ],
        );
        let linked: Vec<_> = attempt.links.iter().map(|link| hex(&link.span_id)).collect();
        let before: Vec<_> = index.checked_sub(1).map(|before| hex(&attempts[before].span_id)).into_iter().collect();
        assert_eq!(linked, before, "each is linked to the one before");
    }
    // What was waited for stands beside the attempts, in their order.
    let mut waits: Vec<&Span> = story.0.iter().filter(|span| span.name.starts_with("wait ")).collect();
    waits.sort_by_key(|span| span.start_time_unix_nano);
    let names: Vec<_> = waits.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["wait queue", "wait authorization", "wait worker_lost"]);
    for (wait, message) in waits.iter().zip(&messages) {
        assert_eq!((hex(&wait.parent_span_id).as_str(), wait.kind()), (CALLER, SpanKind::Internal));
        assert_eq!(wait.end_time_unix_nano, message.start_time_unix_nano, "each leads to an attempt");
    }
    // The first parked, the second died, the third answered.
    assert_has(attempts[0], &[("agentkit.outcome", "authorization")]);
    assert_has(attempts[1], &[("error.type", "worker_lost")]);
    assert_eq!(attempts[1].status.as_ref().unwrap().code(), StatusCode::Error);
    assert_has(
        attempts[2],
        &[
            ("agentkit.outcome", "completed"),
            ("gen_ai.usage.input_tokens", "100"),
            ("gen_ai.usage.output_tokens", "10"),
        ],
    );
    assert_eq!(story.below(attempts[0]), [reply.as_str()], "the caller was told to authorize");
    assert_eq!(story.below(attempts[1]), ["chat gpt-4o", "execute_tool gmail_fetch_mails"]);
    assert_eq!(story.below(attempts[2]), ["chat gpt-4o"]);
    assert_eq!(story.below(messages[2]), ["invoke_agent agentkit-worker", reply.as_str()]);
    let reply = story.named(&reply)[1];
    assert_eq!(reply.kind(), SpanKind::Producer);
    assert_has(reply, &[("messaging.operation.type", "send"), ("messaging.system", "rabbitmq")]);

    let chat = story.named("chat gpt-4o")[0];
    assert_eq!(chat.kind(), SpanKind::Client);
    assert_has(
        chat,
        &[
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "gpt-4o"),
            ("gen_ai.response.model", "scripted-1"),
            ("gen_ai.response.finish_reasons", "tool_calls"),
            ("gen_ai.output.type", "text"),
            ("gen_ai.usage.input_tokens", "100"),
            ("gen_ai.usage.output_tokens", "10"),
            ("gen_ai.usage.cache_read.input_tokens", "50"),
            ("server.address", "127.0.0.1"),
        ],
    );
    let tool = story.only("execute_tool gmail_fetch_mails");
    assert_has(
        tool,
        &[
            ("gen_ai.operation.name", "execute_tool"),
            ("gen_ai.tool.name", "gmail_fetch_mails"),
            ("gen_ai.tool.type", "function"),
            ("gen_ai.tool.call.id", "call_0_0"),
            ("agentkit.tool.effect", "read"),
            ("agentkit.tool.outcome", "done"),
            ("agentkit.tool.connection", "gmail"),
        ],
    );
}
