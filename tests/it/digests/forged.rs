//! Jobs with the ids of occurrences: a scheduler's are taken, and those of earlier versions that have fired them; nobody
//! else's, who would take a user's digest away.

use std::sync::Arc;

use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::clock::{ManualClock, SharedClock, SystemClock};
use agentkit_worker::internals::digest_store::memory::MemoryDigestStore;
use agentkit_worker::internals::digest_store::{DigestStore, METADATA};
use agentkit_worker::internals::queue::memory::MemoryQueue;
use agentkit_worker::internals::queue::{Destination, Message, Publisher};
use agentkit_worker::internals::schedule::{Digests, Scheduler};
use agentkit_worker::job::{Job, JobId};
use agentkit_worker::{App, Ended, Shutdown};
use serde_json::Value;

use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::schedulers::{CountingPublisher, digest, instant, scheduler};
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::{eventually, soon};

const DEFINITION: &str = "name = \"morning\"\ncron = \"0 9 * * *\"\ntimezone = \"UTC\"\nprompt = \"p\"\nconnections = [\"gmail\"]\n[recipients]\nlist = [{ identifier = \"a\" }, { identifier = \"b\" }]\n";

async fn reply(queue: &MemoryQueue) -> Value {
    let reply = eventually("a reply", || async { queue.take_replies().pop() }).await;
    serde_json::from_slice(&reply.body).unwrap()
}

/// `job` as that of another day.
fn on(job: &Job, day: &str) -> Job {
    let mut job = job.clone();
    job.id = JobId::new(job.id().as_str().replace("2040-05-01", day));
    let fired = &mut job.metadata[METADATA];
    fired["occurrence"] = format!("{day}T09:00:00Z").into();
    fired["local"] = format!("{day}T09:00:00").into();
    job
}

#[tokio::test]
async fn the_id_of_an_occurrence_is_the_schedulers_alone() {
    let model = ScriptedModel::start((0..4).map(|_| turn::text("five mails"))).await;
    let peer = SandboxPeer::with_active_accounts().await;
    let mut config = config_of(&peer.sandbox);
    config.model.base_url = model.base_url();
    let (queue, system, shutdown): (_, SharedClock, _) =
        (MemoryQueue::new(100), Arc::new(SystemClock), Shutdown::new());
    let store: Arc<dyn DigestStore> = Arc::new(MemoryDigestStore::new(system.clone()));
    let backends = Backends { digests: store.clone(), ..Backends::memory(&queue, &system) };
    let app = App::build(config, backends, system.clone(), shutdown.clone()).unwrap();
    let clock = Arc::new(ManualClock::new(instant("2040-05-01T08:00:00Z")));
    // As an earlier version's, which did not sign.
    let earlier = Arc::new(CountingPublisher::default());
    let scheduler_of_old = scheduler(&store, &earlier, &clock, "one", vec![digest(DEFINITION)]);
    let signing = Scheduler {
        store: Arc::new(MemoryDigestStore::new(system)),
        ..app.scheduler(Arc::new(Digests::new(vec![digest(DEFINITION)])), clock.clone())
    };
    let running = tokio::spawn(app.run());
    for time in ["2040-05-01T08:00:00Z", "2040-05-01T09:00:00Z"] {
        clock.set(instant(time));
        scheduler_of_old.step().await;
    }
    let send = async |job: &Job, headers: &[(&str, &str)]| {
        let mut message = Message::of_job(job, None);
        message.properties.headers =
            headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    };

    let [first, second] = ["a", "b"].map(|name| earlier.job(&format!("digest:morning:{name}:2040-05-01T09:00:00")));
    send(&first, &[]).await;
    assert_eq!(reply(&queue).await["type"], "agentkit.job.completed", "the store says that it was fired");
    let claim = [("x-agentkit-scheduled", "1"), ("x-agentkit-turn", "0")];
    let unrelated = Job { metadata: Value::Null, prompt: "mine".to_owned(), ..on(&first, "2040-05-02") };
    for (job, headers) in [(on(&first, "2040-05-02"), &claim[..]), (unrelated, &[]), (on(&first, "2040-05-02"), &claim)]
    {
        send(&Job { reply_to: Some("answers".to_owned()), ..job }, headers).await;
        let refused = reply(&queue).await;
        let error = &refused["data"]["error"];
        assert_eq!(error["code"], "invalid_job", "{refused:#}");
        assert!(error["message"].as_str().unwrap().contains("agentkit-worker digests run"), "{refused:#}");
    }
    // One that comes before its scheduler has noted that it was published waits for that.
    send(&on(&second, "2040-05-02"), &[]).await;
    eventually("it waits", || async { (queue.waiting() > 0).then_some(()) }).await;
    clock.set(instant("2040-05-02T09:00:00Z"));
    scheduler_of_old.step().await;
    assert_eq!(reply(&queue).await["subject"], "digest:morning:b:2040-05-02T09:00:00");

    // What is signed needs no store that knows of it.
    for time in ["2040-05-03T08:00:00Z", "2040-05-03T09:00:00Z"] {
        clock.set(instant(time));
        signing.step().await;
    }
    let mut ended: Vec<Value> = Vec::new();
    eventually("both replies", || {
        let more = queue.take_replies().into_iter().map(|reply| serde_json::from_slice(&reply.body).unwrap());
        ended.extend(more);
        let all = ended.len() == 2;
        async move { all.then_some(()) }
    })
    .await;
    assert!(ended.iter().all(|reply| reply["type"] == "agentkit.job.completed"), "{ended:#?}");
    shutdown.stop();
    assert_eq!(soon("the worker's end", running).await.unwrap(), Ended::InOrder);
    model.finish();
}
