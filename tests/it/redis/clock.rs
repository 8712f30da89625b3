//! A machine whose clock is hours off: when something is due is decided by the time that all workers share.

use std::sync::Arc;

use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::clock::{Clock, SharedClock, SystemClock};
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::queue::memory::MemoryQueue;
use agentkit_worker::internals::queue::{Destination, Message, Publisher};
use agentkit_worker::{App, Ended, Shutdown};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::soon;

/// The system's clock, so much ahead.
#[derive(Debug)]
struct WrongClock(SignedDuration);

impl Clock for WrongClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.0
    }
}

#[tokio::test]
async fn a_worker_whose_clock_is_hours_off_strands_nobody_and_dates_its_replies_right() {
    for (hours, seconds) in [(-3, -10_800.0), (3, 10_800.0)] {
        let redis = Redis::start().await;
        let model = ScriptedModel::start([turn::text("done")]).await;
        let peer = SandboxPeer::with_active_accounts().await;
        let mut config = config_of(&peer.sandbox);
        config.model.base_url = model.base_url();
        let clock: SharedClock = Arc::new(WrongClock(SignedDuration::from_hours(hours)));
        let queue = MemoryQueue::new(100);
        let journal = Arc::new(RedisJournal::new(redis.client()));
        let backends = Backends { journal, ..Backends::memory(&queue, &clock) };
        let (mut inbox, shutdown) = (queue.reply_inbox("answers"), Shutdown::new());
        let app = App::build(config, backends, clock, shutdown.clone()).unwrap();
        let (metrics, running) = (app.metrics(), tokio::spawn(app.run()));
        // As a worker with a right clock leaves it: due now.
        let job = json!({
            "id": "job-1", "identifier": "user_123", "connections": ["gmail"], "prompt": "go", "reply_to": "answers"
        });
        let mut message = Message { body: job.to_string().into(), ..Message::default() };
        for (name, text) in [("turn", "1"), ("reason", "transient"), ("due", &SystemClock.now().to_string())] {
            message.properties.headers.insert(format!("x-agentkit-{name}"), text.to_owned());
        }
        queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
        let reply: Value = serde_json::from_slice(&soon("the reply", inbox.next()).await.unwrap().body).unwrap();
        let time: Timestamp = reply["time"].as_str().unwrap().parse().unwrap();
        assert!(SystemClock.now().duration_since(time).abs() < SignedDuration::from_secs(60), "{hours}: {time}");
        let ahead =
            metrics.render().lines().find_map(|line| line.strip_prefix("agentkit_clock_ahead_seconds ")?.parse().ok());
        assert!(ahead.is_some_and(|ahead: f64| (ahead - seconds).abs() < 60.0), "{hours}: {ahead:?}");
        shutdown.stop();
        assert_eq!(soon("the worker's end", running).await.unwrap(), Ended::InOrder);
        model.finish();
    }
}
