-- One transaction: fence, expectations, writes, log entries, changes for the watchers.
-- KEYS: head, counts, leases, then the records and logs that are touched.
-- ARGV: identity, run id, revision seen, '1' and the fence's lease and epoch (or '0', '', ''),
-- number of kinds, per kind: name and channel (its records are KEYS[3 + n]);
-- number of writes, per write: kind's number, id, expectation ('any', 'absent' or a generation),
-- 'd' durable, 'e' ephemeral, '-' delete or '=' leave as it is, value;
-- number of entries, per entry: index of the log's key, the log's name, value.
local head, refused = guard()
if refused then return refused end

if ARGV[4] == '1' then
  local lease
  lease, refused = lease_read(KEYS[3], ARGV[5], head)
  if refused then return refused end
  if text(lease.epoch) ~= ARGV[6] then return { 'fenced', text(lease.epoch) } end
end

local at = 7
local function take()
  at = at + 1
  return ARGV[at - 1]
end

local kinds = {}
for number = 1, tonumber(take()) do
  local key, name, channel = KEYS[3 + number], take(), take()
  local size = redis.call('HLEN', key)
  refused = counted('records:' .. name, size)
  if refused then return refused end
  local told = tonumber(redis.call('HGET', KEYS[2], 'changes:' .. name) or '0')
  if not told then return { 'malformed', 'changes:' .. name, 'is not a number' } end
  kinds[number] =
    { key = key, name = name, channel = channel, size = size, told = told, changes = {} }
end

-- Every expectation is held against what was there before the transaction.
local writes, generations = {}, {}
for number = 1, tonumber(take()) do
  local kind, id, expect, mark, value = kinds[tonumber(take())], take(), take(), take(), take()
  local raw, found = redis.call('HGET', kind.key, id), nil
  if raw then
    local generation, durability, sum, from = string.match(raw, '^1|(%d+)|([de])|(%x+)|()')
    local name = kind.name .. '/' .. id
    local whole = generation and redis.sha1hex(
      name .. '|' .. generation .. '|' .. durability .. '|' .. string.sub(raw, from)) == sum
    if not whole then return { 'malformed', name, 'its text or checksum is wrong' } end
    found = generation
  end
  if expect ~= 'any' and expect ~= (found or 'absent') then
    return { 'conflict', text(number), found or '' }
  end
  local write = { kind = kind, id = id }
  if mark == '-' or mark == '=' then
    generations[number] = ''
  else
    local generation = text(tonumber(found or '0') + 1)
    local body = generation .. '|' .. mark .. '|'
    local sum = redis.sha1hex(kind.name .. '/' .. id .. '|' .. body .. value)
    write.stored = '1|' .. body .. sum .. '|' .. value
    generations[number] = generation
  end
  if mark ~= '=' then writes[#writes + 1] = write end
end

local appends, lengths = {}, {}
for number = 1, tonumber(take()) do
  local key, name, value = KEYS[tonumber(take())], take(), take()
  if not lengths[name] then
    lengths[name] = redis.call('LLEN', key)
    refused = counted('log:' .. name, lengths[name])
    if refused then return refused end
  end
  lengths[name] = lengths[name] + 1
  local body = text(lengths[name]) .. '|'
  local sum = redis.sha1hex(name .. '|' .. body .. value)
  appends[number] = { key = key, stored = '1|' .. body .. sum .. '|' .. value }
end

-- From here on everything is decided. The head first: it is refused when the memory is full or
-- the server is a replica, and then nothing has been changed.
head.revision = head.revision + 1
head_write(head)
for _, write in ipairs(writes) do
  local kind, changed = write.kind, write.stored
  if changed then
    redis.call('HSET', kind.key, write.id, changed)
  else
    redis.call('HDEL', kind.key, write.id)
  end
  kind.changes[#kind.changes + 1] = (changed and 'P ' or 'D ') .. #write.id .. ' ' ..
    #(changed or '') .. '\n' .. write.id .. (changed or '')
end
for _, append in ipairs(appends) do redis.call('RPUSH', append.key, append.stored) end
for name, length in pairs(lengths) do redis.call('HSET', KEYS[2], 'log:' .. name, text(length)) end
for _, kind in ipairs(kinds) do
  local size = redis.call('HLEN', kind.key)
  if size ~= kind.size then redis.call('HSET', KEYS[2], 'records:' .. kind.name, size) end
  if #kind.changes > 0 then
    -- Numbered, so that a watcher sees that a message is missing.
    local number = text(kind.told + 1)
    redis.call('HSET', KEYS[2], 'changes:' .. kind.name, number)
    redis.call('PUBLISH', kind.channel, number .. '\n' .. table.concat(kind.changes))
  end
end
return { 'ok', text(head.revision), generations }
