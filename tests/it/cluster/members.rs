//! How many members the queues have, as `doctor` and `/metrics` tell it.

use agentkit_worker::internals::queue::amqp::AmqpQueue;

use crate::support::broker_cluster::BrokerCluster;
use crate::support::eventually;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;

#[tokio::test]
async fn doctor_and_the_metrics_tell_the_members_of_each_queue_where_the_management_api_may_be_asked() {
    let cluster = BrokerCluster::exclusive().await;
    let amqp = cluster.config();
    let (redis, peer) = (Redis::start().await, SandboxPeer::with_active_accounts_in_real_time().await);
    let program = |management: &str| {
        let program = Program::of_service(&peer.sandbox, &amqp, &redis.url());
        program.set("AGENTKIT_WORKER__AMQP__MANAGEMENT_URL", management)
    };
    drop(AmqpQueue::connect(amqp.clone()).await.unwrap());
    let told = async |management: &str, part: &str| {
        let output = program(management).run(&["doctor"]).await;
        assert!(output.stdout.contains(part) && !output.all().contains("hunter2"), "{part}: {}", output.all());
    };
    told("", "note    queue members: not known: AMQP does not tell them").await;
    told("http://guest:hunter2@127.0.0.1:1", "warning queue members: 127.0.0.1:1 cannot be reached").await;
    let refused = cluster.management_url().replace("http://", "http://guest:hunter2@");
    told(&refused, "warning queue members: the management API does not let this user in").await;
    let management = cluster.management_url();
    // What the nodes tell each other of new queues takes some seconds.
    let all_up = "ok      queue members: three or more of each of 11 queues, all up";
    eventually("three members of each queue", || async {
        program(&management).run(&["doctor"]).await.stdout.contains(all_up).then_some(())
    })
    .await;

    let jobs = amqp.names().jobs();
    let shrunk = cluster.shrink(&jobs).await;
    assert_eq!(shrunk, 2, "members of {jobs}");
    let few = format!("warning queue members of {jobs}: 2 member(s), 2 up");
    eventually("two members of one queue", || async {
        let output = program(&management).run(&["doctor"]).await;
        (output.stdout.contains(&few) && output.stdout.contains("rabbitmq-queues grow")).then_some(())
    })
    .await;
    let worker = program(&management).worker().await;
    let gauges = [("members", &jobs, 2.0), ("members", &amqp.names().dead(), 3.0), ("members_online", &jobs, 2.0)];
    for (name, queue, expected) in gauges {
        let gauge = format!("agentkit_queue_{name}{{queue=\"{queue}\"}}");
        eventually(&gauge, || async { (worker.metric(&gauge).await == Some(expected)).then_some(()) }).await;
    }
}
