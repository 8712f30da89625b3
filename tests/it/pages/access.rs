//! Who sees what, and who can do what.

use serde_json::json;

use super::{ALL, FOREIGNER, HOSTILE, Pages, READER, header, part, read};
use crate::support::eventually;

const PAGES: [&str; 6] = ["/", "/inbox", "/jobs", "/job?id=done-1", "/digests", "/doctor"];
const ACTIONS: [&str; 7] = [
    "/decide?approval=x",
    "/cancel?id=waits-1",
    "/wake?id=waits-1",
    "/digest?name=new-year",
    "/doctor",
    "/replay?id=no%20job",
    "/settle?id=done-1&call=x",
];

#[tokio::test]
async fn nobody_sees_or_does_anything_without_a_token_and_everybody_what_theirs_is_good_for() {
    let pages = Pages::start().await;
    nobody_sees_anything_without_a_token(&pages).await;
    a_token_shows_what_it_is_good_for(&pages).await;
    a_session_is_begun_by_a_form_of_ours_and_acts_by_forms_of_ours(&pages).await;
    what_people_press_is_done(&pages).await;
    pages.worker.stop().await;
}

async fn nobody_sees_anything_without_a_token(pages: &Pages<'_>) {
    let wrong = format!("{ALL}!");
    for path in PAGES {
        for request in [
            pages.get(path),
            pages.get(path).bearer_auth(&wrong),
            pages.get(path).header("cookie", "agentkit_session=a.b.c.d"),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401, "{path}");
            let policy = header(&answer, "content-security-policy");
            assert!(
                policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
                "{policy}"
            );
            assert_eq!(header(&answer, "x-frame-options"), "DENY");
            assert_eq!(header(&answer, "cache-control"), "no-store");
            let text = answer.text().await.unwrap();
            assert!(
                text.contains("type=\"password\"") && !text.contains("user_123") && !text.contains("new-year"),
                "{text}"
            );
        }
    }
    for path in ACTIONS {
        let form = [("decision", "approve"), ("arguments_digest", "x"), ("action", "pause"), ("form_token", "")];
        let (status, _) = read(pages.post(path, &form)).await;
        assert_eq!(status, 401, "{path}");
    }
    for (file, kind) in
        [("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/approvals/page.css", "text/css")]
    {
        let answer = pages.get(file).send().await.unwrap();
        assert!(answer.status() == 200 && header(&answer, "content-type").starts_with(kind), "{file}");
    }
}

async fn a_token_shows_what_it_is_good_for(pages: &Pages<'_>) {
    for path in PAGES {
        let (status, text) = read(pages.get(path).bearer_auth(ALL)).await;
        assert_eq!(status, 200, "{path}: {text}");
        assert!(!text.contains("<script>") && !text.contains("style=") && !text.contains(" onclick"), "{path}: {text}");
    }
    let inbox = read(pages.get("/inbox").bearer_auth(ALL)).await.1;
    assert!(
        inbox.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;") && inbox.contains("a secret body"),
        "{inbox}"
    );
    assert!(inbox.contains("<strong>1</strong> in the queue"), "{inbox}");
    let letters = read(pages.get("/inbox?letters=1").bearer_auth(ALL)).await.1;
    assert!(letters.contains("invalid_job") || letters.contains("no job"), "{letters}");
    let run = read(pages.get("/job?id=done-1").bearer_auth(ALL)).await.1;
    for shown in ["completed", "gmail_fetch_mails", "model replied", "tokens in", "prompt: Fetch my last 5"] {
        assert!(run.contains(shown), "{shown}: {run}");
    }

    for (search, found) in [
        ("", true),
        ("?state=completed&identifier=user_123&since=1h", true),
        ("?state=waiting", false),
        ("?identifier=somebody", false),
        ("?state=asleep", false),
        ("?cursor=%00", false),
    ] {
        let page = read(pages.get(&format!("/jobs{search}")).bearer_auth(ALL)).await.1;
        assert_eq!(page.contains("job?id=done-1"), found, "{search}: {page}");
    }
    assert!(read(pages.get("/jobs?state=waiting").bearer_auth(READER)).await.1.contains("job?id=waits-1"));
    let foreign = read(pages.get("/jobs").bearer_auth(FOREIGNER)).await.1;
    assert!(foreign.contains("No such run is known.") && !foreign.contains("done-1"), "{foreign}");

    let (_, run) = read(pages.get("/job?id=done-1").bearer_auth(READER)).await;
    assert!(run.contains("gmail_fetch_mails") && !run.contains("prompt: ") && !run.contains("Cancel"), "{run}");
    let (_, inbox) = read(pages.get("/inbox").bearer_auth(READER)).await;
    assert!(
        inbox.contains("gmail_send_message") && !inbox.contains("a secret body") && !inbox.contains("Approve"),
        "{inbox}"
    );
    assert_eq!(read(pages.get("/doctor").bearer_auth(READER)).await.0, 403);
    for path in ACTIONS {
        let form = [("decision", "approve"), ("arguments_digest", "x"), ("action", "pause"), ("form_token", "")];
        assert_eq!(read(pages.post(path, &form).bearer_auth(READER)).await.0, 403, "{path}");
    }

    let (status, run) = read(pages.get("/job?id=done-1").bearer_auth(FOREIGNER)).await;
    let (unknown, none) = read(pages.get("/job?id=done-0").bearer_auth(FOREIGNER)).await;
    assert_eq!((status, unknown), (404, 404));
    assert_eq!(
        run.replace("done-1", "done-0"),
        none,
        "whose run it is, or that there is one, is nobody else's business"
    );
    let (_, inbox) = read(pages.get("/inbox").bearer_auth(FOREIGNER)).await;
    assert!(inbox.contains("No call waits for a person.") && !inbox.contains("gmail_send_message"), "{inbox}");
    let (_, letters) = read(pages.get("/inbox?letters=1").bearer_auth(FOREIGNER)).await;
    assert!(!letters.contains("no job"), "{letters}");
    assert_eq!(read(pages.get("/digests").bearer_auth(FOREIGNER)).await.0, 403);
    let waiting = part(&read(pages.get("/inbox").bearer_auth(ALL)).await.1, "decide?approval=", "\"").to_owned();
    let form = [("decision", "approve"), ("arguments_digest", "x")];
    assert_eq!(read(pages.post(&format!("/decide?approval={waiting}"), &form).bearer_auth(FOREIGNER)).await.0, 404);
    for path in ["/cancel?id=waits-1", "/wake?id=waits-1"] {
        assert_eq!(read(pages.post(path, &[]).bearer_auth(FOREIGNER)).await.0, 404, "{path}");
    }
    for hostile in ["/job?id=", "/job?id=%00", "/job?id=%FF", "/job", &format!("/job?id={}", "x".repeat(5000))] {
        let status = read(pages.get(hostile).bearer_auth(ALL)).await.0;
        assert!((400..405).contains(&status), "{hostile}: {status}");
    }
}

async fn a_session_is_begun_by_a_form_of_ours_and_acts_by_forms_of_ours(pages: &Pages<'_>) {
    let foreign = pages.post("/sign-in", &[("token", ALL)]).header("origin", "http://elsewhere");
    let without = pages.client.post(format!("{}/sign-in", pages.worker.url)).form(&[("token", ALL)]);
    for request in [foreign, without] {
        assert_eq!(request.send().await.unwrap().status(), 403);
    }
    let wrong = pages.post("/sign-in", &[("token", "wrong")]).send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), header(&wrong, "set-cookie")), (401, String::new()));
    let answer = pages.post("/sign-in", &[("token", ALL)]).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "location").as_str()), (303, "./"));
    let set = header(&answer, "set-cookie");
    assert!(set.contains("; HttpOnly; SameSite=Strict") && !set.contains(ALL), "{set}");
    let cookie = set.split(';').next().unwrap().to_owned();
    let (status, page) = read(pages.get("/").header("cookie", &cookie)).await;
    assert_eq!(status, 200);
    let form_token = part(&page, "name=\"form_token\" value=\"", "\"").to_owned();

    // A cookie is nothing to the API, and nothing to a form that is not ours.
    let (status, _) = read(pages.post("/v1/approvals/x", &[]).header("cookie", &cookie)).await;
    assert_eq!(status, 401);
    let pause = |token: &str| {
        pages.post("/digest?name=new-year", &[("action", "pause"), ("form_token", token)]).header("cookie", &cookie)
    };
    for request in [pause(""), pause("x"), pause(&form_token).header("sec-fetch-site", "cross-site")] {
        assert_eq!(read(request).await.0, 403);
    }
    let elsewhere = pages
        .client
        .post(format!("{}/digest?name=new-year", pages.worker.url))
        .form(&[("action", "pause"), ("form_token", &form_token)]);
    assert_eq!(read(elsewhere.header("cookie", &cookie).header("origin", "null")).await.0, 403);
    assert!(!read(pages.get("/digests").bearer_auth(ALL)).await.1.contains("not while it is paused"));
    let answer = pause(&form_token).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "location").as_str()), (303, "digests?said=paused"));
    assert!(read(pages.get("/digests?said=paused").bearer_auth(ALL)).await.1.contains("not while it is paused"));

    let out = pages.post("/sign-out", &[("form_token", &form_token)]).header("cookie", &cookie).send().await.unwrap();
    assert!(header(&out, "set-cookie").contains("Max-Age=0"));
}

async fn what_people_press_is_done(pages: &Pages<'_>) {
    let act = |name: &'static str, action: &'static str| {
        pages.post(&format!("/digest?name={name}"), &[("action", action)]).bearer_auth(ALL)
    };
    assert_eq!(read(act("new-year", "resume")).await.0, 303);
    assert_eq!(read(act("new-year", "dance")).await.0, 400);
    assert_eq!(read(act("nothing", "run")).await.0, 404);
    assert_eq!(read(act("new-year", "run")).await.0, 303);
    pages.end_of("digest:new-year:").await;

    let inbox = read(pages.get("/inbox").bearer_auth(ALL)).await.1;
    let card = inbox.split("<article").find(|card| card.contains("waits-1")).unwrap();
    let (approval, digest) =
        (part(card, "decide?approval=", "\""), part(card, "name=\"arguments_digest\" value=\"", "\""));
    let decide = |decision: &str, digest: &str| {
        pages
            .post(&format!("/decide?approval={approval}"), &[("decision", decision), ("arguments_digest", digest)])
            .bearer_auth(ALL)
    };
    assert_eq!(read(decide("perhaps", digest)).await.0, 400);
    assert_eq!(read(decide("approve", "sha256:other")).await.0, 409);
    assert_eq!(read(decide("deny", digest)).await.0, 303);
    assert_eq!(read(decide("deny", digest)).await.0, 303, "the same again");
    assert_eq!(read(decide("approve", digest)).await.0, 409, "the first decision stands");
    let reply = pages.end_of("waits-1").await;
    assert_eq!(reply["data"]["approvals"][0]["by"], "operator", "{reply:#}");
    assert_eq!(reply["data"]["approvals"][0]["door"], "http", "{reply:#}");
    assert_eq!(pages.service.mails().await, 0);

    what_is_in_doubt_is_settled(pages).await;
    let second = "waits%2F2%20%C3%BC%3F%26%23%25";
    assert_eq!(read(pages.post(&format!("/wake?id={second}"), &[]).bearer_auth(ALL)).await.0, 303);
    let answer = pages.post(&format!("/cancel?id={second}"), &[]).bearer_auth(ALL).send().await.unwrap();
    assert_eq!(header(&answer, "location"), format!("job?id={second}&said=cancelled"));
    eventually("the run is cancelled", || async {
        pages.state("waits/2 ü?&#%").await.contains("failed/cancelled").then_some(())
    })
    .await;
    assert_eq!(read(pages.post("/replay?id=nothing", &[]).bearer_auth(ALL)).await.0, 404);
    assert_eq!(read(pages.post("/replay?id=no%20job", &[]).bearer_auth(FOREIGNER)).await.0, 404);
    assert_eq!(read(pages.post("/replay?id=no%20job", &[]).bearer_auth(ALL)).await.0, 303);
    let given_up = "agentkit_dead_letters_total{reason=\"invalid_job\"}";
    eventually("it is given up again", || async { (pages.worker.metric(given_up).await == Some(2.0)).then_some(()) })
        .await;
    let (_, doctor) = read(pages.post("/doctor", &[]).bearer_auth(ALL)).await;
    assert!(doctor.contains("RabbitMQ") && doctor.contains("Redis") && doctor.contains(" ok."), "{doctor}");
    assert!(!doctor.contains("guest:guest") && !doctor.contains(HOSTILE), "{doctor}");
}

/// A write that left and got no answer: nobody knows of it but whoever looks at the other side.
async fn what_is_in_doubt_is_settled(pages: &Pages<'_>) {
    let mail = json!({"to": "sam@example.com", "subject": "s", "body": "b"});
    let prompt = format!("call gmail_send_message with {mail}");
    let job = json!({"id": "doubt-1", "identifier": "user_123", "connections": ["gmail"], "prompt": prompt});
    pages.service.send_job("doubt-1", job).await;
    let inbox = eventually("the run waits", || async {
        Some(read(pages.get("/inbox").bearer_auth(ALL)).await.1).filter(|page| page.contains("doubt-1"))
    })
    .await;
    pages.service.peer.fault(json!({"on": "execute", "kind": "commit_then_reset"})).await;
    let card = inbox.split("<article").find(|card| card.contains("doubt-1")).unwrap();
    let (approval, digest) =
        (part(card, "decide?approval=", "\""), part(card, "name=\"arguments_digest\" value=\"", "\""));
    let form = [("decision", "approve"), ("arguments_digest", digest)];
    assert_eq!(read(pages.post(&format!("/decide?approval={approval}"), &form).bearer_auth(ALL)).await.0, 303);
    let reply = pages.end_of("doubt-1").await;
    assert_eq!(reply["data"]["effects"][0]["state"], "unknown", "{reply:#}");
    let address = eventually("the effect can be settled", || async {
        let page = read(pages.get("/job?id=doubt-1").bearer_auth(ALL)).await.1;
        page.contains("It was not done").then(|| part(&page, "action=\"settle?", "\"").replace("&amp;", "&"))
    })
    .await;
    let settle = |settlement: &'static str, token: &str| {
        pages.post(&format!("/settle?{address}"), &[("settlement", settlement)]).bearer_auth(token)
    };
    assert_eq!(read(settle("perhaps", ALL)).await.0, 400);
    assert_eq!(read(settle("done", FOREIGNER)).await.0, 404);
    assert_eq!(read(settle("not_done", ALL)).await.0, 303);
    assert_eq!(read(settle("not_done", ALL)).await.0, 303, "the same again");
    assert_eq!(read(settle("done", ALL)).await.0, 409, "what was said first stands");
    let mut told = pages.service.reply().await;
    while told["type"] != "agentkit.job.effect_settled" {
        told = pages.service.reply().await;
    }
    assert_eq!(told["data"]["by"], "operator", "{told:#}");
    let page = read(pages.get("/job?id=doubt-1").bearer_auth(ALL)).await.1;
    assert!(!page.contains("It was not done") && page.contains("effect settled"), "{page}");
}
