//! Whole runs with tools of MCP servers: what they do, how it is told, and what a broken call leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentkit_worker::Config;
use agentkit_worker::internals::agent::effect::Effect;
use agentkit_worker::internals::mcp::{HintTrust, McpConfig};
use agentkit_worker::internals::queue::{Destination, Message, Publisher as _};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::mcp_peer::{BEARER, McpPeer, PeerCall, PeerEra, events};
use crate::support::redis_journal_worker::RedisJournalWorker;
use crate::support::scripted_model::{Captured, ScriptedModel, Turn, turn};
use crate::support::soon;

fn server(url: &str, trust: HintTrust) -> BTreeMap<String, McpConfig> {
    let headers = [("Authorization".to_owned(), BEARER.to_owned().into())].into();
    BTreeMap::from([("crm".to_owned(), McpConfig { url: url.to_owned(), headers, trust, ..McpConfig::default() })])
}

fn with_crm(prompt: &str) -> Value {
    with(job(prompt), "connections", json!(["mcp:crm"]))
}

/// The names of the tools that the model was offered.
fn offered(request: &Captured) -> Vec<String> {
    let tools = request.body["tools"].as_array().unwrap().iter();
    tools.map(|tool| tool["function"]["name"].as_str().unwrap().to_owned()).collect()
}

fn note() -> Turn {
    turn::calls([("crm__create_note", json!({"text": "call Sam"}))])
}

#[tokio::test]
async fn a_job_mixes_connections_with_servers_of_either_era_and_looks_up_no_account_for_these() {
    for era in [PeerEra::Modern, PeerEra::Legacy] {
        let peer = McpPeer::start(era, |call| call.text(&format!("{} done", call.tool))).await;
        let model = ScriptedModel::start([
            turn::calls([
                ("crm__find_contacts", json!({"region": "eu-1"})),
                ("gmail_fetch_mails", json!({"max_results": 1})),
            ]),
            note(),
            turn::text("noted"),
            note(),
            turn::text("noted"),
        ])
        .await;
        let worker =
            EmbeddedWorker::with(Some(&model), |config| config.mcp = server(&peer.url(), HintTrust::Hints)).await;
        let mixed = with(job("note it"), "connections", json!(["gmail", "mcp:crm"]));
        let completed = worker.completed(&mixed).await;
        let effects = completed["effects"].as_array().unwrap();
        assert_eq!(effects.len(), 1, "{completed:#}");
        assert_eq!((&effects[0]["tool"], &effects[0]["connection"]), (&json!("create_note"), &json!("mcp:crm")));
        assert_eq!(
            (&effects[0]["state"], &completed["status"]),
            (&json!("done"), &json!("completed")),
            "{completed:#}"
        );
        assert_eq!((worker.peer.count("details").await, worker.peer.count("execute").await), (1, 1), "Gmail's alone");
        let calls: Vec<_> = peer.calls().into_iter().map(|call| (call.tool, call.arguments)).collect();
        let expected = [
            ("find_contacts".to_owned(), json!({"region": "eu-1"})),
            ("create_note".to_owned(), json!({"text": "call Sam"})),
        ];
        assert_eq!(calls, expected, "{era:?}");

        // Everybody gets the same list.
        let lists = peer.requests("tools/list").len();
        let other = with(with_crm("note it"), "identifier", json!("user_456"));
        worker.completed(&other).await;
        assert_eq!(peer.requests("tools/list").len(), lists, "{era:?}");
        let metrics = worker.metrics();
        assert!(metrics.contains(r#"agentkit_tool_cache_total{result="mcp"} 1"#), "{metrics}");
        let requests = model.finish();
        assert!(requests[1].tool_results()[0].contains("find_contacts done"), "{:?}", requests[1].tool_results());
        let offered = offered(&requests[0]);
        for name in ["crm__find_contacts", "crm__create_note", "gmail_fetch_mails"] {
            assert!(offered.iter().any(|offered| offered == name), "{name}: {offered:?}");
        }
        assert!(offered.iter().any(|name| name.starts_with("crm__admin_notes_put_")), "{offered:?}");
        assert!(offered.iter().all(|name| name.len() <= 64), "{offered:?}");
    }
}

#[tokio::test]
async fn a_write_whose_stream_broke_is_unknown_and_never_sent_again_and_one_that_failed_is_told() {
    let broken = |call: &PeerCall| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}});
        match call.before {
            0 => Answer::Raw([head, events(&[progress]).into_bytes()].concat()),
            1 => Answer::Reset,
            2 => Answer::of(200, "application/json", "{\"jsonrpc\": \"2.0\", \"id\""),
            3 => call.result(&json!({"isError": true, "content": [{"type": "text", "text": "the list is full"}]})),
            _ => call.result(&json!({"resultType": "input_required", "inputRequests":
                {"a": {"method": "elicitation/create", "params": {"message": "Which list?"}}}})),
        }
    };
    for era in [PeerEra::Modern, PeerEra::Legacy] {
        let peer = McpPeer::start(era, broken).await;
        let turns = (0..5).flat_map(|_| [note(), turn::text("I do not know")]);
        let model = ScriptedModel::start(turns).await;
        let worker =
            EmbeddedWorker::with(Some(&model), |config| config.mcp = server(&peer.url(), HintTrust::None)).await;
        for (before, state) in ["unknown", "unknown", "unknown", "failed", "failed"].into_iter().enumerate() {
            let completed = worker.completed(&with_crm(&format!("note {before}"))).await;
            let effects = &completed["effects"];
            assert_eq!((&effects[0]["state"], effects.as_array().unwrap().len()), (&json!(state), 1), "{completed:#}");
            assert_eq!(completed["status"] == "completed_with_unknown_effects", state == "unknown", "{completed:#}");
            assert_eq!(peer.calls().len(), before + 1, "{era:?}: it was sent once");
        }
        let requests = model.finish();
        let told = |job: usize| requests[2 * job + 1].tool_results()[0].clone();
        assert!(told(0).contains("Do not repeat it"), "{}", told(0));
        assert!(
            told(3).contains("the list is full") && told(3).contains("a part of it may have been done"),
            "{}",
            told(3)
        );
        assert!(told(4).contains("elicitation/create") && told(4).contains("nobody here"), "{}", told(4));
    }
}

#[tokio::test]
async fn the_worker_is_killed_in_the_middle_of_a_call_and_the_next_one_does_not_repeat_it() {
    for era in [PeerEra::Modern, PeerEra::Legacy] {
        let arrived = Arc::new(Notify::new());
        let (told, on_call) = (arrived.clone(), move |_: &PeerCall| {
            arrived.notify_one();
            Answer::Hang
        });
        let peer = McpPeer::start(era, on_call).await;
        let model = ScriptedModel::start([note(), turn::text("I do not know")]).await;
        let mut worker = RedisJournalWorker::start(&model, |config| {
            config.mcp = server(&peer.url(), HintTrust::None);
            config.worker.lease_seconds = 1;
        })
        .await;
        let asked = with(with(with_crm("note it"), "id", json!("job-1")), "reply_to", json!("answers"));
        let message = Message { body: asked.to_string().into(), ..Message::default() };
        worker.queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
        soon("the call is under way", told.notified()).await;
        worker.kill_worker(1).await;
        worker.start_worker();
        let completed = worker.reply("agentkit.job.completed").await;
        assert_eq!(completed["effects"][0]["state"], "unknown", "{completed:#}");
        assert_eq!((&completed["status"], peer.calls().len()), (&json!("completed_with_unknown_effects"), 1));
        model.finish();
    }
}

#[tokio::test]
async fn hints_are_believed_where_the_operator_says_so_and_the_operators_own_word_counts_more() {
    let reads = |change: fn(&mut Config), trust| async move {
        let peer = McpPeer::start(PeerEra::Modern, |call| call.text("done")).await;
        let model = ScriptedModel::start([turn::text("read")]).await;
        let worker = EmbeddedWorker::with(Some(&model), |config| {
            config.mcp = server(&peer.url(), trust);
            change(config);
        })
        .await;
        worker.completed(&with(with_crm("look"), "tools", json!({"effects": "read"}))).await;
        offered(&model.finish()[0])
    };
    assert_eq!(reads(|_| {}, HintTrust::Hints).await, ["crm__find_contacts"]);
    let by_name: fn(&mut Config) = |config| {
        config.tools.effects.insert("create_note".to_owned(), Effect::Read);
    };
    assert_eq!(reads(by_name, HintTrust::None).await, ["crm__create_note"]);
    let corrected: fn(&mut Config) = |config| {
        config.tools.effects.insert("crm__find_contacts".to_owned(), Effect::Write);
        config.tools.effects.insert("crm__create_note".to_owned(), Effect::Read);
    };
    assert_eq!(reads(corrected, HintTrust::Hints).await, ["crm__create_note"]);

    let peer = McpPeer::start(PeerEra::Modern, |call| call.text("done")).await;
    let model = ScriptedModel::start([turn::text("looked"), turn::text("looked")]).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| {
        config.mcp = server(&peer.url(), HintTrust::None);
        config.tools.deny.insert("crm__find_contacts".to_owned());
    })
    .await;
    let read_only = with(with_crm("look"), "tools", json!({"effects": "read"}));
    assert_eq!(worker.code(&read_only).await, "no_tools", "no name of a tool makes it a reading one");
    for allow in ["create_note", "crm__create_note"] {
        worker.completed(&with(with_crm(allow), "tools", json!({"allow": [allow, "find_contacts"]}))).await;
    }
    for request in model.finish() {
        assert_eq!(offered(&request), ["crm__create_note"]);
    }
}

#[tokio::test]
async fn a_server_that_is_not_configured_or_away_ends_the_run_with_its_name() {
    let nobody = HttpPeer::nobody().await;
    let refusing = McpPeer::start(PeerEra::Modern, |call| call.text("done")).await;
    let model = ScriptedModel::start([]).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| {
        config.mcp = server(&format!("{nobody}/mcp"), HintTrust::None);
        let locked = McpConfig { url: refusing.url(), ..McpConfig::default() };
        config.mcp.insert("locked".to_owned(), locked);
    })
    .await;
    for (connection, code, part) in [
        ("mcp:erp", "connection_not_found", "configured no MCP server"),
        ("mcp:crm", "attempts_exhausted", "cannot be reached"),
        ("mcp:locked", "attempts_exhausted", "refuses the credentials"),
    ] {
        let failed = worker.failed(&with(job(connection), "connections", json!([connection]))).await;
        let error = &failed["error"];
        assert_eq!((&error["code"], &error["connection"]), (&json!(code), &json!(connection)), "{failed:#}");
        assert!(error["message"].as_str().unwrap().contains(part), "{failed:#}");
    }
    model.finish();
}

#[tokio::test]
async fn the_runs_own_deadline_ends_a_call_that_is_unknown_then() {
    let peer = McpPeer::start(PeerEra::Modern, |_| Answer::Hang).await;
    let model = ScriptedModel::start([note()]).await;
    let worker = EmbeddedWorker::with(Some(&model), |config| config.mcp = server(&peer.url(), HintTrust::None)).await;
    let failed = worker.failed(&with(with_crm("note it"), "limits", json!({"seconds": 1}))).await;
    assert_eq!(
        (&failed["error"]["code"], &failed["effects"][0]["state"]),
        (&json!("deadline_exceeded"), &json!("unknown"))
    );
    assert_eq!(peer.calls().len(), 1);
    model.finish();
}
