-- One call of the store contract on one record, whole or not at all.
--
-- A record is a hash: its fields and, under the empty name, which no field can have, its idle time and its deadline in
-- milliseconds ("1800000 1790000000000", or "1800000" for no deadline). The key expires when the record does.
-- The arguments are read in turn; a list is the number of its entries and then these.

local MISSING, APPLIED, CONFLICT, FOREIGN = 0, 1, 2, 3

local key = KEYS[1]
local place = 0

local function take()
  place = place + 1
  return ARGV[place]
end

local function now()
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_as_expected()
  for _ = 1, tonumber(take()) / 2 do
    local name, value = take(), take()
    if redis.call("HGET", key, name) ~= value then
      return false
    end
  end
  for _ = 1, tonumber(take()) do
    if redis.call("HEXISTS", key, take()) == 1 then
      return false
    end
  end
  return true
end

-- Lua refuses to unpack more than some thousand values at once.
local function write(command)
  local count = tonumber(take())
  local last = place + count
  for first = place + 1, last, 1000 do
    redis.call(command, key, unpack(ARGV, first, math.min(first + 999, last)))
  end
  place = last
end

local function write_lifetime(idle, remaining)
  remaining = tonumber(remaining)
  if remaining then
    idle = string.format("%s %.0f", idle, now() + remaining)
  end
  redis.call("HSET", key, "", idle)
  return idle
end

local function expire(lifetime, moves_back)
  local idle, deadline = string.match(lifetime, "^(%d+) ?(%d*)$")
  local moment = now()
  local expiry = math.min(moment + idle, tonumber(deadline) or math.huge)
  if moves_back or expiry > moment + redis.call("PTTL", key) then
    redis.call("PEXPIREAT", key, string.format("%.0f", expiry))
  end
end

local calls = {}

function calls.get(lifetime)
  if take() == "1" then
    expire(lifetime, false)
  end
  return redis.call("HGETALL", key)
end

function calls.create()
  local lifetime = write_lifetime(take(), take())
  write("HSET")
  expire(lifetime, true)
  return APPLIED
end

-- Redis looks for a full memory, a replica and the like before a script's first write, and lets the rest pass.
-- That first one must be an HSET: even where memory is full a DEL is let pass.
function calls.replace()
  local idle, remaining = take(), take()
  write_lifetime(idle, remaining)
  redis.call("DEL", key)
  local lifetime = write_lifetime(idle, remaining)
  write("HSET")
  expire(lifetime, true)
  return APPLIED
end

function calls.merge(lifetime)
  local idle, remaining = take(), take()
  local has_lifetime = idle ~= ""
  if has_lifetime then
    lifetime = write_lifetime(idle, remaining)
  end
  write("HSET")
  write("HDEL")
  expire(lifetime, has_lifetime)
  return APPLIED
end

local call = take()
local lifetime = redis.call("HGET", key, "")
if call == "create" then
  if lifetime or redis.call("EXISTS", key) == 1 then
    return CONFLICT
  end
elseif not lifetime then
  return redis.call("EXISTS", key) == 1 and FOREIGN or MISSING
elseif not string.match(lifetime, "^%d+ ?%d*$") then
  return FOREIGN
elseif not is_as_expected() then
  return CONFLICT
end
return calls[call](lifetime)
