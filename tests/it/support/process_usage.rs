//! What a process costs, as the kernel counts it.

use std::time::Duration;

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessUsage {
    /// Memory at present, in KiB.
    pub(crate) memory: u64,
    /// Threads at present.
    pub(crate) threads: u64,
    /// Processor time, at 10 ms a tick.
    pub(crate) processor: Duration,
}

impl ProcessUsage {
    /// Processor time that the process has used since.
    pub(crate) fn processor_since(self, process: u32) -> Duration {
        Self::by(process).processor.saturating_sub(self.processor)
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn peak(process: u32) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub(crate) fn by(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // After the name in brackets, which may hold spaces: user time and system time are the 12th and 13th field.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Self { memory: field("VmRSS:"), threads: field("Threads:"), processor: Duration::from_millis(ticks * 10) }
    }
}
