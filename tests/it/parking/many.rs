//! Many runs that wait for one user: what they cost Redis, Scalekit, the broker and everybody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::internals::app::Backends;
use agentkit_worker::internals::queue::{Consumer, Delivery, Destination, Message, Published, Publisher, QueueError};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::webhooked_service::{WebhookedService, WebhookedWorker, job, outcome};
use crate::support::webhooks::{KEY, event, now, send, signed, tell};
use crate::support::{eventually, unique};

const MANY: usize = 300;
/// Bytes of what each job carries besides.
const LARGE: usize = 50_000;
/// A busy broker takes so long for a message: all wake-ups are not published while a webhook waits for its answer.
const BUSY: Duration = Duration::from_millis(400);

/// Takes no jobs: what is in the queue stays there.
#[derive(Default)]
struct IdleConsumer(Notify);

#[async_trait::async_trait]
impl Consumer for IdleConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        self.0.notified().await;
        None
    }

    async fn stop(&mut self) {
        self.0.notify_one();
    }
}

/// Publishes after a `pause`, and counts the wake-ups of each job by the reason that they give.
struct CountingPublisher {
    publisher: Arc<dyn Publisher>,
    pause: Duration,
    counted: Counted,
}

type Counted = Arc<Mutex<BTreeMap<(String, String), usize>>>;

#[async_trait::async_trait]
impl Publisher for CountingPublisher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        if let Some(reason) = message.properties.headers.get("x-agentkit-reason") {
            let of = (reason.clone(), message.properties.message_id.clone().unwrap());
            *self.counted.lock().unwrap().entry(of).or_default() += 1;
        }
        tokio::time::sleep(self.pause).await;
        self.publisher.publish(destination, message).await
    }
}

fn counting(backends: &mut Backends, pause: Duration) -> Counted {
    let counted = Counted::default();
    let publisher = CountingPublisher { publisher: backends.publisher.clone(), pause, counted: counted.clone() };
    backends.publisher = Arc::new(publisher);
    counted
}

fn of_reason(counted: &Counted, wanted: &str) -> Vec<usize> {
    let counted = counted.lock().unwrap();
    counted.iter().filter(|((reason, _), _)| reason == wanted).map(|(_, count)| *count).collect()
}

fn large(number: usize) -> Value {
    let mut job = job(&format!("large-{number}"), "ann");
    job["metadata"] = "x".repeat(LARGE).into();
    job
}

async fn are_parked(worker: &WebhookedWorker, count: usize) {
    let count = count.to_string();
    eventually("all runs are parked", async || {
        let parked = worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await;
        let in_flight = worker.metric("agentkit_jobs_in_flight").await;
        (parked.as_ref() == Some(&count) && in_flight.as_deref() == Some("0")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parked_runs_are_small_are_woken_once_and_stand_in_nobodys_way() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    service.enqueue((0..MANY).map(large)).await;
    are_parked(&worker, MANY).await;
    let index: usize =
        service.redis.command(&["MEMORY", "USAGE", "agentkit:parked:ann", "SAMPLES", "0"]).parse().unwrap();
    assert!(index < MANY * 1000, "{index} bytes for {MANY} runs");

    // Somebody else's job does not notice.
    service.set_status("gmail", "bob", "ACTIVE").await;
    let replies = service.ask(job("bobs", "bob")).await.rest().await;
    assert_eq!(replies.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;

    // Wake-ups stay in the queue: nobody takes them while webhooks come and come again.
    let mut counted = Counted::default();
    let idle = service
        .worker_with(service.webhooks_alone(), |backends| {
            counted = counting(backends, BUSY);
            backends.consumer = Box::new(IdleConsumer::default());
            backends.urgent = None;
        })
        .await;
    let looks = service.count("details").await;
    let body = event("ann", Some("gmail"));
    assert_eq!(tell(&idle, &body).await, 204);
    assert_eq!(of_reason(&counted, "webhook"), [0; 0], "the account is as it was: nobody need be woken");
    service.set_status("gmail", "ann", "ACTIVE").await;
    let repeated = signed(&unique("msg"), now(), KEY, &body);
    let others = [(); 2].map(|()| signed(&unique("msg"), now(), KEY, &body));
    let all = [&repeated, &repeated, &repeated, &others[0], &others[1]];
    let answers = join_all(all.map(|headers| send(idle.address, headers, body.clone()))).await;
    assert_eq!(answers, [204; 5], "before all is done");
    assert!(of_reason(&counted, "webhook").len() < MANY);
    eventually("all are woken", async || (of_reason(&counted, "webhook").len() == MANY).then_some(())).await;
    assert_eq!(send(idle.address, &repeated, body.clone()).await, 204);
    assert_eq!(of_reason(&counted, "webhook"), [1; MANY], "each run once");
    let looked = service.count("details").await - looks;
    assert!(looked <= 6, "{looked} looks, more than one for a webhook");
    idle.stop().await;

    let began = Instant::now();
    let worker = service.worker(service.webhooks_alone()).await;
    eventually("all runs end", async || {
        let done = worker.metric("agentkit_jobs_total{outcome=\"completed\"}").await;
        (done? == MANY.to_string()).then_some(())
    })
    .await;
    // One a second, twice over for those that meet.
    let looked = service.count("details").await - looks - looked;
    assert!(looked <= 2 * began.elapsed().as_secs() + 4, "{looked} looks of {MANY} runs in {:?}", began.elapsed());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_poll_for_the_same_account_share_a_look_a_second() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let mut counted = Counted::default();
    let worker =
        service.worker_with(service.polling_alone(), |backends| counted = counting(backends, Duration::ZERO)).await;
    service.enqueue((0..40).map(|number| job(&format!("j{number}"), "ann"))).await;
    eventually("all runs wait", async || (of_reason(&counted, "authorization").len() == 40).then_some(())).await;
    let polls = || of_reason(&counted, "authorization").iter().sum::<usize>();
    let (began, before, looks) = (Instant::now(), polls(), service.count("details").await);
    eventually("each has looked several times", async || (polls() >= before + 200).then_some(())).await;
    let looked = service.count("details").await - looks;
    assert!(looked <= began.elapsed().as_secs() + 2, "{looked} looks in {:?}", began.elapsed());
    service.set_status("gmail", "ann", "ACTIVE").await;
    eventually("all runs end", async || {
        (worker.metric("agentkit_jobs_total{outcome=\"completed\"}").await? == "40").then_some(())
    })
    .await;
    worker.stop().await;
}
