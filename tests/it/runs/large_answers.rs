//! Many runs whose tools answer as much as is taken, all at once: the worker's memory stays within what is written down.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::chat_model::{says, tool_results};
use crate::support::http_peer::{Answer, HttpPeer, Received};
use crate::support::process_usage::ProcessUsage;
use crate::support::proxied_service::{ProxiedService, USER};

const RUNS: usize = 20;
const READS: usize = 8;
/// Of each answer, just below what is taken.
const BYTES: usize = (16 << 20) - 1024;
/// What deploy/README.md states beside the idle process, in KiB: for all large answers, for each answer, for each core.
const STATED: [u64; 3] = [64 << 10, 512, 96 << 10];

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// Plays Scalekit and the model: every job reads eight times at once, and each answer is as large as `body`.
fn answer(request: &Received, body: &Arc<Vec<u8>>) -> Answer {
    let account = json!({"connected_account": {
        "id": "ca_1", "identifier": USER, "connector": "gmail", "provider": "GMAIL", "status": "ACTIVE",
        "authorization_type": "OAUTH", "last_used_at": "2026-11-22T08:00:00Z", "updated_at": "2026-11-22T08:00:00Z",
    }});
    let tool = json!({"connected_account_id": "ca_1", "tool": {"definition": {
        "name": "gmail_fetch_mails", "description": "Fetches mails", "annotations": {"read_only_hint": true},
        "input_schema": {"type": "object", "properties": {"page": {"type": "integer"}}},
    }}});
    match request.path() {
        "/oauth/token" => {
            Answer::json(200, &json!({"access_token": "t", "token_type": "Bearer", "expires_in": 86_399}))
        }
        "/api/v1/connected_accounts/details" => Answer::json(200, &account),
        "/api/v1/tools/scoped" => Answer::json(200, &json!({"tools": [tool], "next_page_token": "", "total_size": 1})),
        "/api/v1/execute_tool" => Answer::Shared(Arc::clone(body)),
        _ if tool_results(request) > 0 => says("read"),
        _ => {
            let call = |page: usize| {
                json!({"id": format!("c{page}"), "type": "function",
                    "function": {"name": "gmail_fetch_mails", "arguments": json!({"page": page}).to_string()}})
            };
            let message = json!({"role": "assistant", "content": null, "tool_calls": (0..READS).map(call).collect::<Vec<Value>>()});
            let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
            Answer::json(200, &json!({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice]}))
        }
    }
}

#[tokio::test]
async fn answers_of_sixteen_megabytes_to_all_reads_of_many_runs_stay_within_the_stated_memory() {
    // Small values take the most memory for their text; most of it is one long text, so that it is read in time.
    let small = r#"{"a":1}"#.repeat(64 << 10).replace("}{", "},{");
    let long = "x".repeat(BYTES - small.len() - 200);
    let body = format!(r#"{{"data": {{"small": [{small}], "long": "{long}"}}, "execution_id": "e"}}"#);
    assert!(body.len() > BYTES - 1024 && body.len() < 16 << 20);
    let body = Arc::new(body.into_bytes());
    let peer = HttpPeer::start(move |request| answer(request, &body)).await;
    let service = ProxiedService::new(Broker::shared().await).await;
    let settings = [("WORKER__LEASE_SECONDS", "30"), ("SCALEKIT__TOOL_TIMEOUT_MILLISECONDS", "600000")];
    let program = service.program(&settings).set("SCALEKIT_ENV_URL", &peer.url);
    let worker = program.set("OPENAI_BASE_URL", &format!("{}/v1", peer.url)).worker().await;
    let process = worker.running.process();
    let idle = ProcessUsage::by(process).memory;
    for index in 0..RUNS {
        let limits = json!({"seconds": 3600});
        let job = json!({"id": format!("j{index}"), "identifier": USER, "connections": ["gmail"], "prompt": "read", "limits": limits});
        service.send_job(&format!("j{index}"), job).await;
    }
    for _ in 0..RUNS {
        let reply = service.reply().await;
        assert_eq!(
            (reply["data"]["text"].as_str(), reply["data"]["tool_calls"].as_u64()),
            (Some("read"), Some(READS as u64)),
            "{reply:#}"
        );
    }
    assert!(peer.requests("/execute_tool").len() >= RUNS * READS);
    let taken = ProcessUsage::peak(process) - idle;
    println!("{taken} KiB beside {idle} KiB when idle");
    let [large, each, core] = STATED;
    assert!(taken < large + (RUNS * READS) as u64 * each + cores() * core, "{taken} KiB");
    worker.stop().await;
}
