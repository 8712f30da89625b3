//! What a job costs the services around a worker, in numbers that do not depend on the machine. A change that takes more of
//! them says so here, and why.

use std::collections::BTreeMap;

use agentkit_worker::internals::queue::amqp::{AmqpQueue, ReplyInbox};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use serde_json::json;

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::{eventually, soon};

/// What is done once a second, and when a lease is half over, is little beside so many.
const JOBS: usize = 200;
/// Between one command and none.
const LESS_THAN_ONE: f64 = 0.5;

/// For a job of two model turns and one tool call that reads, of a user who is known: what was recorded, and how much more is
/// chance. 14 of the commands in Redis, and 1,300 of the bytes that it is sent, are the index of runs, in the scripts that
/// append. A fast machine takes less: what is told of an account counts for a second, for all jobs of its user.
const RECORDED: [(&str, f64, f64); 8] = [
    ("scripts that Redis was sent", 9.0, LESS_THAN_ONE),
    ("other commands that Redis was sent", 0.0, LESS_THAN_ONE),
    ("commands in Redis, those of scripts included", 78.0, 2.0 + LESS_THAN_ONE),
    ("bytes that Redis was sent", 14_200.0, 1290.0),
    ("bytes that Redis sent", 196.0, 20.0),
    ("messages that the broker took, the job's own included", 2.0, LESS_THAN_ONE),
    ("messages that the broker saw acknowledged", 1.0, LESS_THAN_ONE),
    ("requests to Scalekit and the model", 4.0, LESS_THAN_ONE),
];

struct Surroundings<'a> {
    broker: &'a Broker,
    redis: &'a Redis,
    peer: &'a SandboxPeer,
}

impl Surroundings<'_> {
    /// In the order of [`RECORDED`].
    async fn figures(&self) -> [f64; RECORDED.len()] {
        let info = self.redis.command(&["INFO", "everything"]);
        let figure = |name: &str| -> f64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map_or(0.0, |text| {
                text.trim().trim_start_matches("calls=").split(',').next().unwrap().parse().unwrap()
            })
        };
        let sent = |names: &[&str]| -> f64 { names.iter().map(|name| figure(&format!("cmdstat_{name}"))).sum() };
        let requests: f64 = {
            let mut all = 0;
            for group in ["token", "details", "scoped", "execute", "model"] {
                all += self.peer.count(group).await;
            }
            f64::from(u32::try_from(all).unwrap())
        };
        [
            sent(&["evalsha", "eval", "script|load"]),
            sent(&["get", "set"]),
            // Looks whether Redis takes writes come with the time, not with the jobs; nothing else is sent as this.
            figure("total_commands_processed") - figure("cmdstat_psetex"),
            figure("total_net_input_bytes"),
            figure("total_net_output_bytes"),
            self.counted("messages_received_total").await,
            self.counted("messages_acknowledged_total").await,
            requests,
        ]
    }

    /// A counter of the whole broker.
    async fn counted(&self, counter: &str) -> f64 {
        let sum =
            format!("lists:sum([maps:get({counter}, C, 0) || C <- maps:values(rabbit_global_counters:overview())]).");
        self.broker.control(&["eval", &sum]).await.trim().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_takes_no_more_of_the_services_around_than_it_did() {
    let (broker, redis) = (Broker::exclusive().await, Redis::start().await);
    let peer = SandboxPeer::with_active_accounts_in_real_time().await;
    let amqp = broker.config();
    let program = Program::of_service(&peer.sandbox, &amqp, &redis.url())
        // One that is slow has a place for each: what is put behind others takes a message more.
        .set("AGENTKIT_WORKER__WORKER__CONCURRENCY", "400")
        // A machine that is busy lists no tools again, and takes no Redis for one that is away.
        .set("AGENTKIT_WORKER__TOOLS__MEMORY_SECONDS", "600")
        .set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "20000");
    let worker = program.worker().await;
    let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
    let mut inbox = ReplyInbox::open(&amqp).await.unwrap();
    let surroundings = Surroundings { broker: &broker, redis: &redis, peer: &peer };
    let mut run = async |jobs: std::ops::Range<usize>| {
        for number in jobs.clone() {
            let job = json!({
                "id": format!("job-{number:04}"), "identifier": format!("user-{}", number % 50), "connections": ["gmail"],
                "prompt": "Call gmail_fetch_mails with {\"max_results\": 5}",
            });
            let properties = Properties { reply_to: Some(inbox.name().to_owned()), ..Properties::default() };
            let message = Message { body: job.to_string().into(), properties };
            publisher.publish(&Destination::Jobs, message).await.unwrap();
        }
        for _ in jobs.clone() {
            soon("a reply", inbox.next()).await.unwrap();
        }
        // A reply is out before its run is sealed.
        eventually("all jobs end", || async { (worker.lines("\"job ended\"") == jobs.end).then_some(()) }).await;
    };
    run(0..50).await;
    let before = surroundings.figures().await;
    run(50..50 + JOBS).await;
    let after = surroundings.figures().await;
    let jobs = f64::from(u32::try_from(JOBS).unwrap());
    let found = before.iter().zip(after).map(|(from, to)| (to - from) / jobs);
    let found: BTreeMap<&str, f64> = RECORDED.iter().map(|(what, ..)| *what).zip(found).collect();
    println!("{found:#?}");
    let more: Vec<_> = RECORDED.iter().filter(|(what, recorded, chance)| found[what] > recorded + chance).collect();
    assert!(more.is_empty(), "more than was recorded: {more:#?}");
    worker.stop().await;
    drop(publisher);
}
