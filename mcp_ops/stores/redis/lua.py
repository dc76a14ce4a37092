"""Parts of the Lua scripts: what they begin with, limits, circuits, modes, people's changes."""

from __future__ import annotations

PRELUDE = """
local META, MODES, CIRCUITS, GRANTS, PARTITIONS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local STEP, PROBE = 1000000, 60000000  -- microseconds
local TIMES = {'since', 'expires_at', 'opened_at', 'retry_at', 'probe_until'}
local call = redis.call
local ask = cjson.decode(ARGV[3])

local function whole(us) return string.format('%.0f', us) end
local function text(seconds) return string.format('%.17g', seconds) end

local raw, spare = tonumber(ARGV[2]), 600000
if not raw then
  local time = call('TIME')
  raw, spare = time[1] * 1000000 + time[2], 1000
end
local meta = call('HMGET', META, 'incarnation', 'run', 'born', 'last', 'ahead')
local incarnation, born = meta[1], tonumber(meta[3] or '')
local last, ahead = tonumber(meta[4] or '0'), tonumber(meta[5] or '0')
local run
if ARGV[1] == 'check' then
  run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  if incarnation and meta[2] ~= run then
    call('HDEL', META, 'incarnation')
    incarnation = false
  end
end

local function back(hash, seconds)
  local flat = call('HGETALL', hash)
  for i = 1, #flat, 2 do
    local value = cjson.decode(flat[i + 1])
    for _, item in ipairs(value[1] and value or {value}) do
      for _, field in ipairs(TIMES) do
        if item[field] then item[field] = text(tonumber(item[field]) - seconds) end
      end
    end
    call('HSET', hash, flat[i], cjson.encode(value))
  end
end
local now, wall = raw + ahead, raw / 1000000
if now < last - STEP then
  for _, hash in ipairs({MODES, CIRCUITS, GRANTS, PARTITIONS}) do
    back(hash, (last - now) / 1000000)
  end
  ahead, now = ahead + last - now, last
  call('HSET', META, 'ahead', whole(ahead))
end
local function touch()
  if now > last + STEP / 2 then call('HSET', META, 'last', whole(now)) end
end

local function live(item) return not item.expires_at or tonumber(item.expires_at) > wall end
local function load(hash, field)
  local found = call('HGET', hash, field)
  return found and cjson.decode(found) or nil
end
local function save(hash, field, value)
  if value[1] or next(value) then
    call('HSET', hash, field, cjson.encode(value))
  else
    call('HDEL', hash, field)
  end
end
"""

ALIVE = """
if not incarnation then return 'LOST' end
"""

# A limit has one number, when its bucket will be full again (TAT), in whole microseconds rounded
# up, so that sums never admit too early. Beside it the interval that it was charged with: what is
# owed is units, also after a mode changed the rate. After a loss every bucket begins empty.
RATES = """
local SLACK = 1
local function bucket(key)
  local found = call('GET', key)
  if not found then return nil end
  local tat, interval = string.match(found, '^(%S+) (%S+)$')
  return {tat = tonumber(tat), interval = tonumber(interval)}
end

local function owed(key, rate, interval)
  local held, units = bucket(key), 0
  if held and held.tat > now then units = (held.tat - now) / held.interval end
  if born then
    units = math.max(units, rate.burst - (now - born) / (60000000 / rate.per_minute))
  end
  return units * interval
end

local function look(key, rate, factor)
  local per_minute = rate.scaled and rate.per_minute * factor or rate.per_minute
  if per_minute <= 0 then return {false, 0, '0', 'inf'} end
  local interval = 60000000 / per_minute
  local room = rate.burst * interval - owed(key, rate, interval)
  local wait = rate.cost * interval - room
  local allowed = rate.cost <= rate.burst and wait <= SLACK
  local left = math.max(0, math.floor((room + SLACK) / interval))
  local after = allowed and '0' or rate.cost > rate.burst and 'inf' or text(wait / 1000000)
  return {allowed, left, text(per_minute), after}
end

local function put(key, tat, interval)
  local ttl = math.max(0, math.ceil((tat - now) / 1000)) + spare
  call('SET', key, whole(tat) .. ' ' .. text(interval), 'PX', whole(ttl))
end

local function charge(key, rate, state)
  local interval = 60000000 / tonumber(state[3])
  local debt = owed(key, rate, interval) + rate.cost * interval
  local tat = now + math.ceil(debt - 0.001)
  put(key, tat, interval)
  state[2] = math.max(0, state[2] - rate.cost)
  return whole(tat)
end

local function refund(key, rate, mark)
  local held, interval = bucket(key), 60000000 / rate.limit
  if not held then return end
  local units = math.min(rate.cost, math.max(0, mark - now) / interval)
  put(key, math.ceil(held.tat - units * held.interval - 0.001), held.interval)
end
"""

CIRCUIT = """
local function circuit(target)
  return load(CIRCUITS, target) or {target = target, phase = 'closed', failures = 0, version = 0}
end
local function keep(state)
  state.version = state.version + 1
  save(CIRCUITS, state.target, state)
  return state
end
local function changed(state, phase)
  state.phase, state.probe_until = phase or state.phase, nil
  return keep(state)
end
local function decide(state)
  if state.phase == 'closed' then return 'pass' end
  if state.phase == 'open' and state.retry_at and tonumber(state.retry_at) <= wall then
    return 'probe'
  end
  local probing = state.probe_until and tonumber(state.probe_until) > wall
  return state.phase == 'half_open' and not probing and 'probe' or 'refuse'
end
local function start_probe(state)
  state.phase, state.probe_until = 'half_open', text(wall + PROBE / 1000000)
  return keep(state)
end
local function untouched(state)
  return state.phase == 'half_open' and changed(state) or state
end
local function answered(state, probe)
  if state.phase == 'half_open' and probe then
    return keep({target = state.target, phase = 'closed', failures = 0, version = state.version})
  end
  if state.phase == 'closed' and state.failures > 0 then
    state.failures = 0
    return changed(state)
  end
  return state
end
local function opened(state, policy, reason)
  return keep({
    target = state.target, phase = 'open', failures = state.failures + 1, opened_at = text(wall),
    retry_at = text(wall + policy.open_s), last_error = ask.error, reason = reason,
    version = state.version,
  })
end
local function failed(state, probe, policy, share)
  if state.phase == 'half_open' and probe then return opened(state, policy, 'the probe failed') end
  if state.phase ~= 'closed' then return state end
  local failures = state.failures + 1
  if failures >= policy.consecutive then
    return opened(state, policy, string.format('%d failures in a row', failures))
  end
  if share then return opened(state, policy, share) end
  state.failures, state.last_error = failures, ask.error
  return changed(state)
end

-- Calls and failures of the last seconds, in at most sixty slots. `early` are answers that nobody
-- counted when they came: their age in microseconds, and how many.
local function count(key, early, calls, failures, policy)
  local found, slots = call('GET', key), {}
  local window = policy.window_s * 1000000
  for _, slot in ipairs(found and cmsgpack.unpack(found) or {}) do
    if slot[1] > now - window then slots[#slots + 1] = slot end
  end
  local function add(at, more, bad)
    local newest = slots[#slots]
    if not newest or newest[1] <= at - window / 60 then
      newest = {at, 0, 0}
      slots[#slots + 1] = newest
    end
    newest[2], newest[3] = newest[2] + more, newest[3] + bad
  end
  for _, answers in ipairs(early) do
    if answers[1] < window then add(now - answers[1], answers[2], 0) end
  end
  if calls > 0 then add(now, calls, failures) end
  call('SET', key, cmsgpack.pack(slots), 'PX', whole(math.ceil(window / 1000) + spare))
  local all, bad = 0, 0
  for _, slot in ipairs(slots) do all, bad = all + slot[2], bad + slot[3] end
  if failures > 0 and all >= policy.minimum_calls and bad >= policy.ratio * all then
    return string.format('%d of %d calls failed in %g s', bad, all, policy.window_s)
  end
  return nil
end
"""

MODES = """
-- The newest entry of each source that has not expired.
local function in_force(stack, into)
  local seen = {}
  for i = #stack, 1, -1 do
    local entry = stack[i]
    if live(entry) and not seen[entry.source] then
      seen[entry.source] = true
      into[#into + 1] = entry
    end
  end
end
"""

# What people change. Every item bears the name of its fact; `gone` are those of items that this
# change took out of force for good.
PEOPLE = """
local gone = {}
local function drop(item)
  if item and item.fact then gone[#gone + 1] = item.fact end
end
local function put_mode(entry)
  local stack = {}
  for _, item in ipairs(load(MODES, entry.scope) or {}) do
    local same = item.source == entry.source
    local outlasts = entry.expires_at
      and (not item.expires_at or tonumber(item.expires_at) > tonumber(entry.expires_at))
    if live(item) and item.fact ~= entry.fact and (not same or outlasts) then
      stack[#stack + 1] = item
    elseif item.fact ~= entry.fact then
      drop(item)
    end
  end
  stack[#stack + 1] = entry
  local mine = {}
  for i, item in ipairs(stack) do
    if item.source == entry.source then mine[#mine + 1] = i end
  end
  -- The lowest stays: it is what remains when all others have expired.
  if #mine > 8 then drop(table.remove(stack, mine[2])) end
  save(MODES, entry.scope, stack)
end
local function put_one(hash, field, item)
  local before = load(hash, field)
  if before and before.fact ~= item.fact then drop(before) end
  save(hash, field, item)
end
local function take_one(hash, field)
  local before = load(hash, field)
  drop(before)
  call('HDEL', hash, field)
  return before ~= nil and live(before)
end
local function sweep(hash)
  local flat = call('HGETALL', hash)
  for i = 1, #flat, 2 do
    local value, left = cjson.decode(flat[i + 1]), {}
    if value[1] then
      for _, item in ipairs(value) do
        if live(item) then left[#left + 1] = item else drop(item) end
      end
      if #left < #value then save(hash, flat[i], left) end
    elseif not live(value) then
      take_one(hash, flat[i])
    end
  end
end
"""
