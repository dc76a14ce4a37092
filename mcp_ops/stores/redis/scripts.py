"""The Lua that runs at the server: each method of the store is one of these, so it is atomic.

KEYS of every script: meta, modes, circuits, grants, partitions, then its own. ARGV: "check" or "",
a time in microseconds in the place of the server's (or ""), and what is asked, as JSON. Answers
are JSON. Times of what people see are Unix seconds, written as text: cjson keeps 14 digits of a
number, a time has 17.

The hash meta knows the incarnation of this data. A script that does not find it answers LOST and
does nothing: whoever can has to restore what was lost first. The first script that a connection
runs, and every script that a server does not know by its hash, is sent with "check": then the
server's run id is compared as well. A restarted server and a promoted replica know no script, so
what they forgot is noticed before anything is decided on it.

Two clocks: `wall` is the server's, `now` the same without its steps back, for limits and windows.
When the server's clock is found set back, what has a time of the wall is moved with it.
"""

from __future__ import annotations

from mcp_ops.stores.redis.lua import ALIVE, CIRCUIT, MODES, PEOPLE, PRELUDE
from mcp_ops.stores.redis.lua import RATES as _RATES

LOST = b"LOST"

_BEGIN = PRELUDE + ALIVE

# Own keys: the target's window, then one for each rate.
ADMIT = (
    _BEGIN
    + MODES
    + _RATES
    + CIRCUIT
    + """
local modes, factor, allowed = {}, ask.factor, not ask.blocked
for _, stack in ipairs(call('HMGET', MODES, ask.target, '*', ask.scope)) do
  if stack then in_force(cjson.decode(stack), modes) end
end
for _, entry in ipairs(modes) do
  allowed = allowed and ask.allowed[entry.mode] ~= nil
  factor = math.min(factor, ask.factors[entry.mode] or 1)
end
local rates = {}
for i, rate in ipairs(ask.rates) do
  rates[i] = look(KEYS[6 + i], rate, factor)
  allowed = allowed and rates[i][1]
end
local state = circuit(ask.target)
local decision = ask.use_circuit and decide(state) or 'pass'
local size = load(PARTITIONS, ask.target)
local granted, marks = ask.take and allowed and decision ~= 'refuse', {}
if ask.take then touch() end
if granted then
  for i, rate in ipairs(ask.rates) do marks[i] = charge(KEYS[6 + i], rate, rates[i]) end
  if decision == 'probe' then state = start_probe(state) end
end
if ask.answered[1] and state.phase == 'closed' then
  touch()
  count(KEYS[6], ask.answered, 0, 0, ask.policy)
end
return cjson.encode({
  granted = granted, at = whole(raw), modes = modes, rates = rates, circuit = state,
  probe = granted and decision == 'probe', marks = marks,
  concurrent = size and live(size) and size.size or nil,
})
"""
)

# Own keys: one for each rate.
GIVE_BACK = (
    _BEGIN
    + _RATES
    + CIRCUIT
    + """
touch()
for i, rate in ipairs(ask.rates) do refund(KEYS[5 + i], rate, tonumber(ask.marks[i])) end
if ask.probe then untouched(circuit(ask.target)) end
return '{}'
"""
)

# Own keys: one for each rate.
RATES = (
    _BEGIN
    + _RATES
    + """
local rates = {}
for i, rate in ipairs(ask.rates) do rates[i] = look(KEYS[5 + i], rate, 1) end
return cjson.encode({rates = rates})
"""
)

# Own keys: the target's window.
RECORD = (
    _BEGIN
    + CIRCUIT
    + """
touch()
local state, share = circuit(ask.target), nil
if ask.health ~= 'untouched' and state.phase == 'closed' then
  local bad = ask.health == 'failed' and 1 or 0
  share = count(KEYS[6], ask.answered, 1, bad, ask.policy)
end
if ask.health == 'failed' then
  state = failed(state, ask.probe, ask.policy, share)
elseif ask.health == 'answered' then
  state = answered(state, ask.probe)
elseif ask.probe then
  state = untouched(state)
end
if state.phase ~= 'closed' then call('DEL', KEYS[6]) end
return cjson.encode({at = whole(raw), circuit = state})
"""
)

# What people see: everything that is in force, as lists.
LOOK = (
    _BEGIN
    + MODES
    + """
local out = {at = whole(raw), modes = {}, circuits = {}, grants = {}, partitions = {}}
for _, stack in ipairs(call('HVALS', MODES)) do in_force(cjson.decode(stack), out.modes) end
for _, state in ipairs(call('HVALS', CIRCUITS)) do
  out.circuits[#out.circuits + 1] = cjson.decode(state)
end
for name, hash in pairs({grants = GRANTS, partitions = PARTITIONS}) do
  for _, found in ipairs(call('HVALS', hash)) do
    local item = cjson.decode(found)
    if live(item) then out[name][#out[name] + 1] = item end
  end
end
return cjson.encode(out)
"""
)

# Own keys: the target's window, where a circuit is set.
CHANGE = (
    _BEGIN
    + CIRCUIT
    + PEOPLE
    + """
local done, state = true, nil
touch()
sweep(MODES)
sweep(GRANTS)
sweep(PARTITIONS)
local item = ask.item
if ask.what == 'set_mode' then
  put_mode(item)
elseif ask.what == 'clear_modes' then
  local left = {}
  for _, entry in ipairs(load(MODES, ask.scope) or {}) do
    if ask.sources[entry.source] then drop(entry) else left[#left + 1] = entry end
  end
  save(MODES, ask.scope, left)
elseif ask.what == 'set_circuit' then
  local before = circuit(item.target)
  done = before.version == ask.expected
  if done then
    drop(before)
    item.version = before.version
    if item.probing then item.probe_until = text(wall + PROBE / 1000000) end
    item.probing = nil
    state = keep(item)
    call('DEL', KEYS[6])  -- what was set by hand starts anew
  end
elseif ask.what == 'set_grant' then
  put_one(GRANTS, item.id, item)
elseif ask.what == 'clear_grant' then
  done = take_one(GRANTS, ask.field)
elseif ask.what == 'set_partition' then
  put_one(PARTITIONS, item.target, item)
elseif ask.what == 'clear_partition' then
  done = take_one(PARTITIONS, ask.field)
end
return cjson.encode({at = whole(raw), done = done, circuit = state, gone = gone})
"""
)

# Which data this is. Sent with "check".
IDENTIFY = (
    PRELUDE
    + """
if not incarnation then return 'LOST' end
local policy = string.match(call('INFO', 'memory'), 'maxmemory_policy:(%S+)')
return cjson.encode({at = whole(raw), incarnation = incarnation, policy = policy})
"""
)

# Put back what the facts know, under a new incarnation; who comes second changes nothing. Sent
# with "check". Where data survived (a restart, a failover) what makes the guard stricter is kept,
# and grants are only those of the facts.
RESTORE = (
    PRELUDE
    + CIRCUIT
    + PEOPLE
    + """
if incarnation then return cjson.encode({incarnation = incarnation, mine = false}) end
local lost = ask.lost or call('EXISTS', META) == 1
call('HSET', META, 'incarnation', ask.incarnation, 'run', run, 'last', whole(now))
if lost then
  call('HSET', META, 'born', whole(now))
  call('DEL', GRANTS)
end
for _, entry in ipairs(ask.modes) do
  if live(entry) then put_mode(entry) else drop(entry) end
end
for _, state in ipairs(ask.circuits) do
  state.version = math.max(state.version, circuit(state.target).version)
  keep(state)
end
for _, grant in ipairs(ask.grants) do
  if live(grant) then put_one(GRANTS, grant.id, grant) else drop(grant) end
end
for _, size in ipairs(ask.partitions) do
  if live(size) then put_one(PARTITIONS, size.target, size) else drop(size) end
end
return cjson.encode({incarnation = ask.incarnation, mine = true, lost = lost, gone = gone})
"""
)
