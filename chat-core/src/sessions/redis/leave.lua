-- Forgets devices: takes the record ARGV[i] out of KEYS[i] if it is there as it is. A device with another place by now has another record.

local answers = {}
for i, key in ipairs(KEYS) do
  local all = redis.call('GET', key) or ''
  local kept, found = {}, 0
  for at = 1, #all, 32 do
    local record = string.sub(all, at, at + 31)
    if record == ARGV[i] then
      found = 1
    else
      kept[#kept + 1] = record
    end
  end
  if found == 1 and #kept == 0 then
    redis.call('DEL', key)
  elseif found == 1 then
    redis.call('SET', key, table.concat(kept), 'KEEPTTL')
  end
  answers[i] = found
end
return answers
