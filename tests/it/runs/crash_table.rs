//! The crash table: runs of several kinds are cut off at every point where they touch the outside, in every way that a
//! machine can fail there, and another worker goes on.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::Client;
use agentkit_worker::Config;
use agentkit_worker::internals::app::lifetimes;
use agentkit_worker::internals::approval::Writes;
use agentkit_worker::internals::audit::Audit;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Claim, ClaimMode, Journal};
use agentkit_worker::internals::parking::redis::RedisParking;
use agentkit_worker::internals::queue::Message;
use agentkit_worker::internals::queue::amqp::{AmqpQueue, DeadLetters, QueueState, ReplyInbox, inspect};
use agentkit_worker::internals::redis_client::{self, RedisClient};
use agentkit_worker::internals::worker::{HeaderKey, Operator, Runs};
use agentkit_worker::job::{Job, JobId};
use agentkit_worker::reply::{EffectState, ErrorCode, Reply, ReplyEvent, Status};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::Mutex;

use crate::support::broker::Broker;
use crate::support::fused_worker::{Cut, Failure, Fuse, FusedJournal, FusedPublisher, FusedWorker, Point, event_name};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::{SandboxPeer, config_of};
use crate::support::{eventually, soon, unique};

/// So many cases at the same time.
const AT_ONCE: usize = 10;
/// Where the journal tells of a write that waited: that it is about to leave, and what became of it.
const START: &str = "append accounts_ready+tool_started";
const OUTCOME: &str = "append wake_up_published+tool_finished";
const FETCH: &str = "call gmail_fetch_mails with {\"max_results\": 2}";

/// One job with all that it needs.
struct CrashCase {
    peer: SandboxPeer,
    config: Config,
    inbox: Mutex<ReplyInbox>,
    reply_to: String,
    journal: Arc<RedisJournal>,
    id: JobId,
    subject: String,
    connections: &'static [&'static str],
    /// What a person says to a call that waits.
    says: Option<&'static str>,
}

/// What is left of a case when the run has ended.
#[derive(Debug)]
struct Aftermath {
    labels: Vec<String>,
    replies: Vec<Reply>,
    letters: Vec<Message>,
    journal: Vec<String>,
    /// What stands in the mails that were sent.
    sent: Vec<String>,
    model_requests: u64,
}

impl CrashCase {
    /// A user who consents so long after being asked, or never.
    async fn new(redis: &Redis, consent_after: Option<Duration>) -> Self {
        let peer = SandboxPeer::start_with(|options| {
            options.clock = Arc::new(SystemClock);
            options.consent_after = consent_after;
        })
        .await;
        let mut config = config_of(&peer.sandbox);
        config.amqp = Broker::shared().await.config();
        config.redis = redis.config();
        config.redis.key_prefix = format!("{}:", unique("crash"));
        config.scalekit.tool_retry.initial_milliseconds = 20;
        config.authorization.poll_seconds = 1;
        config.worker.lease_seconds = 1;
        config.worker.concurrency = 4;
        let inbox = ReplyInbox::open(&config.amqp).await.unwrap();
        let journal = Arc::new(RedisJournal::new(RedisClient::new(&patient(&config.redis)).unwrap()));
        let reply_to = inbox.name().to_owned();
        let (id, subject) = (JobId::new(unique("job")).unwrap(), unique("subject"));
        Self {
            peer,
            config,
            inbox: Mutex::new(inbox),
            reply_to,
            journal,
            id,
            subject,
            connections: &["gmail"],
            says: None,
        }
    }

    /// With a key for what is kept of the run.
    fn encrypt(&mut self) {
        self.config.journal.encryption_key = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=".into();
        let client = RedisClient::new(&patient(&self.config.redis)).unwrap();
        let encryption = self.config.journal.encryption().unwrap();
        self.journal = Arc::new(RedisJournal::new(client).encrypted(encryption));
    }

    async fn send(&self, prompt: &str) {
        let client = Client::connect(self.config.amqp.clone(), Arc::new(SystemClock)).await.unwrap();
        let job: Job = serde_json::from_value(json!({
            "id": self.id, "identifier": "user_123", "connections": self.connections, "prompt": prompt,
            "reply_to": self.reply_to
        }))
        .unwrap();
        client.enqueue(&job).await.unwrap();
    }

    async fn lines(&self) -> Vec<String> {
        self.journal.read(&self.id).await.unwrap()
    }

    /// Until the run's reply is there, its journal sealed and nothing but dead letters left. A worker that dies is
    /// followed by one that nothing befalls.
    async fn to_the_end(&self, mut worker: FusedWorker) -> (Arc<Fuse>, Vec<Reply>) {
        let (fuse, mut inbox) = (worker.fuse.clone(), self.inbox.lock().await);
        let mut replies: Vec<Reply> = Vec::new();
        soon(&format!("the end of the run, last at {:?}", fuse.labels.lock().unwrap().last()), async {
            loop {
                tokio::select! {
                    message = inbox.next() => {
                        let message = message.unwrap();
                        replies.extend(terminal(&message));
                        self.decide(&message);
                    }
                    () = fuse.died.notified() => worker = FusedWorker::start(&self.config, None),
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
                let sealed = self.lines().await.last().is_some_and(|line| event_name(line) == "delivered");
                if !replies.is_empty() && sealed && self.waiting().await == 0 {
                    break;
                }
            }
        })
        .await;
        // Whatever was published is confirmed, so a second reply would be in the inbox by now.
        while let Ok(message) = tokio::time::timeout(Duration::from_millis(200), inbox.next()).await {
            replies.extend(terminal(&message.unwrap()));
        }
        (fuse, replies)
    }

    /// Says to a call that waits, once its run is parked, what is to be said, and is not answered.
    fn decide(&self, message: &Message) {
        let reply: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        let Some(says) = self.says.filter(|_| reply["type"] == "agentkit.job.approval_required") else { return };
        let call = &reply["data"]["approvals"][0];
        let mut decision = json!({
            "job": self.id, "approval": call["id"], "arguments_digest": call["arguments_digest"], "decision": says
        });
        if says == "edit" {
            decision["arguments"] = call["arguments"].clone();
            decision["arguments"]["body"] = json!("edited");
        }
        let (amqp, journal, id) = (self.config.amqp.clone(), self.journal.clone(), self.id.clone());
        tokio::spawn(async move {
            eventually("the run is parked, or goes on", || async {
                let lines = journal.read(&id).await.unwrap();
                let names: Vec<String> = lines.iter().map(|line| event_name(line)).collect();
                let asked = names.iter().position(|name| name == "approval_asked")?;
                let parked = names[asked..].last().is_some_and(|name| name == "wake_up_published");
                (parked || names.iter().any(|name| name == "approval_decided")).then_some(())
            })
            .await;
            let client = Client::connect(amqp, Arc::new(SystemClock)).await.unwrap();
            client.decide(&decision, None).await.unwrap();
        });
    }

    /// Jobs and wake-ups that are left.
    async fn waiting(&self) -> u64 {
        let dead = self.config.amqp.names().dead();
        let facts = inspect(&self.config.amqp).await.unwrap();
        let counted = facts.queues.iter().filter(|queue| queue.name != dead).map(|queue| match queue.state {
            QueueState::Present { messages, .. } => u64::from(messages),
            _ => 1,
        });
        counted.sum()
    }

    async fn end(self, fuse: &Fuse, replies: Vec<Reply>) -> Aftermath {
        let queue = DeadLetters::open(&self.config.amqp).await.unwrap();
        let mut letters = Vec::new();
        while let Some(letter) = queue.take().await.unwrap() {
            letters.push(letter.message.clone());
            letter.ack().await.unwrap();
        }
        let world = self.peer.world().await;
        let sent = world["effects"].as_array().unwrap();
        let sent = sent.iter().filter(|effect| effect["params"]["subject"] == self.subject.as_str());
        let sent = sent.map(|effect| effect["params"]["body"].as_str().unwrap().to_owned()).collect();
        let model_requests = self.peer.count("model").await;
        let labels = fuse.labels.lock().unwrap().clone();
        Aftermath { labels, replies, letters, journal: self.lines().await, sent, model_requests }
    }
}

/// Who only watches has patience with a busy machine.
fn patient(config: &redis_client::Config) -> redis_client::Config {
    redis_client::Config {
        connection_timeout_milliseconds: 10_000,
        response_timeout_milliseconds: 10_000,
        ..config.clone()
    }
}

/// A run with an authorization, a retried read and a write.
async fn mail(redis: &Redis, cut: Cut) -> Aftermath {
    let case = CrashCase::new(redis, Some(Duration::from_millis(300))).await;
    case.peer.fault(json!({"on": "execute", "tool": "gmail_fetch_mails", "kind": "status", "status": 503})).await;
    let mail = json!({"to": "a@example.com", "subject": case.subject, "body": "hello"});
    case.send(&format!("{FETCH} then call gmail_send_message with {mail}")).await;
    let worker = FusedWorker::start(&case.config, cut);
    let (fuse, replies) = case.to_the_end(worker).await;
    case.end(&fuse, replies).await
}

/// A run whose write waits for a person, who says this. What is kept of it is encrypted.
async fn waiting(redis: &Redis, cut: Cut, says: &'static str) -> Aftermath {
    let mut case = CrashCase::new(redis, None).await;
    case.encrypt();
    case.says = Some(says);
    case.config.approval.writes = Writes::All;
    // The copy that stands for the wait is to be gone soon after the end.
    case.config.authorization.poll_seconds_at_most = 1;
    case.peer.activate("gmail", "user_123").await;
    let mail = json!({"to": "a@example.com", "subject": case.subject, "body": "hello"});
    case.send(&format!("{FETCH} then call gmail_send_message with {mail}")).await;
    let worker = FusedWorker::start(&case.config, cut);
    let (fuse, replies) = case.to_the_end(worker).await;
    case.end(&fuse, replies).await
}

/// A run whose model is gone, so that another one takes over, and sends a mail.
async fn with_another_model(redis: &Redis, cut: Cut) -> Aftermath {
    let mut case = CrashCase::new(redis, None).await;
    case.config.model.model = "gpt-retired".into();
    case.config.model.fallback = Some(vec!["gpt-4o".into()]);
    case.peer.activate("gmail", "user_123").await;
    let mail = json!({"to": "a@example.com", "subject": case.subject, "body": "hello"});
    case.send(&format!("call gmail_send_message with {mail}")).await;
    let worker = FusedWorker::start(&case.config, cut);
    let (fuse, replies) = case.to_the_end(worker).await;
    case.end(&fuse, replies).await
}

/// A run that finds a further tool before it writes. The next worker offers what was found, too.
async fn searching(redis: &Redis, cut: Cut) -> Aftermath {
    let mut case = CrashCase::new(redis, None).await;
    case.connections = &["github", "gmail"];
    for connection in case.connections {
        case.peer.activate(connection, "user_123").await;
    }
    // A part of a word: by whole ones of the prompt the tools would be offered from the start.
    let find = json!({"query": "webho"});
    let mail = json!({"to": "a@example.com", "subject": case.subject, "body": "hello"});
    case.send(&format!("call search_tools with {find} then call gmail_send_message with {mail}")).await;
    let worker = FusedWorker::start(&case.config, cut);
    let (fuse, replies) = case.to_the_end(worker).await;
    let offers: Vec<bool> = case
        .peer
        .bodies("model")
        .await
        .iter()
        .map(|request| request["tools"].to_string().contains("github_webhook_delete"))
        .collect();
    assert!(!offers[0] && offers.ends_with(&[true, true]), "{cut:?}: what was found is not offered: {offers:?}");
    case.end(&fuse, replies).await
}

/// A run whose worker died; the next one gives it up.
async fn poison(redis: &Redis, cut: Cut) -> Aftermath {
    let mut case = CrashCase::new(redis, None).await;
    case.config.worker.strikes = 1;
    case.send(FETCH).await;
    let killed =
        FusedWorker::start(&case.config, Some((Point::Named("append started+attempt_started"), Failure::After)));
    soon("the first worker's death", killed.fuse.died.notified()).await;
    drop(killed);
    // Its lease has run out: the next one takes the run at once, in the same number of steps each time.
    eventually("the run is free", || async {
        let take = case.journal.claim(&case.id, "nobody", Duration::ZERO, ClaimMode::IfFree).await.unwrap();
        matches!(take, Claim::Granted { .. }).then_some(())
    })
    .await;
    let worker = FusedWorker::start(&case.config, cut);
    let (fuse, replies) = case.to_the_end(worker).await;
    case.end(&fuse, replies).await
}

/// A run that an operator cancels while its model thinks.
async fn cancelled(redis: &Redis, cut: Cut) -> Aftermath {
    let case = CrashCase::new(redis, None).await;
    case.peer.activate("gmail", "user_123").await;
    case.peer.fault(json!({"on": "model", "kind": "delay", "delay_ms": 120_000, "times": 100})).await;
    case.send(FETCH).await;
    let operator = operator(&case, &Fuse::new(None)).await;
    let worker = FusedWorker::start(&case.config, cut);
    let (peer, id) = (case.peer.client.clone(), case.id.clone());
    let asked = format!("{}/requests", case.peer.sandbox.control_url());
    let cancelling = tokio::spawn(async move {
        eventually("the model is asked", || async {
            let requests: serde_json::Value = peer.get(&asked).send().await.unwrap().json().await.unwrap();
            (requests["counts"]["model"].as_u64() > Some(0)).then_some(())
        })
        .await;
        operator.cancel(&id).await.unwrap();
    });
    let (fuse, replies) = case.to_the_end(worker).await;
    cancelling.await.unwrap();
    case.end(&fuse, replies).await
}

/// A parked run that an operator cancels, whose command is cut off and given again.
async fn cancelled_while_parked(redis: &Redis, cut: Cut) -> Aftermath {
    let case = CrashCase::new(redis, None).await;
    case.send(FETCH).await;
    let worker = FusedWorker::start(&case.config, None);
    eventually("the run is parked", || async {
        case.lines().await.iter().any(|line| event_name(line) == "wake_up_published").then_some(())
    })
    .await;
    let fuse = Fuse::new(cut);
    let first = operator(&case, &fuse).await;
    let done = tokio::select! {
        result = first.cancel(&case.id) => result.is_ok(),
        () = fuse.died.notified() => false,
    };
    if !done {
        operator(&case, &Fuse::new(None)).await.cancel(&case.id).await.unwrap();
    }
    let (_, replies) = case.to_the_end(worker).await;
    case.end(&fuse, replies).await
}

async fn operator(case: &CrashCase, fuse: &Arc<Fuse>) -> Operator {
    let publisher = AmqpQueue::connect(case.config.amqp.clone()).await.unwrap().publisher();
    Operator::new(Runs {
        journal: Arc::new(FusedJournal(case.journal.clone(), fuse.clone())),
        publisher: Arc::new(FusedPublisher(publisher, fuse.clone())),
        parking: Arc::new(RedisParking::new(RedisClient::new(&case.config.redis).unwrap())),
        clock: Arc::new(SystemClock),
        lifetimes: lifetimes(&case.config),
        header_key: HeaderKey::of(&case.config.scalekit.client_secret),
        audit: Audit::default(),
        name: "operator".into(),
    })
}

fn terminal(message: &Message) -> Option<Reply> {
    let reply: Reply = serde_json::from_slice(&message.body).unwrap();
    reply.event.is_terminal().then_some(reply)
}

/// Where a story is cut off.
enum Where {
    /// At each of its points.
    Everywhere,
    /// At each from the first of these to the second.
    Between(&'static str, &'static str),
    /// At the points named.
    There,
}

/// Plays a story undisturbed, then cut off in every way, and checks what is left each time; the story must come by the
/// `points` named.
async fn table(
    story: impl AsyncFn(Cut) -> Aftermath,
    check: impl Fn(&str, Option<(&str, Failure)>, &Aftermath),
    cut_off: Where,
    points: &[&'static str],
) {
    let undisturbed = story(None).await;
    one_reply("undisturbed", &undisturbed);
    check("undisturbed", None, &undisturbed);
    let labels = &undisturbed.labels;
    let place = |point: &str| labels.iter().position(|label| label == point);
    for point in points {
        assert!(place(point).is_some(), "{point} is missing: {labels:#?}");
    }
    let cuts: Vec<Point> = match cut_off {
        Where::Everywhere => (0..labels.len()).map(Point::Number).collect(),
        Where::Between(first, last) => (place(first).unwrap()..=place(last).unwrap()).map(Point::Number).collect(),
        Where::There => points.iter().copied().map(Point::Named).collect(),
    };
    let failures = [Failure::Before, Failure::After, Failure::DoneButFailed];
    let cases = cuts.iter().flat_map(|point| failures.map(|failure| (*point, failure)));
    let story = &story;
    let played = futures_util::stream::iter(cases)
        .map(|(point, failure)| async move { (point, failure, story(Some((point, failure))).await) });
    let mut played = played.buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some((point, failure, aftermath)) = played.next().await {
        let labels = &aftermath.labels;
        let label = match point {
            // By the clock a run may come by a point less, and is then not cut off at what would have been its last one.
            Point::Number(number) => labels.get(number).map(String::as_str),
            Point::Named(name) => Some(name).filter(|name| labels.iter().any(|label| label == name)),
        };
        let case = format!("{failure:?} {point:?} `{}`", label.unwrap_or("nowhere"));
        one_reply(&case, &aftermath);
        check(&case, label.map(|label| (label, failure)), &aftermath);
        done += 1;
    }
    println!("{done} cases at {} points", cuts.len());
    assert_eq!(done, cuts.len() * failures.len());
}

/// However often it was sent, it is the same one, and the ledger is true.
fn one_reply(case: &str, Aftermath { replies, sent, .. }: &Aftermath) {
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{case}: two different terminal replies: {replies:#?}");
    assert!(sent.len() <= 1, "{case}: the mail was sent {} times", sent.len());
}

fn check_mail(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath) {
    let state = check_completed(case, cut, aftermath);
    // Between the entry of its start and the call the broker becomes its witness: another message is held, the old one acked.
    let in_doubt = matches!(
        cut,
        Some(
            ("append model_replied+tool_started", Failure::After)
                | ("hold" | "ack", Failure::Before | Failure::After)
                | ("append wake_up_published+tool_finished", Failure::Before)
        )
    );
    assert!(in_doubt || begun_anew(aftermath) || state == EffectState::Done, "{case}: there is no reason for doubt");
}

fn check_searching(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath) {
    let state = check_completed(case, cut, aftermath);
    assert!(begun_anew(aftermath) || state == EffectState::Done, "{case}: there is no reason for doubt");
    let searches = aftermath.journal.iter().filter(|line| line.contains(r#"{"search":"#)).count();
    assert_eq!(searches, 1, "{case}: the search is journalled with what it found");
}

/// A store that is as new as this one, and was empty after a worker had the message, may have lost what that one did.
fn begun_anew(aftermath: &Aftermath) -> bool {
    aftermath.journal[0].contains(r#""writes_lost":true"#)
}

/// What became of the mail.
fn check_completed(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath) -> EffectState {
    let Aftermath { replies, letters, journal, sent, model_requests, labels } = aftermath;
    assert_eq!(letters.len(), 0, "{case}");
    let ReplyEvent::Completed(completed) = &replies[0].event else { panic!("{case}: {replies:#?}") };
    let state = completed.account.effects.iter().find(|effect| effect.tool == "gmail_send_message").unwrap().state;
    match state {
        EffectState::Done => assert_eq!(sent.len(), 1, "{case}: reported as done"),
        EffectState::Unknown => assert_eq!(completed.status, Status::CompletedWithUnknownEffects, "{case}"),
        EffectState::Failed | EffectState::Denied | EffectState::NotDone => {
            panic!("{case}: nothing failed: {completed:#?}")
        }
    }
    let turns = journal.iter().filter(|line| event_name(line) == "model_replied").count();
    assert_eq!(turns, completed.account.steps as usize, "{case}");
    let asked_again =
        cut.is_some_and(|(label, failure)| label.starts_with("append model_replied") && failure == Failure::Before);
    // A worker that dies right after it journalled the question may or may not have asked it.
    let asked_perhaps = cut.is_some_and(|(label, failure)| label.ends_with("model_asked") && failure == Failure::After);
    let asked_perhaps = asked_perhaps || died_while_the_model_was_asked(cut, labels);
    let extra = *model_requests - turns as u64;
    assert!(
        extra == u64::from(asked_again) || asked_perhaps && extra <= 1,
        "{case}: {model_requests} requests for {turns} turns"
    );
    state
}

/// Whether the worker died over another message of the run, while the model's answer was not journalled yet.
fn died_while_the_model_was_asked(cut: Option<(&str, Failure)>, labels: &[String]) -> bool {
    let over_another = cut.is_some_and(|(last, failure)| {
        !last.starts_with("append") && matches!(failure, Failure::Before | Failure::After)
    });
    let count = |word: &str| labels.iter().filter(|label| label.contains(word)).count();
    over_another && count("model_asked") > count("model_replied")
}

/// Whether the worker died between the entry of the write's start and that of its outcome. Other messages of the run come in
/// between: a worker that dies over one of them dies with the write, too.
fn died_with_the_write(cut: Option<(&str, Failure)>, labels: &[String]) -> bool {
    let Some((last, failure)) = cut.filter(|(_, failure)| *failure != Failure::DoneButFailed) else { return false };
    let done = |name: &str| labels.iter().any(|label| label == name) && !(failure == Failure::Before && last == name);
    done(START) && !done(OUTCOME)
}

fn check_approved(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath) {
    check_allowed(case, cut, aftermath, "hello");
}

fn check_edited(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath) {
    check_allowed(case, cut, aftermath, "edited");
}

fn check_allowed(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath, body: &str) {
    let state = check_completed(case, cut, aftermath);
    if !begun_anew(aftermath) {
        let in_doubt = died_with_the_write(cut, &aftermath.labels);
        assert_eq!(state == EffectState::Unknown, in_doubt, "{case}: {:#?}", aftermath.labels);
    }
    assert!(aftermath.sent.iter().all(|sent| sent == body), "{case}: {:?}", aftermath.sent);
    let ReplyEvent::Completed(completed) = &aftermath.replies[0].event else { panic!("{case}") };
    assert_eq!(completed.account.approvals.len(), 1, "{case}: {completed:#?}");
    assert!(completed.account.approvals[0].decision.allows(), "{case}");
}

fn check_denied(case: &str, _: Option<(&str, Failure)>, aftermath: &Aftermath) {
    let ReplyEvent::Completed(completed) = &aftermath.replies[0].event else { panic!("{case}: {aftermath:#?}") };
    let account = &completed.account;
    assert_eq!((aftermath.sent.len(), aftermath.letters.len()), (0, 0), "{case}");
    let states: Vec<_> = account.effects.iter().map(|effect| effect.state).collect();
    assert_eq!((states.as_slice(), account.approvals.len()), ([EffectState::Denied].as_slice(), 1), "{case}");
}

fn check_fallback(case: &str, _: Option<(&str, Failure)>, aftermath: &Aftermath) {
    let ReplyEvent::Completed(completed) = &aftermath.replies[0].event else { panic!("{case}: {aftermath:#?}") };
    let account = &completed.account;
    let models: Vec<_> = account.models.iter().map(|used| (used.model.as_str(), used.calls)).collect();
    assert_eq!(models, [("gpt-retired", 0), ("gpt-4o", 2)], "{case}");
    assert_eq!((account.effects.len(), aftermath.letters.len()), (1, 0), "{case}");
    assert!(account.effects[0].state != EffectState::Done || aftermath.sent.len() == 1, "{case}");
    let switches = aftermath.journal.iter().filter(|line| event_name(line) == "model_switched").count();
    assert_eq!(switches, 1, "{case}");
}

fn check_poison(case: &str, cut: Option<(&str, Failure)>, aftermath: &Aftermath) {
    let Aftermath { replies, letters, model_requests, .. } = aftermath;
    let ReplyEvent::Failed(failed) = &replies[0].event else { panic!("{case}: {replies:#?}") };
    assert_eq!((failed.error.code, *model_requests), (ErrorCode::AttemptsExhausted, 0), "{case}");
    // A letter is made at least once: twice only where nobody could know of the first.
    let twice = matches!(cut, Some(("publish dead letter", failure)) if failure != Failure::Before)
        || matches!(cut, Some(("append delivered", Failure::Before)));
    assert_eq!(letters.len(), 1 + usize::from(twice), "{case}: {letters:#?}");
    for letter in letters {
        let header = |name: &str| letter.properties.headers.get(name).map(String::as_str);
        assert_eq!(header("x-agentkit-dead-reason"), Some("poison"), "{case}");
        assert_eq!(header("x-agentkit-dead-attempts"), Some("1"), "{case}");
        assert_eq!(header("x-agentkit-dead-step"), Some("checking the accounts"), "{case}");
    }
}

fn check_cancelled(case: &str, _: Option<(&str, Failure)>, Aftermath { replies, letters, .. }: &Aftermath) {
    let ReplyEvent::Failed(failed) = &replies[0].event else { panic!("{case}: {replies:#?}") };
    assert_eq!((failed.error.code, letters.len()), (ErrorCode::Cancelled, 0), "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cut_off_anywhere_ends_with_one_reply_and_at_most_one_write() {
    let redis = Redis::start().await;
    let points = [
        "append started+attempt_started",
        "append authorization_requested",
        "append accounts_ready+tools_listed+model_asked",
        "append model_replied+tool_started",
        "append retried+tool_finished+model_asked",
        "append wake_up_published+tool_finished",
        "append model_replied+finished",
        "append delivered",
        "publish wake-up",
        "publish agentkit.job.completed",
        "ack",
    ];
    table(async |cut| mail(&redis, cut).await, check_mail, Where::Everywhere, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_search_found_is_offered_by_the_next_worker_and_the_write_is_made_at_most_once() {
    let redis = Redis::start().await;
    let points = ["append model_replied+model_asked"];
    table(async |cut| searching(&redis, cut).await, check_searching, Where::There, &points).await;
}

/// Where the journal of a run that waits for a person grows, from the question on.
const WAIT: [&str; 5] = [
    "append model_replied+approval_asked",
    "append attempt_ended",
    "append wake_up_published",
    "append approval_decided",
    "append attempt_started",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_approved_is_made_at_most_once_wherever_its_run_is_cut_off() {
    let redis = Redis::start().await;
    let points = ["publish agentkit.job.approval_required", "release", "publish wake-up", START, "hold", OUTCOME];
    let points = [WAIT.as_slice(), &points].concat();
    let from_the_question = Where::Between(WAIT[0], OUTCOME);
    table(async |cut| waiting(&redis, cut, "approve").await, check_approved, from_the_question, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_edited_is_made_at_most_once_wherever_the_journal_of_its_run_ends() {
    let redis = Redis::start().await;
    let points = [START, OUTCOME, "append model_asked", "append model_replied+finished", "append delivered"];
    let points = [WAIT.as_slice(), &points].concat();
    table(async |cut| waiting(&redis, cut, "edit").await, check_edited, Where::There, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_denied_is_never_made_wherever_the_journal_of_its_run_ends() {
    let redis = Redis::start().await;
    let points = ["append model_asked", "append model_replied+finished", "append delivered"];
    let points = [WAIT.as_slice(), &points].concat();
    table(async |cut| waiting(&redis, cut, "deny").await, check_denied, Where::There, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_model_is_gone_goes_on_with_another_one_wherever_its_journal_ends() {
    let redis = Redis::start().await;
    let points = [
        "append accounts_ready+tools_listed+model_asked",
        "append model_switched+model_asked",
        "append model_replied+tool_started",
        "append model_replied+finished",
    ];
    table(async |cut| with_another_model(&redis, cut).await, check_fallback, Where::There, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_put_aside_has_its_reply_and_its_dead_letter_wherever_that_is_cut_off() {
    let redis = Redis::start().await;
    let points = [
        "claim",
        "append put_aside+finished",
        "publish agentkit.job.failed",
        "publish dead letter",
        "append delivered",
        "ack",
    ];
    table(async |cut| poison(&redis, cut).await, check_poison, Where::Everywhere, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_under_way_ends_so_wherever_its_worker_is_cut_off() {
    let redis = Redis::start().await;
    let points = [
        "append accounts_ready+tools_listed+model_asked",
        "requeue",
        "publish agentkit.job.failed",
        "append delivered",
        "ack",
    ];
    table(async |cut| cancelled(&redis, cut).await, check_cancelled, Where::Everywhere, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_a_parked_run_that_is_cut_off_anywhere_can_be_given_again() {
    let redis = Redis::start().await;
    let points = ["claim", "append finished", "release", "publish wake-up"];
    table(async |cut| cancelled_while_parked(&redis, cut).await, check_cancelled, Where::Everywhere, &points).await;
}
