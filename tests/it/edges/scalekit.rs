//! The Scalekit edge on the wire: tokens, pages, every kind of failure, and what can be proven after each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use agentkit_worker::internals::agent::effect::Ran;
use agentkit_worker::internals::clock::{ManualClock, SharedClock};
use agentkit_worker::internals::http;
use agentkit_worker::internals::retry::{Policy, RetryDecision};
use agentkit_worker::internals::scalekit::{
    AccountStatus, Config, Error, ExecuteRequest, LogStatus, RateLimitScope, Scalekit, ScopedTool, ToolAnswer,
};
use agentkit_worker::job::{ConnectionName, Identifier};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::support::http_peer::{Answer, HttpPeer, Received};

const TOKEN: &str = "/oauth/token";
const EXECUTE: &str = "/execute_tool";
const DETAILS: &str = "/details";

/// Reading the system's certificates takes most of a second in a debug build: once is enough.
static CLIENT: LazyLock<http::Client> = LazyLock::new(|| {
    let config = http::Config { max_body_bytes: 1 << 20, ..http::Config::default() };
    http::Client::new(&config, Arc::new(ManualClock::new(start()))).unwrap()
});

/// Scalekit at `url`, with short time limits and waits.
fn scalekit(url: &str) -> Scalekit {
    scalekit_with(url, &(Arc::new(ManualClock::new(start())) as SharedClock), |_| {})
}

fn scalekit_with(url: &str, clock: &SharedClock, change: impl FnOnce(&mut Config)) -> Scalekit {
    let mut config = Config {
        environment_url: url.into(),
        client_id: "skc_1".into(),
        client_secret: "client-secret-1".to_owned().into(),
        control_retry: Policy {
            attempts: 3,
            initial_milliseconds: 2,
            max_milliseconds: 2,
            max_retry_after_milliseconds: 1_000,
        },
        ..Config::default()
    };
    change(&mut config);
    Scalekit::new(config, CLIENT.clone(), Arc::clone(clock)).unwrap()
}

fn start() -> Timestamp {
    "2026-11-22T08:00:00Z".parse().unwrap()
}

fn user() -> Identifier {
    Identifier::new("user_123").unwrap()
}

fn gmail() -> ConnectionName {
    ConnectionName::new("gmail").unwrap()
}

/// Where the call stands in its trace.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn execute(scalekit: &Scalekit) -> Result<ToolAnswer, Error> {
    let (identifier, connection) = (user(), gmail());
    let params = Map::from_iter([("query".to_owned(), json!("is:unread"))]);
    let request = ExecuteRequest {
        tool: "gmail_fetch_mails",
        identifier: &identifier,
        connection: &connection,
        params: &params,
        run_id: "job-1",
        traceparent: Some(TRACEPARENT),
    };
    scalekit.execute(&request, async || Ok(())).await
}

fn token(name: &str) -> Answer {
    Answer::json(200, &json!({"access_token": name, "token_type": "Bearer", "expires_in": 86_399}))
}

fn active() -> Answer {
    Answer::json(200, &json!({"connected_account": {"id": "ca_1", "status": "ACTIVE"}}))
}

fn done() -> Answer {
    Answer::json(200, &json!({"data": {"id": "m-1"}, "execution_id": "e-1"}))
}

fn unauthenticated() -> Answer {
    let info = json!({"@type": "ErrorInfo", "error_code": "UNAUTHENTICATED"});
    Answer::json(401, &json!({"code": 16, "message": "token expired", "details": [info]}))
}

/// Numbers the tokens it gives out; everything else is for `answer`.
async fn peer(answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> HttpPeer {
    let tokens = AtomicUsize::new(0);
    HttpPeer::start(move |request| match request.path() {
        TOKEN => token(&format!("token-{}", tokens.fetch_add(1, Ordering::SeqCst) + 1)),
        _ => answer(request),
    })
    .await
}

#[tokio::test]
async fn a_hundred_callers_fetch_one_token() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let peer = HttpPeer::start(move |request| match request.path() {
        TOKEN => Answer::After(Arc::clone(&opened), Box::new(token("token-1"))),
        _ => active(),
    })
    .await;
    let scalekit = scalekit(&peer.url);
    let (user, gmail) = (user(), gmail());
    let calls = futures_util::future::join_all((0..100).map(|_| scalekit.account(&user, &gmail)));
    let open = async {
        peer.arrival(TOKEN).await;
        gate.notify_one();
    };
    let (results, ()) = tokio::join!(calls, open);
    assert!(results.iter().all(|result| result.as_ref().is_ok_and(|account| account.status == AccountStatus::Active)));
    assert_eq!(peer.requests(TOKEN).len(), 1);
    assert!(peer.requests(DETAILS).iter().all(|request| request.headers["authorization"] == "Bearer token-1"));
}

#[tokio::test]
async fn whoever_waited_for_a_failed_fetch_shares_its_failure() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let refusal = || Answer::json(401, &json!({"error": "invalid_client"}));
    let peer = HttpPeer::start(move |_| Answer::After(Arc::clone(&opened), Box::new(refusal()))).await;
    let scalekit = scalekit(&peer.url);
    let calls = futures_util::future::join_all((0..20).map(|_| execute(&scalekit)));
    let open = async {
        peer.arrival(TOKEN).await;
        gate.notify_one();
    };
    let (results, ()) = tokio::join!(calls, open);
    assert!(results.iter().all(|result| matches!(result, Err(Error::Credentials(_)))));
    assert_eq!(peer.requests("").len(), 1, "no second try, and no call without a token");
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends() {
    let peer = peer(|_| active()).await;
    let manual = Arc::new(ManualClock::new(start()));
    let scalekit = scalekit_with(&peer.url, &(Arc::clone(&manual) as SharedClock), |_| {});
    for (advance, tokens) in [(0, 1), (86_338, 1), (1, 2), (60, 2)] {
        manual.advance(SignedDuration::from_secs(advance));
        scalekit.account(&user(), &gmail()).await.unwrap();
        assert_eq!(peer.requests(TOKEN).len(), tokens, "after {advance} s more");
    }
}

#[tokio::test]
async fn the_token_request_carries_the_secret_in_its_form_and_no_bearer() {
    let peer = peer(|_| done()).await;
    execute(&scalekit(&peer.url)).await.unwrap();
    let request = &peer.requests(TOKEN)[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
    assert!(!request.headers.contains_key("authorization"));
    let form = String::from_utf8(request.body.clone()).unwrap();
    assert_eq!(form, "grant_type=client_credentials&client_id=skc_1&client_secret=client-secret-1");
    assert!(request.headers["user-agent"].starts_with("agentkit-worker/"));
}

#[tokio::test]
async fn our_own_401_costs_one_new_token_and_one_resend() {
    let peer = peer(|request| match request.headers["authorization"].as_str() {
        "Bearer token-1" => unauthenticated(),
        _ => done(),
    })
    .await;
    let retries = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&retries);
    let hook = Arc::new(move |operation, reason| heard.lock().unwrap().push((operation, reason)));
    let scalekit = scalekit(&peer.url).on_retry(hook);
    let answer = execute(&scalekit).await.unwrap();
    assert_eq!((answer.data, answer.execution_id.as_deref()), (json!({"id": "m-1"}), Some("e-1")));
    assert_eq!((peer.requests(TOKEN).len(), peer.requests(EXECUTE).len()), (2, 2));
    assert_eq!(*retries.lock().unwrap(), [("execute_tool", "credentials")], "no repeat is silent");
}

#[tokio::test]
async fn many_refusals_of_one_token_cost_one_new_token() {
    let peer = peer(|request| match request.headers["authorization"].as_str() {
        "Bearer token-1" => unauthenticated(),
        _ => active(),
    })
    .await;
    let scalekit = scalekit(&peer.url);
    let (user, gmail) = (user(), gmail());
    let results = futures_util::future::join_all((0..50).map(|_| scalekit.account(&user, &gmail))).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(peer.requests(TOKEN).len(), 2);
}

#[tokio::test]
async fn a_second_401_is_final() {
    let peer = peer(|_| unauthenticated()).await;
    let scalekit = scalekit(&peer.url);
    assert!(matches!(execute(&scalekit).await, Err(Error::Credentials(_))));
    assert_eq!((peer.requests(TOKEN).len(), peer.requests(EXECUTE).len()), (2, 2));
    assert!(matches!(scalekit.account(&user(), &gmail()).await, Err(Error::Credentials(_))));
    assert_eq!(peer.requests(DETAILS).len(), 2);
}

#[tokio::test]
async fn the_providers_401_leaves_our_token_alone() {
    let peer = peer(|_| {
        let info = json!({"error_code": "TOOL_ERROR", "tool_error_info": {"tool_error_message": "revoked"}});
        Answer::json(401, &json!({"code": 16, "message": "tool failed", "details": [info]}))
    })
    .await;
    let error = execute(&scalekit(&peer.url)).await.unwrap_err();
    assert!(error.auth_lost());
    assert_eq!((peer.requests(TOKEN).len(), peer.requests(EXECUTE).len()), (1, 1));
}

#[tokio::test]
async fn what_runs_a_tool_is_sent_once_and_says_who_and_where() {
    let peer = peer(|_| Answer::of(503, "text/plain", "down")).await;
    let error = execute(&scalekit(&peer.url)).await.unwrap_err();
    assert_eq!((error.retry_tool(), error.ran()), (RetryDecision::Again, Ran::Perhaps));
    let requests = peer.requests(EXECUTE);
    assert_eq!(requests.len(), 1, "only the caller knows whether it may run again");
    assert_eq!(
        requests[0].json(),
        json!({"tool_name": "gmail_fetch_mails", "connector": "gmail", "identifier": "user_123",
               "params": {"query": "is:unread"}, "agent_run_id": "job-1"})
    );
    assert_eq!(requests[0].headers["traceparent"], TRACEPARENT);
}

#[tokio::test]
async fn control_calls_are_repeated_and_each_repeat_is_told() {
    let calls = AtomicUsize::new(0);
    let peer = peer(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::of(503, "text/plain", "down"),
        1 => Answer::Reset,
        _ => active(),
    })
    .await;
    let retries = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&retries);
    let scalekit = scalekit(&peer.url)
        .on_retry(Arc::new(move |operation, reason| heard.lock().unwrap().push((operation, reason))));
    let account = scalekit.account(&user(), &gmail()).await.unwrap();
    assert_eq!((account.id.as_deref(), account.status), (Some("ca_1"), AccountStatus::Active));
    assert_eq!(*retries.lock().unwrap(), [("account_details", "unavailable"), ("account_details", "broken")]);
}

#[tokio::test]
async fn control_calls_end_with_the_policy_and_do_not_repeat_what_cannot_help() {
    for (status, attempts) in [(503, 3), (502, 3), (500, 1), (504, 1), (429, 1), (400, 1)] {
        let peer = peer(move |_| Answer::of(status, "text/plain", "no")).await;
        scalekit(&peer.url).account(&user(), &gmail()).await.unwrap_err();
        assert_eq!(peer.requests(DETAILS).len(), attempts, "status {status}");
    }
}

#[tokio::test]
async fn an_account_is_read_with_its_status() {
    for (status, expected) in [
        ("PENDING_AUTH", AccountStatus::PendingAuth),
        ("PENDING_VERIFICATION", AccountStatus::PendingVerification),
        ("DISCONNECTED", AccountStatus::Disconnected),
        ("CONNECTION_STATUS_UNSPECIFIED", AccountStatus::Other("CONNECTION_STATUS_UNSPECIFIED".into())),
    ] {
        let peer = peer(move |_| Answer::json(200, &json!({"connected_account": {"status": status}}))).await;
        let account = scalekit(&peer.url).account(&user(), &gmail()).await.unwrap();
        assert_eq!((account.id, account.status), (None, expected));
    }
}

#[tokio::test]
async fn an_expired_account_is_read_once_more() {
    let calls = AtomicUsize::new(0);
    let peer = peer(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::json(200, &json!({"connected_account": {"status": "EXPIRED"}})),
        _ => active(),
    })
    .await;
    assert_eq!(scalekit(&peer.url).account(&user(), &gmail()).await.unwrap().status, AccountStatus::Active);
    assert_eq!(peer.requests(DETAILS).len(), 2);
}

#[tokio::test]
async fn an_account_that_is_not_there_is_a_status() {
    let peer = peer(|_| Answer::json(404, &json!({"code": 5, "message": "not found", "details": []}))).await;
    assert_eq!(scalekit(&peer.url).account(&user(), &gmail()).await.unwrap().status, AccountStatus::Missing);
}

#[tokio::test]
async fn a_magic_link_is_given_out_and_never_printed() {
    let link = "https://acme.scalekit.dev/magicLink/5f1d";
    let peer =
        peer(move |_| Answer::json(200, &json!({"link": link, "expiry": "2026-11-22T08:31:00Z", "more": 1}))).await;
    let clock: SharedClock = Arc::new(ManualClock::new(start()));
    let verify = "https://app.example.com/verify";
    let scalekit = scalekit_with(&peer.url, &clock, |config| config.user_verify_url = Some(verify.into()));
    let made = scalekit.magic_link(&user(), &gmail(), "nonce-1").await.unwrap();
    assert_eq!(made.expose(), link);
    assert_eq!(made.expires_at, Some("2026-11-22T08:31:00Z".parse().unwrap()));
    assert!(!format!("{made:?}").contains("5f1d"));
    assert_eq!(
        peer.requests("/magic_link")[0].json(),
        json!({"connector": "gmail", "identifier": "user_123", "state": "nonce-1", "user_verify_url": verify})
    );
}

#[tokio::test]
async fn accounts_of_a_connection_are_counted() {
    for (body, count) in [
        (json!({"connected_accounts": [{"id": "ca_1"}], "total_size": "7"}), 7),
        (json!({"connected_accounts": [{"id": "ca_1"}]}), 1),
        (json!({"total_size": {}}), 0),
    ] {
        let peer = peer(move |_| Answer::json(200, &body)).await;
        assert_eq!(scalekit(&peer.url).accounts_of(&gmail()).await.unwrap(), count);
        let request = &peer.requests("/connected_accounts")[0];
        assert_eq!(request.query("connection_names").as_deref(), Some("gmail"));
        assert!(request.query("page_size").unwrap().parse::<u32>().unwrap() < 100);
    }
}

fn scoped(name: &str) -> Value {
    json!({"tool": {"id": "tol_1", "definition": {"name": name}}, "identifier": "user_123", "connected_account_id": "ca_1"})
}

#[tokio::test]
async fn all_pages_of_tools_are_read_and_each_name_is_kept_once() {
    let peer = peer(|request| {
        let page = match request.query("page_token").as_deref() {
            None => json!({"tools": [scoped("a"), scoped("b")], "next_page_token": "p=2&x"}),
            Some("p=2&x") => json!({"tools": [scoped("b"), scoped(""), {"tool": null}, 7], "next_page_token": "p3"}),
            Some("p3") => json!({"next_page_token": "p4"}),
            _ => json!({"tools": [scoped("c")], "next_page_token": ""}),
        };
        Answer::json(200, &page)
    })
    .await;
    let tools = scalekit(&peer.url).scoped_tools(&user(), &gmail()).await.unwrap();
    assert_eq!(tools.iter().map(ScopedTool::name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(tools[0].connected_account_id.as_deref(), Some("ca_1"));
    let requests = peer.requests("/scoped");
    assert_eq!(requests.len(), 4);
    for (name, value) in [("identifier", "user_123"), ("filter.connection_names", "gmail"), ("page_size", "100")] {
        assert!(requests.iter().all(|request| request.query(name).as_deref() == Some(value)), "{name}");
    }
}

#[tokio::test]
async fn a_page_token_that_comes_again_ends_the_list() {
    let peer = peer(|_| Answer::json(200, &json!({"tools": [scoped("a")], "next_page_token": "same"}))).await;
    let tools = scalekit(&peer.url).scoped_tools(&user(), &gmail()).await.unwrap();
    assert_eq!((tools.len(), peer.requests("/scoped").len()), (1, 2));
}

#[tokio::test]
async fn a_list_without_end_is_an_error() {
    let page = AtomicUsize::new(0);
    let peer = peer(move |_| {
        let next = page.fetch_add(1, Ordering::SeqCst).to_string();
        Answer::json(200, &json!({"tools": [scoped(&next)], "next_page_token": next}))
    })
    .await;
    let error = scalekit(&peer.url).scoped_tools(&user(), &gmail()).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer(_)));
    assert_eq!(peer.requests("/scoped").len(), 50);
}

#[tokio::test]
async fn a_hostile_identifier_stays_one_value() {
    let peer = peer(|_| active()).await;
    for name in ["a&connector=other", "../../x?y#z", "a b+c%2F", "line\r\nx: y", "ж\u{0}"] {
        let identifier = Identifier::new(name).unwrap();
        scalekit(&peer.url).account(&identifier, &gmail()).await.unwrap();
        let request = peer.requests(DETAILS).pop().unwrap();
        assert_eq!(request.path(), "/api/v1/connected_accounts/details");
        assert_eq!(request.query("identifier").as_deref(), Some(name));
        assert_eq!(request.query("connector").as_deref(), Some("gmail"));
    }
}

#[tokio::test]
async fn an_environment_may_live_under_a_path() {
    let peer = peer(|_| active()).await;
    scalekit(&format!("{}/scalekit/", peer.url)).account(&user(), &gmail()).await.unwrap_err();
    assert_eq!(peer.requests(TOKEN)[0].path(), "/scalekit/oauth/token");
}

/// A row of `scalekit-errors.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "a table of yes and no")]
struct Row {
    name: String,
    call: String,
    status: u16,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: Option<Value>,
    text: Option<String>,
    error_code: Option<String>,
    message: Option<String>,
    tool: Option<String>,
    violations: Option<Value>,
    code: String,
    ran: Ran,
    #[serde(default)]
    retry: bool,
    retry_tool: bool,
    #[serde(default)]
    auth_lost: bool,
    #[serde(default)]
    answer: bool,
    scope: Option<String>,
    retry_after: Option<u64>,
    shows: Option<String>,
    execution_id: Option<String>,
}

impl Row {
    fn body(&self) -> Vec<u8> {
        if let Some(text) = &self.text {
            return text.clone().into();
        }
        let body = self.body.clone().unwrap_or_else(|| {
            let tool = self.tool.as_ref().map(|message| json!({"execution_id": "e-9", "tool_error_message": message}));
            let violations = self.violations.as_ref().map(|all| json!({"field_violations": all}));
            let info = json!({"@type": "ErrorInfo", "error_code": self.error_code, "tool_error_info": tool,
                              "validation_error_info": violations, "request_info": {"request_id": "r-9"}});
            json!({"code": 2, "message": self.message, "details": [{"@type": "Other"}, info]})
        });
        body.to_string().into()
    }

    fn answer(&self) -> Answer {
        let kind = if self.text.is_some() { "text/html" } else { "application/json" };
        let start = Answer::of(self.status, kind, self.body());
        self.headers.iter().fold(start, |answer, (name, value)| answer.header(name, value))
    }
}

#[tokio::test]
async fn every_row_of_the_error_table_is_understood() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("../../data/scalekit-errors.json")).unwrap();
    assert!(rows.len() > 50);
    for row in rows {
        let row = Arc::new(row);
        let scripted = Arc::clone(&row);
        let peer = HttpPeer::start(move |request| match request.path() {
            TOKEN if scripted.call != "token" => token("token-1"),
            _ => scripted.answer(),
        })
        .await;
        let clock: SharedClock = Arc::new(ManualClock::new(start()));
        let scalekit = scalekit_with(&peer.url, &clock, |config| config.control_retry.attempts = 1);
        let (user, gmail) = (user(), gmail());
        let error = match row.call.as_str() {
            "execute" | "token" => execute(&scalekit).await.unwrap_err(),
            "details" => scalekit.account(&user, &gmail).await.unwrap_err(),
            "magic_link" => scalekit.magic_link(&user, &gmail, "s").await.unwrap_err(),
            "list" => scalekit.accounts_of(&gmail).await.unwrap_err(),
            "scoped" => scalekit.scoped_tools(&user, &gmail).await.unwrap_err(),
            other => panic!("no such call: {other}"),
        };
        check_row(&row, &error);
    }
}

fn check_row(row: &Row, error: &Error) {
    let name = &row.name;
    assert_eq!(error.code(), row.code, "{name}: {error}");
    assert_eq!(error.ran(), row.ran, "{name}");
    assert_eq!(error.retry() != RetryDecision::Stop, row.retry, "{name}");
    assert_eq!(error.retry_tool() != RetryDecision::Stop, row.retry_tool, "{name}");
    assert_eq!(error.auth_lost(), row.auth_lost, "{name}");
    assert_eq!(error.is_answer(), row.answer, "{name}");
    let details = error.details();
    assert!(!details.message.is_empty() && details.message.len() <= 1_000, "{name}");
    for said in [&row.shows, &row.message, &row.tool].into_iter().flatten() {
        assert!(details.message.contains(said.as_str()), "{name}: {error}");
    }
    if row.tool.is_some() {
        assert_eq!(details.execution_id.as_deref(), Some("e-9"), "{name}");
        assert_eq!(details.request_id.as_deref(), Some("r-9"), "{name}");
    }
    if row.execution_id.is_some() {
        assert_eq!(details.execution_id, row.execution_id, "{name}");
    }
    let asked = row.retry_after.map(Duration::from_secs);
    match error {
        Error::RateLimited { scope, retry_after, .. } => {
            let scope = if *scope == RateLimitScope::Account { "account" } else { "environment" };
            assert_eq!((row.scope.as_deref(), *retry_after), (Some(scope), asked), "{name}");
        }
        Error::Unavailable { retry_after, .. } => assert_eq!(*retry_after, asked, "{name}"),
        _ => assert_eq!(row.scope, None, "{name}"),
    }
}

#[tokio::test]
async fn nothing_secret_is_shown_of_any_failure() {
    let body = "Bearer s3cr3t-1 and eyJhbGciOiJSUzI1NiJ9.e30.c2ln under https://a.example/magicLink/5f1d";
    for status in [200, 400, 401, 404, 500, 503] {
        let peer = peer(move |_| Answer::of(status, "text/plain", body)).await;
        let scalekit = scalekit(&peer.url);
        let error = execute(&scalekit).await.unwrap_err();
        let shown = format!("{error} {error:?} {scalekit:?}");
        for secret in ["s3cr3t-1", "c2ln", "5f1d", "client-secret-1", "token-1", "token-2"] {
            assert!(!shown.contains(secret), "status {status}: {shown}");
        }
    }
}

#[tokio::test]
async fn nobody_listening_proves_that_nothing_was_sent() {
    let error = execute(&scalekit(&HttpPeer::nobody().await)).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("no_token", Ran::No));
    let no_tls = HttpPeer::resetting().await;
    let error = execute(&scalekit(&no_tls.url.replace("http://", "https://"))).await.unwrap_err();
    assert_eq!((error.code(), error.ran()), ("no_token", Ran::No), "{error}");
}

/// The edge with a token in hand, so that the next thing on the wire is the call itself.
async fn with_token(peer: &HttpPeer, timeout_milliseconds: u64) -> Scalekit {
    let clock: SharedClock = Arc::new(ManualClock::new(start()));
    let scalekit = scalekit_with(&peer.url, &clock, |config| config.tool_timeout_milliseconds = timeout_milliseconds);
    scalekit.account(&user(), &gmail()).await.unwrap();
    scalekit
}

#[tokio::test]
async fn a_call_that_left_without_an_answer_may_have_run() {
    type Script = fn() -> Answer;
    let scripts: [(&str, Script, &str); 7] = [
        ("a reset", || Answer::Reset, "broken"),
        ("silence", || Answer::Hang, "timed_out"),
        ("a body cut off", || Answer::CutOff(br#"{"data": {"id": "m-1"}}"#.to_vec()), "broken"),
        ("an endless body", || Answer::Endless, "bad_answer"),
        ("no HTTP", || Answer::Raw(b"SSH-2.0-hello\r\n".to_vec()), "broken"),
        ("nothing at all", || Answer::Raw(Vec::new()), "broken"),
        ("half a head", || Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()), "broken"),
    ];
    for (name, script, code) in scripts {
        let peer = peer(move |request| if request.path().ends_with(EXECUTE) { script() } else { active() }).await;
        let scalekit = with_token(&peer, 500).await;
        let error = execute(&scalekit).await.unwrap_err();
        assert_eq!((error.code(), error.ran()), (code, Ran::Perhaps), "{name}: {error}");
        assert_eq!(peer.requests(EXECUTE).len(), 1, "{name}: sent once");
        assert_eq!(error.details().message.matches('?').count(), 0, "no query is shown");
    }
}

#[tokio::test]
async fn a_connection_that_dies_after_the_call_left_is_not_tried_again_underneath() {
    // The call goes out on the connection that the account was read on, which the peer then resets: just the case in
    // which an HTTP library is tempted to send again on a new one.
    let peer = peer(|request| if request.path().ends_with(EXECUTE) { Answer::Reset } else { active() }).await;
    let scalekit = with_token(&peer, 5_000).await;
    execute(&scalekit).await.unwrap_err();
    let (read, run) = (peer.requests(DETAILS), peer.requests(EXECUTE));
    assert_eq!((read[0].connection, run.len()), (run[0].connection, 1));
}

#[tokio::test]
async fn a_reset_before_anything_was_read_is_no_proof() {
    let error = http_get(&HttpPeer::resetting().await.url).await.unwrap_err();
    assert_eq!(error.ran(), Ran::Perhaps, "{error}");
    let error = http_get(&HttpPeer::nobody().await).await.unwrap_err();
    assert!(matches!(error, http::HttpError::NotSent { .. }), "{error}");
    let no_tls = HttpPeer::resetting().await;
    let error = http_get(&no_tls.url.replace("http://", "https://")).await.unwrap_err();
    assert_eq!(error.ran(), Ran::No, "the request comes after the TLS session: {error}");
}

async fn http_get(url: &str) -> Result<http::Response, http::HttpError> {
    let url = url::Url::parse(url).unwrap();
    CLIENT.send(http::Request::new(http::Method::Get, url, Duration::from_secs(5))).await
}

#[tokio::test]
async fn a_proxy_is_used_for_all_but_loopback() {
    let proxy = HttpPeer::start(|_| Answer::of(200, "text/plain", "by proxy")).await;
    let direct = HttpPeer::start(|_| Answer::of(200, "text/plain", "directly")).await;
    let with_password = proxy.url.replace("http://", "http://user:hush@");
    let config = http::Config { proxy: Some(with_password.into()), ..http::Config::default() };
    assert!(!format!("{config:?}").contains("hush"));
    let client = http::Client::new(&config, Arc::new(ManualClock::new(start()))).unwrap();
    for (url, answer) in [("http://acme.example/x", "by proxy"), (direct.url.as_str(), "directly")] {
        let request = http::Request::new(http::Method::Get, url::Url::parse(url).unwrap(), Duration::from_secs(5));
        assert_eq!(client.send(request).await.unwrap().body, answer.as_bytes());
    }
}

#[tokio::test]
async fn large_answers_pass_up_to_the_limit() {
    let peer = peer(|_| Answer::json(200, &json!({"data": {"text": "x".repeat(1_000_000)}}))).await;
    assert_eq!(execute(&scalekit(&peer.url)).await.unwrap().data["text"].as_str().unwrap().len(), 1_000_000);
    let peer = self::peer(|_| Answer::of(400, "text/html", "x".repeat(2 << 20))).await;
    assert!(matches!(execute(&scalekit(&peer.url)).await, Err(Error::BadAnswer(_))));
}

#[tokio::test]
async fn the_headers_that_matter_are_read() {
    let peer = HttpPeer::start(|_| {
        Answer::of(429, "application/json; charset=utf-8", "{}")
            .header("retry-after", "Sun, 22 Nov 2026 08:00:40 GMT")
            .header("x-request-id", "r-1")
            .header("x-should-retry", "false")
    })
    .await;
    let response = http_get(&peer.url).await.unwrap();
    assert_eq!(response.status, 429);
    assert_eq!(response.retry_after, Some(Duration::from_secs(40)));
    assert_eq!((response.request_id.as_deref(), response.should_retry), (Some("r-1"), Some(false)));
    assert_eq!(response.content_type.as_deref(), Some("application/json; charset=utf-8"));
}

#[tokio::test]
async fn logs_are_read_where_they_exist() {
    let rows = json!({"tool_call_logs": [
        {"tool_name": "t", "status": "success", "execution_id": "1", "connection_name": "gmail", "duration_ms": "4"},
        {"tool_name": "t", "status": "provider_error", "error_message": "no", "execution_id": 2},
        {"tool_name": "t", "status": "brand_new"}, {"status": "success"}, null
    ], "total_size": "5"});
    let peer = peer(move |_| Answer::json(200, &rows)).await;
    let logs = scalekit(&peer.url).tool_call_logs("job/1").await.unwrap().unwrap();
    let statuses: Vec<_> = logs.iter().map(|log| log.status.clone()).collect();
    assert_eq!(statuses, [LogStatus::Success, LogStatus::ProviderError, LogStatus::Other("brand_new".into())]);
    assert_eq!(logs[1].execution_id.as_deref(), Some("2"));
    assert_eq!(peer.requests("/tool_call_logs")[0].query("agent_run_id").as_deref(), Some("job/1"));
    for (status, absent) in [(404, true), (501, true), (500, false)] {
        let peer = self::peer(move |_| Answer::of(status, "text/plain", "404 page not found")).await;
        let result = scalekit(&peer.url).tool_call_logs("job-1").await;
        assert_eq!(result.is_ok_and(|logs| logs.is_none()), absent, "status {status}");
    }
}
