//! The same job id of two producers is two runs, each its producer's own; what ran before they were named goes on.

use serde_json::{Value, json};

use super::producers::Producer;
use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::{Program, WorkerProcess};
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::scripted_model::{ScriptedModel, turn};

/// A service with two producers, of whom the program is told or not.
struct Shared {
    service: ProxiedService<'static>,
    program: Program,
    billing: Producer,
    shipping: Producer,
}

impl Shared {
    async fn start(model: &ScriptedModel) -> Self {
        let service = ProxiedService::new(Broker::shared().await).await;
        let program = service.program(&[]).set("OPENAI_BASE_URL", &model.base_url());
        let (billing, shipping) =
            (Producer::new(service.broker, "billing").await, Producer::new(service.broker, "shipping").await);
        Self { service, program, billing, shipping }
    }

    /// From the next start of a worker on.
    fn name_producers(&self) {
        let of = |name: &str, producer: &Producer| {
            format!("[producers.{name}]\namqp_users = [\"{}\"]\nidentifiers = [\"{USER}\"]\n", producer.name)
        };
        let lines = of("billing", &self.billing) + &of("shipping", &self.shipping);
        std::fs::create_dir_all(self.program.folder().join("config")).unwrap();
        std::fs::write(self.program.folder().join("config").join("producers.toml"), lines).unwrap();
    }

    async fn send(&self, producer: &Producer, job: &Value) {
        assert!(producer.publish(&self.service.amqp.names().jobs(), job, Some(&producer.name)).await);
    }

    /// Sends the job; the end that its sender is told.
    async fn asked(&self, producer: &Producer, job: &Value) -> Value {
        self.send(producer, job).await;
        self.service.reply().await
    }

    async fn refused_for_want_of_a_producer(&self, arguments: &[&str]) {
        let outcome = self.program.run(arguments).await;
        assert_eq!(outcome.code, Some(64), "{}", outcome.all());
        assert!(outcome.stderr.contains("--producer, one of"), "{}", outcome.stderr);
    }

    async fn shown(&self, arguments: &[&str]) -> Value {
        let outcome = self.program.run(arguments).await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.all());
        serde_json::from_str(&outcome.stdout).unwrap()
    }
}

fn job(id: &str, prompt: &str) -> Value {
    json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": prompt})
}

async fn put_off(worker: &WorkerProcess, times: usize) {
    eventually("the run is put off", || async { (worker.lines("run interrupted") >= times).then_some(()) }).await;
}

#[tokio::test]
async fn the_same_id_of_two_producers_is_two_runs_of_which_each_is_its_own() {
    let later = || turn::status(429).retry_after(4);
    let model = ScriptedModel::start([
        turn::text("of billing"),
        turn::text("of shipping"),
        turn::text("of the operator"),
        turn::text("of billing again"),
        later(),
        later(),
        turn::text("of shipping, which nobody cancelled"),
    ])
    .await;
    let shared = Shared::start(&model).await;
    shared.name_producers();
    let worker = shared.program.worker().await;
    let (of_billing, of_shipping) = (job("same", "of billing"), job("same", "of shipping"));
    for (name, producer, sent) in
        [("billing", &shared.billing, &of_billing), ("shipping", &shared.shipping, &of_shipping)]
    {
        let reply = shared.asked(producer, sent).await;
        assert_eq!((&reply["data"]["text"], &reply["subject"]), (&json!(format!("of {name}")), &json!("same")));
        assert_eq!(reply["id"], json!(format!("same@{name}:result")), "two events");
        // Once more it is the same run, and with another body a conflict with it.
        assert_eq!(shared.asked(producer, sent).await, reply);
        let conflict = shared.asked(producer, &job("same", "something else")).await;
        assert_eq!(conflict["data"]["error"]["code"], "id_conflict", "{conflict:#}");
    }
    // The operator's own, with the same id and the very words of a producer, is a third; a producer does not get its answer.
    let file = shared.program.folder().join("job.json");
    std::fs::write(&file, job("operators", "the same words").to_string()).unwrap();
    let sent = shared.program.run(&["enqueue", "--file", file.to_str().unwrap()]).await;
    assert_eq!(sent.code, Some(0), "{}", sent.all());
    assert_eq!(shared.service.reply().await["id"], "operators:result");
    let reply = shared.asked(&shared.billing, &job("operators", "the same words")).await;
    assert_eq!(
        (&reply["id"], &reply["data"]["text"]),
        (&json!("operators@billing:result"), &json!("of billing again"))
    );

    // Commands name the producer, where that says more than the id.
    shared.refused_for_want_of_a_producer(&["jobs", "show", "same"]).await;
    let shown = shared.shown(&["jobs", "show", "same", "--producer", "shipping", "--json"]).await;
    assert_eq!((&shown["id"], &shown["producer"]), (&json!("same"), &json!("shipping")));
    let shown = shared.shown(&["jobs", "show", "operators", "--producer", "", "--json"]).await;
    assert_eq!((&shown["id"], shown.get("producer")), (&json!("operators"), None));
    let unknown = shared.program.run(&["jobs", "show", "same", "--producer", ""]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.all());
    for (index, producer) in [&shared.billing, &shared.shipping].into_iter().enumerate() {
        shared.send(producer, &job("waits", "x")).await;
        put_off(&worker, index + 1).await;
    }
    shared.refused_for_want_of_a_producer(&["jobs", "cancel", "waits"]).await;
    let cancelled = shared.program.run(&["jobs", "cancel", "waits", "--producer", "billing"]).await;
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.all());
    let replies = [shared.service.reply().await, shared.service.reply().await];
    for (reply, (id, ended)) in replies
        .iter()
        .zip([("waits@billing:result", "agentkit.job.failed"), ("waits@shipping:result", "agentkit.job.completed")])
    {
        assert_eq!((&reply["id"], &reply["type"]), (&json!(id), &json!(ended)), "{reply:#}");
    }

    // Letters as well.
    let beyond = json!({"id": "beyond", "identifier": "nobody's", "connections": ["gmail"], "prompt": "x"});
    for producer in [&shared.billing, &shared.shipping] {
        assert_eq!(shared.asked(producer, &beyond).await["data"]["error"]["code"], "producer_not_allowed");
    }
    let dead = shared.service.amqp.names().dead();
    eventually("the letters", || async { (shared.service.broker.ready(&dead).await == 2).then_some(()) }).await;
    shared.refused_for_want_of_a_producer(&["dead", "show", "beyond"]).await;
    let dropped = shared.program.run(&["dead", "drop", "beyond", "--producer", "billing", "--yes"]).await;
    assert_eq!(dropped.code, Some(0), "{}", dropped.all());
    let left = shared.shown(&["dead", "list", "--json"]).await;
    assert_eq!((&left["id"], &left["producer"]), (&json!("beyond"), &json!("shipping")));
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn what_ran_before_producers_were_named_goes_on_and_is_not_run_again() {
    let model = ScriptedModel::start([
        turn::text("before"),
        turn::status(429).retry_after(3),
        turn::text("went on"),
        turn::text("another's words"),
    ])
    .await;
    let shared = Shared::start(&model).await;
    let worker = shared.program.worker().await;
    let ended = shared.asked(&shared.billing, &job("ended", "x")).await;
    assert_eq!(ended["id"], "ended:result");
    shared.send(&shared.billing, &job("under-way", "x")).await;
    put_off(&worker, 1).await;
    worker.stop().await;
    shared.name_producers();
    let worker = shared.program.worker().await;
    let went_on = shared.service.reply().await;
    assert_eq!((&went_on["id"], &went_on["data"]["text"]), (&json!("under-way:result"), &json!("went on")));
    assert_eq!(shared.asked(&shared.billing, &job("ended", "x")).await, ended, "the same reply once more");
    assert_eq!(shared.asked(&shared.billing, &job("under-way", "x")).await, went_on);
    // Other words under the same id are another's job, or may be.
    let others = shared.asked(&shared.shipping, &job("ended", "another's words")).await;
    assert_eq!((&others["id"], &others["data"]["text"]), (&json!("ended@shipping:result"), &json!("another's words")));
    let shown = shared.shown(&["jobs", "show", "under-way", "--json"]).await;
    assert_eq!((&shown["state"], shown.get("producer")), (&json!("finished"), None), "{shown:#}");
    worker.stop().await;
    assert_eq!(model.finish().len(), 4);
}
