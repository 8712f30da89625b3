//! Digests of the program itself, on a real broker and a real Redis: signals, commands, several workers.

use agentkit_worker::internals::clock::{Clock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::{Program, WorkerProcess};
use crate::support::proxied_service::ProxiedService;

const PROMPT: &str = "Fetch my last 5 unread emails and summarize them.";

/// Due every second, for one recipient.
fn ticking(name: &str, connection: &str) -> String {
    format!(
        "name = \"{name}\"\ncron = \"* * * * * *\"\ntimezone = \"UTC\"\noverlap = \"queue\"\nprompt = \"{PROMPT}\"\nconnections = [\"{connection}\"]\n[recipients]\nlist = [{{ identifier = \"user_123\" }}]\n"
    )
}

/// The folder that the program looks in where its configuration names none.
fn write(program: &Program, file: &str, text: &str) {
    let folder = program.folder().join("config/digests");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(file), text).unwrap();
}

async fn fired(worker: &WorkerProcess, digest: &str) -> f64 {
    let name = format!("agentkit_digest_fires_total{{digest=\"{digest}\",result=\"published\"}}");
    worker.metric(&name).await.unwrap_or(0.0)
}

async fn fires_again(worker: &WorkerProcess, digest: &str) {
    let before = fired(worker, digest).await;
    eventually(&format!("{digest} fires"), || async { (fired(worker, digest).await > before).then_some(()) }).await;
}

/// Lets so many seconds pass.
async fn pass(seconds: i64) {
    let until = SystemClock.now() + SignedDuration::from_secs(seconds);
    eventually("time passes", || async { (SystemClock.now() > until).then_some(()) }).await;
}

#[tokio::test]
async fn at_sighup_a_worker_takes_the_new_set_over_and_a_bad_file_keeps_the_old_one() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let program = service.program(&[]);
    write(&program, "digest.toml", &ticking("first", "gmail"));
    let worker = program.worker().await;
    fires_again(&worker, "first").await;

    write(&program, "digest.toml", &ticking("second", "gmail"));
    worker.running.signal("HUP");
    worker.running.line("SIGHUP: the digests are read again").await;
    fires_again(&worker, "second").await;
    let first = fired(&worker, "first").await;
    fires_again(&worker, "second").await;
    fires_again(&worker, "second").await;
    assert_eq!(fired(&worker, "first").await.total_cmp(&first), std::cmp::Ordering::Equal, "the first is gone");

    write(&program, "digest.toml", &ticking("third", "gmail").replace("UTC", "Mars/Olympus"));
    worker.running.signal("HUP");
    let line = worker.running.line("SIGHUP: the old digests stay").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "ERROR");
    let bad = line["bad"].as_str().unwrap();
    assert!(bad.contains("config/digests/digest.toml:3: timezone: `Mars/Olympus`"), "{bad}");
    fires_again(&worker, "second").await;
    assert!(fired(&worker, "third").await < 1.0);

    let (status, _) = worker.stop().await;
    assert!(status.success());
    // The same mistake at a start ends it, with the same words.
    let start = program.run(&["worker"]).await;
    assert_eq!(start.code, Some(64), "{}", start.all());
    assert!(start.stderr.contains("digest.toml:3: timezone: `Mars/Olympus`"), "{}", start.stderr);
}

#[tokio::test]
async fn a_pause_is_seen_by_all_workers_and_outlives_them() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let program = service.program(&[]);
    write(&program, "tick.toml", &ticking("tick", "gmail"));
    let key = format!("{}:digest:{{tick}}:state", service.amqp.prefix);
    let last_fire = || {
        let seconds = service.redis.command(&["HGET", &key, "last_fire"]);
        Timestamp::from_second(seconds.parse().unwrap()).unwrap()
    };
    let (one, two) = (program.worker().await, program.worker().await);
    fires_again(&one, "tick").await;
    fires_again(&two, "tick").await;

    let pause = program.run(&["digests", "pause", "tick"]).await;
    assert_eq!(pause.code, Some(0), "{}", pause.all());
    let paused_at = SystemClock.now();
    pass(3).await;
    assert!(last_fire() <= paused_at, "{} after {paused_at}", last_fire());
    one.running.signal("KILL");
    one.running.end().await;
    assert!(two.stop().await.0.success());
    let three = program.worker().await;
    pass(2).await;
    assert!(last_fire() <= paused_at);
    let list = program.run(&["digests", "list"]).await;
    assert!(list.stdout.starts_with("tick  paused\n"), "{}", list.all());

    let resumed_at = SystemClock.now();
    let resume = program.run(&["digests", "resume", "tick"]).await;
    assert_eq!(resume.code, Some(0), "{}", resume.all());
    fires_again(&three, "tick").await;
    // The look that found the end of the pause comes within half a minute, and once nothing but the last was missed.
    assert!(last_fire() >= resumed_at - SignedDuration::from_secs(1));
    three.stop().await;
}

#[tokio::test]
async fn a_digest_whose_every_job_fails_is_warned_of_and_one_whose_jobs_complete_says_when() {
    let service = ProxiedService::new(Broker::shared().await).await;
    // The Redis of a busy machine is not away.
    let patience = ["CONNECTION", "RESPONSE"].map(|what| (format!("REDIS__{what}_TIMEOUT_MILLISECONDS"), "10000"));
    let program = service.program(&patience.each_ref().map(|(name, value)| (name.as_str(), *value)));
    write(&program, "good.toml", &ticking("good", "gmail"));
    write(&program, "bad.toml", &ticking("bad", "unheard-of"));
    let worker = program.worker().await;
    let line = worker.running.line("every job of this digest fails").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["level"], &line["digest"], &line["last_success"]),
        (&"WARN".into(), &"bad".into(), &"never".into())
    );
    assert!(line["failures"].as_u64().unwrap() >= 3, "{line}");
    let metric = async |name: &str| {
        eventually(name, || async {
            worker.metric(&format!("agentkit_digest_{name}")).await.filter(|value| *value > 0.0)
        })
        .await
    };
    assert!(metric("failures_in_a_row{digest=\"bad\"}").await >= 3.0);
    let now = SystemClock.now().as_second();
    for name in ["last_fire_timestamp_seconds{digest=\"bad\"}", "last_success_timestamp_seconds{digest=\"good\"}"] {
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970 fit")]
        let at = metric(name).await as i64;
        assert!((now - 60..=now + 1).contains(&at), "{name}: {at} and not around {now}");
    }
    assert_eq!(worker.metric("agentkit_digest_last_success_timestamp_seconds{digest=\"bad\"}").await, None);
    let list = program.run(&["digests", "list"]).await.all();
    let (bad, good) = list.split_once("good  active").unwrap_or_else(|| panic!("{list}"));
    assert!(bad.starts_with("bad  active") && bad.contains("last success  never"), "{list}");
    assert!(!bad.contains("failures      0 in a row") && !bad.contains("last fire     never"), "{list}");
    assert!(good.contains("failures      0 in a row") && !good.contains("never"), "{list}");
    worker.stop().await;
}

#[tokio::test]
async fn the_commands_about_digests_do_what_they_say() {
    let service = ProxiedService::new(Broker::shared().await).await;
    // Zones come from the program itself.
    let program = service.program(&[]).set("TZDIR", "/nowhere").set("TZ", "Mars/Olympus");
    let ran = async |arguments: &[&str], code: i32| {
        let arguments: Vec<&str> = ["digests"].iter().chain(arguments).copied().collect();
        let output = program.run(&arguments).await;
        assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.all());
        output.all()
    };
    assert!(ran(&["list"], 0).await.contains("no digests in config/digests"));
    write(
        &program,
        "morning.toml",
        r#"
cron = "30 2 * * *"
timezone = "Europe/Berlin"
prompt = "Hello {{name}}, since {{since}}"
connections = ["gmail"]
[recipients]
file = "users.ndjson"
"#,
    );
    write(
        &program,
        "users.ndjson",
        "{\"identifier\": \"ada\", \"name\": \"Ada\"}\n{\"identifier\": \"kenji\", \"name\": \"Kenji\", \"timezone\": \"Asia/Tokyo\", \"time\": \"7:30\"}\n{\"identifier\": \"nameless\"}\n",
    );
    let list = ran(&["list"], 0).await;
    for part in ["morning  active", "30 2 * * * in Europe/Berlin, next ", "users.ndjson", "last fire     never"] {
        assert!(list.contains(part), "{part} is missing in {list}");
    }

    let next = ran(&["next", "morning", "-n", "20"], 0).await;
    assert_eq!(next.lines().count(), 21, "{next}");
    assert!(next.lines().next().unwrap().starts_with("Europe/Berlin") && next.lines().next().unwrap().ends_with("UTC"));
    // Half past two in every night but that without it, and in UTC an hour or two before.
    for line in next.lines().skip(1) {
        let (ours, utc) = (&line[..32], &line[32..]);
        assert!(ours.contains(" 02:30:00 CE") || ours.contains(" 03:00:00 CEST"), "{line}");
        assert!(
            utc.contains(" 01:30:00 UTC") || utc.contains(" 00:30:00 UTC") || utc.contains(" 01:00:00 UTC"),
            "{line}"
        );
    }
    let kenji = ran(&["next", "morning", "-n", "1", "--recipient", "kenji"], 0).await;
    assert!(kenji.contains("Asia/Tokyo") && kenji.contains(" 07:30:00 JST"), "{kenji}");

    assert!(
        ran(&["run", "morning", "--recipient", "kenji"], 0)
            .await
            .contains("morning: 1 jobs published, 0 recipients left out")
    );
    let all = ran(&["run", "morning"], 0).await;
    assert!(all.contains("morning: 2 jobs published, 1 recipients left out"), "{all}");
    let mut jobs = Vec::new();
    while let Some((body, properties)) = service.broker.take(&service.amqp.names().jobs()).await {
        let job: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), job["id"].as_str().unwrap());
        assert_eq!(job["tools"]["effects"], "read");
        jobs.push((job["id"].clone().to_string(), job["prompt"].as_str().unwrap().to_owned()));
    }
    let prompts: Vec<&str> = jobs.iter().map(|(_, prompt)| &prompt[..12]).collect();
    assert_eq!(prompts.iter().filter(|prompt| prompt.starts_with("Hello Kenji")).count(), 2, "{prompts:?}");
    assert_eq!(prompts.iter().filter(|prompt| prompt.starts_with("Hello Ada")).count(), 1, "{prompts:?}");
    let ids: std::collections::BTreeSet<&String> = jobs.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 3, "each run by hand has ids of its own: {jobs:?}");
    assert!(ran(&["list"], 0).await.contains("last fire     never"), "a run by hand leaves no trace in the schedule");

    assert!(ran(&["pause", "morning"], 0).await.contains("morning is paused"));
    assert!(ran(&["list"], 0).await.contains("morning  paused"));
    assert!(ran(&["resume", "morning"], 0).await.contains("fires again from now on"));
    assert!(ran(&["list"], 0).await.contains("morning  active"));

    write(&program, "evening.toml", &format!("enabled = false\n{}", ticking("other", "gmail")));
    ran(&["pause", "other"], 0).await;
    assert!(ran(&["list"], 0).await.contains("other  not enabled, and paused"));
    assert!(ran(&["resume", "other"], 0).await.contains("config/digests/evening.toml says `enabled = false`"));
    assert!(ran(&["list"], 0).await.contains("other  not enabled\n"));

    for wrong in [
        &["run", "evening"][..],
        &["pause", "evening"],
        &["next", "evening"],
        &["run", "morning", "--recipient", "nobody"],
        &["next", "morning", "-n", "0"],
        &["next", "morning", "--recipient", "nobody"],
    ] {
        let said = ran(wrong, 64).await;
        assert!(["evening", "nobody", "0"].iter().any(|part| said.contains(part)), "{wrong:?}: {said}");
    }
    write(&program, "morning.toml", "cron = 1");
    assert!(ran(&["list"], 64).await.contains("config/digests/morning.toml:1: "));
}

#[tokio::test]
async fn the_ready_digest_is_off_and_does_what_it_says_once_it_is_on() {
    let text = std::fs::read_to_string("config/digests/daily-email-summary.toml").unwrap();
    assert!(text.contains("\nenabled = false "));
    let service = ProxiedService::new(Broker::shared().await).await;
    let program = service.program(&[("DIGESTS__DIR", "elsewhere")]);
    let folder = program.folder().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    // Due now instead of in the morning; one of the two has a time of the day of his own.
    let on = text.replace("enabled = false", "enabled = true").replace("0 8 * * mon-fri", "* * * * * *");
    std::fs::write(folder.join("daily-email-summary.toml"), on.replace("spread = \"15m\"", "spread = \"0s\"")).unwrap();
    let worker = program.worker().await;
    let reply = service.reply().await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    assert_eq!(reply["data"]["metadata"]["kind"], "daily-email-summary");
    assert!(reply["subject"].as_str().unwrap().starts_with("digest:daily-email-summary:user_123:"), "{reply:#}");
    assert!(reply["data"]["text"].as_str().unwrap().contains("emails"), "{reply:#}");
    worker.stop().await;
}
