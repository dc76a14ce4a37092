"""The Lua that runs at the server: every step that moves an item is one of these, so it is atomic.

A member is known by the SHA-1 of its bytes (its mark). A script that writes first looks whether
the member is still exactly the one that was read. It puts before it removes: the server refuses a
write for lack of memory, on a replica or on a wrong type only before a script's first write, so a
refused script has changed nothing.

`place` is three strings: sorted set: score, offset among equal scores, ""; list: distance from
the old end, "", ""; stream: entry id, "", ""; hash: scan cursor, offset in its batch, field.
"""

from __future__ import annotations

FORMATS = """
local SPAN = 1000
local RAW_BUDGET = 33554432  -- bytes that one script looks at: it blocks the server meanwhile
local function mark(raw) return redis.sha1hex(raw) end

local function has_id(raw, wanted)
  for id in string.gmatch(raw, '"id"%s*:%s*"([^"\\\\]+)"') do
    if id == wanted then return true end
  end
  return false
end

-- Where a member is among others: known by its id ("i...", which a rewrite keeps) or by its mark
-- ("m..."). `guess` is looked at first, for members that share an id.
local function search(raws, wanted, guess)
  local by, value = string.sub(wanted, 1, 1), string.sub(wanted, 2)
  local function is(raw)
    if by == 'i' then return has_id(raw, value) end
    return mark(raw) == value
  end
  if guess and raws[guess] and is(raws[guess]) then return guess end
  for i, raw in ipairs(raws) do
    if is(raw) then return i end
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
      local near = redis.call(range, key, base + from, base + upto)
      local at = search(near, last, hint - from + 1)
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
      local near = slice(from, tonumber(place[1]))
      local at = search(near, last, #near)
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
# place 1, 2, last member, then the wanted ids and marks (none: every member is wanted).
WALK = (
    FORMATS
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
    resume = {member[2], member[3], 'm' .. mark(raw)}
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
