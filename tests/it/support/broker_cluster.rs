//! A RabbitMQ cluster of three nodes, without a balancer, whose nodes a test may kill, freeze, restart and cut off.

use agentkit_worker::internals::queue::amqp::Config;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::{MutexGuard, OnceCell};

use super::broker::Broker;
use super::broker_node::{NameServer, Node, Settings};
use super::{eventually, unique};

const NAMES: [&str; 3] = ["rabbit1@localhost", "rabbit2@localhost", "rabbit3@localhost"];

/// As deploy/README.md says.
const DEAD_LETTERING: &str = "{dead_letter_worker_publisher_confirm_timeout, 5000}";

/// The three nodes, each a broker that can be reached by itself.
pub(crate) struct BrokerCluster {
    pub(crate) nodes: Vec<Broker>,
}

impl BrokerCluster {
    /// The cluster of all tests of this process, one after another. Leave it whole.
    pub(crate) async fn exclusive() -> MutexGuard<'static, Self> {
        static EXCLUSIVE: OnceCell<tokio::sync::Mutex<BrokerCluster>> = OnceCell::const_new();
        EXCLUSIVE.get_or_init(|| async { tokio::sync::Mutex::new(Self::start().await) }).await.lock().await
    }

    async fn start() -> Self {
        // As deploy/README.md has it for production.
        let [one, two, three] = NAMES;
        let lines = format!(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.classic_config.nodes.1 = {one}\n\
             cluster_formation.classic_config.nodes.2 = {two}\n\
             cluster_formation.classic_config.nodes.3 = {three}\n\
             cluster_partition_handling = pause_minority\n\
             net_ticktime = 10\n"
        );
        let name_server = NameServer::start();
        let nodes = NAMES.map(|name| {
            let settings = Settings { lines: &lines, terms: DEAD_LETTERING, management: name == one };
            Broker::of(Node::new(name, name_server.clone(), settings))
        });
        let cluster = Self { nodes: nodes.into() };
        join_all(cluster.nodes.iter().map(Broker::start)).await;
        cluster.nodes[0].control(&["await_online_nodes", "3"]).await;
        cluster
    }

    /// The addresses of all nodes.
    pub(crate) fn url(&self) -> String {
        self.nodes.iter().map(Broker::url).collect::<Vec<_>>().join(",")
    }

    /// The management API, which one node has.
    pub(crate) fn management_url(&self) -> String {
        self.nodes[0].management_url()
    }

    /// A configuration for this cluster with queues of its own.
    pub(crate) fn config(&self) -> Config {
        Config { url: self.url().into(), prefix: unique("test"), ..Config::default() }
    }

    /// The node where a queue's leader is.
    pub(crate) async fn leader(&self, queue: &str) -> usize {
        eventually("the queue has a leader", || async {
            let rows = self.nodes[0].control(&["-q", "--no-table-headers", "list_queues", "name", "leader"]).await;
            let row = rows.lines().find_map(|row| row.strip_prefix(queue)?.strip_prefix('\t'))?;
            NAMES.iter().position(|name| *name == row.trim())
        })
        .await
    }

    /// Takes a queue's copy from the node that is last and not its leader; says how many members it has then.
    pub(crate) async fn shrink(&self, queue: &str) -> usize {
        let leader = self.leader(queue).await;
        let last = (0..NAMES.len()).rfind(|node| *node != leader).expect("there are three");
        self.nodes[0].queues(&["delete_member", queue, NAMES[last]]).await;
        let rows = self.nodes[0].control(&["-q", "--no-table-headers", "list_queues", "name", "members"]).await;
        let row = rows.lines().find_map(|row| row.strip_prefix(queue)?.strip_prefix('\t')).expect("it is listed");
        NAMES.iter().filter(|name| row.contains(**name)).count()
    }

    /// Cuts a node off from the others, as a network does that is gone between them, or lets it see them again. Its
    /// clients, and the test, still reach it.
    pub(crate) async fn cut_off(&self, node: usize, cut: bool) {
        let others = NAMES.iter().enumerate().filter(|(other, _)| *other != node).map(|(_, name)| format!("'{name}'"));
        let others = others.collect::<Vec<_>>().join(",");
        // To the others it has another secret, so that no connection between them is made again.
        let secret = if cut { "cut_off" } else { "erlang:get_cookie()" };
        let code = format!(
            "[begin erlang:set_cookie(Other, {secret}), erlang:disconnect_node(Other) end || Other <- [{others}]]."
        );
        self.nodes[node].control(&["eval", &code]).await;
    }

    /// Has the cluster look for a queue's leader on this node until it notices, as after an election that it missed.
    pub(crate) async fn believe_led_by(&self, queue: &str, node: usize) {
        let led_by = NAMES[node];
        let code = format!(
            "Name = rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>), \
             Move = fun(Queue) -> amqqueue:set_pid(Queue, {{element(1, amqqueue:get_pid(Queue)), '{led_by}'}}) end, \
             case erlang:function_exported(rabbit_db_queue, update, 2) of \
                 true -> rabbit_db_queue:update(Name, Move); \
                 false -> rabbit_misc:execute_mnesia_transaction(fun() -> rabbit_amqqueue:update(Name, Move) end) \
             end."
        );
        self.nodes[0].control(&["eval", &code]).await;
    }

    /// What each node says of the cluster and of the queues.
    pub(crate) async fn describe(&self) -> String {
        let queues = ["-q", "list_queues", "name", "messages", "consumers", "leader", "online"];
        let said = self.nodes.iter().zip(NAMES).map(async |(node, name)| {
            format!("{name}:\n{}\n{}\n", node.try_control(&["cluster_status"]).await, node.try_control(&queues).await)
        });
        join_all(said).await.concat()
    }

    /// Whether a node sees others and its view of the cluster is not theirs, which stays so until one of them is restarted.
    async fn is_partitioned(&self, node: usize) -> bool {
        let status = self.nodes[node].control(&["-q", "cluster_status", "--formatter", "json"]).await;
        let status: Value = serde_json::from_str(&status).unwrap();
        status["partitions"].as_object().is_some_and(|partitions| !partitions.is_empty())
    }

    /// Restarts a node that stood still where the cluster is partitioned since, as an operator does. That node did not see
    /// itself in a minority, so `pause_minority` did not restart it: seen on 3.10.8 in two of three cases.
    pub(crate) async fn repair(&self, node: usize) {
        let partitioned = join_all((0..NAMES.len()).map(|node| self.is_partitioned(node))).await;
        if partitioned.contains(&true) {
            println!("partitioned: {} is restarted", NAMES[node]);
            self.nodes[node].stop().await;
            self.nodes[node].start().await;
        }
    }

    /// Waits until every node serves and all members of a queue are there, as an operator does before the next restart.
    pub(crate) async fn until_whole(&self, queue: &str) {
        join_all(self.nodes.iter().map(Broker::until_ready)).await;
        eventually("all members are there", || async {
            let rows = self.nodes[0].control(&["-q", "--no-table-headers", "list_queues", "name", "online"]).await;
            let row = rows.lines().find_map(|row| row.strip_prefix(queue)?.strip_prefix('\t'))?;
            NAMES.iter().all(|name| row.contains(name)).then_some(())
        })
        .await;
    }
}
