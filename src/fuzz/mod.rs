//! Everything that reads what others have written, given broken input: nothing panics or takes for ever, what is taken is
//! read back the same, and what is refused is refused in words. `FUZZ_SECONDS=600 cargo test --lib fuzz` goes on for so long
//! with each kind.

mod mutation;
mod peers;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use self::mutation::{Verdict, fuzz, fuzz_a_little};
use crate::agent::links::{AnswerRules, LinkPolicy};
use crate::agent::result::{framed, framed_error, render};
use crate::agent::run::Run;
use crate::approval::ApprovalConfig;
use crate::approval::link::{Bound, Links};
use crate::decision::{DecisionBody, approval_id, job_of};
use crate::job::{Envelope, Job, JobId};
use crate::parking::Parked;
use crate::producers::Producers;
use crate::queue::Message;
use crate::schedule::digest::Digest;
use crate::schema::Schema;
use crate::text::{visible, visible_value};
use crate::webhook::{Secrets, Signed};
use crate::worker::control::change::Change;
use crate::worker::fairness::SharedBy;
use crate::worker::message::dead_letter::is_from_the_broker;
use crate::worker::message::fresh::{as_sent, deliveries, fresh, handed_on};
use crate::worker::message::sender::Senders;
use crate::worker::message::signature::HeaderKey;
use crate::worker::message::version::{is_newer, left};
use crate::worker::message::wake_up::{Reason, WakeUp, WitnessedCall};
use crate::worker::places::flow::Flow;
use crate::worker::resources::parked_index;

/// Largest job in bytes.
const LARGEST: usize = 1 << 20;

fn jobs() -> [Value; 3] {
    [
        json!({"identifier": "user_123", "connections": ["gmail"], "prompt": "hello"}),
        json!({"id": "order-1", "identifier": "user_123", "connections": ["gmail", "googlecalendar"], "prompt": "p",
            "instructions": "i", "model": "gpt-4o", "tools": {"allow": ["gmail_fetch_mails"], "deny": ["x"], "effects": "read"},
            "output_schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a+$"}},
                "$defs": {"a": {"allOf": [{"items": {"$ref": "#/$defs/a"}}]}}},
            "limits": {"steps": 20, "tool_calls": 60, "tokens": 200_000, "seconds": 600},
            "authorization": {"wait_seconds": 86400},
            "approval": {"writes": "untrusted", "tools": ["gmail_send_*"], "recipients": ["*@example.com"],
                "wait_seconds": 86400, "on_expiry": "deny", "edit": true},
            "priority": "high", "tenant": "acme",
            "progress": false, "metadata": {"any": ["json", {"deep": null}]}, "reply_to": "answers", "correlation_id": "c-1"}),
        json!({"id": "digest:morning:user_123:2026-03-30T08:00:00", "identifier": "user_123", "connections": ["gmail"],
            "prompt": "p", "metadata": {"agentkit.digest": {"digest": "morning", "recipient": "user_123",
                "occurrence": "2026-03-30T06:00:00Z", "local": "2026-03-30T08:00:00", "timezone": "Europe/Berlin"}}}),
    ]
}

fn read_job(bytes: &[u8]) -> Result<Job, String> {
    let message = Message { body: bytes.to_vec().into(), ..Message::default() };
    let flow = Flow::of(&message, SharedBy::Tenant, LARGEST);
    assert!(flow.key.len() < 500, "a key is bounded");
    let job = Job::from_slice(bytes, &Envelope::default(), LARGEST).map_err(|invalid| {
        assert!(!invalid.problems.is_empty());
        invalid.to_string()
    })?;
    let message = Message::of_job(&job, None);
    let again = Job::from_slice(&message.body, &message.envelope(), 2 * LARGEST).unwrap();
    assert_eq!((&again, again.digest()), (&job, job.digest()), "as it is published, it is read the same");
    let kept: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
    assert_eq!(kept, job, "as it is journalled, it is read the same");
    drop(crate::digest_store::Fired::of(&job));
    Ok(job)
}

#[test]
fn jobs_are_read_or_refused() {
    let refused = fuzz(jobs().map(|job| job.to_string()), |bytes| Verdict::of(read_job(bytes)));
    assert!(refused > 0);
}

#[test]
fn headers_and_properties_of_messages_are_read() {
    let key = HeaderKey::of(&"a secret".to_owned().into());
    let call = Some(WitnessedCall { id: "call_1".into(), tool: "gmail_send_message".into() });
    let due = "2026-11-22T08:00:00Z".parse().ok();
    let wake_up = WakeUp { generation: 3, effects: true, entries: Some(7), due, call, ..WakeUp::new(Reason::Continue) };
    let mut stamped = wake_up.stamp(&Message { body: jobs()[0].to_string().into(), ..Message::default() });
    key.sign(&mut stamped);
    let mut headers = stamped.properties.headers.clone();
    for (name, text) in [
        ("x-death", r#"[{"reason": "delivery_limit", "count": 1, "time": "2026-11-22T08:00:00Z"}]"#),
        ("x-delivery-count", "3"),
        ("x-agentkit-handed-on", "redelivered"),
        ("x-agentkit-deliveries", "4"),
        ("x-agentkit-needs", "1"),
        ("x-agentkit-producer", "billing"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        headers.insert(name.to_owned(), text.to_owned());
    }
    let sample = json!({"headers": headers, "message_id": "order-1", "reply_to": "answers", "user_id": "billing"});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "[producers.billing]\namqp_users = [\"billing\"]\n").unwrap();
    let producers = Producers::load(file.path()).unwrap();
    let senders = [Senders::default(), Senders { producers, user: Some("worker".to_owned()) }];
    fuzz([sample.to_string()], |bytes| {
        let Ok(Value::Object(said)) = serde_json::from_slice(bytes) else { return Verdict::Refused("no JSON".into()) };
        let text = |name: &str| said.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut message = Message { body: jobs()[0].to_string().into(), ..Message::default() };
        let headers = said.get("headers").and_then(Value::as_object).into_iter().flatten();
        message.properties.headers = headers
            .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        message.properties.message_id = text("message_id");
        message.properties.reply_to = text("reply_to");
        message.properties.user_id = text("user_id");
        for senders in &senders {
            let mut read = senders.believed(message.clone(), &key);
            key.examine(&mut read);
            let said = WakeUp::of(&read);
            if let Some(said) = &said {
                assert_eq!(WakeUp::of(&said.stamp(&read)).as_ref(), Some(said), "a copy says the same");
                drop(said.founded_on(None));
                black_box(said.remaining(Timestamp::UNIX_EPOCH));
            }
            for mut copy in [fresh(&read), as_sent(&read), handed_on(&read, true), left(&read)] {
                key.sign(&mut copy);
                key.examine(&mut copy);
                black_box(senders.of(&copy));
                let bytes: usize = copy.properties.headers.iter().map(|(name, text)| name.len() + text.len()).sum();
                assert!(bytes < 100 << 10, "all headers fit a frame: {bytes}");
            }
            black_box((is_newer(&read), deliveries(&read), is_from_the_broker(&read)));
            drop(Job::from_slice(&read.body, &read.envelope(), LARGEST));
        }
        Verdict::Taken
    });
}

#[test]
fn decisions_are_read_or_refused_and_approvals_name_their_jobs() {
    let approval = approval_id(&JobId::new("order-1").unwrap(), "c1");
    let samples = ["approve", "edit"].map(|decision| {
        let arguments = if decision == "edit" { json!({"to": "sam@example.com"}) } else { Value::Null };
        json!({"job": "order-1", "approval": approval, "arguments_digest": "sha256:00", "decision": decision,
            "arguments": arguments, "reason": "so", "by": "ann"})
        .to_string()
    });
    let refused = fuzz(samples, |bytes| {
        Verdict::of(DecisionBody::read(bytes).and_then(DecisionBody::complete).map(|decision| {
            assert!(!decision.job.as_str().is_empty() && !decision.job.as_str().contains('\0'));
        }))
    });
    assert!(refused > 0);
    fuzz([approval.clone()], |bytes| {
        let id = String::from_utf8_lossy(bytes);
        let Some(job) = job_of(&id) else { return Verdict::Refused("no approval".to_owned()) };
        assert_eq!(job_of(&approval_id(&job, "c1")), Some(job));
        Verdict::Taken
    });
}

#[test]
fn tokens_of_links_are_good_for_nothing_else() {
    let config = ApprovalConfig {
        link_key: "b25lb25lb25lb25lb25lb25lb25lb25lb25lb25lb24=".into(),
        public_url: "https://approvals.example.com".to_owned(),
        ..ApprovalConfig::default()
    };
    let links = Links::new(&config).unwrap();
    let approval = approval_id(&JobId::new("order-1").unwrap(), "c1");
    let bound = Bound { approval: &approval, arguments_digest: "sha256:00", until: Timestamp::UNIX_EPOCH };
    let link = links.link(&bound).unwrap();
    let token = link.split("t=").nth(1).unwrap();
    let refused = fuzz([token], |bytes| {
        let said = String::from_utf8_lossy(bytes);
        let genuine = links.is_genuine(&said, &bound);
        assert_eq!(genuine, said == token, "{said}");
        if genuine { Verdict::Taken } else { Verdict::Refused("not genuine".to_owned()) }
    });
    assert!(refused > 0);
}

#[test]
fn webhooks_are_believed_as_they_were_signed_alone() {
    // As in the tests of `webhook`, by OpenSSL.
    let secrets = Secrets::parse(&"whsec_b25lIGtleSBmb3IgdGVzdHM=".into()).unwrap();
    let now = "2026-11-22T08:00:00Z".parse().unwrap();
    let event =
        json!({"type": "connected_account.connected", "data": {"identifier": "user_123", "connection_name": "gmail"}});
    let signatures = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= v1, v2,x v1,not base64";
    let sample = json!({"id": "msg_1", "timestamp": "1795334400", "signature": signatures, "body": event.to_string()});
    fuzz([sample.to_string()], |bytes| {
        let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default();
        let (id, timestamp, signature) = (text("id"), text("timestamp"), text("signature"));
        for body in [text("body").as_bytes(), bytes] {
            assert!(secrets.verify(&Signed { id, timestamp, signature, body }, now).is_err());
            drop(Change::read(body));
        }
        Verdict::Taken
    });
    fuzz([event.to_string()], |bytes| match Change::read(bytes) {
        Some(_) => Verdict::Taken,
        None => Verdict::Refused("it means nothing to us".to_owned()),
    });
    fuzz(["whsec_b25lIGtleSBmb3IgdGVzdHM=,whsec_YW5vdGhlciBrZXkgZm9yIHRlc3Rz"], |bytes| {
        Verdict::of(Secrets::parse(&String::from_utf8_lossy(bytes).into_owned().into()).map(drop))
    });
}

#[test]
fn files_of_operators_are_read_or_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let producers = "deciders = [\"ann\"]\n[producers.billing]\namqp_users = [\"billing\"]\ntokens = [\"t\"]\n\
                     identifiers = [\"acme_*\"]\nconnections = [\"gmail\"]\nmodels = [\"gpt-4o\"]\neffects = \"read\"\n\
                     reply_to = [\"billing.*\"]\n[producers.shipping]\namqp_users = [\"shipping\"]\n";
    let refused = fuzz([producers], |bytes| {
        std::fs::write(&file, bytes).unwrap();
        Verdict::of(Producers::load(file.path()).map_err(|problems| problems.join("\n")))
    });
    assert!(refused > 0);
    let digests = [include_str!("../../config/digests/daily-email-summary.toml")];
    let refused = fuzz(digests, |bytes| {
        Verdict::of(Digest::parse(&String::from_utf8_lossy(bytes), Path::new("config/digests/daily.toml")))
    });
    assert!(refused > 0);
}

#[test]
fn schemas_and_what_they_are_for_are_checked_within_bounds() {
    let samples = [
        json!([jobs()[1]["output_schema"], {"a": "aaa"}]),
        json!([{"type": "array", "items": {"anyOf": [{"type": "integer", "multipleOf": 3}, {"enum": ["x"]}]},
            "uniqueItems": true, "maxItems": 10}, [3, "x", 6]]),
        json!([{"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}, "unevaluatedProperties": false}},
            "$ref": "#/$defs/n", "if": {"required": ["n"]}, "then": {"minProperties": 1}}, {"n": {"n": {}}}]),
    ];
    fuzz(samples.map(|sample| sample.to_string()), |bytes| {
        let Ok(Value::Array(both)) = serde_json::from_slice(bytes) else { return Verdict::Refused("no JSON".into()) };
        let [schema, value] = &both[..] else { return Verdict::Refused("not two".into()) };
        match Schema::compile(schema) {
            Ok(schema) => {
                let problems = schema.problems(value);
                assert!(problems.iter().all(|problem| !problem.is_empty()) && problems.len() < 100);
                black_box(schema.is_quick(value));
                Verdict::Taken
            }
            Err(error) => Verdict::of(Err::<(), _>(error)),
        }
    });
}

#[test]
fn words_and_links_of_strangers_come_out_bounded() {
    let samples = [
        "See [the report](https://example.com/a?b=c \"title\") and ![x](http://evil.example/p.png), <https://a.org>.",
        "[a]: https://a.org\n\n<a href='https://a.org'>x</a> `code [x](y)` **bold** &lt; www.example.com/x",
        r#"{"html": "<img src=x onerror=alert(1)>", "rows": [[1, 2.5, null], {"a": "https://a.org"}], "n": "x"}"#,
    ];
    let rules =
        [LinkPolicy::Mark, LinkPolicy::Strip].map(|links| AnswerRules { links, hosts: vec!["example.com".to_owned()] });
    fuzz(samples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let value: Value = serde_json::from_slice(bytes).unwrap_or_else(|_| text.as_ref().into());
        for rules in &rules {
            let written = rules.text(text.clone().into_owned());
            assert!(written.len() <= 40 * text.len() + 1000, "{} became {}", text.len(), written.len());
            drop(rules.value(value.clone()));
        }
        drop((visible(&text), visible_value(value.clone())));
        for most in [16, 1000, 16 << 10] {
            let rendered = render(&value, most);
            assert!(rendered.len() <= most + 1000, "{most}: {}", rendered.len());
            for framed in [framed(&rendered), framed_error(&text)] {
                let frame: BTreeMap<String, &RawValue> = serde_json::from_str(&framed).unwrap();
                assert_eq!(frame.len(), 1, "nothing in it ends the frame");
            }
        }
        Verdict::Taken
    });
}

#[test]
fn journals_are_replayed_or_refused() {
    let now = "2026-11-22T09:00:00Z".parse().unwrap();
    let samples = [
        include_str!("../../tests/data/journal/v1-cut.ndjson"),
        include_str!("../../tests/data/journal/v1-finished.ndjson"),
        include_str!("../../tests/data/journal/v2-put-aside.ndjson"),
        include_str!("../../tests/data/journal/v3-end-lost.ndjson"),
        include_str!("../../tests/data/journal/v4-approvals.ndjson"),
    ];
    let replay = |bytes: &[u8]| {
        let lines: Vec<String> = String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect();
        let run = Run::replay(&lines)?;
        if let Some(run) = &run {
            assert_eq!(Run::replay(&lines).unwrap().as_ref(), Some(run));
            drop((run.next(now), run.doing(now)));
            if let Some(remains) = run.remains(now) {
                let lines: Vec<String> = remains.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
                let left = Run::replay(&lines).unwrap().unwrap();
                assert_eq!((left.job().id(), left.reply()), (run.job().id(), run.reply()));
            }
        }
        Ok::<_, crate::agent::run::BadJournal>(())
    };
    let refused = fuzz(samples, |bytes| Verdict::of(replay(bytes)));
    assert!(refused > 0);
    // Line by line, so that what stands in one is changed as JSON.
    for sample in samples {
        let lines: Vec<&str> = sample.lines().collect();
        for at in (0..lines.len()).step_by(9) {
            fuzz_line(&lines, at, &replay);
        }
    }
}

fn fuzz_line<E: ToString>(lines: &[&str], at: usize, replay: &impl Fn(&[u8]) -> Result<(), E>) {
    let (before, after) = (lines[..at].join("\n"), lines[at + 1..].join("\n"));
    fuzz_a_little([lines[at]], |line| {
        let line = String::from_utf8_lossy(line).replace('\n', " ");
        let all = [before.as_str(), &line, &after].join("\n");
        Verdict::of(replay(all.trim().as_bytes()))
    });
}

#[test]
fn parked_runs_are_read_and_wake_their_own_job() {
    let sample = include_str!("../../tests/data/parked/0.1.0.json");
    let samples: Vec<String> = match serde_json::from_str(sample).unwrap() {
        Value::Array(all) => all.iter().map(ToString::to_string).collect(),
        one => vec![one.to_string()],
    };
    let job = Arc::new(read_job(jobs()[1].to_string().as_bytes()).unwrap());
    fuzz(samples, |bytes| match serde_json::from_slice::<Parked>(bytes) {
        Ok(parked) => {
            let message = parked_index::message(&parked, &job);
            drop(message.map(|message| Job::from_slice(&message.body, &message.envelope(), LARGEST)));
            Verdict::Taken
        }
        Err(error) => Verdict::of(Err::<(), _>(error)),
    });
}
