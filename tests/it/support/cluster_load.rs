//! Jobs without an end for workers at a cluster, one write each; what becomes of them, and how fast.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::{AmqpPublisher, AmqpQueue, Config as Amqp};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use futures_util::future::join_all;
use lapin::options::BasicGetOptions;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::broker_cluster::BrokerCluster;
use super::program::{Program, WorkerProcess};
use super::redis::Redis;
use super::sandbox_peer::SandboxPeer;

const WORKERS: usize = 2;
/// So many jobs each worker runs at a time, and so long takes the write of each: both together are the speed.
const CONCURRENCY: &str = "5";
const WRITE_MILLISECONDS: u64 = 400;
/// So many jobs are without an answer at a time: enough for the workers while no new ones come for some seconds.
const BACKLOG: u64 = 100;
/// So many further jobs of each worker show that all its places are at work again.
const FURTHER: f64 = 50.0;
/// Speed is looked at over this time, and counts as full from this share of the usual on.
const WINDOW: Duration = Duration::from_secs(2);
const FULL: f64 = 0.7;

/// The workers, the caller, and what is needed to judge them.
pub(crate) struct ClusterLoad<'a> {
    cluster: &'a BrokerCluster,
    pub(crate) amqp: Amqp,
    _redis: Redis,
    peer: Arc<SandboxPeer>,
    pub(crate) workers: Vec<WorkerProcess>,
    caller: JoinHandle<()>,
    called: Arc<AtomicU64>,
    stop: CancellationToken,
    written: watch::Receiver<Vec<(Instant, u64)>>,
}

impl<'a> ClusterLoad<'a> {
    /// Starts workers with the product's own settings, who get all addresses, and jobs for them.
    pub(crate) async fn start(cluster: &'a BrokerCluster) -> Self {
        let amqp = cluster.config();
        let redis = Redis::start().await;
        let peer = Arc::new(SandboxPeer::with_active_accounts_in_real_time().await);
        let delay = json!({"on": "execute", "kind": "delay", "delay_ms": WRITE_MILLISECONDS, "times": 1_000_000});
        peer.fault(delay).await;
        let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
        let program = Program::of_service(&peer.sandbox, &amqp, &redis.url())
            .set("AGENTKIT_WORKER__WORKER__CONCURRENCY", CONCURRENCY);
        let workers = join_all((0..WORKERS).map(|_| program.worker())).await;
        let (sender, written) = watch::channel(vec![(Instant::now(), 0)]);
        let stop = CancellationToken::new();
        tokio::spawn(count(peer.clone(), sender));
        let called = Arc::default();
        let caller = tokio::spawn(call(publisher, Arc::clone(&called), written.clone(), stop.clone()));
        let load = Self { cluster, amqp, _redis: redis, peer, workers, caller, called, stop, written };
        load.until_at_speed().await;
        load
    }

    async fn until_at_speed(&self) {
        let mut written = self.written.clone();
        let begun = super::soon("the first writes", written.wait_for(|samples| samples.last().unwrap().1 > 0)).await;
        drop(begun.unwrap());
        sleep(2 * WINDOW).await;
    }

    /// Writes per second in the time before `end`.
    fn speed(samples: &[(Instant, u64)], end: Instant) -> f64 {
        let at = |moment: Instant| samples.iter().rev().find(|(at, _)| *at <= moment).map_or(0, |(_, count)| *count);
        f64::from(u32::try_from(at(end) - at(end - WINDOW)).unwrap()) / WINDOW.as_secs_f64()
    }

    /// Waits until every worker has completed many further jobs by itself; prints how the speed was since `fault`.
    pub(crate) async fn recovery(&self, what: &str, fault: Instant) {
        let before = self.completed().await;
        let all_go_on = async {
            loop {
                let now = self.completed().await;
                if now.iter().zip(&before).all(|(now, before)| now - before >= FURTHER) {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, all_go_on).await.is_err() {
            let now = self.completed().await;
            println!("{}", self.cluster.describe().await);
            self.print_logs();
            let (at, written) = *self.written.borrow().last().unwrap();
            panic!(
                "{what}: the workers had completed {before:?} jobs, {PATIENCE:?} later {now:?}; \
                 {} jobs published, {written} writes seen {:?} ago",
                self.called.load(Ordering::Relaxed),
                at.elapsed()
            );
        }
        let samples = self.written.borrow().clone();
        let usual = Self::speed(&samples, fault);
        let (mut last, mut longest_pause) = (fault, Duration::ZERO);
        for pair in samples.windows(2).filter(|pair| pair[1].0 > fault && pair[1].1 > pair[0].1) {
            longest_pause = longest_pause.max(pair[1].0.duration_since(last));
            last = pair[1].0;
        }
        // From the first moment on since which no window was slower.
        let mut ends = samples.iter().map(|sample| sample.0).filter(|end| *end >= fault + WINDOW).rev();
        let slow = ends.find(|end| Self::speed(&samples, *end) < usual * FULL);
        let slow_until = slow.map_or(Duration::ZERO, |end| end.duration_since(fault));
        println!(
            "{what}: {usual:.0} writes/s before; below {FULL} of that until {:.1} s after, longest pause {:.1} s",
            slow_until.as_secs_f64(),
            longest_pause.as_secs_f64()
        );
    }

    /// What the workers said last.
    fn print_logs(&self) {
        for worker in &self.workers {
            println!("{:#?}", worker.running.log().iter().rev().take(40).rev().collect::<Vec<_>>());
        }
    }

    /// The jobs that each worker has completed.
    async fn completed(&self) -> Vec<f64> {
        let count = |worker| WorkerProcess::metric(worker, "agentkit_jobs_total{outcome=\"completed\"}");
        join_all(self.workers.iter().map(count)).await.into_iter().map(Option::unwrap_or_default).collect()
    }

    /// No more jobs: every one that was taken has one answer, was written once, and nothing is left in any queue.
    pub(crate) async fn finish(mut self) {
        self.stop.cancel();
        super::soon("the last job is taken", &mut self.caller).await.unwrap();
        let called = self.called.load(Ordering::Relaxed);
        let jobs: BTreeSet<String> = (0..called).map(job_id).collect();
        let emptied = async { while !self.left().await.is_empty() {} };
        if tokio::time::timeout(PATIENCE, emptied).await.is_err() {
            self.print_logs();
            panic!("{PATIENCE:?} after the last job there is left in queues: {:?}", self.left().await);
        }
        let world = self.peer.world().await;
        let effects = world["effects"].as_array().unwrap().iter();
        let mut written: Vec<&str> = effects.map(|effect| effect["params"]["subject"].as_str().unwrap()).collect();
        written.sort_unstable();
        let jobs_in_order: Vec<&str> = jobs.iter().map(String::as_str).collect();
        assert_eq!(written, jobs_in_order, "each write is executed once");
        let (replies, copies) = self.replies().await;
        assert_eq!(replies.keys().cloned().collect::<BTreeSet<_>>(), jobs, "each job is answered");
        for reply in replies.values() {
            assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
            assert_eq!(reply["data"]["status"], "completed", "{reply:#}");
        }
        println!("{called} jobs: lost 0, written twice 0, replies sent again as their confirm was lost {copies}");
        for worker in self.workers {
            let (status, log) = worker.stop().await;
            assert!(status.success(), "{log:#?}");
        }
    }

    /// The queues but that of the replies that hold messages, in somebody's hands or not, and how many.
    async fn left(&self) -> Vec<String> {
        let rows =
            self.cluster.nodes[0].control(&["-q", "--no-table-headers", "list_queues", "name", "messages"]).await;
        let replies = self.amqp.names().replies();
        let of_ours = rows.lines().filter(|row| row.starts_with(&self.amqp.prefix) && !row.starts_with(&replies));
        of_ours.filter(|row| !row.ends_with("\t0")).map(str::to_owned).collect()
    }

    /// The replies of each job, and how many came again. Those of one job must not differ.
    async fn replies(&self) -> (BTreeMap<String, Value>, usize) {
        let connection = self.cluster.nodes[0].connect().await;
        let channel = connection.create_channel().await.unwrap();
        let (mut replies, mut copies) = (BTreeMap::new(), 0);
        let (queue, options) = (self.amqp.names().replies(), BasicGetOptions { no_ack: true });
        while let Some(taken) = channel.basic_get(queue.as_str().into(), options).await.unwrap() {
            let reply: Value = serde_json::from_slice(&taken.delivery.data).unwrap();
            let job = reply["subject"].as_str().unwrap().to_owned();
            match replies.insert(job, reply.clone()) {
                None => {}
                Some(first) => {
                    assert_eq!(first, reply, "a second reply that differs");
                    copies += 1;
                }
            }
        }
        (replies, copies)
    }
}

fn job_id(number: u64) -> String {
    format!("job-{number:05}")
}

/// Notes every tenth of a second how much was written.
async fn count(peer: Arc<SandboxPeer>, written: watch::Sender<Vec<(Instant, u64)>>) {
    while !written.is_closed() {
        let count = peer.count("execute").await;
        written.send_modify(|samples| samples.push((Instant::now(), count)));
        sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes jobs until `stop`, each until the broker confirms it, as any careful caller does; counts them in `called`.
async fn call(
    publisher: Arc<AmqpPublisher>,
    called: Arc<AtomicU64>,
    written: watch::Receiver<Vec<(Instant, u64)>>,
    stop: CancellationToken,
) {
    let one_after_the_other = || async {
        while !stop.is_cancelled() {
            let done = written.borrow().last().unwrap().1;
            if called.load(Ordering::Relaxed) >= done + BACKLOG {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            let id = job_id(called.fetch_add(1, Ordering::Relaxed));
            let mail = json!({"to": "bob@example.com", "subject": id, "body": "hello"});
            let prompt = format!("Call gmail_send_message with {mail}");
            let body = json!({"id": id, "identifier": "user_123", "connections": ["gmail"], "prompt": prompt});
            let properties =
                Properties { message_id: Some(id), timestamp: Some(SystemClock.now()), ..Properties::default() };
            let message = Message { body: body.to_string().into(), properties };
            while let Err(error) = publisher.publish(&Destination::Jobs, message.clone()).await {
                println!("{} caller {}: {error}", SystemClock.now(), message.properties.message_id.as_deref().unwrap());
                sleep(Duration::from_millis(200)).await;
            }
        }
    };
    join_all((0..8).map(|_| one_after_the_other())).await;
}
