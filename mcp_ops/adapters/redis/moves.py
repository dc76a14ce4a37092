"""The Lua that moves items; see scripts.py for the words and the rules."""

from __future__ import annotations

from mcp_ops.adapters.redis.scripts import FORMATS

_MOVES = (
    FORMATS
    + """
local function now_s()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- ref: {mark, whole bytes or '', place 1, place 2, place 3}; answers bytes and position, or nil
local FIND = {}
function FIND.zset(key, ref)
  if ref[2] ~= '' then
    local score = redis.call('ZSCORE', key, ref[2])
    if score then return ref[2], score end
    return nil
  end
  local raws = redis.call('ZRANGEBYSCORE', key, ref[3], ref[3], 'LIMIT', 0, 5000)
  local at = search(raws, 'm' .. ref[1])
  if at then return raws[at], ref[3] end
end
function FIND.list(key, ref)
  if ref[2] ~= '' then
    local at = redis.call('LPOS', key, ref[2])
    if at then return ref[2], at end
    return nil
  end
  local raws = redis.call('LRANGE', key, 0, 5000)
  local at = search(raws, 'm' .. ref[1])
  if at then return raws[at], at - 1 end
end
function FIND.stream(key, ref, options)
  local entry = redis.call('XRANGE', key, ref[3], ref[3])[1]
  if entry then
    local raw = options.body(entry[2])
    if mark(raw) == ref[1] then return raw, ref[3] end
  end
end
function FIND.hash(key, ref)
  local raw = redis.call('HGET', key, ref[5])
  if raw and mark(raw) == ref[1] then return raw, ref[5] end
end

local REMOVE = {}
function REMOVE.zset(key, raw) redis.call('ZREM', key, raw) end
function REMOVE.list(key, raw) redis.call('LREM', key, 1, raw) end
function REMOVE.stream(key, raw, at) redis.call('XDEL', key, at) end
function REMOVE.hash(key, raw, at) redis.call('HDEL', key, at) end

local PUT = {}  -- false: a member with these bytes (or this field) is there already
function PUT.zset(key, raw, score)
  if redis.call('ZSCORE', key, raw) then return false end
  redis.call('ZADD', key, score, raw)
  return true
end
function PUT.list(key, raw, _, options)
  redis.call(options.side == 'right' and 'RPUSH' or 'LPUSH', key, raw)
  return true
end
function PUT.stream(key, raw, _, options)
  redis.call('XADD', key, '*', options.field, raw)
  return true
end
function PUT.hash(key, raw, at)
  return redis.call('HSETNX', key, at, raw) == 1
end

local REWRITE = {}
function REWRITE.zset(key, old, at, new)
  redis.call('ZADD', key, at, new)
  if new ~= old then redis.call('ZREM', key, old) end
end
function REWRITE.list(key, old, at, new) redis.call('LSET', key, at, new) end
function REWRITE.stream(key, old, at, new, options)
  redis.call('XADD', key, '*', options.field, new)
  redis.call('XDEL', key, at)
end
function REWRITE.hash(key, old, at, new) redis.call('HSET', key, at, new) end

-- A hold is "token|until|since". It never expires by itself: one that ran out means that a retry
-- began and nobody knows how it ended.
-- The holds' field "" is no item's: it has the highest fencing token of a redrive. An older
-- one is that of a process that was stopped past its lease: it moves nothing any more.
local function fenced(key, token)
  if token == '0' then return false end
  local highest = redis.call('HGET', key, '')
  if highest and tonumber(highest) > tonumber(token) then return true end
  if highest ~= token then redis.call('HSET', key, '', token) end
  return false
end

local function hold_of(key, id)
  local hold = redis.call('HGET', key, id)
  if not hold then return 'free', '', '' end
  local token, upto, since = string.match(hold, '^([^|]*)|([^|]*)|([^|]*)$')
  if token and token ~= '-' and tonumber(upto) > now_s() then return 'held', since, token end
  return 'unknown', since or '', token or ''
end
"""
)

# KEYS: queue, holds, target.
# ARGV: format, side, field, target format, id, new bytes, fencing token, ref (5).
REQUEUE = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
if fenced(KEYS[2], ARGV[7]) then return {'superseded', ''} end
local raw, at = FIND[ARGV[1]](KEYS[1], {ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]}, options)
if not raw then return {'gone', ''} end
local state, since = hold_of(KEYS[2], ARGV[5])
if state ~= 'free' then return {state, since} end
local place = ARGV[4] == 'hash' and ARGV[5] or string.format('%.6f', now_s())
if not PUT[ARGV[4]](KEYS[3], ARGV[6], place, options) then return {'there', ''} end
REMOVE[ARGV[1]](KEYS[1], raw, at)
return {'ok', ''}
"""
)

# KEYS: queue, holds. ARGV: format, side, field, id, token, hold seconds, fencing token, ref (5).
BEGIN = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
if fenced(KEYS[2], ARGV[7]) then return {'superseded', ''} end
local raw = FIND[ARGV[1]](KEYS[1], {ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]}, options)
if not raw then return {'gone', ''} end
local state, since = hold_of(KEYS[2], ARGV[4])
if state ~= 'free' then return {state, since} end
local now = now_s()
redis.call('HSET', KEYS[2], ARGV[4],
           ARGV[5] .. '|' .. string.format('%.3f', now + tonumber(ARGV[6])) .. '|'
           .. string.format('%.3f', now))
return {'ok', ''}
"""
)

# KEYS: queue, holds, stats. ARGV: format, side, field, id, token, end, new bytes or "", ref (5).
END = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
local state, since, token = hold_of(KEYS[2], ARGV[4])
if token ~= ARGV[5] then return {'fenced', ''} end
local raw, at = FIND[ARGV[1]](KEYS[1], {ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]}, options)
if raw and ARGV[7] ~= '' then REWRITE[ARGV[1]](KEYS[1], raw, at, ARGV[7], options) end
if ARGV[6] == 'unknown' then
  redis.call('HSET', KEYS[2], ARGV[4], '-|0|' .. since)
else
  redis.call('HDEL', KEYS[2], ARGV[4])
end
if ARGV[6] == 'resolved' and raw and KEYS[3] ~= '' then
  redis.pcall('HINCRBY', KEYS[3], 'resolved', 1)
end
return {raw and 'ok' or 'gone', ''}
"""
)

# KEYS: queue, holds, export. ARGV: format, side, field, keep seconds, then (id, ref (5)) each.
DISCARD = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
local upto = math.ceil(now_s() + tonumber(ARGV[4]))
local out = {tostring(upto)}
for i = 5, #ARGV, 6 do
  local id, ref = ARGV[i], {ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]}
  local raw, at = FIND[ARGV[1]](KEYS[1], ref, options)
  local state, since = hold_of(KEYS[2], id)
  if not raw then
    out[#out + 1] = 'gone'
  elseif state == 'held' then
    out[#out + 1] = 'held'
  else
    local place = ARGV[1] == 'list' and '' or tostring(at)
    local hold = state == 'unknown' and since or ''
    redis.call('HSET', KEYS[3], id .. '/' .. mark(raw), cmsgpack.pack({id, place, hold, raw}))
    redis.call('EXPIREAT', KEYS[3], upto)
    REMOVE[ARGV[1]](KEYS[1], raw, at)
    if state == 'unknown' then redis.call('HDEL', KEYS[2], id) end
    out[#out + 1] = 'ok'
  end
end
return out
"""
)

# KEYS: queue, holds, export. ARGV: format, side, field, most items. Answers more, then id, status.
RESTORE = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
if redis.call('EXISTS', KEYS[3]) == 0 then return {'none'} end
local flat = redis.call('HSCAN', KEYS[3], '0', 'COUNT', ARGV[4])[2]
local out = {'more'}
for i = 1, #flat, 2 do
  local packed = cmsgpack.unpack(flat[i + 1])
  local id, place, hold, raw = packed[1], packed[2], packed[3], packed[4]
  local put = PUT[ARGV[1]](KEYS[1], raw, place, options)
  if hold ~= '' then redis.call('HSETNX', KEYS[2], id, '-|0|' .. hold) end
  redis.call('HDEL', KEYS[3], flat[i])
  out[#out + 1] = id
  out[#out + 1] = put and 'ok' or 'there'
end
if redis.call('EXISTS', KEYS[3]) == 0 then out[1] = 'end' end
return out
"""
)
