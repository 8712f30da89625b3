//! The scripts of the journal in Redis; each is one atomic step on one run, and where the server takes that, on the index.

/// Begins the scripts that are run although Redis is full.
pub(super) const WHEN_FULL: &str = "#!lua flags=allow-oom\n";

/// Goes on where they change a run that has begun.
pub(super) const BEGUN: &str = r"
if redis.call('HEXISTS', KEYS[1], 'length') == 0 then return redis.error_reply('the run has not begun') end
";

/// From byte `offset` of entry `index` on, as much as there is room for: the epoch, the length, where the next page begins,
/// and the parts, each of an entry of its own.
pub(super) const PAGE: &str = r"
local function page(index, offset, room)
    local epoch, length = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'length'))
    local parts = {}
    while index < (tonumber(length) or 0) and room > 0 do
        local entry = redis.call('HGET', KEYS[1], index)
        if not entry then break end
        local part = string.sub(entry, offset + 1, offset + room)
        parts[#parts + 1] = part
        room = room - #part - 1
        offset = offset + #part
        if offset < #entry then break end
        index, offset = index + 1, 0
    end
    return {epoch, length, index, offset, parts}
end
";

/// Arguments: index, offset, room.
pub(super) const READ: &str = "return page(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))";

/// Arguments: owner, lease and least retention in milliseconds, `if_free` or `steal`, room. Answers the epoch and the
/// first page, or the present owner and what remains of its lease.
pub(super) const CLAIM: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, owner, lease = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'lease'))
local remaining = (tonumber(lease) or 0) - now
if ARGV[4] == 'if_free' and owner and owner ~= ARGV[1] and remaining > 0 then
    return {0, owner, remaining}
end
local taken = math.max((tonumber(epoch) or 0) + 1, now)
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', taken), 'owner', ARGV[1],
    'lease', string.format('%.0f', now + ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return {1, taken, page(0, 0, tonumber(ARGV[5]))}
";

/// Notes a run in a set of the index, and in another one no more; sets are trimmed now and then.
pub(super) const INDEX: &str = r"
local function note(into, from, at, keep, most, run)
    if from then redis.call('ZREM', from, run) end
    redis.call('ZADD', into, at, run)
    redis.call('PEXPIRE', into, keep)
    if at % 16 ~= 0 then return end
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('ZREMRANGEBYSCORE', into, '-inf', string.format('%.0f', math.min(at, now) - keep))
    redis.call('ZREMRANGEBYRANK', into, 0, string.format('%.0f', -most - 1))
end
";

/// Key: the set that the run goes into. Arguments: when it changed, how long it is kept, both in milliseconds, how many are,
/// the run.
pub(super) const INDEX_ALONE: &str = r"
note(KEYS[1], nil, tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4])
";

/// Keys: the run; where the index is to be told, the sets of all and of its user that it goes into, and those that it
/// leaves. Arguments: epoch, lease and retention in milliseconds, sequence, what the run's head says from then on,
/// when that changed, how long it is kept, how many are, the run, entries.
pub(super) const APPEND: &str = r"
local epoch, length = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'length'))
epoch, length = tonumber(epoch) or 0, tonumber(length) or 0
local mine, sequence, count = tonumber(ARGV[1]), tonumber(ARGV[4]), #ARGV - 9
if epoch > mine then return 'taken' end
if epoch < mine or sequence > length then return 'lost' end
if sequence < length and sequence + count ~= length then return 'taken' end
if sequence < length then
    for index = 1, count do
        if redis.call('HGET', KEYS[1], sequence + index - 1) ~= ARGV[9 + index] then return 'taken' end
    end
else
    for index = 1, count do
        redis.call('HSET', KEYS[1], sequence + index - 1, ARGV[9 + index])
    end
    redis.call('HSET', KEYS[1], 'length', string.format('%.0f', sequence + count))
    if sequence == 0 then redis.call('HDEL', KEYS[1], 'announced') end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = string.format('%.0f', now + ARGV[2])
if ARGV[5] == '' then
    redis.call('HSET', KEYS[1], 'lease', lease)
else
    redis.call('HSET', KEYS[1], 'lease', lease, 'row', ARGV[5])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for scope = 2, math.min(#KEYS, 3) do
    note(KEYS[scope], KEYS[scope + 2], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9])
end
return 'done'
";

/// Arguments: retention in milliseconds, what the run's head says, what remains.
pub(super) const KEEP: &str = r"
redis.call('DEL', KEYS[1])
for index = 3, #ARGV do
    redis.call('HSET', KEYS[1], index - 3, ARGV[index])
end
redis.call('HSET', KEYS[1], 'length', string.format('%.0f', #ARGV - 2))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'row', ARGV[2]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 'done'
";

/// Arguments: epoch, lease and least retention in milliseconds, least length.
pub(super) const RENEW: &str = r"
local epoch, length = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'length'))
epoch, length = tonumber(epoch) or 0, tonumber(length) or 0
if epoch > tonumber(ARGV[1]) then return 'taken' end
if epoch < tonumber(ARGV[1]) or length < tonumber(ARGV[4]) then return 'lost' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 'done'
";

/// Arguments: note, least retention in milliseconds. Answers whether the run has begun, else the note that is kept.
pub(super) const ANNOUNCE: &str = r"
local length, kept = unpack(redis.call('HMGET', KEYS[1], 'length', 'announced'))
if length then return {1, ''} end
if kept and kept ~= ARGV[1] then return {0, kept} end
redis.call('HSET', KEYS[1], 'announced', ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {0, ARGV[1]}
";

/// Arguments: note, most retention in milliseconds.
pub(super) const WITHDRAW: &str = r"
if redis.call('HGET', KEYS[1], 'announced') == ARGV[1] and redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], 'announced')
end
return 'done'
";

/// Runs stolen, by the epoch of that, which is a time in milliseconds or later. A key of its own, as it may be in
/// another slot. Arguments: epoch, run, retention in milliseconds.
pub(super) const NOTE_STOLEN: &str = r"
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] - ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'done'
";

/// Deletes a run that nobody has claimed since. Argument: the epoch of the claim.
pub(super) const DELETE: &str = r"
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 'done'
";
