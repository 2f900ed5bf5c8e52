-- Enters devices. A key is an account: records of 32 bytes, one per device: device 16, gateway 8, epoch 8; the numbers are big-endian.
-- ARGV[1] is how long a key is kept, in milliseconds, ARGV[1 + i] the record that is to go into KEYS[i].
-- Answers, for each key, with the record that was replaced, or that stayed because its epoch is higher; with '' if there was none.

-- Nobody has so many devices: what is beyond it was left by gateways that died.
local MOST_DEVICES = 64

-- In two halves, because a number of Lua holds 53 bits.
local function newer(a, b)
  local a_high, a_low = struct.unpack('>I4I4', a, 25)
  local b_high, b_low = struct.unpack('>I4I4', b, 25)
  return a_high > b_high or (a_high == b_high and a_low > b_low)
end

local answers = {}
for i, key in ipairs(KEYS) do
  local new = ARGV[1 + i]
  local device = string.sub(new, 1, 16)
  local all = redis.call('GET', key) or ''
  local kept, old = {}, ''
  for at = 1, #all, 32 do
    local record = string.sub(all, at, at + 31)
    if string.sub(record, 1, 16) == device then
      old = record
    else
      kept[#kept + 1] = record
    end
  end
  if old == '' or not newer(old, new) then
    if #kept >= MOST_DEVICES then
      table.remove(kept, 1)
    end
    kept[#kept + 1] = new
    redis.call('SET', key, table.concat(kept), 'PX', ARGV[1])
  end
  answers[i] = old
end
return answers
