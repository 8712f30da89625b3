//! The counters that all workers share. All of them lie in one slot, `agentkit:budget:{all}:…`, as a call counts in several at
//! one go. Each is a hash in billionths of a US dollar:
//!
//! | field | holds |
//! |---|---|
//! | `spent`, `reserved` | what was spent, and what is set aside |
//! | `told` | the day, counted from 1970, on which the operator was told last that it is nearly used up |
//! | `h:{holder}` | what is set aside for a call, and until when by Redis's clock, in seconds; or `spent` in that place |

use std::time::Duration;

use ::redis::{Script, cmd};
use async_trait::async_trait;

use super::{Balance, Budget, BudgetCounters, BudgetError, MOST, Reservation, TOLD_AT_PERCENT};
use crate::money::Amount;
use crate::redis_client::{RedisClient, Unavailable};

/// Keys: the budgets' counters. Arguments: holder, amount, seconds to hold it, and for each budget its limit and how long it is
/// kept in seconds. Answers 0, or 1 (busy) or 2 (exceeded) with the number of the budget, what it has spent and set aside.
const RESERVE: &str = r"
local now = tonumber(redis.call('TIME')[1])
local holder, amount = 'h:' .. ARGV[1], tonumber(ARGV[2])
local function balance(key)
    local found = redis.call('HMGET', key, 'spent', 'reserved')
    return tonumber(found[1]) or 0, tonumber(found[2]) or 0
end
local function expire(key)
    local all = redis.call('HGETALL', key)
    for index = 1, #all, 2 do
        local held, till = string.match(all[index + 1], '^(%d+) (%d+)$')
        if held and tonumber(till) < now then
            redis.call('HSET', key, all[index], held .. ' spent')
            redis.call('HINCRBY', key, 'spent', held)
            if held ~= '0' then redis.call('HINCRBY', key, 'reserved', '-' .. held) end
        end
    end
end
for index, key in ipairs(KEYS) do
    if redis.call('HEXISTS', key, holder) == 0 then
        local limit = tonumber(ARGV[2 + 2 * index])
        local spent, reserved = balance(key)
        if reserved > 0 and spent + reserved + amount > limit then
            expire(key)
            spent, reserved = balance(key)
        end
        local answer = 0
        if spent + amount > limit then answer = 2 elseif spent + reserved + amount > limit then answer = 1 end
        if answer > 0 then
            return {answer, index, string.format('%.0f', spent), string.format('%.0f', reserved)}
        end
    end
end
for index, key in ipairs(KEYS) do
    if redis.call('HSETNX', key, holder, string.format('%.0f %.0f', amount, now + ARGV[3])) == 1 then
        redis.call('HINCRBY', key, 'reserved', ARGV[2])
    end
    redis.call('EXPIRE', key, ARGV[3 + 2 * index])
end
return {0, 0, '0', '0'}
";

/// Keys: the budgets' counters. Arguments: holder, what was spent or nothing, hundredths at which it is told, and for each budget
/// its limit and how long it is kept in seconds. Answers the numbers of those to tell of.
const SETTLE: &str = r"
local day = math.floor(redis.call('TIME')[1] / 86400)
local holder, told = 'h:' .. ARGV[1], {}
for index, key in ipairs(KEYS) do
    local held, till = string.match(redis.call('HGET', key, holder) or '', '^(%d+) (%w+)$')
    if held then
        local spent = ARGV[2] ~= '' and ARGV[2] or held
        redis.call('HDEL', key, holder)
        if held ~= '0' then redis.call('HINCRBY', key, till == 'spent' and 'spent' or 'reserved', '-' .. held) end
        spent = redis.call('HINCRBY', key, 'spent', spent)
        redis.call('EXPIRE', key, ARGV[3 + 2 * index])
        local tells = math.floor(ARGV[2 + 2 * index] / 100) * ARGV[3]
        if spent >= tells and tonumber(redis.call('HGET', key, 'told')) ~= day then
            redis.call('HSET', key, 'told', day)
            told[#told + 1] = index
        end
    end
end
return told
";

/// Counters in Redis.
#[derive(Debug)]
pub struct RedisBudgets {
    client: RedisClient,
    reserve: Script,
    settle: Script,
}

impl RedisBudgets {
    /// Counters kept through `client`.
    pub fn new(client: RedisClient) -> Self {
        Self { client, reserve: Script::new(RESERVE), settle: Script::new(SETTLE) }
    }

    fn key(&self, budget: &Budget) -> String {
        format!("{}:{}", self.client.tagged_key("budget", "all"), budget.key)
    }
}

#[async_trait]
impl BudgetCounters for RedisBudgets {
    async fn reserve(
        &self,
        budgets: &[Budget],
        holder: &str,
        amount: Amount,
        hold: Duration,
    ) -> Result<Reservation, BudgetError> {
        let mut script = self.reserve.prepare_invoke();
        script.arg(holder).arg(amount.min(MOST).nano_usd()).arg(hold.as_secs());
        for budget in budgets {
            script.key(self.key(budget)).arg(budget.limit.nano_usd()).arg(budget.keep.as_secs());
        }
        let (answer, number, spent, reserved): (u8, usize, u64, u64) = self.client.run(&script).await?;
        let index = number.saturating_sub(1);
        Ok(match answer {
            0 => Reservation::Granted,
            1 => Reservation::Busy { index },
            _ => {
                let balance = Balance { spent: Amount::of_nano_usd(spent), reserved: Amount::of_nano_usd(reserved) };
                Reservation::Exceeded { index, balance }
            }
        })
    }

    async fn settle(&self, budgets: &[Budget], holder: &str, spent: Option<Amount>) -> Result<Vec<usize>, BudgetError> {
        let mut script = self.settle.prepare_invoke();
        let spent = spent.map(|spent| spent.min(MOST).nano_usd().to_string());
        script.arg(holder).arg(spent.unwrap_or_default()).arg(TOLD_AT_PERCENT);
        for budget in budgets {
            script.key(self.key(budget)).arg(budget.limit.nano_usd()).arg(budget.keep.as_secs());
        }
        let told: Vec<usize> = self.client.run(&script).await?;
        Ok(told.into_iter().map(|number| number.saturating_sub(1)).collect())
    }

    async fn balance(&self, budget: &Budget) -> Result<Balance, BudgetError> {
        let command = cmd("HMGET").arg(self.key(budget)).arg(&["spent", "reserved"]).to_owned();
        let (spent, reserved): (Option<u64>, Option<u64>) = self.client.query(&command).await?;
        let amount = |found: Option<u64>| Amount::of_nano_usd(found.unwrap_or_default());
        Ok(Balance { spent: amount(spent), reserved: amount(reserved) })
    }
}

impl From<Unavailable> for BudgetError {
    fn from(error: Unavailable) -> Self {
        Self(error.0)
    }
}
