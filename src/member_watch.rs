//! How many members the queues have, for `/metrics`, where the broker's management API may be asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tracing::warn;

use crate::broker_management::Management;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::http;
use crate::metrics::Metrics;
use crate::queue::amqp::definitions;

/// Members change when an operator does something, or a node goes away.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks at the members now and then.
pub(crate) struct MemberWatch {
    management: Option<Management>,
    metrics: Arc<Metrics>,
}

impl MemberWatch {
    /// Looks at nothing where no management API is configured.
    pub(crate) fn new(config: &Config, clock: &SharedClock, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        Ok(Self { management: management(config, clock)?, metrics: metrics.clone() })
    }

    /// Never ends. What was seen last stands until something else is seen.
    pub(crate) async fn keep(&self) {
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
