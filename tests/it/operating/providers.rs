//! A worker whose models are Anthropic's alone, and one of whose providers refuses its key.

use serde_json::json;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::Program;
use crate::support::proxied_service::{ProxiedService, USER};

const CLAUDE: &str = "anthropic/claude-opus-5-5";

/// A program that has no key of OpenAI's, and could reach nobody with it.
fn without_openai(service: &ProxiedService<'_>, key: &str) -> Program {
    let settings = [
        ("MODEL__MODEL", CLAUDE),
        ("APPROVAL__WRITES", "none"),
        ("PROVIDERS__ANTHROPIC__BASE_URL", service.peer.sandbox.messages_url()),
    ];
    let program = service.program(&settings).set("ANTHROPIC_API_KEY", key);
    program.set("OPENAI_API_KEY", "").set("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
}

#[tokio::test]
async fn a_key_of_anthropics_is_enough_and_what_was_thought_outlives_its_worker() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let program = without_openai(&service, service.peer.sandbox.api_key());
    let doctor = program.run(&["doctor", "--connection", "gmail"]).await;
    assert_eq!(doctor.code, Some(0), "{}", doctor.all());
    for words in
        ["ok      model anthropic/claude-opus-5-5: the server knows it", "ok      provider default: no API key"]
    {
        assert!(doctor.stdout.contains(words), "{words}: {}", doctor.all());
    }
    let worker = program.worker().await;
    // The answer after the mail was sent never comes to the first worker.
    service.peer.fault(json!({"on": "model", "kind": "delay", "skip": 2, "delay_ms": 3_600_000})).await;
    let prompt = "Fetch my last 2 unread emails, then send an email to bob@example.com with subject Hi saying hello";
    service.send("job-1", prompt).await;
    eventually("the last question", || async { (service.peer.count("model").await >= 3).then_some(()) }).await;
    worker.running.signal("KILL");
    let worker = program.worker().await;
    let reply = service.only_reply().await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    assert_eq!(reply["data"]["model"], "claude-opus-5-5");
    assert_eq!(service.mails().await, 1);
    let last = service.peer.bodies("model").await.pop().unwrap();
    let thoughts = last["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "assistant");
    let kinds: Vec<_> = thoughts.map(|message| message["content"][0]["type"].clone()).collect();
    assert_eq!(kinds, ["thinking", "thinking"], "as they came, by the journal alone");
    assert_eq!(worker.metric("agentkit_credentials_accepted{service=\"anthropic\"}").await, Some(1.0));
}

#[tokio::test]
async fn a_refused_key_of_one_provider_is_named_and_keeps_nobody_else_from_their_work() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let url = service.peer.sandbox.messages_url();
    let program = service.program(&[("PROVIDERS__ANTHROPIC__BASE_URL", url)]).set("ANTHROPIC_API_KEY", "hunter2");
    let worker = program.worker_in_trouble().await;
    let problem = eventually("the refused key", || async {
        let (status, body) = worker.get("/readyz").await;
        (status == 503 && body.contains("`anthropic`")).then_some(body)
    });
    let problem = problem.await;
    assert!(problem.contains("providers.anthropic.api_key") && !problem.contains("hunter2"), "{problem}");
    assert_eq!(worker.metric("agentkit_credentials_accepted{service=\"anthropic\"}").await, Some(0.0));
    assert_eq!(worker.metric("agentkit_credentials_accepted{service=\"model\"}").await, Some(1.0));
    let prompt = "Call gmail_fetch_mails with {\"max_results\": 1}";
    let job = json!({"id": "job-1", "identifier": USER, "connections": ["gmail"], "prompt": prompt, "model": CLAUDE});
    service.send_job("job-1", job).await;
    service.send("job-2", prompt).await;
    let reply = service.reply().await;
    assert_eq!((reply["type"].as_str(), reply["subject"].as_str()), (Some("agentkit.job.completed"), Some("job-2")));
    let doctor = program.run(&["doctor", "--connection", "gmail"]).await;
    assert_eq!(doctor.code, Some(1), "{}", doctor.all());
    assert!(doctor.stdout.contains("provider anthropic: the model's server refused the api key"), "{}", doctor.all());
    assert!(!doctor.all().contains("hunter2"));
    assert!(!worker.running.log().iter().any(|line| line.contains("hunter2")));
}
