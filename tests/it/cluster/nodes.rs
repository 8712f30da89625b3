//! Nodes that go away under load: every job is answered once, every write executed once, nothing is left in a queue, and the
//! workers all go on by themselves. How soon they are as fast as before is printed.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::broker_cluster::BrokerCluster;
use crate::support::cluster_load::ClusterLoad;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_with_the_leaders_is_killed_then_stands_still_then_is_cut_off_from_the_others() {
    let cluster = BrokerCluster::exclusive().await;
    let load = ClusterLoad::start(&cluster).await;
    let jobs = load.amqp.names().jobs();

    let (leader, fault) = (cluster.leader(&jobs).await, Instant::now());
    cluster.nodes[leader].kill();
    load.recovery("leader killed", fault).await;
    cluster.nodes[leader].start().await;
    cluster.until_whole(&jobs).await;

    let (leader, fault) = (cluster.leader(&jobs).await, Instant::now());
    cluster.nodes[leader].freeze(true);
    sleep(Duration::from_secs(20)).await;
    cluster.nodes[leader].freeze(false);
    load.recovery("leader frozen for 20 s", fault).await;
    cluster.repair(leader).await;
    cluster.until_whole(&jobs).await;

    let (leader, fault) = (cluster.leader(&jobs).await, Instant::now());
    cluster.cut_off(leader, true).await;
    load.recovery("leader cut off", fault).await;
    cluster.cut_off(leader, false).await;
    cluster.until_whole(&jobs).await;
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_is_restarted_in_turn() {
    let cluster = BrokerCluster::exclusive().await;
    let load = ClusterLoad::start(&cluster).await;
    let jobs = load.amqp.names().jobs();
    let fault = Instant::now();
    for node in &cluster.nodes {
        node.stop().await;
        node.start().await;
        cluster.until_whole(&jobs).await;
    }
    load.recovery("each node restarted in turn", fault).await;
    load.finish().await;
}
