-- Reads. KEYS: head, counts, and what is read.
-- ARGV: identity, run id, revision seen, 'nothing', 'get', 'list' or 'log', name of the
-- collection, then: the id; a cursor and the size of a page; the first and the last index.
local head, refused = guard()
if refused then return refused end
local what, name, found = ARGV[4], ARGV[5], false

if what == 'get' then
  refused = counted(name, redis.call('HLEN', KEYS[3]))
  found = redis.call('HGET', KEYS[3], ARGV[6])
elseif what == 'list' then
  local size, cursor, page = redis.call('HLEN', KEYS[3]), ARGV[6], tonumber(ARGV[7])
  refused = counted(name, size)
  if refused then return refused end
  if cursor == '0' and size <= page then
    return { 'ok', text(head.revision), '0', redis.call('HGETALL', KEYS[3]) }
  end
  found = redis.call('HSCAN', KEYS[3], cursor, 'COUNT', page)
  return { 'ok', text(head.revision), found[1], found[2] }
elseif what == 'log' then
  refused = counted(name, redis.call('LLEN', KEYS[3]))
  found = redis.call('LRANGE', KEYS[3], ARGV[6], ARGV[7])
end
if refused then return refused end
return { 'ok', text(head.revision), found }
