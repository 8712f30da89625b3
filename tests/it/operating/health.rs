//! What keeps the worker from its work is told at once, by name, and costs no job an attempt.

use reqwest::Method;
use serde_json::json;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::WorkerProcess;
use crate::support::proxied_service::ProxiedService;

const REFUSALS: [(&str, &[&str], &str); 2] = [
    ("scalekit", &["token", "details", "scoped", "accounts"], "Scalekit refuses the worker's credentials"),
    ("model", &["model", "models"], "the model's server refuses the worker's key"),
];

/// Every route of the group answers with a bare 401 from now on, or as ever.
async fn refuse(service: &ProxiedService<'_>, groups: &[&str]) {
    for group in groups {
        service.peer.fault(json!({"on": group, "kind": "status", "status": 401, "times": u32::MAX})).await;
    }
}

async fn accept(service: &ProxiedService<'_>) {
    assert_eq!(service.peer.request(Method::DELETE, "/_sandbox/faults").send().await.unwrap().status(), 200);
}

/// What `/readyz` says when it names this problem; a worker that has only begun names others before.
async fn is_unready(worker: &WorkerProcess, words: &str) -> String {
    eventually(words, async || {
        let (status, body) = worker.get("/readyz").await;
        (status == 503 && body.contains(words)).then_some(body)
    })
    .await
}

async fn is_refused(worker: &WorkerProcess, credential: &str, words: &str) {
    let body = is_unready(worker, words).await;
    assert!(body.contains("jobs wait"), "{body}");
    let gauge = format!("agentkit_credentials_accepted{{service=\"{credential}\"}}");
    assert_eq!(worker.metric(&gauge).await, Some(0.0));
    assert_eq!(worker.get("/livez").await.0, 200, "to kill it would help nobody");
}

/// Lines of the log that call for a person.
fn errors(worker: &WorkerProcess) -> usize {
    worker.lines("\"level\":\"ERROR\"")
}

#[tokio::test]
async fn a_credential_that_is_refused_is_told_once_and_no_job_loses_an_attempt_over_it() {
    let service = ProxiedService::new(Broker::shared().await).await;
    // A job that lost an attempt would have none left.
    let settings = [("WORKER__TRANSIENT__ATTEMPTS", "1")];
    // At the start, before there is any job.
    let (credential, groups, words) = REFUSALS[0];
    refuse(&service, groups).await;
    let worker = service.program(&settings).worker_in_trouble().await;
    is_refused(&worker, credential, words).await;
    // Then at the start of jobs, and last while they are under way.
    for (index, (credential, groups, words)) in [REFUSALS[0], REFUSALS[1], REFUSALS[0]].into_iter().enumerate() {
        if index > 0 {
            refuse(&service, groups).await;
        }
        for number in 0..3 {
            service.send(&format!("job-{index}-{number}"), "Call gmail_fetch_mails with {\"max_results\": 1}").await;
        }
        let received = 3 * (index + 1);
        eventually("all jobs come", async || (worker.lines("job received") >= received).then_some(())).await;
        is_refused(&worker, credential, words).await;
        assert_eq!(errors(&worker), index + 1, "once, and not once a job");
        accept(&service).await;
        worker.page("/readyz", 200).await;
        for _ in 0..3 {
            let reply = service.reply().await;
            assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
        }
    }
    assert_eq!(worker.metric("agentkit_credentials_accepted{service=\"model\"}").await, Some(1.0));
    assert_eq!(worker.lines("the credential is taken again"), 3);
}

#[tokio::test]
async fn a_redis_that_takes_nothing_is_seen_before_any_job_needs_it_and_so_is_its_return() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.program(&[]).worker().await;
    let up = async || worker.metric("agentkit_up{service=\"redis\"}").await;
    let redis = &service.redis;
    for (harm, cure, words) in [
        (["CONFIG", "SET", "maxmemory", "1"].as_slice(), ["CONFIG", "SET", "maxmemory", "0"].as_slice(), "full"),
        (&["ACL", "SETUSER", "default", "-psetex"], &["ACL", "SETUSER", "default", "+psetex"], "too little"),
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"], "replica"),
    ] {
        redis.command(harm);
        is_unready(&worker, words).await;
        assert_eq!(up().await, Some(0.0), "{harm:?}");
        redis.command(cure);
        worker.page("/readyz", 200).await;
        assert_eq!(up().await, Some(1.0), "{harm:?}");
    }
    assert_eq!(worker.metric("agentkit_up{service=\"broker\"}").await, Some(1.0));
    let stranger = service.redis.url().replace("redis://", "redis://nobody:wrong@");
    let stranger = service.program(&[]).set("REDIS_URL", &stranger).worker_in_trouble().await;
    let body = is_unready(&stranger, "refuses the worker's user or password").await;
    assert!(!body.contains("wrong"), "{body}");
}
