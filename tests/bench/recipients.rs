//! A digest with many recipients, fired at once.

use std::fmt::Write;

use tokio::time::Instant;

use crate::Measured;
use crate::meter::{Reading, number};
use crate::support::process_usage::ProcessUsage;
use crate::surroundings::{Surroundings, until};

const RECIPIENTS: u64 = 100_000;

pub(crate) async fn measure(measured: &mut Measured) {
    let surroundings = Surroundings::start(true).await;
    let program = surroundings.program(&[("DIGESTS__DIR", "digests")]);
    let folder = program.folder().join("digests");
    std::fs::create_dir(&folder).unwrap();
    let mut list = "identifier\n".to_owned();
    for recipient in 0..RECIPIENTS {
        let _infallible = writeln!(list, "user-{recipient}");
    }
    std::fs::write(folder.join("many.csv"), list).unwrap();
    let definition = "name = \"many\"\ncron = \"0 8 * * *\"\ntimezone = \"UTC\"\nconnections = [\"gmail\"]\n\
        prompt = \"Fetch my last 5 unread emails and summarize them.\"\n[recipients]\nfile = \"many.csv\"\n";
    std::fs::write(folder.join("many.toml"), definition).unwrap();

    let (before, began) = (Reading::of(&surroundings, &[]), Instant::now());
    let mut firing = program.start(&["digests", "run", "many"]);
    let process = firing.process();
    let mut usage = ProcessUsage::by(process);
    until("all are published", async || {
        // The last look is at most a moment old: the kernel forgets a process that has ended.
        let ended = firing.has_ended();
        if !ended {
            usage = ProcessUsage::by(process);
        }
        ended
    })
    .await;
    let seconds = began.elapsed().as_secs_f64();
    let (_, log) = firing.end().await;
    assert!(log.iter().any(|line| line.contains(&format!("{RECIPIENTS} jobs published"))), "{log:?}");
    let cost = before.until(&Reading::of(&surroundings, &[]), RECIPIENTS);
    measured.note("recipients of one firing", number(RECIPIENTS), &format!("in {seconds:.1} s"));
    measured.note(
        "a recipient: scheduler",
        usage.processor.as_secs_f64() * 1000.0 / number(RECIPIENTS),
        "ms of processor",
    );
    measured.note("a firing: most memory of the scheduler", number(usage.memory) / 1024.0, "MiB");
    measured.note("a recipient: broker", cost.broker, "ms of processor");
    measured.note("a recipient: Redis", cost.redis, "ms of processor");
    measured.note("a recipient: in Redis", cost.redis_bytes, "bytes");
    measured.note("a recipient: memory of the broker", cost.broker_bytes, "bytes");
    measured.note("a recipient: disk of the broker", cost.disk_bytes, "bytes");
}
