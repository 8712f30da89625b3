//! The stand-in of the Messages API: what it refuses, in the words of the real one.

use serde_json::{Value, json};

use crate::support::sandbox_peer::SandboxPeer;

const MODEL: &str = "claude-opus-5-5";

async fn post(peer: &SandboxPeer, body: &Value) -> (u16, Value) {
    let request = peer.client().post(format!("{}/v1/messages", peer.sandbox.messages_url()));
    let request = request.header("x-api-key", peer.sandbox.api_key()).header("anthropic-version", "2023-06-01");
    let answer = request.json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn call(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "t", "input": {}})
}

fn result(id: &str) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "content": "[]"})
}

fn with_messages(messages: &Value) -> Value {
    json!({"model": MODEL, "max_tokens": 100, "messages": messages,
        "tools": [{"name": "t", "description": "T.", "input_schema": {"type": "object", "properties": {}}}]})
}

#[tokio::test]
async fn what_the_real_one_refuses_is_refused_in_its_words() {
    let peer = SandboxPeer::start().await;
    let said = |content: Value| json!({"role": "assistant", "content": content});
    let user = |content: Value| json!({"role": "user", "content": content});
    let go = || user(json!("Go."));
    let text = json!({"type": "text", "text": "And?"});
    let of = |messages: Value| with_messages(&messages);
    let change = |name: &str, value: Value| {
        let mut body = with_messages(&json!([{"role": "user", "content": "Go."}]));
        if value.is_null() {
            drop(body.as_object_mut().unwrap().remove(name));
        } else {
            body[name] = value;
        }
        body
    };
    let marked = json!([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]);
    let five =
        json!([user(marked.clone()), user(marked.clone()), user(marked.clone()), user(marked.clone()), user(marked)]);
    let cases = [
        (change("max_tokens", Value::Null), "max_tokens: Field required"),
        (change("max_tokens", json!(0)), "max_tokens"),
        (change("model", Value::Null), "model: Field required"),
        (change("model", json!("gpt-4o")), "model: gpt-4o"),
        (change("temperature", json!(1.0)), "temperature"),
        (change("surprise", json!(1)), "surprise: Extra inputs are not permitted"),
        (change("tool_choice", json!({"type": "any"})), "Thinking may not be enabled"),
        (change("tools", json!([{"name": "a b", "input_schema": {"type": "object"}}])), "tools.0.custom.name"),
        (change("tools", json!([{"name": "a", "input_schema": {}}])), "tools.0.custom.input_schema.type"),
        (change("tools", json!([{"name": "a", "input_schema": {"type": "object", "anyOf": []}}])), "at the top level"),
        (
            change(
                "output_config",
                json!({"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}}),
            ),
            "'additionalProperties' must be explicitly set to false",
        ),
        (of(json!([])), "at least one message"),
        (of(five), "A maximum of 4 blocks with cache_control"),
        (of(json!([said(json!("Hi."))])), "first message must use the \"user\" role"),
        (of(json!([go(), said(json!("Hi."))])), "prefill"),
        (of(json!([user(json!(" "))])), "non-whitespace"),
        (of(json!([user(json!([]))])), "non-empty content"),
        (of(json!([go(), said(json!([call("a")]))])), "without `tool_result` blocks immediately after: a"),
        (of(json!([go(), said(json!([call("a"), call("b")])), user(json!([result("a")]))])), "immediately after: b"),
        (of(json!([go(), said(json!([call("a")])), go(), user(json!([result("a")]))])), "immediately after: a"),
        (of(json!([go(), said(json!([call("a")])), user(json!([text, result("a")]))])), "have to come first"),
        (of(json!([go(), user(json!([result("a")]))])), "unexpected `tool_use_id`"),
        (of(json!([go(), said(json!([call("a"), call("a")])), user(json!([result("a")]))])), "must be unique"),
        (of(json!([go(), said(json!([call("a.b")])), user(json!([result("a.b")]))])), "should match pattern"),
        (
            of(json!([
                go(),
                said(json!([{"type": "tool_use", "id": "a", "name": "t", "input": "{}"}])),
                user(json!([result("a")]))
            ])),
            "valid dictionary",
        ),
        (
            of(json!([
                go(),
                said(json!([{"type": "thinking", "thinking": "x", "signature": "y"}, call("a")])),
                user(json!([result("a")]))
            ])),
            "Invalid `signature`",
        ),
        (
            of(json!([go(), said(json!([call("toolu_opus1_0")])), user(json!([result("toolu_opus1_0")]))])),
            "must be passed back",
        ),
    ];
    for (body, words) in cases {
        let (status, answer) = post(&peer, &body).await;
        assert!(status == 400 || status == 404, "{words}: {answer}");
        assert_eq!(answer["type"], "error");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{words}: {answer}");
    }
    let good = of(json!([go(), said(json!([call("a"), call("b")])), user(json!([result("b"), result("a"), text]))]));
    let (status, answer) = post(&peer, &good).await;
    assert_eq!((status, answer["type"].as_str()), (200, Some("message")), "{answer}");
    assert_eq!(answer["content"][0]["type"], "thinking");
}

#[tokio::test]
async fn keys_versions_and_faults_have_the_form_of_the_real_one() {
    let peer = SandboxPeer::start().await;
    let url = format!("{}/v1/messages", peer.sandbox.messages_url());
    let body = with_messages(&json!([{"role": "user", "content": "Go."}]));
    let keyless = peer.client().post(&url).json(&body).send().await.unwrap();
    assert_eq!(keyless.status(), 401);
    assert_eq!(keyless.json::<Value>().await.unwrap()["error"]["type"], "authentication_error");
    let both = peer.client().post(&url).bearer_auth(peer.sandbox.api_key()).header("x-api-key", "wrong");
    assert_eq!(both.json(&body).send().await.unwrap().status(), 401, "its own header counts");
    let versionless = peer.client().post(&url).bearer_auth(peer.sandbox.api_key()).json(&body).send().await.unwrap();
    assert_eq!(versionless.status(), 400);
    peer.fault(json!({"on": "model", "kind": "status", "status": 529, "message": "busy"})).await;
    let (status, answer) = post(&peer, &body).await;
    assert_eq!((status, answer["error"]["type"].as_str()), (529, Some("overloaded_error")), "{answer}");
    assert_eq!(peer.model("/chat/completions", json!({"model": MODEL, "messages": []})).await.0, 404);
    assert_eq!(post(&peer, &body).await.0, 200);
}
