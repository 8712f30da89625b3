//! The parked runs of all workers: a hash per user, and for each thing that runs wait for one sorted set (by the end of each
//! wait) that counts them all. They lie in different slots of a cluster, so they are changed one after the other; a count is no
//! truth to rely on.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ::redis::{Script, cmd};
use async_trait::async_trait;
use tracing::warn;

use super::{PAGE, PageCursor, Parked, ParkedPage, Parking, ParkingError, WaitsFor};
use crate::encryption::{Binding, Encryption};
use crate::job::{Identifier, JobId};
use crate::key::{Key, decode};
use crate::redis_client::{RedisClient, Unavailable};

/// Arguments: job id, run, milliseconds to keep. The hash lasts as long as the longest wait in it.
const PARK: &str = r"
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
";

/// Arguments: name of the run, milliseconds to keep.
const COUNT_ONE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
";

/// Drops those whose wait is over, and counts the others.
const COUNT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
return redis.call('ZCARD', KEYS[1])
";

/// Parked runs in Redis under the client's key prefix.
#[derive(Debug)]
pub struct RedisParking {
    client: RedisClient,
    encryption: Encryption,
    park: Script,
    count_one: Script,
    count: Script,
}

impl RedisParking {
    /// An index kept through `client`.
    pub fn new(client: RedisClient) -> Self {
        let (park, count_one, count) = (Script::new(PARK), Script::new(COUNT_ONE), Script::new(COUNT));
        Self { client, encryption: Encryption::default(), park, count_one, count }
    }

    /// Entries are encrypted by `encryption`; those that were noted without are read all the same.
    pub fn encrypted(self, encryption: Encryption) -> Self {
        Self { encryption, ..self }
    }

    /// What cannot be read is another version's or another key's, and wakes by the clock.
    fn read(&self, identifier: &Identifier, job: &str, run: Vec<u8>) -> Option<Parked> {
        let run = self.encryption.decrypt(|| place(identifier, job), run);
        let run = run.inspect_err(|error| warn!(job.id = job, %error, "a parked run wakes by the clock alone")).ok()?;
        serde_json::from_slice(&run).ok()
    }

    /// Forgets the runs that wait for a user, but for `left`; says how many there were.
    pub async fn erase(
        &self,
        identifier: &Identifier,
        left: &BTreeSet<JobId>,
        for_real: bool,
    ) -> Result<u64, ParkingError> {
        let key = self.of_user(identifier);
        let names: Vec<String> = self.client.query(cmd("HKEYS").arg(&key)).await?;
        let mut found = 0;
        for name in names {
            let Some(job) = JobId::from_key(&name).filter(|job| !left.contains(job)) else { continue };
            found += 1;
            if for_real {
                for waits_for in WaitsFor::ALL {
                    self.unpark(identifier, &job, waits_for).await?;
                }
            }
        }
        Ok(found)
    }

    fn of_user(&self, identifier: &Identifier) -> String {
        self.client.full_key(&Key::new(&["parked", identifier.as_str()]))
    }

    fn all(&self, waits_for: WaitsFor) -> String {
        let name = match waits_for {
            WaitsFor::Authorization => "parked",
            WaitsFor::Approval => "parked-for-approval",
        };
        self.client.full_key(&Key::new(&[name]))
    }
}

#[async_trait]
impl Parking for RedisParking {
    async fn park(&self, identifier: &Identifier, parked: &Parked, keep: Duration) -> Result<(), ParkingError> {
        let run = serde_json::to_vec(parked).expect("a parked run is text");
        let run = self.encryption.encrypt(&place(identifier, parked.job.key()), &run);
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST);
        let mut script = self.park.key(self.of_user(identifier));
        self.client.run::<()>(script.arg(parked.job.key()).arg(&*run).arg(keep)).await?;
        let mut script = self.count_one.key(self.all(parked.waits_for));
        Ok(self.client.run(script.arg(name(identifier, &parked.job)).arg(keep)).await?)
    }

    async fn unpark(&self, identifier: &Identifier, job: &JobId, waits_for: WaitsFor) -> Result<(), ParkingError> {
        self.client.query::<()>(cmd("HDEL").arg(self.of_user(identifier)).arg(job.key())).await?;
        Ok(self.client.query(cmd("ZREM").arg(self.all(waits_for)).arg(name(identifier, job))).await?)
    }

    async fn page(&self, identifier: &Identifier, from: Option<&PageCursor>) -> Result<ParkedPage, ParkingError> {
        let from = from.map_or(FIRST, |cursor| &cursor.0);
        let mut scan = cmd("HSCAN");
        scan.arg(self.of_user(identifier)).arg(from).arg("COUNT").arg(PAGE);
        let (next, runs): (String, HashMap<String, Vec<u8>>) = self.client.query(&scan).await?;
        let runs = runs.into_iter().filter_map(|(job, run)| self.read(identifier, &job, run)).collect();
        Ok(ParkedPage { runs, next: (next != FIRST).then_some(PageCursor(next)) })
    }

    async fn find(&self, identifier: &Identifier, job: &JobId) -> Result<Option<Parked>, ParkingError> {
        let run: Option<Vec<u8>> = self.client.query(cmd("HGET").arg(self.of_user(identifier)).arg(job.key())).await?;
        Ok(run.and_then(|run| self.read(identifier, job.key(), run)))
    }

    async fn first(&self, waits_for: WaitsFor, most: usize) -> Result<Vec<(Identifier, JobId)>, ParkingError> {
        let Some(last) = most.checked_sub(1) else { return Ok(Vec::new()) };
        let names: Vec<String> = self.client.query(cmd("ZRANGE").arg(self.all(waits_for)).arg(0).arg(last)).await?;
        Ok(names.iter().filter_map(|name| named(name)).collect())
    }

    async fn count(&self, waits_for: WaitsFor) -> Result<u64, ParkingError> {
        Ok(self.client.run(&self.count.key(self.all(waits_for))).await?)
    }
}

/// Redis' cursor at the beginning, which it gives again at the end.
const FIRST: &str = "0";

/// A century: Redis refuses an expiry that overflows its clock.
const LONGEST: u64 = 1000 * 3600 * 24 * 365 * 100;

fn place(identifier: &Identifier, job: &str) -> Binding {
    Binding::new("parked", &[identifier.as_str(), job])
}

fn name(identifier: &Identifier, job: &JobId) -> String {
    Key::new(&[identifier.as_str(), job.key()]).to_string()
}

fn named(name: &str) -> Option<(Identifier, JobId)> {
    let (identifier, job) = name.split_once(':')?;
    Some((Identifier::new(decode(identifier)?)?, JobId::from_key(&decode(job)?)?))
}

impl From<Unavailable> for ParkingError {
    fn from(error: Unavailable) -> Self {
        Self(error.0)
    }
}
