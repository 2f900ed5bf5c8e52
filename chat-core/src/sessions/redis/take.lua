-- Token buckets. A key holds when its bucket is full again, in microseconds of this server's clock; none is a full bucket.
-- ARGV[1] is how long a token takes to come back, ARGV[2] how long an empty bucket takes to fill, both in microseconds, ARGV[3] 1 to take a token, 0 to look.
-- Answers with two numbers: whole tokens that are left, and, if one was wanted and there is none, in how many milliseconds there will be one (else 0).

local interval, span = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = tonumber(redis.call('GET', KEYS[1]) or now) or now
-- A clock that was set back must not lock anybody out for longer than an empty bucket does.
full = math.min(math.max(full, now), now + span)
local after = 0
if ARGV[3] == '1' then
  if full + interval > now + span then
    after = math.ceil((full + interval - now - span) / 1000)
  else
    full = full + interval
    redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
  end
end
return { math.floor((now + span - full) / interval), after }
