//! What Redis does at one go for digests, in Lua: nothing else happens between the lines of a script. The keys are those
//! that `redis` names.

/// Keys: state, groups, begun, done. Arguments: now, from, longest absence and retention of marks in seconds, groups.
pub(super) const LOOK: &str = r"
local now, from, absent, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local clock = tonumber(time[1])
local paused, floor, fire, success, failures, looked, born = unpack(redis.call('HMGET', KEYS[1],
    'paused', 'floor', 'last_fire', 'last_success', 'failures', 'looked', 'born'))
local changing = #ARGV > 4
if changing and not born then
    born = string.format('%.0f', time[1] * 1000000 + time[2])
    redis.call('HSET', KEYS[1], 'born', born)
end
if changing and paused then
    redis.call('HSET', KEYS[1], 'floor', ARGV[1])
    floor = ARGV[1]
end
looked = tonumber(looked) or clock
local bounds = {}
for index = 5, #ARGV do
    local first, seen = string.match(redis.call('HGET', KEYS[2], ARGV[index]) or '', '^(-?%d+) (%d+)$')
    if not first or tonumber(seen) < looked - absent then first = now end
    first = math.min(tonumber(first), now)
    redis.call('HSET', KEYS[2], ARGV[index], string.format('%.0f %.0f', first, clock))
    bounds[#bounds + 1] = string.format('%.0f', math.max(first, tonumber(floor) or first))
end
if changing then
    redis.call('HSET', KEYS[1], 'looked', string.format('%.0f', math.max(looked, clock)))
    local old = string.format('(%.0f', math.min(clock, now) - (now - from) - keep)
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', old)
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', old)
end
return {born or '', paused or '', fire or '', success or '', failures or '', bounds,
    redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[2], '+inf'), redis.call('ZRANGEBYSCORE', KEYS[4], ARGV[2], '+inf')}
";

/// Keys: firing, done, state. Arguments: mark, due, most, owner, lease and retention in milliseconds.
pub(super) const CLAIM: &str = r"
local born = redis.call('HGET', KEYS[3], 'born') or ''
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {{}, -1, born} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local values, mine, held = {}, {}, -1
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do values[all[index]] = all[index + 1] end
for portion = 0, tonumber(ARGV[2]) - 1 do
    local value = values[tostring(portion)]
    if value ~= 'done' then
        local owner, till = string.match(value or '', '^(.*) (%d+)$')
        local left = (tonumber(till) or 0) - now
        if left > 0 and owner ~= ARGV[4] then
            if held < 0 or left < held then held = left end
        elseif #mine < tonumber(ARGV[3]) then
            mine[#mine + 1] = portion
            redis.call('HSET', KEYS[1], portion, string.format('%s %.0f', ARGV[4], now + ARGV[5]))
        end
    end
end
if #mine > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return {mine, held, born}
";

/// Keys: recipients, begun, state, firing, done. Arguments: mark, time, owner, lease and retentions of recipients and of
/// firings in milliseconds, number of parts, number of recipients with a job, parts, recipients with a job, recipients
/// without. A claim that is not there any more was lost with everything else: its owner is at work, as it notes.
pub(super) const NOTE: &str = r"
local at, portions, published = tonumber(ARGV[2]), tonumber(ARGV[7]), tonumber(ARGV[8])
for index = 9 + portions, #ARGV do
    local memory = cjson.decode(redis.call('HGET', KEYS[1], ARGV[index]) or '{}')
    memory.f = at
    if index < 9 + portions + published and memory.e ~= at then memory.r = at end
    redis.call('HSET', KEYS[1], ARGV[index], cjson.encode(memory))
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if published > 0 then
    local last = tonumber(redis.call('HGET', KEYS[3], 'last_fire')) or at
    redis.call('HSET', KEYS[3], 'last_fire', string.format('%.0f', math.max(last, at)))
end
if redis.call('ZSCORE', KEYS[5], ARGV[1]) then return end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
for index = 9, 8 + portions do
    local value = redis.call('HGET', KEYS[4], ARGV[index])
    if not value or string.match(value, '^(.*) %d+$') == ARGV[3] then
        redis.call('HSET', KEYS[4], ARGV[index], string.format('%s %.0f', ARGV[3], till))
    end
end
redis.call('PEXPIRE', KEYS[4], ARGV[6])
";

/// Keys: firing, begun, done. Arguments: mark, time, owner, `done` or `free`, number of all parts, retention in
/// milliseconds, parts.
pub(super) const SETTLE: &str = r"
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return end
for index = 7, #ARGV do
    if ARGV[4] == 'done' then
        redis.call('HSET', KEYS[1], ARGV[index], 'done')
    elseif string.match(redis.call('HGET', KEYS[1], ARGV[index]) or '', '^(.*) %d+$') == ARGV[3] then
        redis.call('HDEL', KEYS[1], ARGV[index])
    end
end
if ARGV[4] ~= 'done' then return end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
local finished = 0
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
    if value == 'done' then finished = finished + 1 end
end
if finished < tonumber(ARGV[5]) then
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
else
    redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
    redis.call('DEL', KEYS[1])
end
";

/// Keys: recipients, state. Arguments: recipient, time, `completed` or `failed`.
pub(super) const ENDED: &str = r"
local at = tonumber(ARGV[2])
local memory = cjson.decode(redis.call('HGET', KEYS[1], ARGV[1]) or '{}')
if memory.e ~= at then
    memory.e = at
    if memory.r == at then memory.r = nil end
    if ARGV[3] == 'completed' then
        memory.s = math.max(memory.s or at, at)
        local last = tonumber(redis.call('HGET', KEYS[2], 'last_success')) or at
        redis.call('HSET', KEYS[2], 'failures', 0, 'last_success', string.format('%.0f', math.max(last, at)))
    else
        redis.call('HINCRBY', KEYS[2], 'failures', 1)
    end
    redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(memory))
end
return tonumber(redis.call('HGET', KEYS[2], 'failures')) or 0
";

/// Keys: recipients. Arguments: recipient, day, time.
pub(super) const MAY_ASK: &str = r"
local at = tonumber(ARGV[3])
local memory = cjson.decode(redis.call('HGET', KEYS[1], ARGV[1]) or '{}')
if memory.a == ARGV[2] and memory.j ~= at then return 0 end
memory.a, memory.j = ARGV[2], at
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(memory))
return 1
";

/// Keys: state, groups, begun, done. Arguments: now, `paused` or `active`, number of groups, number of begun marks, groups
/// each with its time, begun marks each with its time, done marks each with its time.
pub(super) const REMIND: &str = r"
local groups, begun = tonumber(ARGV[3]), tonumber(ARGV[4])
if ARGV[2] == 'paused' and redis.call('HEXISTS', KEYS[1], 'floor') == 0 then
    redis.call('HSET', KEYS[1], 'paused', 1, 'floor', ARGV[1])
end
for index = 5 + 2 * (groups + begun), #ARGV, 2 do
    redis.call('ZADD', KEYS[4], ARGV[index + 1], ARGV[index])
    redis.call('ZREM', KEYS[3], ARGV[index])
end
for index = 5 + 2 * groups, 4 + 2 * (groups + begun), 2 do
    if not redis.call('ZSCORE', KEYS[4], ARGV[index]) then
        redis.call('ZADD', KEYS[3], ARGV[index + 1], ARGV[index])
    end
end
for index = 5, 4 + 2 * groups, 2 do
    local since, clock = tonumber(ARGV[index + 1]), redis.call('TIME')[1]
    local first, seen = string.match(redis.call('HGET', KEYS[2], ARGV[index]) or '', '^(-?%d+) (%d+)$')
    since = math.min(since, tonumber(first) or since)
    redis.call('HSET', KEYS[2], ARGV[index], string.format('%.0f %s', since, seen or clock))
end
";
