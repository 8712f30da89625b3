//! What each kept version left behind is gone on with by this one.

use jiff::Timestamp;
use serde_json::Value;

use super::recording::{HALF, PAUSED, define_digests, recipients};
use super::sample::{Sample, Waits};
use super::surroundings::{Surroundings, USER};
use crate::support::broker::Broker;
use crate::support::chat_model::prompt;
use crate::support::program::Program;
use crate::support::{eventually, webhooks};

/// Surroundings in which a version left this behind.
async fn left_behind(sample: &Sample, waits: Waits) -> Surroundings<'static> {
    println!("a sample of {}", sample.commit);
    let broker = Broker::shared().await;
    let surroundings = Surroundings::new(broker, broker.config()).await;
    sample.restore(&surroundings, waits).await;
    surroundings
}

fn completed(end: &Value) -> (&Value, &Value) {
    assert_eq!(end["type"], "agentkit.job.completed", "{end:#}");
    (&end["data"]["status"], &end["data"]["effects"][0]["state"])
}

#[tokio::test]
async fn jobs_that_lay_in_the_queue_or_in_a_wait_are_answered_once_and_write_once() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::AreOver).await;
        let worker = surroundings.program().worker().await;
        let jobs = ["queued", "wait-5s", "wait-30s", "wait-2m", "wait-10m", "wait-1h"];
        for job in jobs {
            assert_eq!(completed(&surroundings.end(job).await), (&"completed".into(), &"done".into()));
        }
        surroundings.idle(&worker).await;
        for job in jobs {
            assert_eq!(surroundings.ends(job).await.len(), 1, "{job} is answered once");
            assert_eq!(surroundings.mails().await.iter().filter(|subject| *subject == job).count(), 1, "{job}");
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn runs_that_were_cut_go_on_and_repeat_no_write() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::AreOver).await;
        let worker = surroundings.program().worker().await;
        let written = surroundings.end("cut-written").await;
        assert_eq!(completed(&written), (&"completed".into(), &"done".into()));
        let writing = surroundings.end("cut-writing").await;
        assert_eq!(completed(&writing), (&"completed_with_unknown_effects".into(), &"unknown".into()));
        // Its message was sent twice: the second one, which met the run at work, gets the same reply.
        let asked = eventually("both replies", || async {
            Some(surroundings.ends("cut-asked").await).filter(|ends| ends.len() == 2)
        })
        .await;
        assert_eq!(completed(&asked[0]), (&"completed".into(), &"done".into()));
        assert_eq!(asked[0], asked[1]);
        surroundings.idle(&worker).await;
        let mails = surroundings.mails().await;
        let count = |job| mails.iter().filter(|subject| *subject == job).count();
        assert_eq!((count("cut-asked"), count("cut-writing"), count("cut-written")), (1, 0, 0));
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_parked_run_is_woken_by_a_webhook() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::Begin).await;
        let worker = surroundings.program().worker().await;
        surroundings.peer.activate("gmail", "user_456").await;
        let event = webhooks::event("user_456", Some("gmail"));
        let address = worker.url.trim_start_matches("http://").parse().unwrap();
        let signed = webhooks::signed("msg", webhooks::now(), webhooks::KEY, &event);
        assert_eq!(webhooks::send(address, &signed, event).await, 204);
        completed(&surroundings.end("parked").await);
        worker.stop().await;
    }
}

#[tokio::test]
async fn parked_runs_go_on_when_they_are_looked_at_again_or_an_operator_wanted_it() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::AreOver).await;
        surroundings.peer.activate("gmail", "user_456").await;
        surroundings.peer.activate("gmail", "user_789").await;
        let worker = surroundings.program().worker().await;
        completed(&surroundings.end("parked").await);
        completed(&surroundings.end("woken").await);
        surroundings.idle(&worker).await;
        assert_eq!((surroundings.ends("parked").await.len(), surroundings.ends("woken").await.len()), (1, 1));
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_duplicate_of_a_sealed_job_gets_its_reply_again_and_runs_nothing() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::Begin).await;
        let first = surroundings.end("sealed").await;
        let worker = surroundings.program().worker().await;
        // The whole journal, and then what remains of it, where the version kept that.
        for forgotten in ["nothing", "agentkit:run:{sealed}"] {
            surroundings.redis.command(&["DEL", forgotten]);
            if surroundings.redis.command(&["KEYS", "agentkit:*:{sealed}"]).is_empty() {
                continue;
            }
            let before = surroundings.ends("sealed").await.len();
            surroundings.send("sealed", USER, "mail sealed").await;
            let again = eventually("the reply again", || async {
                let ends = surroundings.ends("sealed").await;
                (ends.len() > before).then_some(ends)
            })
            .await;
            assert!(again.iter().all(|reply| *reply == first), "{again:#?}");
        }
        let requests = surroundings.model.requests("/chat/completions");
        assert!(!requests.iter().any(|request| prompt(request) == "mail sealed"));
        assert!(!surroundings.mails().await.contains(&"sealed".to_owned()));
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_paused_digest_stays_paused_and_the_rest_of_one_that_was_half_fired_is_fired_once() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::Begin).await;
        let begun = sample.members(&format!("agentkit:digest:{{{HALF}}}:begun"))[0];
        let at = Timestamp::from_second(begun.rsplit('|').next().unwrap().parse().unwrap()).unwrap();
        let program: Program = surroundings.program();
        define_digests(&program, at);
        let worker = program.worker().await;
        for recipient in recipients() {
            let job = format!("digest:{HALF}:{recipient}:{}", at.strftime("%Y-%m-%dT%H:%M:%S"));
            let end = surroundings.end(&job).await;
            assert_eq!(end["data"]["error"]["code"], "connection_not_found", "{end:#}");
        }
        surroundings.idle(&worker).await;
        let fired = format!("agentkit_digest_fires_total{{digest=\"{PAUSED}\",result=\"published\"}}");
        assert!(worker.metric(&fired).await.unwrap_or_default() < 1.0);
        let list = program.run(&["digests", "list"]).await;
        assert!(list.stdout.contains(&format!("{PAUSED}  paused\n")), "{}", list.all());
        worker.stop().await;
    }
}

#[tokio::test]
async fn dead_letters_are_listed_and_one_that_is_replayed_goes_on_and_repeats_no_write() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::Begin).await;
        let program = surroundings.program();
        let given_up = surroundings.end("poison").await;
        assert_eq!(given_up["data"]["error"]["code"], "attempts_exhausted");
        let listed = program.run(&["dead", "list", "--json"]).await;
        let letters: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = letters.iter().map(|letter| (&letter["id"], &letter["reason"])).collect();
        assert_eq!(told, [(&"no-job".into(), &"invalid_job".into()), (&"poison".into(), &"poison".into())]);

        let replayed = eventually("the replay", || async {
            Some(program.run(&["dead", "replay", "poison"]).await).filter(|ran| ran.code == Some(0))
        })
        .await;
        assert!(replayed.stdout.contains("goes on where it had stopped"), "{}", replayed.all());
        let worker = program.worker().await;
        let end = eventually("another end", || async {
            surroundings.ends("poison").await.into_iter().find(|end| *end != given_up)
        })
        .await;
        assert_eq!(completed(&end), (&"completed".into(), &"done".into()));
        surroundings.idle(&worker).await;
        assert!(!surroundings.mails().await.contains(&"poison".to_owned()));
        assert_eq!(surroundings.broker.ready(&surroundings.amqp.names().dead()).await, 1);
        worker.stop().await;
    }
}

#[tokio::test]
async fn cached_tools_are_used_without_asking_for_them() {
    for sample in Sample::all() {
        let surroundings = left_behind(&sample, Waits::Begin).await;
        let worker = surroundings.program().worker().await;
        surroundings.send("new", USER, "mail new").await;
        assert_eq!(completed(&surroundings.end("new").await), (&"completed".into(), &"done".into()));
        assert_eq!(surroundings.peer.count("scoped").await, 0);
        worker.stop().await;
    }
}
