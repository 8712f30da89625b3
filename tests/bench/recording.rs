//! What the worker sends for one job, so that a bare loop can send the same.

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::redis::Redis;
use crate::support::soon;

/// A request to Scalekit or the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Seconds of the system's clock.
    pub(crate) at: f64,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// A command to Redis.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) at: f64,
    pub(crate) arguments: Vec<String>,
}

/// What is sent for a job, in its order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Step {
    Redis(Vec<String>),
    Http(Call),
    /// The reply to the caller.
    Reply,
}

/// All that is sent for one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Recording {
    pub(crate) steps: Vec<Step>,
    pub(crate) reply: String,
    /// The job's id, which stands in the keys.
    pub(crate) id: String,
    /// The fencing token that its claim gave.
    pub(crate) token: String,
}

impl Recording {
    /// Its steps, in words.
    pub(crate) fn listed(&self) -> Vec<String> {
        let words = |step: &Step| match step {
            Step::Redis(arguments) => {
                let size: usize = arguments.iter().map(String::len).sum();
                let key = arguments.get(if arguments[0] == "EVALSHA" { 3 } else { 1 }).map_or("", String::as_str);
                let kind = key.split(':').nth(1).unwrap_or_default();
                format!("Redis: {} of {kind}, {size} bytes", arguments[0])
            }
            Step::Http(call) => {
                let path = call.target.split('?').next().unwrap_or_default();
                format!("{} {path}, {} bytes", call.method, call.body.len())
            }
            Step::Reply => format!("reply, {} bytes, confirmed", self.reply.len()),
        };
        self.steps.iter().map(words).collect()
    }

    /// The reply leaves before the run's remains are kept, which is before the journal is sealed.
    pub(crate) fn new(id: &str, reply: String, redis: Vec<Sent>, calls: Vec<Call>) -> Self {
        let token = redis
            .iter()
            .find_map(|sent| sent.arguments.get(4).filter(|word| word.len() > 12 && word.parse::<u64>().is_ok()));
        let token = token.expect("an append carries the token").clone();
        // What remained of an earlier run was looked for at its beginning.
        let seal = redis.iter().rfind(|sent| sent.arguments.iter().any(|word| word.contains(":sealed:")));
        let reply_at = seal.expect("the run's remains are kept").at - 1e-6;
        let mut steps: Vec<(f64, Step)> = vec![(reply_at, Step::Reply)];
        steps.extend(redis.into_iter().map(|sent| (sent.at, Step::Redis(sent.arguments))));
        steps.extend(calls.into_iter().map(|call| (call.at, Step::Http(call))));
        steps.sort_by(|one, other| one.0.total_cmp(&other.0));
        Self { steps: steps.into_iter().map(|(_, step)| step).collect(), reply, id: id.to_owned(), token }
    }
}

/// What Redis is sent from now on.
pub(crate) struct Listening {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

/// Tells the end of what is listened to.
const END: &str = "end of the recording";

impl Listening {
    pub(crate) async fn to(redis: &Redis) -> Self {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &redis.port().to_string(), "MONITOR"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(soon("Redis tells", lines.next_line()).await.unwrap().as_deref(), Some("OK"));
        Self { child, lines }
    }

    /// What was sent for a job since then, without what the worker does once a second and what its scripts do.
    pub(crate) async fn end(mut self, redis: &Redis) -> Vec<Sent> {
        redis.command(&["ECHO", END]);
        let mut all = Vec::new();
        loop {
            let line = soon("Redis tells all", self.lines.next_line()).await.unwrap().unwrap();
            let Some((at, rest)) = line.split_once(" [") else { continue };
            let Some((client, command)) = rest.split_once("] ") else { continue };
            let arguments = words(command);
            if arguments.get(1).is_some_and(|word| word == END) {
                let _ = self.child.kill().await;
                return all;
            }
            let is_of_jobs = matches!(arguments[0].as_str(), "EVALSHA" | "EVAL" | "GET" | "SET" | "DEL");
            let is_shared = arguments.iter().any(|word| word.contains(":cooldown:"));
            if is_of_jobs && !is_shared && !client.ends_with("lua") {
                all.push(Sent { at: at.parse().unwrap(), arguments });
            }
        }
    }
}

/// The words of a line of `MONITOR`, of which only text is sent here.
fn words(line: &str) -> Vec<String> {
    serde_json::Deserializer::from_str(line).into_iter().map(Result::unwrap).collect()
}

/// Seconds of the system's clock, by which Redis tells its times.
#[expect(clippy::disallowed_methods, reason = "processes are compared that share no other clock")]
pub(crate) fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
