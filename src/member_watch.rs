//! How full the queues are, for `/metrics`, and how many members they have, where the broker's management API may be asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tracing::{debug, warn};

use crate::broker_management::Management;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::http;
use crate::metrics::Metrics;
use crate::queue::amqp::{AmqpPublisher, definitions};

/// Members change when an operator does something, or a node goes away.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How full the queues are changes all the time; more often than this nobody reads it.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// Looks at the queues now and then.
pub(crate) struct MemberWatch {
    management: Option<Management>,
    queues: Option<Arc<AmqpPublisher>>,
    metrics: Arc<Metrics>,
}

impl MemberWatch {
    /// Looks at no members where no management API is configured, and at no queues where there is no broker.
    pub(crate) fn new(
        config: &Config,
        clock: &SharedClock,
        metrics: &Arc<Metrics>,
        queues: Option<Arc<AmqpPublisher>>,
    ) -> anyhow::Result<Self> {
        Ok(Self { management: management(config, clock)?, queues, metrics: metrics.clone() })
    }

    /// Never ends. What was seen last stands until something else is seen.
    pub(crate) async fn keep(&self) {
        tokio::join!(self.count(), self.look_at_members());
    }

    async fn count(&self) {
        let Some(queues) = &self.queues else { return };
        loop {
            match queues.depths().await {
                Ok(depths) => {
                    for depth in depths {
                        self.metrics.queue_stands(&depth.queue, depth.messages, depth.consumers);
                    }
                }
                // That the broker is away is told elsewhere.
                Err(error) => debug!(%error, "how full the queues are is not known"),
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    async fn look_at_members(&self) {
        let Some(management) = &self.management else { return std::future::pending().await };
        let mut silent = false;
        loop {
            match management.members().await {
                Ok(queues) => {
                    silent = false;
                    for queue in queues {
                        self.metrics.queue_members(&queue.queue, queue.members, queue.online);
                    }
                }
                Err(error) if !std::mem::replace(&mut silent, true) => {
                    warn!(%error, "the members of the queues are not known");
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The management API, if its address is configured.
pub(crate) fn management(config: &Config, clock: &SharedClock) -> anyhow::Result<Option<Management>> {
    let Some(addresses) = config.amqp.management_addresses().context("amqp.management_url")? else { return Ok(None) };
    let client = http::Client::with_tls(&config.http_client, &config.amqp.tls, "amqp.tls", clock.clone());
    let client = client.context("http_client")?;
    let queues = definitions(&config.amqp.names()).into_iter().map(|definition| definition.name).collect();
    Ok(Some(Management::new(client, addresses, queues)))
}
