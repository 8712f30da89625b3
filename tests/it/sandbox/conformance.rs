//! The sandbox against Scalekit's published description: every route is in it, every request and answer fits it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::sandbox_peer::SandboxPeer;

/// The published document, without its prose.
static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../data/scalekit-openapi.json")).unwrap());

/// Statuses that SDKs and live tests have seen, though the document does not list them.
const SEEN_ELSEWHERE: [(&str, u16); 3] = [
    ("/api/v1/connected_accounts/magic_link", 403),
    ("/api/v1/connected_accounts/magic_link", 404),
    ("/api/v1/tools/scoped", 404),
];

/// Routes that are not in the document: tokens are described in its text only, logs are a preview, and what belongs to
/// MCP servers of connections is in the SDKs alone.
const UNDOCUMENTED: [&str; 4] = [
    "/oauth/token",
    "/api/v1/agentkit/tool_call_logs",
    "/api/v1/agentkit/tool_call_logs/{execution_id}",
    "/api/v1/mcp/connections/{name}/tokens",
];

/// Drives one peer and keeps what was driven.
struct Driver {
    peer: SandboxPeer,
    seen: BTreeSet<(String, String, bool)>,
}

impl Driver {
    /// Sends a request that the document describes, and checks it, the status and the answer against it.
    async fn drive(&mut self, method: Method, target: &str, body: Option<Value>, expected: u16) -> Value {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let verb = method.as_str().to_lowercase();
        let operation = &DOCUMENT["paths"][path][&verb];
        assert!(operation.is_object(), "{verb} {path} is not in the document");
        let parameters = operation["parameters"].as_array().unwrap();
        for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
            assert!(parameters.iter().any(|parameter| parameter["name"] == *name), "{path} has no {name}");
        }
        if let Some(body) = &body {
            check(&operation["requestBody"]["content"]["application/json"]["schema"], body, target);
        }
        let mut request = self.peer.request(method, target);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, expected, "{target}: {answer}");
        let documented = &operation["responses"][status.to_string()];
        assert!(documented.is_object() || SEEN_ELSEWHERE.contains(&(path, status)), "{path}: {status} is unheard of");
        if status < 300 {
            check(&documented["content"]["application/json"]["schema"], &answer, target);
        } else {
            check_error(&answer, target);
        }
        self.seen.insert((path.to_owned(), verb, status < 300));
        answer
    }
}

/// Checks a value against a schema of the document. Unset messages come as null on the wire, which the document does
/// not mention, so nulls are taken out first.
fn check(schema: &Value, value: &Value, target: &str) {
    let mut schema = schema.clone();
    schema["components"] = DOCUMENT["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let value = without_nulls(value);
    if let Some(error) = validator.iter_errors(&value).next() {
        panic!("{target}: {error} at {}", error.instance_path());
    }
    let named = schema["$ref"].as_str().and_then(|reference| DOCUMENT.pointer(reference.trim_start_matches('#')));
    let known = named.and_then(|schema| schema["properties"].as_object());
    for name in value.as_object().into_iter().flat_map(|value| value.keys()) {
        assert!(known.is_none_or(|known| known.contains_key(name)), "{target}: the document has no {name}");
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn check_error(answer: &Value, target: &str) {
    assert!(answer["code"].is_u64() && answer["message"].is_string(), "{target}: {answer}");
    let detail = &answer["details"][0];
    assert!(detail["@type"].as_str().unwrap().ends_with("scalekit.v1.errdetails.ErrorInfo"), "{target}: {answer}");
    assert!(detail["error_code"].is_string(), "{target}: {answer}");
}

#[tokio::test]
async fn every_route_answers_as_the_published_document_says() {
    let peer = SandboxPeer::start().await;
    let mut driver = Driver { peer, seen: BTreeSet::new() };
    accounts(&mut driver).await;
    verification(&mut driver).await;
    tools(&mut driver).await;
    execution(&mut driver).await;
    let token = std::mem::replace(&mut driver.peer.token, "stolen".to_owned());
    driver.drive(Method::GET, "/api/v1/connected_accounts/details?id=ca_1", None, 401).await;
    driver.peer.token = token;
    for (path, verb) in claimed_routes() {
        if UNDOCUMENTED.contains(&path.as_str()) {
            continue;
        }
        for success in [true, false] {
            let was_seen = driver.seen.contains(&(path.clone(), verb.clone(), success));
            assert!(was_seen, "{verb} {path} was not driven to {}", if success { "success" } else { "an error" });
        }
    }
}

/// The routes that the sandbox's own source registers as Scalekit's.
fn claimed_routes() -> Vec<(String, String)> {
    let source = include_str!("../../../src/sandbox/scalekit/mod.rs");
    let mut routes = Vec::new();
    for registered in source.split(".route(\"").skip(1) {
        let (path, rest) = registered.split_once('"').unwrap();
        let handlers = rest.split(".route").next().unwrap();
        for verb in ["get", "post"] {
            if handlers.contains(&format!("{verb}(")) {
                routes.push((path.to_owned(), verb.to_owned()));
            }
        }
    }
    assert!(routes.len() > 10, "the registrations were not found");
    routes
}

async fn accounts(driver: &mut Driver) {
    let named = "connector=gmail&identifier=user_123";
    let base = "/api/v1/connected_accounts";
    for route in ["details", "auth"] {
        driver.drive(Method::GET, &format!("{base}/{route}?{named}"), None, 404).await;
        driver.drive(Method::GET, &format!("{base}/{route}?connector=gmail"), None, 400).await;
    }
    let link = format!("{base}/magic_link");
    let account = json!({"connector": "gmail", "identifier": "user_123"});
    driver.drive(Method::POST, &link, Some(json!({"connector": "nope", "identifier": "user_123"})), 404).await;
    let refused = json!({"connector": "hubspot", "identifier": "user_123"});
    let refused = driver.drive(Method::POST, &link, Some(refused), 403).await;
    assert_eq!(refused["details"][0]["error_code"], "CONNECTION_NOT_ENABLED");
    driver.drive(Method::POST, &link, Some(json!({"connector": "gmail"})), 400).await;
    driver.drive(Method::POST, &link, Some(account.clone()), 200).await;
    let details = driver.drive(Method::GET, &format!("{base}/details?{named}"), None, 200).await;
    assert_eq!(details["connected_account"]["status"], "PENDING_AUTH");
    let create = json!({
        "connector": "slack", "identifier": "user_123",
        "connected_account": {"authorization_details": {"oauth_token": {}}},
    });
    driver.drive(Method::POST, base, Some(create.clone()), 201).await;
    let again = driver.drive(Method::POST, base, Some(create), 400).await;
    assert_eq!(again["details"][0]["error_code"], "RESOURCE_ALREADY_EXISTS");
    driver.peer.activate("gmail", "user_123").await;
    driver.drive(Method::GET, &format!("{base}/auth?{named}"), None, 200).await;
    driver
        .drive(Method::GET, &format!("{base}?connection_names=gmail&connection_names=slack&page_size=99"), None, 200)
        .await;
    driver.drive(Method::GET, &format!("{base}?page_size=100"), None, 400).await;
}

async fn verification(driver: &mut Driver) {
    let verify = "/api/v1/connected_accounts/user/verify";
    let wanted = json!({
        "connector": "googlecalendar", "identifier": "user_123", "state": "s-1",
        "user_verify_url": "https://application.example/verify",
    });
    let link = driver.drive(Method::POST, "/api/v1/connected_accounts/magic_link", Some(wanted), 200).await;
    let page = driver.peer.client.post(link["link"].as_str().unwrap()).body("decision=allow");
    let page = page.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    let address = url::Url::parse(page.headers()["location"].to_str().unwrap()).unwrap();
    let value = |name: &str| address.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    assert_eq!(value("state"), "s-1");
    let body = |identifier: &str| Some(json!({"auth_request_id": value("auth_request_id"), "identifier": identifier}));
    driver.drive(Method::POST, verify, body("somebody else"), 403).await;
    driver.drive(Method::POST, verify, body("user_123"), 200).await;
    driver.drive(Method::POST, verify, body("user_123"), 404).await;
    let details = "/api/v1/connected_accounts/details?connector=googlecalendar&identifier=user_123";
    let details = driver.drive(Method::GET, details, None, 200).await;
    assert_eq!(details["connected_account"]["status"], "ACTIVE");
}

async fn tools(driver: &mut Driver) {
    let first = driver.drive(Method::GET, "/api/v1/tools", None, 200).await;
    assert_eq!(first["tools"].as_array().unwrap().len(), 10);
    driver.drive(Method::GET, "/api/v1/tools?filter.tool_name=gmail_send_message&page_size=100", None, 200).await;
    let names = driver.drive(Method::GET, "/api/v1/tools?filter.summary=true&filter.provider=SLACK", None, 200).await;
    assert_eq!(names["tool_names"].as_array().unwrap().len(), 10);
    driver.drive(Method::GET, "/api/v1/tools?page_size=ten", None, 400).await;
    let scoped = "/api/v1/tools/scoped?identifier=user_123";
    driver.drive(Method::GET, &format!("{scoped}&filter.connection_names=gmail&page_size=100"), None, 200).await;
    driver.drive(Method::GET, scoped, None, 400).await;
    driver.drive(Method::GET, &format!("{scoped}&filter.connection_names=github"), None, 404).await;
    driver.drive(Method::GET, "/api/v1/tools/available?identifier=user_123", None, 200).await;
    driver.drive(Method::GET, "/api/v1/tools/available", None, 400).await;
    driver.peer.activate("gmail-team", "user_123").await;
    driver.drive(Method::GET, &format!("{scoped}&filter.providers=GMAIL"), None, 400).await;
}

async fn execution(driver: &mut Driver) {
    let route = "/api/v1/execute_tool";
    let call = |change: Value| {
        let mut call = json!({
            "tool_name": "gmail_fetch_mails", "connector": "gmail", "identifier": "user_123",
            "params": {"max_results": 2}, "agent_run_id": "run-1",
        });
        call.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Some(without_nulls(&call))
    };
    driver.drive(Method::POST, route, call(json!({})), 200).await;
    let cases = [
        (json!({"tool_name": null}), 400, "INVALID_ARGUMENT"),
        (json!({"tool_name": "gmail_fetch_mailz"}), 400, "RESOURCE_NOT_FOUND"),
        (json!({"connector": null, "identifier": null}), 400, "INVALID_ARGUMENT"),
        (json!({"connector": null}), 400, "INVALID_ARGUMENT"),
        (json!({"connector": "slack", "tool_name": "slack_list_channels"}), 400, "INVALID_ARGUMENT"),
        (json!({"identifier": "nobody"}), 404, "RESOURCE_NOT_FOUND"),
        (json!({"connected_account_id": "ca_1"}), 500, "INTERNAL_ERROR"),
        (json!({"tool_name": "gmail_trash_message"}), 400, "TOOL_ERROR"),
        (json!({"tool_name": "gmail_trash_message", "params": {"message_id": "nope"}}), 404, "TOOL_ERROR"),
    ];
    for (change, status, code) in cases {
        let answer = driver.drive(Method::POST, route, call(change.clone()), status).await;
        assert_eq!(answer["details"][0]["error_code"], code, "{change}");
    }
}
