-- Leases, on the server's clock. KEYS: head, counts, leases.
-- ARGV: identity, run id, revision seen, 'acquire', 'renew' or 'release', lease, holder, epoch,
-- time to live in ms.
local head, refused = guard()
if refused then return refused end
local what, name, holder, ttl = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[8])
local lease
lease, refused = lease_read(KEYS[3], name, head)
if refused then return refused end

local ours = lease.holder == holder and text(lease.epoch) == ARGV[7]
local time, epoch, expires = now(), lease.epoch, 0
if what == 'acquire' then
  local taken = lease.holder ~= '' and lease.holder ~= holder
  if taken and time < lease.expires then return { 'held', text(head.revision) } end
  -- Never back: the epoch outlives the holder, and the floor outlives a server that forgot.
  epoch, expires = lease.epoch + 1, time + ttl
elseif what == 'renew' then
  if not ours then return { 'fenced', text(lease.epoch) } end
  expires = time + ttl
elseif ours then
  holder = ''
else
  return { 'ok', text(head.revision), '0', '0' }
end

head.revision = head.revision + 1
head_write(head)
redis.call('HSET', KEYS[3], name, lease_text(name, epoch, expires, holder))
redis.call('HSET', KEYS[2], 'leases', lease.size)
return { 'ok', text(head.revision), text(epoch), text(expires) }
