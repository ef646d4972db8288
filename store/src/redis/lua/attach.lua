-- Makes the store, or joins it. Run once per connection, before anything else.
-- KEYS: head, counts, eras, leases, one (and a channel) for rehearsal, the records of every kind.
-- ARGV: identity or '', run id, revision seen, mode ('existing', 'create', 'acknowledge'), run id
-- under which the revision was seen, prefix of the logs' keys, then the names of the
-- kinds.
--
-- An era is the time of one server process: 'run id:revision at its beginning'. A revision that
-- was seen in an era must not lie after the next era's beginning; else it was forgotten between
-- the two, even if others have written more since.
local acknowledged = ARGV[4] == 'acknowledge'
local eras, leases, scratch, first = KEYS[3], KEYS[4], KEYS[5], 6

local function anything_left()
  for index = 2, #KEYS do
    if redis.call('EXISTS', KEYS[index]) == 1 then return KEYS[index] end
  end
  return nil
end

local function forgotten(head)
  local seen, run = tonumber(ARGV[3]), ARGV[5]
  if run == head.run then return seen > head.revision end
  local known = redis.call('LRANGE', eras, 0, -1)
  for index = 1, #known do
    if string.match(known[index], '^(%w+):') == run then
      local next_start = known[index + 1] and tonumber(string.match(known[index + 1], ':(%d+)$'))
      return (not next_start) or seen > next_start
    end
  end
  return true
end

-- Takes what is there as what the store wrote.
local function recount(identity)
  local logs = {}
  for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    local log = string.match(name, '^log:(.*)$')
    if log then
      logs[#logs + 1] = { name, redis.call('LLEN', ARGV[6] .. log) }
    end
  end
  local records = {}
  for index = first, #KEYS do records[index] = redis.call('HLEN', KEYS[index]) end
  local held = redis.call('HLEN', leases)
  redis.call('HSET', KEYS[2], 'identity', identity, 'leases', held)
  for index = first, #KEYS do
    redis.call('HSET', KEYS[2], 'records:' .. ARGV[6 + index - first + 1], records[index])
  end
  for _, log in ipairs(logs) do redis.call('HSET', KEYS[2], log[1], log[2]) end
end

-- A script that lacks a right stops where it needs it. So every right that a later script needs
-- is used here, where nothing is half done: on a key that means nothing.
local function rehearse()
  redis.call('DEL', scratch)
  redis.call('SET', scratch, '')
  redis.call('DEL', scratch)
  redis.call('HSET', scratch, 'field', '')
  redis.call('HGET', scratch, 'field')
  redis.call('HGETALL', scratch)
  redis.call('HLEN', scratch)
  redis.call('HSCAN', scratch, 0)
  redis.call('HDEL', scratch, 'field')
  redis.call('RPUSH', scratch, '')
  redis.call('LRANGE', scratch, 0, 0)
  redis.call('LLEN', scratch)
  redis.call('LTRIM', scratch, 0, 0)
  redis.call('DEL', scratch)
  redis.call('TIME')
  redis.call('PUBLISH', scratch, '')
end

rehearse()
local raw = redis.call('GET', KEYS[1])
local head = raw and head_parse(raw)
if raw and not head and not acknowledged then
  return { 'malformed', 'head', 'its text or checksum is wrong' }
end

if not head then
  if ARGV[1] ~= '' and not acknowledged then return { 'lost', 'its head is gone' } end
  if ARGV[4] == 'existing' then return { 'lost', 'no store is there' } end
  local left = anything_left()
  if left and not acknowledged then return { 'lost', 'its head is gone, but not ' .. left } end
  local time = now()
  -- Unique without a random number: the server, and its time in microseconds.
  local micros = redis.call('TIME')[2]
  local identity = string.sub(redis.sha1hex(ARGV[2] .. text(time) .. micros .. KEYS[1]), 1, 32)
  head = { identity = identity, revision = 1, run = ARGV[2], floor = acknowledged and time or 0 }
  redis.call('SET', KEYS[1], head_text(head))
  redis.call('DEL', eras)
  redis.call('RPUSH', eras, head.run .. ':1')
  recount(identity)
  return { 'ok', '1', identity }
end

if not acknowledged then
  if ARGV[1] ~= '' then
    if ARGV[1] ~= head.identity then
      return { 'lost', 'another store, ' .. head.identity .. ', is in its place' }
    end
    if forgotten(head) then return { 'rewound', text(head.revision) } end
  end
  if redis.call('HGET', KEYS[2], 'identity') ~= head.identity then
    return { 'lost', 'its counts are gone' }
  end
end

if head.run ~= ARGV[2] or acknowledged then
  -- What was given under a lease may be forgotten: void them all, and go on above any epoch ever
  -- given. An acquisition takes a revision, so no epoch that is still known is above the sum; the
  -- time in milliseconds is above those that are not.
  head.floor = math.max(now(), head.floor + head.revision + 1)
  if head.run ~= ARGV[2] then
    redis.call('RPUSH', eras, ARGV[2] .. ':' .. text(head.revision))
    redis.call('LTRIM', eras, -1000, -1)
    head.run = ARGV[2]
  end
  head_write(head)
end
if acknowledged then recount(head.identity) end
return { 'ok', text(head.revision), head.identity }
