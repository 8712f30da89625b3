//! How a digest's job ended is noted before its message is gone, whatever breaks at that moment: the next occurrence is
//! fired, and begins where the last one ended.

use std::sync::Arc;

use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::clock::{ManualClock, SharedClock, SystemClock};
use agentkit_worker::internals::digest_store::DigestStore;
use agentkit_worker::internals::digest_store::redis::RedisDigestStore;
use agentkit_worker::internals::queue::memory::MemoryQueue;
use agentkit_worker::internals::queue::{Destination, Message, Publisher};
use agentkit_worker::{App, Ended, Shutdown};
use tokio::sync::Notify;

use crate::support::redis::Redis;
use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::schedulers::{CountingPublisher, digest, instant, scheduler};
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::{eventually, soon};

const DEFINITION: &str = "name = \"morning\"\ncron = \"0 9 * * *\"\ntimezone = \"UTC\"\noverlap = \"skip\"\nprompt = \"p\"\nconnections = [\"gmail\"]\n[recipients]\nlist = [{ identifier = \"a\" }, { identifier = \"b\" }]\n";

#[tokio::test]
async fn the_end_of_a_job_is_noted_although_the_store_was_away_when_it_ended() {
    let mut redis = Redis::start().await;
    let store: Arc<dyn DigestStore> = Arc::new(RedisDigestStore::new(redis.client()));
    let clock = Arc::new(ManualClock::new(instant("2040-05-01T08:00:00Z")));
    let publisher = Arc::new(CountingPublisher::default());
    let scheduler = scheduler(&store, &publisher, &clock, "one", vec![digest(DEFINITION)]);
    let fire = async |time: &str| {
        clock.set(instant(time));
        scheduler.step().await;
    };
    fire("2040-05-01T08:00:00Z").await;
    fire("2040-05-01T09:00:00Z").await;

    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("five mails").released_by(&gate)]).await;
    let peer = SandboxPeer::with_active_accounts().await;
    let mut config = config_of(&peer.sandbox);
    config.model.base_url = model.base_url();
    let (queue, system, shutdown): (_, SharedClock, _) =
        (MemoryQueue::new(100), Arc::new(SystemClock), Shutdown::new());
    let backends = Backends { digests: store.clone(), ..Backends::memory(&queue, &system) };
    let app = App::build(config, backends, system, shutdown.clone()).unwrap();
    let (metrics, running) = (app.metrics(), tokio::spawn(app.run()));
    let job = publisher.job("digest:morning:a:2040-05-01T09:00:00");
    queue.publisher().publish(&Destination::Jobs, Message::of_job(&job, None)).await.unwrap();
    model.wait_for_requests(1).await;
    redis.kill();
    gate.notify_one();
    eventually("the reply is out", || async { (!queue.take_replies().is_empty()).then_some(()) }).await;
    redis.restart().await;
    let at_rest = "agentkit_jobs_in_flight 0";
    eventually("the message is gone", || async {
        (queue.waiting() == 0 && metrics.render().contains(at_rest)).then_some(())
    })
    .await;
    shutdown.stop();
    assert_eq!(soon("the worker's end", running).await.unwrap(), Ended::InOrder);

    fire("2040-05-02T09:00:00Z").await;
    let fired = publisher.ids();
    let second = |recipient: &str| fired.contains(&format!("digest:morning:{recipient}:2040-05-02T09:00:00"));
    assert!(second("a"), "its end was noted: {fired:?}");
    assert!(!second("b"), "its job was never run, so it counts as running: {fired:?}");
    model.finish();
}
