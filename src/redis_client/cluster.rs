//! A Redis Cluster: each operation goes to the node that has the slot of its keys.
//!
//! The `redis` crate's own cluster connection is not used, for three reasons found in its source (1.8.1). Its one number
//! of retries counts for redirections and for lost connections alike: with 0 it follows no slot that moved, with more
//! it sends again what must not be sent twice. While it reads the map of slots it takes no answer from any node, and for
//! that it waits for all of them: one that is frozen fails the calls to all others whenever a slot moves. And it loads
//! a script on all masters at once, so that a frozen one fails the scripts of all.
//!
//! Here a node that is gone costs the keys in its own slots: each node has its own connection, bounds and breaker.
//! Nothing is sent twice that must not be: a node that names another (`MOVED`, `ASK`) or none (`TRYAGAIN`,
//! `CLUSTERDOWN`, `LOADING`) has not done what it was asked.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind, cmd};
use tokio::time::{Instant, sleep, timeout_at};

use super::node::{Failure, Limits, Node, Sending};
use super::slots::{self, Address, Range};
use super::wire::Wire;
use super::{Facts, Status, Unavailable, lock};

/// How often one operation is sent on at most: nodes that disagree may send it to and fro.
const MOST_SENDS: usize = 16;
/// How long is waited while the keys of one script are on their way to another node, until they are looked for again.
const ON_THEIR_WAY: Duration = Duration::from_millis(50);
/// The map is not read again so soon: a node that is gone is met by many calls at once, and nodes need much longer to
/// agree on who takes its place.
const REST: Duration = Duration::from_millis(100);

/// The nodes of a cluster, and what each has.
pub(super) struct Cluster {
    /// The nodes of the configuration, which are asked for the map beside those that it names.
    start: Vec<Arc<Node>>,
    /// How every node is reached, but for its address.
    like: ConnectionInfo,
    limits: Limits,
    map: Mutex<Map>,
    /// Held while the map is read, so that one task reads it for all.
    reading: tokio::sync::Mutex<()>,
}

struct Map {
    outdated: bool,
    read_at: Option<Instant>,
    /// Servers that failed since; others are asked for the map first.
    doubted: Vec<String>,
    /// All that have slots, or take them over.
    masters: BTreeMap<Address, Arc<Node>>,
    /// The master of each slot.
    owners: Vec<Option<Arc<Node>>>,
}

/// Whom an operation is sent to.
struct Target {
    node: Arc<Node>,
    asking: bool,
}

impl Cluster {
    /// A cluster that is found from the nodes at `start`, of which there is at least one.
    pub(super) fn new(start: Vec<ConnectionInfo>, limits: Limits) -> Result<Self, Unavailable> {
        let Some(like) = start.first().cloned() else {
            return Err(Unavailable("no address".to_owned()));
        };
        let start: Result<Vec<_>, _> = start.into_iter().map(|one| Node::new(one, &limits).map(Arc::new)).collect();
        let owners = vec![None; slots::SLOTS.into()];
        let map = Map { outdated: true, read_at: None, doubted: Vec::new(), masters: BTreeMap::new(), owners };
        Ok(Self { start: start?, like, limits, map: Mutex::new(map), reading: tokio::sync::Mutex::new(()) })
    }

    /// Available is a cluster of which every known master is, or, before any is known, one of the start nodes.
    pub(super) fn status(&self) -> Status {
        let masters = self.known();
        let statuses = |nodes: &[Arc<Node>]| nodes.iter().map(|node| node.status()).collect::<Vec<_>>();
        let statuses = if masters.is_empty() { statuses(&self.start) } else { statuses(&masters) };
        let mut available = statuses.iter().map(|status| status.available);
        let available = if masters.is_empty() { available.any(|one| one) } else { available.all(|one| one) };
        Status { available, failure: statuses.into_iter().find_map(|status| status.failure) }
    }

    /// Asks every master for a sign of life.
    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        let ping = async |node: Arc<Node>| node.ask::<()>(&cmd("PING")).await;
        self.of_each_master(ping).await.map(drop)
    }

    /// What an operator must know about every master.
    pub(super) async fn facts(&self) -> Result<Vec<Facts>, Unavailable> {
        self.of_each_master(async |node: Arc<Node>| Facts::of(&node).await).await
    }

    /// Does `operation`, whose keys lie in `slot`.
    pub(super) async fn call<T, F>(
        &self,
        slot: u16,
        repeatable: bool,
        operation: impl Fn(Wire) -> F,
    ) -> Result<T, Unavailable>
    where
        F: Future<Output = RedisResult<T>>,
    {
        // Twice as long as for a single server: the second call is for what the first one redirects.
        let deadline = Instant::now() + 2 * self.limits.longest_call;
        let mut target = self.owner(slot, deadline).await?;
        let mut sends = 0;
        loop {
            let sending = Sending { repeatable, asking: target.asking, deadline: self.within(deadline) };
            let failure = match target.node.call(sending, &operation).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            sends += 1;
            let next = self.next(slot, repeatable, &target.node, &failure, deadline).await;
            match next {
                Some(next) if sends < MOST_SENDS && Instant::now() < deadline => target = next,
                _ => return Err(named(&target.node, &failure)),
            }
        }
    }

    /// Who may do what `node` did not, if anybody.
    async fn next(
        &self,
        slot: u16,
        repeatable: bool,
        node: &Arc<Node>,
        failure: &Failure,
        deadline: Instant,
    ) -> Option<Target> {
        if let Failure::Refused(error) = failure {
            let ErrorKind::Server(kind) = error.kind() else { return None };
            match kind {
                ServerErrorKind::Moved => {
                    let node = self.redirected(error, node)?;
                    lock(&self.map).owners[usize::from(slot)] = Some(node.clone());
                    return Some(Target { node, asking: false });
                }
                ServerErrorKind::Ask => return Some(Target { node: self.redirected(error, node)?, asking: true }),
                ServerErrorKind::TryAgain => {
                    sleep(ON_THEIR_WAY).await;
                    return self.owner(slot, deadline).await.ok();
                }
                // It was restarted or cut off, and another may have taken its place meanwhile.
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly => {}
                _ => return None,
            }
        }
        self.doubt(node);
        let surely_not_done = matches!(failure, Failure::Refused(_) | Failure::Skipped(_));
        if !repeatable && !surely_not_done {
            return None;
        }
        let owner = self.owner(slot, deadline).await.ok()?;
        (!Arc::ptr_eq(&owner.node, node)).then_some(owner)
    }

    async fn owner(&self, slot: u16, deadline: Instant) -> Result<Target, Unavailable> {
        self.read(deadline).await?;
        let mut map = lock(&self.map);
        match map.owners[usize::from(slot)].clone() {
            Some(node) => Ok(Target { node, asking: false }),
            None => {
                map.doubt(None);
                Err(Unavailable("no node of the redis cluster has the slot of this key".to_owned()))
            }
        }
    }

    /// The node that another one names.
    fn redirected(&self, error: &RedisError, by: &Node) -> Option<Arc<Node>> {
        let (text, _) = error.redirect_node()?;
        let address = Address::parse(text)?.said_by(by.host());
        let mut map = lock(&self.map);
        let node = self.node(&map, &address).ok()?;
        map.masters.insert(address, node.clone());
        Some(node)
    }

    /// The node at an address, with its connection where it has one.
    fn node(&self, map: &Map, address: &Address) -> Result<Arc<Node>, Unavailable> {
        if let Some(known) = map.masters.get(address) {
            return Ok(known.clone());
        }
        let place = at(self.like.addr(), address);
        let server = place.to_string();
        if let Some(known) = self.start.iter().find(|node| node.server == server) {
            return Ok(known.clone());
        }
        Node::new(self.like.clone().set_addr(place), &self.limits).map(Arc::new)
    }

    fn doubt(&self, node: &Node) {
        lock(&self.map).doubt(Some(&node.server));
    }

    /// Reads the map where it is outdated, from whoever answers first.
    async fn read(&self, deadline: Instant) -> Result<(), Unavailable> {
        if !lock(&self.map).outdated {
            return Ok(());
        }
        let Ok(_reading) = timeout_at(deadline, self.reading.lock()).await else {
            return Err(Unavailable("the nodes of the redis cluster did not answer in time".to_owned()));
        };
        if !lock(&self.map).outdated {
            return Ok(());
        }
        let asked = self.tellers().into_iter().map(|node| Box::pin(async move { ranges_by(&node).await }));
        let (ranges, _) = timeout_at(deadline, select_ok(asked))
            .await
            .unwrap_or_else(|_| Err(Unavailable("the nodes of the redis cluster did not answer in time".to_owned())))?;
        let mut map = lock(&self.map);
        let (mut masters, mut owners) = (BTreeMap::new(), vec![None; slots::SLOTS.into()]);
        for Range { first, last, master } in ranges {
            let node = match masters.get(&master) {
                Some(node) => Arc::clone(node),
                None => self.node(&map, &master)?,
            };
            owners[usize::from(first)..=usize::from(last)].fill(Some(node.clone()));
            masters.insert(master, node);
        }
        *map = Map { outdated: false, read_at: Some(Instant::now()), doubted: Vec::new(), masters, owners };
        Ok(())
    }

    /// Those who are asked for the map. Who is being skipped is not, while others are left: all are asked at once, and
    /// the try by which a skipped node may come back would be given up as soon as another one answers.
    fn tellers(&self) -> Vec<Arc<Node>> {
        let doubted = lock(&self.map).doubted.clone();
        let mut all = self.known();
        for node in &self.start {
            if !all.iter().any(|other| other.server == node.server) {
                all.push(node.clone());
            }
        }
        let fine = |node: &&Arc<Node>| node.status().available && !doubted.contains(&node.server);
        let trusted: Vec<_> = all.iter().filter(fine).cloned().collect();
        if trusted.is_empty() { all } else { trusted }
    }

    fn known(&self) -> Vec<Arc<Node>> {
        lock(&self.map).masters.values().cloned().collect()
    }

    /// Asks all masters at once. One that does not answer is an error.
    async fn of_each_master<T>(
        &self,
        ask: impl AsyncFn(Arc<Node>) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Unavailable> {
        self.read(Instant::now() + self.limits.longest_call).await?;
        let asked = self.known().into_iter().map(async |node| {
            let answer = ask(node.clone()).await;
            answer.map_err(|failure| {
                self.doubt(&node);
                named(&node, &failure)
            })
        });
        join_all(asked).await.into_iter().collect()
    }

    /// The end of one call of several that end at `deadline`.
    fn within(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.limits.longest_call)
    }
}

impl Map {
    /// Has the map read again at the next occasion.
    fn doubt(&mut self, server: Option<&String>) {
        if self.read_at.is_some_and(|read_at| read_at.elapsed() < REST) {
            return;
        }
        self.outdated = true;
        self.doubted.extend(server.filter(|server| !self.doubted.contains(server)).cloned());
    }
}

/// The map as `node` knows it.
async fn ranges_by(node: &Node) -> Result<Vec<Range>, Unavailable> {
    let answer = node.ask(cmd("CLUSTER").arg("SLOTS")).await.map_err(|failure| {
        let failure = named(node, &failure);
        if failure.0.contains("cluster support disabled") {
            return Unavailable(format!("{} is no node of a redis cluster: unset redis.cluster", node.server));
        }
        failure
    })?;
    let ranges = slots::ranges(answer).filter(|ranges| !ranges.is_empty());
    let ranges = ranges.ok_or_else(|| Unavailable(format!("{}: knows no slots of a redis cluster", node.server)))?;
    let own = |range: Range| Range { master: range.master.said_by(node.host()), ..range };
    Ok(ranges.into_iter().map(own).collect())
}

/// `address`, reached like `other`.
fn at(other: &ConnectionAddr, address: &Address) -> ConnectionAddr {
    let Address { host, port } = address.clone();
    match other {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

fn named(node: &Node, failure: &Failure) -> Unavailable {
    Unavailable(format!("{}: {}", node.server, failure.describe()))
}
