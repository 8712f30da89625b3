//! A private Redis Cluster of three masters, whose slots a test may move and whose nodes it may kill.

use agentkit_worker::internals::redis_client::{Config, RedisClient};
use tokio::sync::OnceCell;

use super::redis::{Redis, free_port};
use super::shortly;

/// So many slots a cluster has.
const SLOTS: u32 = 16_384;

/// The cluster, gone with the test, also where the test process is killed.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<Redis>,
    /// Where the nodes talk to each other.
    buses: Vec<u16>,
}

impl RedisCluster {
    /// The cluster of all tests of this process that do no harm to it.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<RedisCluster> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Starts three masters and waits until they serve all slots. That takes two seconds: so long a master that was just
    /// started takes no writes, whatever it is told.
    pub(crate) async fn start() -> Self {
        let (one, two, three) = tokio::join!(node(), node(), node());
        let (nodes, buses) = [one, two, three].into_iter().unzip();
        let cluster = Self { nodes, buses };
        let share = SLOTS / 3 + 1;
        for (number, node) in (0..).zip(&cluster.nodes) {
            let (first, last) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            // Masters that meet with the same number would have to agree on new ones first.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        }
        cluster.meet(1);
        cluster.meet(2);
        cluster.until_in_order().await;
        cluster
    }

    /// Adds a replica of a node, and waits until it has its data.
    pub(crate) async fn add_replica_of(&mut self, master: usize) -> usize {
        let (replica, bus) = node().await;
        self.nodes.push(replica);
        self.buses.push(bus);
        let (number, id) = (self.nodes.len() - 1, self.id(master));
        self.meet(number);
        let replica = &self.nodes[number];
        shortly("the replica has met its master", async || {
            (replica.command(&["CLUSTER", "REPLICATE", &id]) == "OK").then_some(())
        })
        .await;
        shortly("the replica has its master's data", async || {
            replica.command(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        })
        .await;
        self.until_in_order().await;
        number
    }

    /// Waits until all nodes know each other and serve all slots.
    pub(crate) async fn until_in_order(&self) {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        shortly("the cluster is in order", async || {
            let fine = |info: String| info.contains("cluster_state:ok") && info.contains(&known);
            self.nodes.iter().all(|node| fine(node.command(&["CLUSTER", "INFO"]))).then_some(())
        })
        .await;
    }

    /// The addresses of all nodes.
    pub(crate) fn url(&self) -> String {
        self.nodes.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }

    /// A client's configuration for this cluster.
    pub(crate) fn config(&self) -> Config {
        Config { url: self.url().into(), cluster: true, ..Config::default() }
    }

    /// A client of this cluster with the product's own limits.
    pub(crate) fn client(&self) -> RedisClient {
        RedisClient::new(&self.config()).unwrap()
    }

    /// The master that has a key.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let slot: u32 = self.slot(key).parse().unwrap();
        let rows = self.nodes[0].command(&["CLUSTER", "NODES"]);
        let has = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse().is_ok_and(|first: u32| first <= slot) && last.parse().is_ok_and(|last: u32| slot <= last)
        };
        let row = rows.lines().find(|row| row.split(' ').skip(8).any(has)).expect("all slots are served");
        let id = row.split(' ').next().unwrap();
        (0..self.nodes.len()).find(|node| self.id(*node) == id).expect("one of ours")
    }

    /// Begins to move a key's slot from one node to another; the key itself stays where it is.
    pub(crate) fn begin_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key);
        self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves a key of a slot that is being moved.
    pub(crate) fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let answer = self.nodes[from].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        assert_eq!(answer, "OK", "{key}");
    }

    /// Says to all nodes that a key's slot has been moved.
    pub(crate) fn end_move(&self, key: &str, to: usize) {
        let (slot, id) = (self.slot(key), self.id(to));
        // First the new owner: else the slot would be nobody's for a moment.
        let others = (0..self.nodes.len()).filter(|other| *other != to);
        for node in [to].into_iter().chain(others) {
            self.nodes[node].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// How often a node has answered with this error.
    pub(crate) fn answered(&self, node: usize, error: &str) -> u32 {
        let stats = self.nodes[node].command(&["INFO", "errorstats"]);
        let count = stats.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{error}:count=")));
        count.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Makes a node known to the first.
    fn meet(&self, node: usize) {
        let (port, bus) = (self.nodes[node].port().to_string(), self.buses[node].to_string());
        self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn slot(&self, key: &str) -> String {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"])
    }
}

/// A node that knows nobody yet, and the port of its bus.
async fn node() -> (Redis, u16) {
    let bus = free_port();
    let port = bus.to_string();
    (Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &port]).await, bus)
}
