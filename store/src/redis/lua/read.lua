-- Reads. KEYS: head, counts, and what is read.
-- ARGV: identity, run id, revision seen, 'nothing', 'get', 'list' or 'log', name of the
-- collection, then: the id; nothing; the first and the last index.
local head, refused = guard()
if refused then return refused end
local what, name, found = ARGV[4], ARGV[5], false

if what == 'get' then
  refused = counted(name, redis.call('HLEN', KEYS[3]))
  found = redis.call('HGET', KEYS[3], ARGV[6])
elseif what == 'list' then
  refused = counted(name, redis.call('HLEN', KEYS[3]))
  found = redis.call('HGETALL', KEYS[3])
elseif what == 'log' then
  refused = counted(name, redis.call('LLEN', KEYS[3]))
  found = redis.call('LRANGE', KEYS[3], ARGV[6], ARGV[7])
end
if refused then return refused end
return { 'ok', text(head.revision), found }
