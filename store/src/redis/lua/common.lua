-- What every script begins with. KEYS[1] is the store's head, KEYS[2] its counts. ARGV[1..3] are
-- the caller's identity, the run id of the server that it is connected to, and the highest
-- revision that it has seen.
--
-- A reply is an array: a word, then what belongs to it. All reads and checks come before the
-- first write, so a script that fails has changed nothing.

-- Lua prints large numbers as 1e+15; the store's numbers are whole.
local function text(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The head: '1|identity|revision|run|floor|checksum', one string so that it is whole or not there.
-- No lease has an epoch at or below the floor.
local function head_text(head)
  local body = '1|' .. head.identity .. '|' .. text(head.revision) .. '|' .. head.run .. '|' ..
    text(head.floor)
  return body .. '|' .. redis.sha1hex(body)
end

local function head_parse(raw)
  local body, sum = string.match(raw, '^(.*)|(%x+)$')
  if not body or redis.sha1hex(body) ~= sum then return nil end
  local identity, revision, run, floor = string.match(body, '^1|(%x+)|(%d+)|(%w+)|(%d+)$')
  if not identity then return nil end
  return { identity = identity, revision = tonumber(revision), run = run, floor = tonumber(floor) }
end

local function head_write(head)
  redis.call('SET', KEYS[1], head_text(head))
end

-- The head, or nil and the reply that refuses.
local function guard()
  local raw = redis.call('GET', KEYS[1])
  if not raw then return nil, { 'lost', 'its head is gone' } end
  local head = head_parse(raw)
  if not head then return nil, { 'malformed', 'head', 'its text or checksum is wrong' } end
  if head.identity ~= ARGV[1] then
    return nil, { 'lost', 'another store, ' .. head.identity .. ', is in its place' }
  end
  -- Another server has become the master since, or the data came back from another place.
  if head.run ~= ARGV[2] then return nil, { 'superseded' } end
  if head.revision < tonumber(ARGV[3]) then return nil, { 'rewound', text(head.revision) } end
  if redis.call('HGET', KEYS[2], 'identity') ~= head.identity then
    return nil, { 'lost', 'its counts are gone' }
  end
  return head
end

-- Compares how many entries a collection has with how many the store wrote, so that a key that
-- was deleted, evicted or cut is not taken for an empty one.
local function counted(name, found)
  local wrote = tonumber(redis.call('HGET', KEYS[2], name) or '0')
  if wrote == found then return nil end
  if wrote == nil or found > wrote then
    return { 'malformed', name, 'holds ' .. found .. ' entries, the store wrote ' .. (wrote or '?') }
  end
  return { 'lost', name .. ' holds ' .. found .. ' entries, the store wrote ' .. wrote }
end

-- A lease: '1|epoch|expires at, in ms|holder|checksum'. No holder: it was given back.
local function lease_text(name, epoch, expires, holder)
  local body = '1|' .. text(epoch) .. '|' .. text(expires) .. '|' .. holder
  return body .. '|' .. redis.sha1hex(name .. '|' .. body)
end

-- The lease as it counts now, or nil and the reply that refuses. A lease at or below the floor
-- was given before the server forgot something: it is held by nobody.
local function lease_read(key, name, head)
  local size = redis.call('HLEN', key)
  local refused = counted('leases', size)
  if refused then return nil, refused end
  local raw = redis.call('HGET', key, name)
  if not raw then return { epoch = head.floor, expires = 0, holder = '', size = size + 1 } end
  local body, sum = string.match(raw, '^(.*)|(%x+)$')
  local epoch, expires, holder
  if body and redis.sha1hex(name .. '|' .. body) == sum then
    epoch, expires, holder = string.match(body, '^1|(%d+)|(%d+)|(.*)$')
  end
  if not epoch then
    return nil, { 'malformed', 'lease ' .. name, 'its text or checksum is wrong' }
  end
  local lease = { epoch = tonumber(epoch), expires = tonumber(expires), holder = holder, size = size }
  if lease.epoch <= head.floor then
    return { epoch = head.floor, expires = 0, holder = '', size = size }
  end
  return lease
end
