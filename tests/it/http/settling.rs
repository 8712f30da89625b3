//! Effects that were unknown at their run's end, and whoever says what became of them.

use serde_json::{Value, json};

use super::door::{ALL, Door, FOREIGNER, READER, job, send_mail};
use crate::support::eventually;
use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::sandbox_peer::plain_client;

pub(super) async fn an_unknown_effect_is_settled_once_and_its_caller_told_where_the_reply_went(door: &Door) {
    let caller = HttpPeer::start(|_| Answer::json(200, &json!({}))).await;
    let fault = json!({"on": "execute", "kind": "commit_then_reset"});
    let faults = format!("{}/faults", door.sandbox.control_url());
    assert!(plain_client().post(faults).json(&fault).send().await.unwrap().status().is_success());
    let mut doubtful = job("doubtful", &send_mail());
    doubtful["reply_url"] = format!("{}/told", caller.url).into();
    assert_eq!(door.post("/v1/jobs", ALL, &doubtful).await.status, 202);
    let told = async |number: usize| -> Value {
        eventually("the caller is told", async || caller.requests("/told").into_iter().nth(number)).await.json()
    };
    let asked = told(0).await["data"]["approvals"][0].clone();
    let path = "/v1/jobs/doubtful/settle";
    let early = door.post(path, ALL, &json!({"call": asked["call_id"], "as": "done"})).await;
    assert_eq!((early.status, early.code()), (409, "not_settled"), "{early:?}");
    let decision = json!({"arguments_digest": asked["arguments_digest"], "decision": "approve"});
    let approval = format!("/v1/approvals/{}", asked["id"].as_str().unwrap());
    assert_eq!(door.post(&approval, ALL, &json!({"reason": "x".repeat(1 << 20)})).await.code(), "too_large");
    assert_eq!(door.post(&approval, ALL, &decision).await.status, 200);
    let effect = told(1).await["data"]["effects"][0].clone();
    assert_eq!(effect["state"], "unknown");

    let call = &effect["call_id"];
    for (body, status) in [
        (json!({"call": call}), 422),
        (json!({"call": call, "as": "perhaps"}), 422),
        (json!({"call": call, "as": "done", "by": "somebody else"}), 422),
        (json!({"call": "none", "as": "done"}), 404),
        (json!({"call": "x".repeat(5000), "as": "done"}), 413),
    ] {
        assert_eq!(door.post(path, ALL, &body).await.status, status, "{body}");
    }
    let done = json!({"call": call, "as": "done"});
    for (token, status) in [("nobody's", 401), (READER, 403), (FOREIGNER, 404)] {
        assert_eq!(door.post(path, token, &done).await.status, status, "{token}");
    }
    // The reply is out before it is journalled that it is.
    let settled = eventually("it is settled", async || {
        Some(door.post(path, ALL, &done).await).filter(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(settled.body, json!({"call": call, "state": "done"}));
    let event = told(2).await;
    assert_eq!(event["type"], "agentkit.job.effect_settled");
    assert_eq!((&event["data"]["effect"]["state"], &event["data"]["by"]), (&json!("done"), &json!("all")));
    let again = door.post(path, ALL, &done).await;
    assert_eq!((again.status, &again.body["already"]), (200, &json!(true)));
    let otherwise = door.post(path, ALL, &json!({"call": call, "as": "not_done"})).await;
    assert_eq!((otherwise.status, otherwise.code()), (409, "not_settled"));
    assert_eq!(caller.requests("/told").len(), 3, "it is told once");
}
