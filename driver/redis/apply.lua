-- One operation on one key: condition, effect and once record in one step.
-- KEYS: the data, the once record if there is one.
-- ARGV: kind, condition ("", "absent" or "=version"), value or delta, ttl in
-- ms or 0, version of the value, digest of the request, ttl of the record.
-- Answers a list of texts: what happened, then what belongs to it.
local data, record = KEYS[1], KEYS[2]
local kind, condition, argument, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if record then
  local known = redis.call('GET', record)
  if known then
    if string.sub(known, 1, #ARGV[6]) ~= ARGV[6] then return {'mismatch'} end
    return {'repeated', string.sub(known, #ARGV[6] + 2)}
  end
end

local kept = redis.call('TYPE', data).ok
if kept ~= 'none' and kept ~= 'string' then return {'type'} end
local present = kept == 'string'

-- version of the present value, nil if it is too big to be hashed here
local function version()
  if redis.call('STRLEN', data) > 65536 then return nil end
  return string.sub(redis.sha1hex(redis.call('GET', data)), 1, 32)
end

if condition == 'absent' then
  if present then
    local now = version()
    if not now then return {'big'} end
    return {'exists', now}
  end
elseif condition ~= '' then
  if not present then return {'changed', ''} end
  local now = version()
  if not now then return {'big'} end
  if '=' .. now ~= condition then return {'changed', now} end
end

local new, number, expires = '', '', ''

if kind == 'put' then
  if ttl == '0' then
    redis.call('SET', data, argument)
  else
    redis.call('SET', data, argument, 'PX', ttl)
  end
  new = ARGV[5]
elseif kind == 'delete' then
  if present then redis.call('UNLINK', data) end
elseif kind == 'expire' then
  if not present then return {'absent'} end
  new = version()
  if not new then return {'big'} end
  redis.call('PEXPIRE', data, ttl)
  expires = tostring(redis.call('PEXPIRETIME', data))
elseif kind == 'add' then
  local text = '0'
  if present then
    if redis.call('STRLEN', data) > 20 then return {'nan'} end
    text = redis.call('GET', data)
  end
  local sign, digits = string.match(text, '^(%-?)(%d+)$')
  if not digits or #digits > 19 then return {'nan'} end
  digits = string.match(digits, '^0*(%d+)$')
  if digits == '0' then sign = '' end
  local limit = '9223372036854775807'
  if sign == '-' then limit = '9223372036854775808' end
  if #digits == 19 and digits > limit then return {'range'} end
  -- INCRBY adds exactly, where Lua would not, but takes no -0 and no 007.
  local rewritten = present and sign .. digits ~= text
  if rewritten then redis.call('SET', data, sign .. digits, 'KEEPTTL') end
  local sum = redis.pcall('INCRBY', data, argument)
  if type(sum) == 'table' and sum.err then
    if rewritten then redis.call('SET', data, text, 'KEEPTTL') end
    if string.find(sum.err, 'overflow', 1, true) then return {'range'} end
    return sum
  end
  number = redis.call('GET', data)
  new = string.sub(redis.sha1hex(number), 1, 32)
  expires = tostring(redis.call('PEXPIRETIME', data))
end

if record then
  redis.call('SET', record, ARGV[6] .. '\n' .. new .. '\n' .. number .. '\n' .. expires, 'PX', ARGV[7])
end
return {'ok', new, number, expires}
