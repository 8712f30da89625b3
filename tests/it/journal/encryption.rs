//! Journals that are encrypted: rotation of keys, entries that were moved, and what was written before.

use std::time::Duration;

use agentkit_worker::internals::encryption::{DecryptError, Encryption, KeyId};
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, FencingToken, Journal, JournalError, Remains};
use agentkit_worker::job::JobId;

use crate::support::redis::Redis;

const LEASE: Duration = Duration::from_secs(30);
const OLD: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=";
const NEW: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";

fn journal(redis: &Redis, keys: &str) -> RedisJournal {
    RedisJournal::new(redis.client()).encrypted(Encryption::new(&keys.into()).unwrap())
}

fn id_of(key: &str) -> KeyId {
    Encryption::new(&key.into()).unwrap().key().unwrap()
}

async fn claim(journal: &RedisJournal, job: &JobId) -> Result<(FencingToken, Vec<String>), JournalError> {
    match journal.claim(job, "w", LEASE, ClaimMode::IfFree).await? {
        Claim::Granted { token, entries } => Ok((token, entries)),
        Claim::Held { .. } => panic!("it was given free"),
    }
}

async fn append(journal: &RedisJournal, job: &JobId, token: FencingToken, sequence: u64, entries: &[&str]) {
    let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
    let append = Append { token, sequence, entries: &entries, lease: LEASE, retain: LEASE, remains: None, index: None };
    journal.append(job, append).await.unwrap();
    // The answer may be lost on the way: it is the same append, and no second copy.
    journal.append(job, append).await.unwrap();
    journal.renew(job, token, Duration::ZERO).await.unwrap();
}

fn unknown(result: Result<impl std::fmt::Debug, JournalError>, key: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, JournalError::Decrypt(DecryptError::UnknownKey(id)) if id == id_of(key)), "{error}");
    assert!(error.to_string().contains(&id_of(key).to_string()), "{error}");
}

#[tokio::test]
async fn entries_are_read_with_the_key_that_they_were_written_with_or_without_one_and_moved_ones_not_at_all() {
    let redis = Redis::start().await;
    let job = JobId::new("job").unwrap();
    let all = ["{\"plain\":1}", "{\"old\":1}", "{\"new\":1}", "{\"off\":1}"];

    let (off, old, both, new) =
        (journal(&redis, ""), journal(&redis, OLD), journal(&redis, &format!("{NEW},{OLD}")), journal(&redis, NEW));
    let (token, _) = claim(&off, &job).await.unwrap();
    append(&off, &job, token, 0, &all[..1]).await;
    // Switched on over a journal that has begun; replaced; switched off while the keys are there.
    let (token, entries) = claim(&old, &job).await.unwrap();
    assert_eq!(entries, all[..1]);
    append(&old, &job, token, 1, &all[1..2]).await;
    let (token, entries) = claim(&both, &job).await.unwrap();
    assert_eq!(entries, all[..2]);
    append(&both, &job, token, 2, &all[2..3]).await;
    let none = journal(&redis, &format!("none, {NEW}, {OLD}"));
    let (token, entries) = claim(&none, &job).await.unwrap();
    assert_eq!(entries, all[..3]);
    append(&none, &job, token, 3, &all[3..]).await;
    assert_eq!(both.read(&job).await.unwrap(), all);

    // Without one of the keys it is neither read nor taken for an empty one, and it stays free for those who have it.
    unknown(new.read(&job).await, OLD);
    unknown(claim(&new, &job).await, OLD);
    unknown(claim(&off, &job).await, OLD);
    unknown(claim(&old, &job).await, NEW);
    let taken = both.claim(&job, "another", LEASE, ClaimMode::IfFree).await.unwrap();
    assert!(matches!(taken, Claim::Granted { entries, .. } if entries == all));

    // What remains of a run is bound to its place as well.
    let (ended, other) = (JobId::new("ended").unwrap(), JobId::new("other").unwrap());
    for job in [&ended, &other] {
        let (token, _) = claim(&new, job).await.unwrap();
        let (entries, remains) = ([format!("{{\"of\":\"{job}\"}}"), "{}".to_owned()], [format!("{{\"r\":\"{job}\"}}")]);
        let remains = Some(Remains { entries: &remains, retain: LEASE });
        let append = Append {
            token,
            sequence: 0,
            entries: &entries,
            lease: Duration::ZERO,
            retain: LEASE,
            remains,
            index: None,
        };
        new.append(job, append).await.unwrap();
    }
    let copy = |from: [&str; 2], to: [&str; 2]| {
        let script = "redis.call('HSET', KEYS[2], ARGV[2], redis.call('HGET', KEYS[1], ARGV[1])) return 'done'";
        assert_eq!(redis.command(&["EVAL", script, "2", from[0], to[0], from[1], to[1]]), "done");
    };
    let forged = |result: Result<Vec<String>, JournalError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, JournalError::Decrypt(DecryptError::Forged(id)) if id == id_of(NEW)), "{error}");
    };
    let keys = ["agentkit:run:{ended}", "agentkit:run:{other}", "agentkit:sealed:{ended}", "agentkit:sealed:{other}"];
    copy([keys[1], "1"], [keys[1], "7"]);
    copy([keys[0], "1"], [keys[1], "1"]);
    forged(new.read(&other).await);
    copy([keys[1], "7"], [keys[1], "1"]);
    assert_eq!(new.read(&other).await.unwrap()[0], "{\"of\":\"other\"}");
    copy([keys[1], "0"], [keys[1], "1"]);
    forged(new.read(&other).await);
    redis.command(&["DEL", keys[0], keys[1]]);
    assert_eq!(new.read(&ended).await.unwrap(), ["{\"r\":\"ended\"}"]);
    unknown(off.read(&ended).await, NEW);
    copy([keys[2], "0"], [keys[3], "0"]);
    forged(new.read(&other).await);

    // The worker's own records can be read by every worker.
    let record = JobId::internal("record");
    let (token, _) = claim(&new, &record).await.unwrap();
    append(&new, &record, token, 0, &["{}"]).await;
    assert_eq!(off.read(&record).await.unwrap(), ["{}"]);
}
