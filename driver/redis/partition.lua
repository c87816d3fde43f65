-- Makes an empty stream unless there is one. KEYS: the stream.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], 'prism', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'prism')
end
return 'ok'
