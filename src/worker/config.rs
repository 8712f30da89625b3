//! The section `worker` of the configuration.

use std::time::Duration;

use serde::Deserialize;

use super::rules::AfterLoss;
use crate::retry::Policy;

/// The worker's bounds; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    pub concurrency: usize,
    pub lease_seconds: u64,
    pub max_job_bytes: usize,
    pub prefetch_bytes: Option<usize>,
    pub grace_seconds: u64,
    pub drain_tool_seconds: u64,
    pub hold_delivery_seconds: u64,
    pub consumer_timeout_seconds: u64,
    pub after_journal_loss: AfterLoss,
    pub strikes: u32,
    pub keep_unfinished_seconds: u64,
    pub keep_delivered_seconds: u64,
    pub keep_sealed_seconds: u64,
    pub transient: Policy,
    pub rate_limited: Policy,
}

impl WorkerConfig {
    /// What is wrong with it, each as `key: problem`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let positive: [(&str, u64); 5] = [
            ("concurrency", self.concurrency as u64),
            ("lease_seconds", self.lease_seconds),
            ("max_job_bytes", self.max_job_bytes as u64),
            ("hold_delivery_seconds", self.hold_delivery_seconds),
            ("strikes", self.strikes.into()),
        ];
        let zeros = positive.iter().filter(|(_, value)| *value == 0);
        let mut problems: Vec<String> = zeros.map(|(name, _)| format!("{name}: must be at least 1")).collect();
        if self.hold_delivery_seconds.saturating_mul(10) > self.consumer_timeout_seconds.saturating_mul(6) {
            problems.push(format!(
                "hold_delivery_seconds: must stay below six tenths of consumer_timeout_seconds ({} s), or the broker takes jobs \
                 back that are still worked on",
                self.consumer_timeout_seconds
            ));
        }
        if self.prefetch_bytes.is_some_and(|bytes| bytes < self.max_job_bytes) {
            problems
                .push(format!("prefetch_bytes: at least max_job_bytes ({}), or no job is fetched", self.max_job_bytes));
        }
        if self.concurrency > usize::from(u16::MAX) {
            problems.push(format!("concurrency: at most {}, AMQP's largest prefetch", u16::MAX));
        }
        problems
    }

    /// Places for runs, and jobs that wait for one beside them, `window` at most: together they are what is fetched, and fit
    /// [`WorkerConfig::prefetch_bytes`].
    pub(crate) fn places(&self, window: usize) -> (usize, usize) {
        let fetched: usize = self.prefetch(self.concurrency.saturating_add(window)).into();
        // Where not all fit, every eighth waits: without any nobody is found behind others.
        let least = window.min((fetched / 8).max(usize::from(fetched > 1)));
        let window = fetched.saturating_sub(self.concurrency).max(least);
        (self.concurrency.min(fetched - window), window)
    }

    /// So many messages are fetched at a time for `places` runs: as many as fit [`WorkerConfig::prefetch_bytes`].
    pub(crate) fn prefetch(&self, places: usize) -> u16 {
        let fit = self.prefetch_bytes.map_or(usize::MAX, |bytes| bytes / self.max_job_bytes);
        u16::try_from(places.min(fit)).unwrap_or(u16::MAX)
    }

    /// [`WorkerConfig::grace_seconds`] as a duration.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn places_and_window_together_are_what_may_be_fetched() {
        for (concurrency, wanted, bytes, expected) in [
            (100, 50, None, (100, 50)),
            (100, 0, None, (100, 0)),
            (1, 8, None, (1, 8)),
            (100, 50, Some(120), (100, 20)),
            (100, 50, Some(100), (88, 12)),
            (100, 50, Some(4), (3, 1)),
            (100, 50, Some(1), (1, 0)),
            (65_535, 256, None, (65_279, 256)),
        ] {
            let mut worker = Config::built_in().worker;
            (worker.concurrency, worker.prefetch_bytes) = (concurrency, bytes.map(|jobs| jobs * worker.max_job_bytes));
            assert_eq!(worker.places(wanted), expected, "{concurrency} and {wanted} of {bytes:?}");
        }
    }
}
