//! The same jobs over every API of a model: the same calls, the same effects.

use agentkit_worker::internals::llm::{ProviderApi, ProviderConfig};
use serde_json::{Value, json};

use crate::support::embedded_worker::EmbeddedWorker;

/// Chat completions, Responses, and Messages with and without thoughts.
const MODELS: [&str; 4] = ["gpt-4o", "gpt-6-luna", "anthropic/claude-opus-5-5", "anthropic/claude-haiku-4-5"];
const PROMPT: &str =
    "Fetch my last 2 unread emails, then send an email to bob@example.com with subject Hi saying hello";

async fn worker() -> EmbeddedWorker {
    let worker = EmbeddedWorker::with(None, |config| {
        let url = config.model.base_url.trim_end_matches("/v1").to_owned();
        let provider = ProviderConfig {
            api: Some(ProviderApi::Anthropic),
            base_url: url,
            api_key: config.model.api_key.clone(),
            ..ProviderConfig::default()
        };
        config.providers.0.insert("anthropic".to_owned(), provider);
    });
    worker.await
}

/// A reply without what differs by nature: names of models and executions, and what a model's own thoughts and forms cost.
fn outcome(mut data: Value) -> Value {
    for effect in data["effects"].as_array_mut().into_iter().flatten() {
        for name in ["execution_id", "call_id"] {
            effect.as_object_mut().unwrap().remove(name);
        }
    }
    let fields = ["text", "output", "status", "stop_reason", "steps", "tool_calls", "effects"];
    fields.into_iter().map(|name| (name.to_owned(), data[name].clone())).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn the_same_job_has_the_same_effects_over_every_api() {
    let worker = worker().await;
    let schema = json!({"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"],
        "additionalProperties": false});
    for (case, output_schema) in [("words", None), ("schema", Some(&schema))] {
        let mut outcomes = Vec::new();
        for (index, model) in MODELS.into_iter().enumerate() {
            let identifier = format!("user_{case}_{index}");
            let mut job = json!({"identifier": identifier, "connections": ["gmail"], "prompt": PROMPT, "model": model});
            if let Some(schema) = output_schema {
                job["output_schema"] = schema.clone();
            }
            let data = worker.completed(&job).await;
            let name = model.trim_start_matches("anthropic/");
            assert_eq!(data["model"], name);
            assert!(data["usage"]["input_tokens"].as_u64() > data["usage"]["cached_tokens"].as_u64(), "{data:#}");
            assert!(data["usage"]["cached_tokens"].as_u64() > Some(0), "{data:#}");
            let world = worker.peer.get(&format!("/_sandbox/world/{identifier}")).await.1;
            let mails: Vec<Value> = world["effects"].as_array().unwrap().clone();
            assert_eq!(mails.len(), 1, "{model}: {mails:?}");
            outcomes.push(outcome(data));
        }
        for (outcome, model) in outcomes.iter().zip(MODELS) {
            assert_eq!(*outcome, outcomes[0], "{case}: {model}");
        }
    }
    let metrics = worker.metrics();
    for name in ["gpt-4o", "anthropic/claude-opus-5-5", "anthropic/claude-haiku-4-5"] {
        let line = format!("agentkit_model_calls_total{{model=\"{name}\",outcome=\"answered\"}}");
        assert!(metrics.contains(&line), "{line} is missing in {metrics}");
    }
    assert!(metrics.contains("gen_ai_provider_name=\"anthropic\""), "{metrics}");
}
