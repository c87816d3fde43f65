-- Says how a stream stands.
-- KEYS: the stream, and what counts its bytes if they are wanted. ARGV: an id or
-- "".
-- Answers the id of the first entry or '', the last id ever given, how many
-- entries there are, how many from the given id on, of which the first one's id,
-- how many bytes they take, how many are there no more, and the time in ms; nil
-- if there is no stream.
local stream, from = KEYS[1], ARGV[1]
if redis.call('EXISTS', stream) == 0 then return false end
local info, said = {}, redis.call('XINFO', 'STREAM', stream)
for i = 1, #said, 2 do info[said[i]] = said[i + 1] end
local first, length = '', info['length']
if length > 0 then first = info['first-entry'][1] end

-- Counts only so many, and says all if there may be more: nothing in Redis
-- knows how many entries there are behind an id.
local waiting, oldest, size, full = 0, '', 0, false
if from ~= '' and length > 0 then
  if #redis.call('XRANGE', stream, '-', '(' .. from, 'COUNT', 1) == 0 then
    waiting, oldest = length, first
  else
    repeat
      local found = redis.call('XRANGE', stream, from, '+', 'COUNT', 64)
      for _, entry in ipairs(found) do
        for _, text in ipairs(entry[2]) do size = size + #text end
      end
      if #found > 0 then
        if oldest == '' then oldest = found[1][1] end
        from = '(' .. found[#found][1]
      end
      waiting = waiting + #found
      full = #found == 64
    until not full or waiting >= 2048 or size > 1048576
    if full then waiting = length end
  end
end

-- Entries of other programs are not counted, and those that they remove still
-- are: what Redis itself tells, which is with what its allocator and its index
-- take, sets the bounds.
local bytes = 0
if KEYS[2] then
  local most = redis.call('MEMORY', 'USAGE', stream)
  bytes = math.min(math.max(tonumber(redis.call('GET', KEYS[2]) or 0), math.floor(most / 2)), most)
end
local time = redis.call('TIME')
return {
  first, info['last-generated-id'], tostring(length), tostring(waiting), oldest, string.format('%.0f', bytes),
  string.format('%.0f', info['entries-added'] - length), string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
}
