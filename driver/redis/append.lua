-- Appends records to the stream of a partition.
-- KEYS: the stream, and what counts its bytes if that is wanted.
-- ARGV: the channel to tell, what to tell there, for how many ms ids are
-- remembered or 0; then for each record its id or "", how many texts follow, and
-- these, which are its fields.
-- Answers a list of ids of entries, "=" before that of one which was there
-- already; nil if there is no stream.
local stream, window = KEYS[1], ARGV[3]
if redis.call('EXISTS', stream) == 0 then return false end

-- What follows the clock's millisecond in an id has 20 bits in a position. The
-- clock of the ids stands still while that of the server is behind it, so there
-- may be more entries in one: then the ids' goes on by itself.
local function add(...)
  local at = redis.call('XADD', stream, '*', ...)
  local ms, seq = string.match(at, '^(%d+)%-(%d+)$')
  if #seq < 7 or tonumber(seq) < 1048576 then return at end
  redis.call('XDEL', stream, at)
  return redis.call('XADD', stream, string.format('%.0f-0', tonumber(ms) + 1), ...)
end

local answer, i, appended, bytes = {}, 4, false, 0
while i <= #ARGV do
  local id, texts, known = ARGV[i], tonumber(ARGV[i + 1]), false
  local memory = window ~= '0' and id ~= '' and 'prism!id:' .. stream .. ':' .. id
  if memory then known = redis.call('GET', memory) end
  if known then
    answer[#answer + 1] = '=' .. known
  else
    local at = add(unpack(ARGV, i + 2, i + 1 + texts))
    if memory then redis.call('SET', memory, at, 'PX', window) end
    answer[#answer + 1] = at
    appended = true
    for n = i + 2, i + 1 + texts do bytes = bytes + #ARGV[n] end
  end
  i = i + 2 + texts
end
if bytes > 0 and KEYS[2] then redis.call('INCRBY', KEYS[2], bytes) end
if appended then redis.pcall('PUBLISH', ARGV[1], ARGV[2]) end
return answer
