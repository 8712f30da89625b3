//! What `doctor` finds out about Redis.

use std::collections::BTreeSet;

use super::Context;
use super::report::Report;
use crate::redis_client::{Durability, RedisClient, ServerFacts, Unavailable};

/// Looks at Redis: every server that a worker needs, and whether it gives what the configuration asks of it.
pub(super) async fn redis(context: &Context, report: &mut Report) {
    let config = &context.config.redis;
    let facts = match RedisClient::new(config) {
        Ok(client) => {
            sentinels(&client.sentinels().await, report);
            client.facts().await
        }
        Err(error) => Err(error),
    };
    let servers = match facts {
        Ok(servers) => servers,
        Err(error) => return report.bad("Redis", &error.to_string(), "check REDIS_URL, and that Redis runs"),
    };
    if config.cluster {
        let found = format!("{} masters, each asked in turn below; replicas are not asked", servers.len());
        report.good("Redis Cluster", &found);
    } else if servers.iter().any(|facts| facts.cluster.is_some()) {
        report.bad("Redis Cluster", "this server is a node of one", "set `redis.cluster = true`");
    }
    clock(context, report).await;
    for facts in &servers {
        let name = if config.cluster { format!("Redis {}", facts.server) } else { "Redis".to_owned() };
        redis_server(&name, facts, report);
        durability(&name, config.durability, facts, report);
    }
}

fn sentinels(answers: &[(String, Result<String, Unavailable>)], report: &mut Report) {
    let what = "Redis Sentinel";
    for (address, answer) in answers {
        if let Err(error) = answer {
            report.warn(
                &format!("{what} {address}"),
                &error.to_string(),
                "see why it is away, or compare redis.sentinel",
            );
        }
    }
    let masters: BTreeSet<&String> = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    let named = masters.iter().map(|master| master.as_str()).collect::<Vec<_>>().join(", ");
    match masters.len() {
        0 => {}
        1 => report.good(
            what,
            &format!(
                "the master is {named}, say all of {} that answer",
                answers.iter().filter(|(_, answer)| answer.is_ok()).count()
            ),
        ),
        _ => report.bad(
            what,
            &format!("they name different masters: {named}"),
            "have redis.url name the Sentinels of one master",
        ),
    }
}

/// Whether what is kept of runs is encrypted, and with which keys.
pub(super) fn encryption(context: &Context, report: &mut Report) {
    let what = "encryption of what is kept";
    // What is wrong with the keys is told with the rest of the configuration.
    let Ok(encryption) = context.config.journal.encryption() else { return };
    let known: Vec<String> = encryption.known_keys().map(|key| key.to_string()).collect();
    let found = match encryption.key() {
        None if known.is_empty() => "off".to_owned(),
        None => format!("off; what is encrypted with {} is read", known.join(" or ")),
        Some(key) => format!("with {key}; what is encrypted with {} is read", known.join(" or ")),
    };
    report.good(what, &found);
}

/// Workers put their clocks right by Redis'; a machine that needs it has something to be looked after.
async fn clock(context: &Context, report: &mut Report) {
    let Ok(client) = RedisClient::new(&context.config.redis) else { return };
    let Ok(reference) = client.time().await else { return };
    let ahead = context.clock.now().duration_since(reference);
    if ahead.abs().as_secs() < 2 {
        return report.good("clock", "as Redis'");
    }
    let found = format!("{} s ahead of Redis'", ahead.as_secs());
    report.warn(
        "clock",
        &found,
        "let NTP keep the clocks of this machine and of Redis'; workers go by Redis' until then",
    );
}

fn redis_server(name: &str, facts: &ServerFacts, report: &mut Report) {
    report.product(name, facts.product, &facts.version, &format!(" ({})", facts.role));
    if facts.role != "master" {
        report.bad(&format!("{name} role"), &facts.role, "point REDIS_URL to the master: a replica refuses writes");
    }
    if let Some(state) = facts.cluster.as_ref().filter(|state| *state != "ok") {
        report.bad(
            &format!("{name} cluster state"),
            state,
            "see `redis-cli --cluster check`: slots without a master, or the majority of masters is away",
        );
    }
    if facts.append_only {
        report.good(&format!("{name} persistence"), "append-only file");
    } else {
        report.warn(
            &format!("{name} persistence"),
            "no append-only file",
            "set `appendonly yes`: without it a restart loses how far runs are",
        );
    }
    let fsync = facts.append_fsync.as_deref().filter(|_| facts.append_only);
    let (what, noticed) = (format!("{name} appendfsync"), "such a run is noticed, and no write is repeated");
    match fsync {
        Some("no") => report.warn(
            &what,
            &format!("no: a power cut may lose half a minute; {noticed}"),
            "set `appendfsync everysec`, or `always`",
        ),
        Some("everysec") => report.good(&what, &format!("everysec: a power cut may lose the last second; {noticed}")),
        Some(_) | None => {}
    }
    if facts.replicas > 0 && facts.min_replicas == Some(0) {
        report.warn(
            &format!("{name} replicas"),
            &format!("{} connected, min-replicas-to-write 0", facts.replicas),
            "set `min-replicas-to-write 1`: a fail-over to a replica that lags loses the end of journals",
        );
    }
    if facts.eviction_policy == "noeviction" {
        report.good(&format!("{name} eviction"), "noeviction");
    } else {
        report.warn(
            &format!("{name} eviction"),
            &facts.eviction_policy,
            "set `maxmemory-policy noeviction`: journals must not be evicted",
        );
    }
}

fn durability(name: &str, asked: Durability, facts: &ServerFacts, report: &mut Report) {
    let what = format!("{name} durability");
    match facts.hindrance(asked) {
        None => report.good(&what, &format!("redis.durability is {asked}")),
        Some(found) => report.bad(&what, &format!("redis.durability is {asked}, and {found}"), asked.advice()),
    }
}
