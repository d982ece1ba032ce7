-- One call of the store contract on one record, whole or not at all.
--
-- A record is a hash: its fields and, under the empty name, which no field can have, its idle time and its deadline in
-- milliseconds ("1800000 1790000000000", or "1800000" for no deadline). The key expires when the record does.
-- The arguments: the call; what it expects (each a name, and "=" and the value, or "" where the field must be absent).
-- A write has further: idle time and time to the deadline, each "" for none; what it writes (each a name and the value);
-- the names that it drops. Before what is expected and what is written stands the number of arguments that it takes.
-- The call "records" has others: a cursor of SCAN, a pattern of keys, and how many to look at.

local MISSING, APPLIED, CONFLICT, FOREIGN = 0, 1, 2, 3

local key = KEYS[1]

-- Which of these commands the user may not give. A script that is stopped half-way would leave half a write, so who
-- may not give all of them gives none. Redis before 7 cannot tell.
if ARGV[1] == "rights" then
  -- From Redis 8 on a command has to be asked about with as many arguments as it takes; most take the key alone.
  local taken = {time = 0, hget = 2, hset = 3, hdel = 2, hexists = 2, pexpireat = 2}
  local denied = {}
  for place = 2, redis.acl_check_cmd and #ARGV or 0 do
    if not redis.acl_check_cmd(ARGV[place], unpack({key, "", ""}, 1, taken[ARGV[place]] or 1)) then
      denied[#denied + 1] = ARGV[place]
    end
  end
  return denied
end

local function kept(key)
  -- What is no hash is no record.
  local fields = redis.pcall("HGETALL", key)
  return {key, redis.call("PTTL", key), fields.err and {} or fields}
end

if ARGV[1] == "records" then
  local found = redis.call("SCAN", ARGV[2], "MATCH", ARGV[3], "COUNT", ARGV[4])
  local answer = {found[1], redis.call("TIME")}
  for place, name in ipairs(found[2]) do
    answer[place + 2] = kept(name)
  end
  return answer
end

local call, expected = ARGV[1], 3
local times = expected + ARGV[2]
local idle, remaining = ARGV[times], ARGV[times + 1]
local written = times + 3
local dropped = written + (ARGV[times + 2] or 0)

local function now()
  local time = redis.call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_as_expected()
  for place = expected, times - 1, 2 do
    local value = redis.call("HGET", key, ARGV[place])
    if (value and "=" .. value or "") ~= ARGV[place + 1] then
      return false
    end
  end
  return true
end

-- Lua refuses to unpack more than some thousand values at once.
local function write(command, first, last)
  for place = first, last, 1000 do
    redis.call(command, key, unpack(ARGV, place, math.min(place + 999, last)))
  end
end

local function write_lifetime()
  local lifetime = idle
  if remaining ~= "" then
    lifetime = string.format("%s %.0f", idle, now() + remaining)
  end
  redis.call("HSET", key, "", lifetime)
  return lifetime
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

function calls.look()
  return redis.call("HGETALL", key)
end

function calls.record()
  return {redis.call("TIME"), kept(key)}
end

function calls.get(lifetime)
  expire(lifetime, false)
  return redis.call("HGETALL", key)
end

function calls.create()
  local lifetime = write_lifetime()
  write("HSET", written, dropped - 1)
  expire(lifetime, true)
  return APPLIED
end

-- Redis looks for a full memory, a replica and the like before a script's first write, and lets the rest pass.
-- That first one must be an HSET: even where memory is full a DEL is let pass.
function calls.replace()
  write_lifetime()
  redis.call("DEL", key)
  return calls.create()
end

function calls.merge(lifetime)
  local has_lifetime = idle ~= ""
  if has_lifetime then
    lifetime = write_lifetime()
  end
  write("HSET", written, dropped - 1)
  write("HDEL", dropped, #ARGV)
  expire(lifetime, has_lifetime)
  return APPLIED
end

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
