//! What the client is connected to: one Redis server, the master that Sentinels name, or a Redis Cluster by the `redis`
//! crate's own cluster connection.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{
    MultipleNodeRoutingInfo, ResponsePolicy, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr,
};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline,
    RedisError, RedisFuture, RedisResult, ServerErrorKind, TlsCertificates, Value, from_redis_value,
};
use secrecy::ExposeSecret;

use super::sentinel::Sentinels;
use super::{Config, Unavailable, describe};
use crate::transport::choose_provider;

/// How often the crate sends a command again: a node that was restarted takes three (the connection is lost, another
/// node names it, it still loads), a slot under way two. The time that a call has ends it sooner.
const RETRIES: u32 = 5;
/// The least and the longest wait in milliseconds before it does, where nobody has said who is to be asked. Its own are
/// longer than a call may last.
const RETRY_WAIT: (u64, u64) = (20, 200);

/// Where links lead to.
pub(super) enum Target {
    Single { client: Client, timeouts: AsyncConnectionConfig },
    Sentinel(Sentinels),
    Cluster(ClusterClient),
}

#[derive(Clone)]
pub(super) enum RedisConnection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Target {
    /// # Errors
    /// All that is wrong with the address.
    pub(super) fn new(config: &Config) -> Result<Self, Unavailable> {
        let mut addresses = config.addresses().map_err(|problems| Unavailable(problems.join("; ")))?;
        choose_provider();
        let certificates = certificates(config)?;
        addresses =
            addresses.into_iter().map(|address| with_certificates(address, &certificates)).collect::<Result<_, _>>()?;
        let connection_timeout = Duration::from_millis(config.connection_timeout_milliseconds);
        let response_timeout = Duration::from_millis(config.response_timeout_milliseconds);
        if config.cluster {
            let mut builder = ClusterClientBuilder::new(addresses);
            if !config.tls.is_empty() {
                builder = builder.certs(certificates);
            }
            let client = builder
                .connection_timeout(connection_timeout)
                .response_timeout(response_timeout)
                // A node that hangs is waited for twice while the crate reads the map of slots anew. Others that have
                // nothing to do with it are to be answered after that.
                .overall_response_timeout(Some(connection_timeout + 2 * response_timeout))
                .retries(RETRIES)
                .min_retry_wait(RETRY_WAIT.0)
                .max_retry_wait(RETRY_WAIT.1)
                .build();
            return client.map(Self::Cluster).map_err(|error| describe(&error));
        }
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connection_timeout))
            .set_response_timeout(Some(response_timeout));
        if !config.sentinel.is_empty() {
            return Ok(Self::Sentinel(Sentinels::new(addresses, &config.sentinel, timeouts)));
        }
        let address = addresses.pop().ok_or_else(|| Unavailable("no address".to_owned()))?;
        let client = Client::open(address).map_err(|error| describe(&error))?;
        Ok(Self::Single { client, timeouts })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Whether somebody else says where links lead to.
    pub(super) fn is_looked_up(&self) -> bool {
        !matches!(self, Self::Single { .. })
    }

    /// Whether an error means that the server has become a replica, and Sentinels know the master by now. Scripts of Redis 6
    /// only tell it in their text.
    pub(super) fn has_moved(&self, error: &RedisError) -> bool {
        let refused = || error.detail().is_some_and(|detail| detail.contains("READONLY"));
        matches!(self, Self::Sentinel(_)) && (error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) || refused())
    }

    /// Each Sentinel's address, and that of the master which it names.
    pub(super) async fn ask_sentinels(&self) -> Vec<(String, Result<String, Unavailable>)> {
        match self {
            Self::Sentinel(sentinels) => sentinels.ask_each().await,
            Self::Single { .. } | Self::Cluster(_) => Vec::new(),
        }
    }

    pub(super) async fn connect(&self) -> RedisResult<RedisConnection> {
        Ok(match self {
            Self::Single { client, timeouts } => {
                RedisConnection::Single(client.get_multiplexed_async_connection_with_config(timeouts).await?)
            }
            Self::Sentinel(sentinels) => RedisConnection::Single(sentinels.connect().await?),
            Self::Cluster(client) => RedisConnection::Cluster(client.get_async_connection().await?),
        })
    }

    /// Why it did not do it; where it is not what the configuration says, that too.
    pub(super) fn describe(&self, error: &RedisError) -> Unavailable {
        let cause = describe(error);
        let elsewhere = error.is_cluster_error() || error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot);
        if elsewhere && !self.is_cluster() {
            return Unavailable(format!("this is a node of a redis cluster: set redis.cluster = true ({cause})"));
        }
        if self.is_cluster() && cause.0.contains("cluster support disabled") {
            return Unavailable("this is no node of a redis cluster: unset redis.cluster".to_owned());
        }
        cause
    }
}

fn certificates(config: &Config) -> Result<TlsCertificates, Unavailable> {
    let material = config.tls.load().map_err(|problem| Unavailable(format!("redis.tls.{problem}")))?;
    let client_tls = material.identity.map(|(certificates, key)| ClientTlsConfig {
        client_cert: certificates.into_bytes(),
        client_key: key.expose_secret().as_bytes().to_vec(),
    });
    Ok(TlsCertificates { client_tls, root_cert: material.authorities.map(String::into_bytes) })
}

/// The address with what its TLS trusts and shows, which those that are found by it get, too.
fn with_certificates(address: ConnectionInfo, certificates: &TlsCertificates) -> Result<ConnectionInfo, Unavailable> {
    match address.addr() {
        ConnectionAddr::TcpTls { .. } => Client::build_with_tls(address, certificates.clone())
            .map(|client| client.get_connection_info().clone())
            .map_err(|error| describe(&error)),
        _ => Ok(address),
    }
}

impl RedisConnection {
    /// Sends two commands to the server that has `key`, one right behind the other on one connection. Fails as the first
    /// one does; what the second one answered may be an error.
    pub(super) async fn send_both(&mut self, key: &str, both: &Pipeline) -> RedisResult<(Value, Value)> {
        let answers = match self {
            Self::Single(connection) => connection.req_packed_commands(both, 0, 2).await?,
            Self::Cluster(connection) => {
                let master =
                    SingleNodeRoutingInfo::SpecificNode(Route::with_slot(Slot::for_key(key), SlotAddr::Master));
                connection.route_pipeline(both.clone(), 0, 2, master).await?
            }
        };
        match <[Value; 2]>::try_from(answers) {
            Ok([first, second]) => Ok((first.extract_error()?, second)),
            Err(_) => Err(RedisError::from((ErrorKind::UnexpectedReturnType, "not two answers to two commands"))),
        }
    }

    /// What the server of this address answers; there is only one, but in a cluster.
    pub(super) async fn ask(&mut self, server: &str, question: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(connection) => question.query_async(connection).await,
            Self::Cluster(connection) => {
                let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
                let port =
                    port.parse().map_err(|_| RedisError::from((ErrorKind::InvalidClientConfig, "no address")))?;
                let address = SingleNodeRoutingInfo::ByAddress { host: host.to_owned(), port };
                connection.route_command(question.clone(), RoutingInfo::SingleNode(address)).await
            }
        }
    }

    /// What the server answers, under no name, or every master of a cluster that is connected, under its address.
    pub(super) async fn ask_all(&mut self, question: &Cmd) -> RedisResult<BTreeMap<String, Vec<u8>>> {
        match self {
            Self::Single(connection) => Ok(BTreeMap::from([(String::new(), question.query_async(connection).await?)])),
            Self::Cluster(connection) => {
                let each = (MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::Special));
                let answers = connection.route_command(question.clone(), RoutingInfo::MultiNode(each)).await?;
                Ok(from_redis_value(answers)?)
            }
        }
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
