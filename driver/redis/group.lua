-- The table of a group.
-- KEYS: the topic, the group, the group's notes.
-- ARGV: what to do, the channel to tell of changes, the group's name, for how
-- many ms a beat lasts; then what belongs to it.
--
-- In the group's hash, a number is a partition: "<claim> <commit> <next> <owner>",
-- where the commit is the number of the last one within the claim; and "m:<id>"
-- is a member: "<ms of its last beat> <name>".
--
-- Answers a list of texts: "topic" or "group" if there is none, else "ok" and
-- what belongs to it.
local topic, group, notes = KEYS[1], KEYS[2], KEYS[3]
local what, channel, name, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('EXISTS', topic) == 0 then return {'topic'} end

if what == 'know' then -- the next of each partition
  if redis.call('EXISTS', group) == 0 then
    redis.call('DEL', notes)
    for i = 5, #ARGV do redis.call('HSET', group, i - 5, '0 0 ' .. ARGV[i] .. ' ') end
    redis.call('HSET', topic, 'group:' .. name, '')
  end
  return {'ok'}
end
if redis.call('EXISTS', group) == 0 then return {'group'} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A beat in the future is from before the clock was set back.
local function beats(member, within)
  return member and math.abs(now - tonumber(string.match(member, '^%d+'))) < within
end
local function parse(row)
  if not row then return nil end
  local claim, commit, next, owner = string.match(row, '^(%d+) (%d+) (%d+) (.*)$')
  return {claim = tonumber(claim), commit = tonumber(commit), next = next, owner = owner}
end
local function row(partition) return parse(redis.call('HGET', group, partition)) end
local function keep(partition, r)
  redis.call('HSET', group, partition, string.format('%.0f %.0f ', r.claim, r.commit) .. r.next .. ' ' .. r.owner)
end
local function note(partition, text)
  if text == '' then
    redis.call('HDEL', notes, partition)
  else
    redis.call('HSET', notes, partition, text)
  end
end
local function tell() redis.pcall('PUBLISH', channel, 'group ' .. name) end
local function all()
  local rows, members, said = {}, {}, redis.call('HGETALL', group)
  for i = 1, #said, 2 do
    local id = string.match(said[i], '^m:(.*)$')
    if id then members[id] = said[i + 1] else rows[said[i]] = parse(said[i + 1]) end
  end
  return rows, members
end

local answer = {'ok'}
local function say(text) answer[#answer + 1] = text end

if what == 'beat' then -- member, its name, how many partitions
  if redis.call('HSET', group, 'm:' .. ARGV[5], string.format('%.0f ', now) .. ARGV[6]) == 1 then tell() end
  local rows, members = all()
  for i = 0, tonumber(ARGV[7]) - 1 do
    local r = rows[tostring(i)]
    if not r then return {'group'} end
    say(r.owner)
    say(string.format('%.0f', r.claim))
  end
  for id, member in pairs(members) do
    if beats(member, ttl) then
      say(id)
    elseif not beats(member, 10 * ttl) then
      redis.call('HDEL', group, 'm:' .. id)
    end
  end
elseif what == 'take' then -- member, partitions
  for i = 6, #ARGV do
    local r = row(ARGV[i])
    if not r then return {'group'} end
    if r.owner == '' or r.owner == ARGV[5] or not beats(redis.call('HGET', group, 'm:' .. r.owner), ttl) then
      r.claim, r.commit, r.owner = r.claim + 1, 0, ARGV[5]
      keep(ARGV[i], r)
      say(ARGV[i])
      say(string.format('%.0f', r.claim))
      say(r.next)
      say(redis.call('HGET', notes, ARGV[i]) or '')
    end
  end
elseif what == 'commit' then -- member; partition, claim, number, next, "release" or "", note
  local released = false
  for i = 6, #ARGV, 6 do
    local r, release = row(ARGV[i]), ARGV[i + 4] ~= ''
    if not r or r.claim ~= tonumber(ARGV[i + 1]) or r.owner ~= ARGV[5] and not (r.owner == '' and release) then
      say('stale')
    else
      -- One that comes late, behind its successor, changes nothing.
      if r.owner ~= '' and r.commit < tonumber(ARGV[i + 2]) then
        r.commit, r.next = tonumber(ARGV[i + 2]), ARGV[i + 3]
        if release then r.owner, released = '', true end
        keep(ARGV[i], r)
        note(ARGV[i], ARGV[i + 5])
      end
      say('ok')
    end
  end
  if released then tell() end
elseif what == 'release' then -- member; partition, claim
  for i = 6, #ARGV, 2 do
    local r = row(ARGV[i])
    if r and r.owner == ARGV[5] and r.claim == tonumber(ARGV[i + 1]) then
      r.owner = ''
      keep(ARGV[i], r)
    end
  end
  tell()
elseif what == 'leave' then -- member
  redis.call('HDEL', group, 'm:' .. ARGV[5])
  for partition, r in pairs((all())) do
    if r.owner == ARGV[5] then
      r.owner = ''
      keep(partition, r)
    end
  end
  tell()
elseif what == 'seek' then -- partition, next
  for i = 5, #ARGV, 2 do
    local r = row(ARGV[i])
    if not r then return {'group'} end
    r.claim, r.commit, r.next, r.owner = r.claim + 1, 0, ARGV[i + 1], ''
    keep(ARGV[i], r)
    note(ARGV[i], '')
  end
  tell()
elseif what == 'stand' then -- how many partitions
  local rows, members = all()
  for i = 0, tonumber(ARGV[5]) - 1 do
    local r = rows[tostring(i)]
    if not r then return {'group'} end
    say(r.next)
    local member = members[r.owner]
    say(beats(member, ttl) and string.match(member, '^%d+ (.*)$') or '')
  end
end
return answer
