//! The present master behind Redis Sentinel, asked for whenever a connection is made.
//!
//! The `redis` crate's own `SentinelClient` is not used, for three reasons found in its source (1.8.1): its Sentinels have
//! time limits of its own whatever is configured, their answers count in the order of the addresses, so that a silent
//! first one is waited for in each call anew, and the role is asked over another connection than the one handed out.

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError,
    RedisResult, Value, cmd,
};

use super::{Unavailable, describe};

/// The Sentinels of one master.
pub(super) struct Sentinels {
    addresses: Vec<ConnectionInfo>,
    master: String,
    timeouts: AsyncConnectionConfig,
}

impl Sentinels {
    pub(super) fn new(addresses: Vec<ConnectionInfo>, master: &str, timeouts: AsyncConnectionConfig) -> Self {
        Self { addresses, master: master.to_owned(), timeouts }
    }

    /// A connection to what any Sentinel names and what says itself that it is a master: after a fail-over a Sentinel may
    /// name the former one for a while, and the next one is not a master yet.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut attempts: FuturesUnordered<_> = self.addresses.iter().map(|address| self.connect_by(address)).collect();
        let mut failure = RedisError::from((ErrorKind::Client, "no Sentinel is named"));
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Each Sentinel's address, and the address of the master that it names.
    pub(super) async fn ask_each(&self) -> Vec<(String, Result<String, Unavailable>)> {
        join_all(self.addresses.iter().map(|address| async {
            let named = self.ask(address).await.map(|info| info.addr().to_string()).map_err(|error| describe(&error));
            (address.addr().to_string(), named)
        }))
        .await
    }

    async fn connect_by(&self, sentinel: &ConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let master = self.ask(sentinel).await?;
        let mut connection = self.open(master).await?;
        let role: Vec<Value> = cmd("ROLE").query_async(&mut connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
            _ => Err(RedisError::from((ErrorKind::Client, "the server that a Sentinel names is not a master (yet)"))),
        }
    }

    /// How the master is reached: with the same user, password and TLS as the Sentinel, and the database.
    async fn ask(&self, sentinel: &ConnectionInfo) -> RedisResult<ConnectionInfo> {
        let settings = sentinel.redis_settings().clone().set_db(0);
        let opened = match self.open(sentinel.clone().set_redis_settings(settings)).await {
            // A Sentinel that wants no password refuses whoever gives one.
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
                self.open(sentinel.clone().set_redis_settings(RedisConnectionInfo::default())).await
            }
            opened => opened,
        };
        let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master).to_owned();
        let named: Option<(String, u16)> = question.query_async(&mut opened?).await?;
        let unknown =
            || RedisError::from((ErrorKind::Client, "the Sentinel knows no master of the name redis.sentinel"));
        let (host, port) = named.ok_or_else(unknown)?;
        Ok(sentinel.clone().set_addr(match sentinel.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        }))
    }

    async fn open(&self, address: ConnectionInfo) -> RedisResult<MultiplexedConnection> {
        Client::open(address)?.get_multiplexed_async_connection_with_config(&self.timeouts).await
    }
}
