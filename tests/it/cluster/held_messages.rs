//! What becomes of held messages where the cluster does not find the leader of their queue.

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config};
use agentkit_worker::internals::queue::{Holder, Message, Properties};

use crate::support::broker_cluster::BrokerCluster;
use crate::support::eventually;

fn message() -> Message {
    Message { body: "held".into(), properties: Properties::default() }
}

#[tokio::test]
async fn what_a_queue_refuses_as_its_leader_is_looked_for_at_a_dead_node_is_held_soon_after() {
    let cluster = BrokerCluster::exclusive().await;
    let config = Config { url: cluster.nodes[0].url().into(), publish_timeout_milliseconds: 3000, ..cluster.config() };
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let holder = queue.holder("process").await.unwrap();
    cluster.nodes[2].kill();
    cluster.believe_led_by(&config.names().held("process"), 2).await;
    eventually("it is held", || async { holder.hold(message()).await.ok() }).await;
    cluster.nodes[2].start().await;
    cluster.until_whole(&config.names().jobs()).await;
}
