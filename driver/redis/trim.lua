-- Removes the oldest entries of a stream.
-- KEYS: the stream, what keeps the id of the last entry that was removed, and
-- what counts the stream's bytes.
-- ARGV: up to which id, in the words of XRANGE; at most how many.
-- Answers how many.
local found = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', ARGV[2])
if #found == 0 then return 0 end
local last = found[#found][1]
local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
redis.call('XTRIM', KEYS[1], 'MINID', '=', ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
redis.call('SET', KEYS[2], last)
local bytes = 0
for _, entry in ipairs(found) do
  for _, text in ipairs(entry[2]) do bytes = bytes + #text end
end
if redis.call('DECRBY', KEYS[3], bytes) < 0 or redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[3]) end
return #found
