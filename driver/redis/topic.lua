-- Returns what is kept of a topic, having kept this if there was nothing.
-- KEYS: the topic. ARGV: fields and their values.
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
return redis.call('HGETALL', KEYS[1])
