//! What the processes of a deployment have used.

use std::path::Path;
use std::time::Duration;

use crate::support::process_usage::ProcessUsage;
use crate::surroundings::Surroundings;

/// All of it at one moment.
pub(crate) struct Reading {
    workers: Duration,
    broker: Duration,
    redis: Duration,
    /// Of this process, which plays the callers, Scalekit and the model.
    peers: Duration,
    redis_commands: f64,
    redis_bytes: f64,
    broker_bytes: f64,
    disk_bytes: f64,
}

/// The difference of two readings, for each of some units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Milliseconds of processor time.
    pub(crate) workers: f64,
    /// The same.
    pub(crate) broker: f64,
    /// The same.
    pub(crate) redis: f64,
    /// The same.
    pub(crate) peers: f64,
    pub(crate) redis_commands: f64,
    pub(crate) redis_bytes: f64,
    /// Memory of the broker.
    pub(crate) broker_bytes: f64,
    /// Disk of the broker.
    pub(crate) disk_bytes: f64,
}

impl Reading {
    pub(crate) fn of(surroundings: &Surroundings, workers: &[u32]) -> Self {
        let processor = |process: u32| ProcessUsage::by(process).processor;
        let broker = ProcessUsage::by(surroundings.broker_process);
        Self {
            workers: workers.iter().copied().map(processor).sum(),
            broker: broker.processor,
            redis: processor(surroundings.redis.process()),
            peers: processor(std::process::id()),
            redis_commands: surroundings.redis_figure("total_commands_processed"),
            redis_bytes: surroundings.redis_figure("used_memory"),
            broker_bytes: number(broker.memory * 1024),
            disk_bytes: number(size(&surroundings.broker_data)),
        }
    }

    pub(crate) fn until(&self, later: &Self, units: u64) -> Cost {
        let units = number(units);
        let milliseconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1000.0 / units;
        Cost {
            workers: milliseconds(self.workers, later.workers),
            broker: milliseconds(self.broker, later.broker),
            redis: milliseconds(self.redis, later.redis),
            peers: milliseconds(self.peers, later.peers),
            redis_commands: (later.redis_commands - self.redis_commands) / units,
            redis_bytes: (later.redis_bytes - self.redis_bytes) / units,
            broker_bytes: (later.broker_bytes - self.broker_bytes) / units,
            disk_bytes: (later.disk_bytes - self.disk_bytes) / units,
        }
    }
}

/// Counts and sizes here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

fn size(folder: &Path) -> u64 {
    // Files come and go while we look.
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let entries = entries.filter_map(|entry| Some((entry.as_ref().ok()?.path(), entry.ok()?.metadata().ok()?)));
    entries.map(|(path, metadata)| if metadata.is_dir() { size(&path) } else { metadata.len() }).sum()
}
