//! A private Redis master with a replica, and three Sentinels that have one take the other's place.

use agentkit_worker::internals::redis_client::{Config, RedisClient};

use super::redis::Redis;
use super::{eventually, shortly};

/// The master's name.
const NAME: &str = "main";

/// All of them, gone with the test.
pub(crate) struct RedisSentinels {
    /// The first is the master at the start.
    pub(crate) servers: Vec<Redis>,
    pub(crate) sentinels: Vec<Redis>,
}

impl RedisSentinels {
    /// Starts them and waits until the Sentinels know of each other and of the replica.
    pub(crate) async fn start() -> Self {
        let master = Redis::start().await;
        let replica = master.start_replica().await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Redis::start_sentinel(NAME, master.port()).await);
        }
        let started = Self { servers: vec![master, replica], sentinels };
        shortly("the Sentinels know of all", async || started.know_of(2, 1).then_some(())).await;
        started
    }

    /// Whether each Sentinel knows so many others, and so many replicas.
    fn know_of(&self, others: u32, replicas: u32) -> bool {
        self.sentinels.iter().all(|sentinel| {
            let state = sentinel.command(&["SENTINEL", "MASTER", NAME]);
            let is = |name: &str, count: u32| state.contains(&format!("{name}\n{count}\n"));
            is("num-other-sentinels", others) && is("num-slaves", replicas)
        })
    }

    /// The addresses of the Sentinels.
    pub(crate) fn url(&self) -> String {
        self.sentinels.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }

    /// A client's configuration; the client soon asks again.
    pub(crate) fn config(&self) -> Config {
        let (url, sentinel) = (self.url().into(), NAME.to_owned());
        Config { url, sentinel, breaker_open_milliseconds: 200, ..Config::default() }
    }

    /// A client of the master.
    pub(crate) fn client(&self) -> RedisClient {
        RedisClient::new(&self.config()).unwrap()
    }

    /// Waits until all Sentinels name this server as the master, and it says so itself.
    pub(crate) async fn until_master(&self, server: usize) {
        let port = self.servers[server].port().to_string();
        eventually("the fail-over", || async {
            let named =
                |sentinel: &Redis| sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).ends_with(&port);
            let role = self.servers[server].try_command(&["ROLE"])?;
            (self.sentinels.iter().all(named) && role.starts_with("master")).then_some(())
        })
        .await;
    }

    /// Waits until this server is a replica in step with its master, and the Sentinels know.
    pub(crate) async fn until_replica(&self, server: usize) {
        eventually("the former master is a replica", || async {
            let replication = self.servers[server].try_command(&["INFO", "replication"])?;
            replication.contains("master_link_status:up").then_some(())
        })
        .await;
    }

    /// Moves the master to the other server by hand; clients that are connected stay so.
    pub(crate) fn move_by_hand(&self, from: usize, to: usize) {
        let port = self.servers[to].port().to_string();
        self.servers[to].command(&["REPLICAOF", "NO", "ONE"]);
        for sentinel in &self.sentinels {
            assert_eq!(sentinel.command(&["SENTINEL", "REMOVE", NAME]), "OK");
            assert_eq!(sentinel.command(&["SENTINEL", "MONITOR", NAME, "127.0.0.1", &port, "2"]), "OK");
        }
        self.servers[from].command(&["REPLICAOF", "127.0.0.1", &port]);
    }
}
