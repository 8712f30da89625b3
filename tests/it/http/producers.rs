//! Tokens as producers.

use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::sandbox_peer::plain_client;
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::soon;

const SETTINGS: &str = r#"
[http.tokens.billing]
token = "the token of billing"
scopes = ["jobs:write", "jobs:read"]
identifiers = ["*"]

[http.tokens.nobody]
token = "the token of no producer"
scopes = ["jobs:write", "jobs:read"]
identifiers = ["*"]
"#;

const PRODUCERS: &str = r#"
[producers.billing]
tokens = ["billing"]
identifiers = ["user_123"]
models = ["gpt-4o"]
reply_to = ["billing.*"]
"#;

#[tokio::test]
async fn a_token_is_the_producer_that_names_it_and_its_jobs_are_believed_by_the_worker() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::status(429).retry_after(3), turn::text("fine")]).await;
    let program = service.program(&[]).set("OPENAI_BASE_URL", &model.base_url());
    program.write_settings(SETTINGS);
    std::fs::create_dir_all(program.folder().join("config")).unwrap();
    std::fs::write(program.folder().join("config").join("producers.toml"), PRODUCERS).unwrap();
    let worker = program.worker().await;
    let client = plain_client();
    let post = async |token: &str, job: Value| {
        let request = client.post(format!("{}/v1/jobs", worker.url)).bearer_auth(token).json(&job);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let job = |field: &str, value: &str| {
        let mut job = json!({"id": "of-billing", "identifier": USER, "connections": ["gmail"], "prompt": "x"});
        job[field] = value.into();
        job
    };
    for (token, job, words) in [
        ("the token of no producer", job("id", "a"), "no producer's"),
        ("the token of billing", job("identifier", "user_9"), "identifier: `user_9`"),
        ("the token of billing", job("model", "gpt-4o-mini"), "model: `gpt-4o-mini`"),
        ("the token of billing", job("reply_to", "shipping.replies"), "reply_to: `shipping.replies`"),
    ] {
        let (status, body) = post(token, job).await;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("producer_not_allowed")), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    }
    let (status, body) = post("the token of billing", job("prompt", "x")).await;
    assert_eq!(status, 202, "{body}");
    // Put off in between: its own message, and the worker's of it, are believed.
    let ended = client.get(format!("{}/v1/jobs/of-billing?wait=60", worker.url)).bearer_auth("the token of billing");
    let ended: Value = soon("its end", ended.send()).await.unwrap().json().await.unwrap();
    assert_eq!((&ended["state"], &ended["reply"]["data"]["attempts"]), (&json!("completed"), &json!(2)), "{ended:#}");
    let reply = service.only_reply().await;
    assert_eq!(reply, ended["reply"]);
    worker.stop().await;
    model.finish();
}
