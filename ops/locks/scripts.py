"""The Lua scripts: each is one atomic step in Redis, and each may run twice with the same answer.

A command whose reply is lost is sent again, by redis-py or by us, and one that was given up may still run late. So an
acquire by the same owner succeeds again, and an owner that was given up is remembered as gone: a late acquire of it
is refused. Deadlines in Redis are by the server's wall clock, the only one it has: a jump forward ends leases early
(tokens are for that), one backward is noticed, and leases get their own ttl from then on. A holder's id ends with its
ttl in milliseconds for that, and begins with the id of its process up to a dot, which names the channel that wakes it.
"""

from __future__ import annotations

from typing import Final

WAKE: Final = "rookery:wake:"
"""Channel on which a process hears that it is the turn of one of its waiters: this, and the id of the process."""
TAKEN: Final = 1
WAITING: Final = 0
FULL: Final = -1
GONE: Final = -2

_NOW: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""
_WAKE_FIRST: Final = f"""
local function wake_first()
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  -- pcall: without the right to publish, waiters still poll.
  if first then redis.pcall('PUBLISH', '{WAKE}' .. string.match(first, '^[^.]*'), first) end
end
"""
_EXTEND: Final = """
local function extend(me, ttl)
  redis.call('ZADD', KEYS[1], now + ttl, me)
  redis.call('PEXPIRE', KEYS[1], math.max(ttl, redis.call('PTTL', KEYS[1])))
end
"""

# KEYS: held (zset, id -> deadline), queue (zset, id -> order), seen (hash, id -> last poll), gone (of this id)
# ARGV: id, ttl ms, limit, patience ms, most waiters (0: don't wait)
# Returns {state, ms until the first lease ends, place in the queue}.
ACQUIRE: Final = (
    _NOW
    + _WAKE_FIRST
    + _EXTEND
    + """
local held, queue, seen = KEYS[1], KEYS[2], KEYS[3]
local me, ttl, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local patience, waiters_max = tonumber(ARGV[4]), tonumber(ARGV[5])
if redis.call('EXISTS', KEYS[4]) == 1 then return {-2, 0, 0} end

local function ttl_of(id) return tonumber(string.match(id, ':(%d+)$')) end
local last = redis.call('ZRANGE', held, -1, -1, 'WITHSCORES')
if last[1] and tonumber(last[2]) > now + ttl_of(last[1]) then  -- the clock went back
  local all = redis.call('ZRANGE', held, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    redis.call('ZADD', held, math.min(tonumber(all[i + 1]), now + ttl_of(all[i])), all[i])
  end
end
redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
if redis.call('ZSCORE', held, me) then
  extend(me, ttl)
  return {1, 0, 0}
end

local free = limit - redis.call('ZCARD', held)
repeat  -- waiters at the front that went silent: their process died
  local dropped = 0
  for _, id in ipairs(redis.call('ZRANGE', queue, 0, math.max(free, 1) - 1)) do
    local at = tonumber(redis.call('HGET', seen, id) or '0')
    if at > now then
      redis.call('HSET', seen, id, now)
    elseif id ~= me and at + patience < now then
      redis.call('ZREM', queue, id)
      redis.call('HDEL', seen, id)
      dropped = dropped + 1
    end
  end
until dropped == 0

local place = redis.call('ZRANK', queue, me)
local place_or_end = place or redis.call('ZCARD', queue)
if place_or_end < free then
  redis.call('ZREM', queue, me)
  redis.call('HDEL', seen, me)
  extend(me, ttl)
  if free > 1 then wake_first() end
  return {1, 0, 0}
end
local first = redis.call('ZRANGE', held, 0, 0, 'WITHSCORES')
local left = first[2] and first[2] - now or 0
if not place then
  if place_or_end >= waiters_max then return {-1, left, place_or_end} end
  local end_of_queue = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
  redis.call('ZADD', queue, (end_of_queue[2] or 0) + 1, me)
end
redis.call('HSET', seen, me, now)
redis.call('PEXPIRE', queue, 2 * patience)
redis.call('PEXPIRE', seen, 2 * patience)
return {0, left, place_or_end}
"""
)

# KEYS: held. ARGV: id, ttl ms. Returns 1, or 0 when the lease is not this id's any more.
RENEW: Final = (
    _NOW
    + _EXTEND
    + """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) <= now then return 0 end
extend(ARGV[1], tonumber(ARGV[2]))
return 1
"""
)

# KEYS: as ACQUIRE. ARGV: id, ms to remember that it is gone (0: nobody will ask). Returns 1 if it still held its lease.
RELEASE: Final = (
    _NOW
    + _WAKE_FIRST
    + """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[4], '', 'PX', ARGV[2]) end
wake_first()
return score and tonumber(score) > now and 1 or 0
"""
)

# The three of the plain functions. KEYS: key. ARGV: owner, ttl ms.
ACQUIRE_KEY: Final = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
RENEW_KEY: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
# KEYS: key, done (of this call). ARGV: owner, ms to remember the call. A call that is repeated gets its first answer.
RELEASE_KEY: Final = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
return 1
"""

# A token bucket as the time at which it is full again. KEYS: bucket. ARGV: microseconds per token, size, tokens wanted,
# longest wait in microseconds. Returns {1 if taken else 0, microseconds to wait}.
TAKE: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, size, wanted, wait_max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local full_at = now
local stored = redis.call('GET', KEYS[1])
if stored then
  local at, written = string.match(stored, '^(%d+) (%d+)$')
  full_at = at - math.max(0, written - now)  -- the clock went back
  full_at = math.max(full_at, now)
end
full_at = full_at + wanted * interval
local wait = math.max(0, full_at - size * interval - now)
if wait > wait_max then return {0, math.ceil(wait)} end
redis.call('SET', KEYS[1], string.format('%.0f %.0f', full_at, now), 'PX', math.ceil((full_at - now) / 1000) + 1000)
return {1, math.ceil(wait)}
"""
