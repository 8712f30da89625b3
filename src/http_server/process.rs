//! What the operating system says of this process, where it is a Linux.

use crate::metrics::ProcessFigures;

/// Ticks in a second: what Linux tells programs is counted in this unit on every machine (`USER_HZ`).
const TICKS: f64 = 100.0;

/// The figures of just now; `None` elsewhere than on Linux.
pub(super) async fn figures() -> Option<ProcessFigures> {
    let read = async |name: &str| tokio::fs::read_to_string(format!("/proc/self/{name}")).await.ok();
    let (stat, status, limits) = (read("stat").await?, read("status").await?, read("limits").await?);
    let mut open_fds = 0;
    let mut entries = tokio::fs::read_dir("/proc/self/fd").await.ok()?;
    while let Ok(Some(_)) = entries.next_entry().await {
        open_fds += 1;
    }
    // One is the folder that is read.
    parse(&stat, &status, &limits, open_fds - 1)
}

fn parse(stat: &str, status: &str, limits: &str, open_fds: u64) -> Option<ProcessFigures> {
    // The name may hold anything; what stands behind it is numbers (proc(5): the state is the third field).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let line = |text: &str, name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    let resident = line(status, "VmRSS:")?;
    let max_fds = line(limits, "Max open files")?;
    Some(ProcessFigures {
        cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS,
        resident_bytes: resident.split_whitespace().next()?.parse::<u64>().ok()? * 1024,
        open_fds,
        max_fds: max_fds.split_whitespace().next()?.parse().unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_behind_whatever_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 300 1000 25 18446744073709551615";
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096       files\n";
        let figures = parse(stat, "Name:\tx\nVmRSS:\t   2048 kB\n", limits, 12).unwrap();
        let expected = ProcessFigures { cpu_seconds: 2.0, resident_bytes: 2 << 20, open_fds: 12, max_fds: 1024 };
        assert_eq!(figures, expected);
        assert_eq!(parse("", "", "", 0), None);
    }

    #[tokio::test]
    async fn this_process_has_figures() {
        let figures = figures().await.unwrap();
        assert!(figures.resident_bytes > 1 << 20 && (1..figures.max_fds).contains(&figures.open_fds), "{figures:?}");
    }
}
