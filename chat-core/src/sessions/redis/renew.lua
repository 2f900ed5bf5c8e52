-- Renews a gateway's lease. KEYS[1] holds all gateways: id -> when its lease ends, in milliseconds of this server's clock, a space, and its address.
-- ARGV: the gateway's id, its address, its lease in milliseconds, how long the key is kept in milliseconds.
-- Answers with 1 if there was no lease (else 0), and then id and address of every gateway that has one.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine, anew, answer = ARGV[1], 1, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local id, ends, address = all[i], string.match(all[i + 1], '^(%d+) (.*)$')
  if not ends or tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], id)
  elseif id == mine then
    anew = 0
  else
    answer[#answer + 1] = id
    answer[#answer + 1] = address
  end
end
redis.call('HSET', KEYS[1], mine, string.format('%.0f %s', now + ARGV[3], ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
answer[#answer + 1] = mine
answer[#answer + 1] = ARGV[2]
table.insert(answer, 1, anew)
return answer
