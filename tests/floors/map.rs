//! The map that the sources are held to: who lives where, and what is allowed beyond that.

/// Every top-level module and its floor; `sandbox` stands apart.
const FLOORS: [(&str, &[&str]); 6] = [
    (
        "words",
        &[
            "approval",
            "decision",
            "encryption",
            "job",
            "reply",
            "retry",
            "clock",
            "schema",
            "key",
            "pattern",
            "producers",
            "metrics",
            "money",
            "trace",
            "standing",
            "text",
            "webhook",
        ],
    ),
    ("decisions", &["agent"]),
    (
        "edges",
        &[
            "queue",
            "audit",
            "broker_management",
            "cache",
            "budget",
            "journal",
            "digest_store",
            "parking",
            "llm",
            "mcp",
            "scalekit",
            "http",
            "redis_client",
            "transport",
        ],
    ),
    ("logic", &["worker", "schedule", "client"]),
    (
        "process",
        &[
            "main",
            "lib",
            "cli",
            "app",
            "embedded",
            "config",
            "telemetry",
            "shutdown",
            "http_server",
            "fleet_clock",
            "member_watch",
            "internals",
        ],
    ),
    ("apart", &["sandbox"]),
];
const WORDS: usize = 0;
const EDGES: usize = 2;
const PROCESS: usize = 4;
const APART: usize = 5;

/// On the floor of the edges, who may use whom.
const BESIDE: [(&str, &str); 15] = [
    ("queue", "transport"),
    ("redis_client", "transport"),
    ("http", "transport"),
    ("llm", "transport"),
    ("scalekit", "transport"),
    ("mcp", "transport"),
    ("llm", "http"),
    ("scalekit", "http"),
    ("mcp", "http"),
    ("broker_management", "http"),
    ("cache", "redis_client"),
    ("budget", "redis_client"),
    ("journal", "redis_client"),
    ("digest_store", "redis_client"),
    ("parking", "redis_client"),
];

/// Crates that only these modules (and what lies in them) may name.
const KEPT: [(&str, &[&str]); 12] = [
    ("lapin", &["queue::amqp"]),
    ("async_rs", &["queue::amqp"]),
    ("tokio_rustls", &["queue::amqp"]),
    ("rustls_native_certs", &["transport"]),
    (
        "redis",
        &[
            "redis_client",
            "cache::redis",
            "budget::redis",
            "journal::redis",
            "journal::redis_change",
            "journal::redis_index",
            "journal::redis_erase",
            "digest_store::redis",
            "parking::redis",
        ],
    ),
    ("reqwest", &["http", "sandbox"]),
    ("backoff", &["retry"]),
    ("jsonschema", &["schema"]),
    ("opentelemetry", &["trace", "telemetry"]),
    ("opentelemetry_sdk", &["trace", "telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("aws_lc_rs", &["encryption"]),
];

/// Names that more than one public type has, and why. The list only shrinks: a name that is of one type again leaves it.
pub(crate) const SAME_NAME: &[(&str, &str)] = &[
    ("Account", SANDBOX),
    ("Body", SANDBOX),
    ("Client", "ours to send jobs, and the one that all HTTP goes through"),
    ("Config", "every edge reads its own"),
    ("Effect", SANDBOX),
    ("Message", "the model's and the broker's own word"),
    ("Parameters", SANDBOX),
    ("Profile", SANDBOX),
    ("Reply", SANDBOX),
    ("Status", "a reply's, and what every edge says of its health"),
    ("Tool", SANDBOX),
    ("ToolCall", SANDBOX),
];
const SANDBOX: &str = "the sandbox has the other side of it";

/// The module whose folders are rooms: see `rooms.rs`.
pub(crate) const ROOMED: &str = "worker";

/// Who may settle a delivery, once the first of these rooms exists.
pub(crate) const SETTLERS: [&str; 2] = ["worker::settle", "worker::message"];
pub(crate) const SETTLES: [&str; 2] = ["ack", "requeue"];

pub(crate) const MAX_LINES: usize = 400;

pub(crate) fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

pub(crate) fn has_floor(module: &str) -> bool {
    floor(top(module)).is_some()
}

fn floor(top: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&top))
}

/// What is wrong with a use of the module `to` in the module `from`, if anything is.
pub(crate) fn floor_breach(from: &str, to: &str) -> Option<String> {
    let (from, to) = (top(from), top(to));
    if from == to {
        return None;
    }
    let (Some(below), Some(above)) = (floor(to), floor(from)) else {
        return floor(to).is_none().then(|| format!("`{to}` has no floor"));
    };
    let allowed = match (above, below) {
        (APART, _) => to == "clock",
        (_, APART) => ["cli", "lib", "internals"].contains(&from),
        (PROCESS, PROCESS) => from != "config" || !["cli", "app"].contains(&to),
        (EDGES, EDGES) => BESIDE.contains(&(from, to)),
        (WORDS, WORDS) => true,
        _ => below < above,
    };
    let (above, below) = (FLOORS[above].0, FLOORS[below].0);
    (!allowed).then(|| format!("`{from}` ({above}) must not use `{to}` ({below})"))
}

/// What is wrong with a use of the crate `name` in `module`, if anything is.
pub(crate) fn crate_breach(module: &str, name: &str) -> Option<String> {
    if name == "anyhow" {
        return (floor(top(module)) != Some(PROCESS)).then(|| "`anyhow` is for the floor of the process".to_owned());
    }
    let (_, homes) = KEPT.iter().find(|(kept, _)| *kept == name)?;
    let at_home = homes.iter().any(|home| within(module, home));
    (!at_home).then(|| format!("the crate `{name}` is for {} only", homes.join(", ")))
}

/// Whether `module` is `home` or lies in it.
pub(crate) fn within(module: &str, home: &str) -> bool {
    module.strip_prefix(home).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
