//! Jobs that are followed.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::door::{ALL, Door, FOREIGNER, READER, job, send_mail};
use crate::support::{shortly, soon};

/// An event: its id, its kind, its data.
type Told = (u64, String, Value);

/// A stream of events.
struct Events {
    answer: Response,
    rest: String,
}

impl Events {
    async fn of(door: &Door, path: &str, after: Option<u64>) -> Self {
        let mut request = door.request(Method::GET, path, READER);
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let answer = soon("the stream", request.send()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        door.saw("get", "/v1/jobs/{id}/events", 200);
        Self { answer, rest: String::new() }
    }

    /// The next event, `None` at the end of the stream.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some((event, _)) = self.rest.split_once("\n\n") {
                let end = event.len() + 2;
                let line = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned())
                };
                let told = line("id:").map(|id| {
                    (
                        id.parse().unwrap(),
                        line("event:").unwrap(),
                        serde_json::from_str(&line("data:").unwrap()).unwrap(),
                    )
                });
                self.rest.drain(..end);
                // Else it is there so that nobody takes the connection for dead.
                if told.is_some() {
                    return told;
                }
                continue;
            }
            let piece = soon("an event", self.answer.chunk()).await.unwrap()?;
            self.rest.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn until(&mut self, kind: &str) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            all.push(self.next().await.unwrap_or_else(|| panic!("no {kind} after {all:?}")));
            if all.last().unwrap().1 == kind {
                return all;
            }
        }
    }

    async fn rest(mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Some(told) = self.next().await {
            all.push(told);
        }
        all
    }
}

/// A job is followed from before its first attempt to its reply; whoever is cut off goes on behind what they saw.
pub(super) async fn a_job_is_followed_to_its_reply_and_none_of_it_is_told_twice(door: &Door) {
    assert_eq!(door.post("/v1/jobs", ALL, &job("followed", &send_mail())).await.status, 202);
    let path = "/v1/jobs/followed/events";
    let mut stream = Events::of(door, path, None).await;
    let mut all = stream.until("waiting").await;
    drop(stream);
    let asked = all.iter().find(|told| told.1 == "approval_required").unwrap().2["approvals"][0].clone();
    assert_eq!(asked["tool"], "gmail_send_message");
    let rest = Events::of(door, path, Some(all.last().unwrap().0)).await;
    let decision = json!({"arguments_digest": asked["arguments_digest"], "decision": "approve"});
    let approval = format!("/v1/approvals/{}", asked["id"].as_str().unwrap());
    assert_eq!(door.post(&approval, ALL, &decision).await.status, 200);
    all.extend(rest.rest().await);
    let kinds: Vec<&str> = all.iter().map(|told| told.1.as_str()).collect();
    for kind in ["started", "running", "tools", "step", "approval_decided", "tool_call", "agentkit.job.completed"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    assert!(all.windows(2).all(|two| two[0].0 < two[1].0), "{kinds:?}");
    let calls: Vec<&Value> = all.iter().filter(|told| told.1 == "tool_call").map(|told| &told.2["state"]).collect();
    assert_eq!(calls, [&json!("started"), &json!("done")]);
    let (last, kind, reply) = all.last().unwrap();
    assert_eq!((kind.as_str(), reply), ("agentkit.job.completed", &door.end("followed").await["reply"]));
    assert!(all.iter().all(|told| told.0 == *last || !told.2.to_string().contains("sam@example.com")), "no arguments");
    assert_eq!(Events::of(door, path, None).await.rest().await, all, "afterwards the same");
    let seen = door.request(Method::GET, path, READER).header("last-event-id", last.to_string());
    assert_eq!(door.send(Method::GET, path, seen).await.status, 204);
    let beyond = Events::of(door, path, Some(last + 100)).await;
    assert_eq!(beyond.rest().await, all, "of a journal that is another one all is told");
    for (token, path, status) in [
        ("nobody's token", path, 401),
        (super::door::NOTHING, path, 403),
        (FOREIGNER, path, 404),
        (ALL, "/v1/jobs/nothing/events", 404),
    ] {
        assert_eq!(door.get(path, token).await.status, status, "{path}");
    }
    let unreadable = door.request(Method::GET, path, READER).header("last-event-id", "the last");
    assert_eq!(door.send(Method::GET, path, unreadable).await.status, 400);
}

/// As many follow as the configuration lets, and whoever goes gives their place to others.
pub(super) async fn places_are_bounded_and_free_when_whoever_follows_is_gone(door: &Door, places: usize) {
    assert_eq!(door.post("/v1/jobs", ALL, &job("crowded", &send_mail())).await.status, 202);
    let path = "/v1/jobs/crowded/events";
    let mut streams = Vec::new();
    for _ in 0..places {
        streams.push(Events::of(door, path, None).await);
    }
    let refused = door.get(path, READER).await;
    assert_eq!((refused.status, refused.code()), (503, "not_now"), "{refused:?}");
    assert!(refused.retry_after.is_some());
    assert_eq!(door.get("/v1/jobs/crowded?wait=60", READER).await.status, 200, "answered at once");
    drop(streams);
    shortly("a free place", async || {
        let answer = door.request(Method::GET, path, READER).send().await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
    assert_eq!(door.delete("/v1/jobs/crowded", ALL).await.status, 200);
}
