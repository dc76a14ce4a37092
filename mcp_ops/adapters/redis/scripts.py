"""The Lua that runs at the server: every step that moves an item is one of these, so it is atomic.

A member is known by the SHA-1 of its bytes (its mark). A script that writes first looks whether
the member is still exactly the one that was read. It puts before it removes: the server refuses a
write for lack of memory, on a replica or on a wrong type only before a script's first write, so a
refused script has changed nothing.

`place` is three strings: sorted set: score, offset among equal scores, ""; list: distance from
the old end, "", ""; stream: entry id, "", ""; hash: scan cursor, offset in its batch, field.
"""

from __future__ import annotations

_FORMATS = """
local SPAN = 1000
local RAW_BUDGET = 33554432  -- bytes that one script looks at: it blocks the server meanwhile
local function mark(raw) return redis.sha1hex(raw) end

local function search(raws, wanted)
  for i, raw in ipairs(raws) do
    if mark(raw) == wanted then return i end
  end
  return nil
end

-- W[format](key, newest first, count, place, last mark, options): {raw, place ...} each, and more
local W = {}

function W.zset(key, newest, count, place, last, options)
  local range = newest and 'ZREVRANGE' or 'ZRANGE'
  local function before(score)
    if newest then return redis.call('ZCOUNT', key, '(' .. score, '+inf') end
    return redis.call('ZCOUNT', key, '-inf', '(' .. score)
  end
  local first = options.next or 0
  if not options.next and place[1] ~= '' then
    local score, hint = place[1], tonumber(place[2])
    local base, equals = before(score), redis.call('ZCOUNT', key, score, score)
    local from = math.max(0, hint - SPAN)
    local upto = math.min(equals - 1, hint + SPAN)
    first = base + math.min(hint, equals)
    if from <= upto then
      local at = search(redis.call(range, key, base + from, base + upto), last)
      if at then first = base + from + at end
    end
  end
  local flat = redis.call(range, key, first, first + count - 1, 'WITHSCORES')
  local out, base, seen = {}, nil, nil
  for i = 1, #flat, 2 do
    local score, rank = flat[i + 1], first + (i - 1) / 2
    if score ~= seen then
      base = seen and rank or before(score)
      seen = score
    end
    out[#out + 1] = {flat[i], score, tostring(rank - base), ''}
  end
  options.next = first + #out
  return out, #out == count
end

function W.list(key, newest, count, place, last, options)
  local length = redis.call('LLEN', key)
  local function slice(from, upto)  -- distances from the old end, ascending
    if upto >= length then upto = length - 1 end
    if from > upto then return {} end
    if options.side == 'right' then return redis.call('LRANGE', key, from, upto) end
    local raws = redis.call('LRANGE', key, length - 1 - upto, length - 1 - from)
    local turned = {}
    for i = #raws, 1, -1 do turned[#turned + 1] = raws[i] end
    return turned
  end
  local out = {}
  if not newest then
    local first = options.next or 0
    if not options.next and place[1] ~= '' then
      local from = math.max(0, tonumber(place[1]) - SPAN)
      local at = search(slice(from, tonumber(place[1])), last)
      if at then first = from + at end
    end
    for i, raw in ipairs(slice(first, first + count - 1)) do
      out[#out + 1] = {raw, tostring(first + i - 1), '', ''}
    end
    options.next = first + count
    return out, first + count < length
  end
  local top = options.next or length - 1
  if not options.next and place[1] ~= '' then
    top = math.min(top, tonumber(place[1]) - 1)
    local from = math.max(0, top - SPAN)
    local at = search(slice(from, top), last)
    if at then top = from + at - 2 end
  end
  local from = math.max(0, top - count + 1)
  local raws = top >= 0 and slice(from, top) or {}
  for i = #raws, 1, -1 do out[#out + 1] = {raws[i], tostring(from + i - 1), '', ''} end
  options.next = from - 1
  return out, from > 0
end

function W.stream(key, newest, count, place, last, options)
  local entries
  if newest then
    local upto = place[1] == '' and '+' or '(' .. place[1]
    entries = redis.call('XREVRANGE', key, upto, '-', 'COUNT', count)
  else
    local from = place[1] == '' and '-' or '(' .. place[1]
    entries = redis.call('XRANGE', key, from, '+', 'COUNT', count)
  end
  local out = {}
  for _, entry in ipairs(entries) do
    out[#out + 1] = {options.body(entry[2]), entry[1], '', ''}
  end
  return out, #out == count
end

function W.hash(key, newest, count, place)
  local cursor = place[1] == '' and '0' or place[1]
  local skip = place[2] == '' and 0 or tonumber(place[2]) + 1
  local out, more = {}, true
  while #out < count do
    local reply = redis.call('HSCAN', key, cursor, 'COUNT', count)
    local flat = reply[2]
    for i = skip * 2 + 1, #flat, 2 do
      if #out == count then return out, true end
      out[#out + 1] = {flat[i + 1], cursor, tostring((i - 1) / 2), flat[i]}
    end
    skip, cursor = 0, reply[1]
    if cursor == '0' then more = false break end
  end
  return out, more
end

local function options_of(side, name)
  local function body(fields)
    for i = 1, #fields, 2 do
      if fields[i] == name then return fields[i + 1] end
    end
    return table.concat(fields, ' ')
  end
  return {side = side, field = name, body = body}
end
"""

# KEYS: queue. ARGV: format, side, field, "new"|"old", count, bytes a member, bytes in all,
# place 1, 2, last mark, then the wanted ids and marks (none: every member is wanted).
WALK = (
    _FORMATS
    + """
local options = options_of(ARGV[2], ARGV[3])
local head, budget = tonumber(ARGV[6]), tonumber(ARGV[7])
local wanted, by_id, by_mark = {}, false, false
for i = 11, #ARGV do
  wanted[ARGV[i]] = true
  if string.sub(ARGV[i], 1, 4) == 'raw-' then by_mark = true else by_id = true end
end
local function is_wanted(raw)
  if not by_id and not by_mark then return true end
  if by_mark and wanted['raw-' .. string.sub(mark(raw), 1, 16)] then return true end
  if by_id then
    for id in string.gmatch(raw, '"id"%s*:%s*"([^"\\\\]+)"') do
      if wanted[id] then return true end
    end
  end
  return false
end
local place, last = {ARGV[8], ARGV[9]}, ARGV[10]
local out, walked, left, more, resume = {}, 0, tonumber(ARGV[5]), true, {}
local raw_budget = RAW_BUDGET
while left > 0 and more and budget > 0 and raw_budget > 0 do
  local found
  found, more = W[ARGV[1]](KEYS[1], ARGV[4] == 'new', math.min(left, 100), place, last, options)
  for i, member in ipairs(found) do
    local raw = member[1]
    if is_wanted(raw) then
      local shown = string.sub(raw, 1, head)
      if #out > 0 and budget < #shown then more, budget = true, 0 break end
      budget = budget - #shown
      out[#out + 1] = {shown, tostring(#raw), mark(raw), member[2], member[3], member[4]}
    end
    raw_budget = raw_budget - #raw
    walked, left = walked + 1, left - 1
    resume = {member[2], member[3], mark(raw)}
    if budget <= 0 then more = more or i < #found break end
  end
  if #found == 0 then more = false end
  if resume[1] then place, last = {resume[1], resume[2]}, resume[3] end
end
return {more and 1 or 0, walked, resume, out}
"""
)

# KEYS: queue. ARGV: format.
COUNT = """
local commands = {zset = 'ZCARD', list = 'LLEN', stream = 'XLEN', hash = 'HLEN'}
return redis.call(commands[ARGV[1]], KEYS[1])
"""

_MOVES = (
    _FORMATS
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
  local at = search(raws, ref[1])
  if at then return raws[at], ref[3] end
end
function FIND.list(key, ref)
  if ref[2] ~= '' then
    local at = redis.call('LPOS', key, ref[2])
    if at then return ref[2], at end
    return nil
  end
  local raws = redis.call('LRANGE', key, 0, 5000)
  local at = search(raws, ref[1])
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
local function hold_of(key, id)
  local hold = redis.call('HGET', key, id)
  if not hold then return 'free', '', '' end
  local token, upto, since = string.match(hold, '^([^|]*)|([^|]*)|([^|]*)$')
  if token and token ~= '-' and tonumber(upto) > now_s() then return 'held', since, token end
  return 'unknown', since or '', token or ''
end
"""
)

# KEYS: queue, holds, target. ARGV: format, side, field, target format, id, new bytes, ref (5).
REQUEUE = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
local raw, at = FIND[ARGV[1]](KEYS[1], {ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]}, options)
if not raw then return {'gone', ''} end
local state, since = hold_of(KEYS[2], ARGV[5])
if state ~= 'free' then return {state, since} end
local place = ARGV[4] == 'hash' and ARGV[5] or string.format('%.6f', now_s())
if not PUT[ARGV[4]](KEYS[3], ARGV[6], place, options) then return {'there', ''} end
REMOVE[ARGV[1]](KEYS[1], raw, at)
return {'ok', ''}
"""
)

# KEYS: queue, holds. ARGV: format, side, field, id, token, hold seconds, ref (5).
BEGIN = (
    _MOVES
    + """
local options = options_of(ARGV[2], ARGV[3])
local raw = FIND[ARGV[1]](KEYS[1], {ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]}, options)
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
