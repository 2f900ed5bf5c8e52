-- Which gateways have a lease. KEYS[1] holds all of them, see `renew.lua`. Answers with their ids, and changes nothing.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends = string.match(all[i + 1], '^(%d+) ')
  if ends and tonumber(ends) > now then
    answer[#answer + 1] = all[i]
  end
end
return answer
