//! Schemas of jobs and of tools, made to take for ever or more memory than there is.

use serde_json::{Map, Value, json};

use crate::support::broker::Broker;
use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::process_usage::ProcessUsage;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// Each definition leads to the next one twice.
fn doubling(levels: usize, leaf: Value) -> Value {
    let mut definitions = Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        definitions.insert(format!("d{level}"), json!({"allOf": [next, next]}));
    }
    definitions.insert(format!("d{levels}"), leaf);
    json!({"type": "object", "allOf": [{"$ref": "#/$defs/d0"}], "$defs": definitions})
}

fn with_patterns(count: usize, pattern: impl Fn(usize) -> String) -> Value {
    let properties: Map<_, _> =
        (0..count).map(|at| (format!("p{at}"), json!({"type": "string", "pattern": pattern(at)}))).collect();
    json!({"type": "object", "properties": properties})
}

/// What a check by it would take is known from each of these alone.
fn hostile() -> Vec<Value> {
    vec![
        doubling(50, json!({})),
        doubling(40, json!({"type": "string"})),
        with_patterns(60, |at| format!(r"^\p{{L}}{{200}}x{at}$")),
        with_patterns(3000, |at| format!(r"^\p{{L}}{{100}}x{at}$")),
        json!({"type": "object", "allOf": [{"$ref": "#"}]}),
        json!({"type": "object", "enum": ["x".repeat(200_000)]}),
    ]
}

/// No cap on the schema alone can see it: each level of the value doubles the work.
fn doubled_by_the_value() -> Value {
    json!({"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]})
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |value, _| json!([value]))
}

#[tokio::test]
async fn a_job_whose_schema_would_take_too_much_is_no_job_and_costs_nothing() {
    let broker = Broker::shared().await;
    let service = ProxiedService::new(broker).await;
    let model = ScriptedModel::start([turn::text("{}")]).await;
    let worker = service.worker(&model, &[]).await;
    let before = ProcessUsage::by(worker.running.process());
    for (index, schema) in hostile().into_iter().enumerate() {
        let hostile = with(job("x"), "reply_to", service.amqp.names().replies().into());
        service.send_job(&format!("hostile-{index}"), with(hostile, "output_schema", schema)).await;
        let reply = service.reply().await;
        assert_eq!(reply["data"]["error"]["code"], "invalid_job", "{index}: {reply:#}");
        let message = reply["data"]["error"]["message"].as_str().unwrap();
        assert!(message.contains("output_schema: ") && message.contains("it would take too much"), "{message}");
    }
    service.send_job("honest", with(job("x"), "output_schema", json!({"type": "object"}))).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    let more = ProcessUsage::peak(worker.running.process()).saturating_sub(before.memory);
    assert!(more < 100 << 10, "the worker needed {more} KiB more");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn an_answer_that_would_take_too_long_to_check_is_given_back() {
    let answer = nested(50).to_string();
    let model = ScriptedModel::start((0..3).map(|_| turn::text(&answer))).await;
    let worker = EmbeddedWorker::scripted(&model).await;
    let failed = worker.failed(&with(job("x"), "output_schema", doubled_by_the_value())).await;
    assert_eq!(failed["error"]["code"], "invalid_output");
    assert!(failed["error"]["message"].as_str().unwrap().contains("too many steps"), "{failed:#}");
    model.finish();
}

#[tokio::test]
async fn a_tool_whose_schema_would_take_too_much_is_left_out_and_a_call_that_would_is_given_back() {
    let tool = |name: String, schema: Value| {
        json!({"connected_account_id": "ca_1", "tool": {"id": name, "provider": "GMAIL",
            "definition": {"name": name, "description": "x", "input_schema": schema}}})
    };
    let recursive = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {
        "a": {"allOf": [{"items": {"$ref": "#/$defs/a"}}, {"items": {"$ref": "#/$defs/a"}}]}}});
    let tools = hostile().into_iter().enumerate().map(|(index, schema)| tool(format!("gmail_fetch_{index}"), schema));
    let tools: Vec<Value> = tools.chain([tool("gmail_fetch_mails".into(), recursive)]).collect();
    let call = turn::calls([("gmail_fetch_mails", json!({"a": nested(50)}))]);
    let model = ScriptedModel::start([call, turn::text("done")]).await;
    let worker = EmbeddedWorker::scripted(&model).await;
    worker.peer.fault(json!({"on": "scoped", "kind": "status", "status": 200, "body": {"tools": tools}})).await;
    let completed = worker.completed(&job("x")).await;
    assert_eq!(completed["tool_calls"], 0);
    let requests = model.finish();
    let offered = requests[0].body["tools"].as_array().unwrap();
    assert_eq!(offered.len(), 1, "{offered:?}");
    let result = &requests[1].tool_results()[0];
    assert!(result.contains("too many steps"), "{result}");

    let model = ScriptedModel::start([]).await;
    let worker = EmbeddedWorker::scripted(&model).await;
    let alone = [tool("gmail_fetch_mails".into(), doubling(50, json!({})))];
    worker.peer.fault(json!({"on": "scoped", "kind": "status", "status": 200, "body": {"tools": alone}})).await;
    let failed = worker.failed(&job("x")).await;
    assert_eq!(failed["error"]["code"], "no_tools");
    assert!(failed["error"]["message"].as_str().unwrap().contains("schema"), "{failed:#}");
    model.finish();
}
