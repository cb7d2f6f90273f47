"""Sealed things of customers in a bank's Redis: bounded in number and time, found by their owner for an erasure.

Whoever reads Redis reads nothing; whoever writes to it can take things away or put an older one back, but invents none.
The format is in docs/formats/records.md.
"""

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fedbank.serving.sharing.redis_link import RedisLink, Words
from fedbank.serving.store.vault import RecordsKey, VaultError, open_sealed, seal

FORMAT = "fedbank-redis/1"
_LOG = logging.getLogger("fedbank.serving")
_COMMON = """
local order, prefix = KEYS[1], ARGV[1]
local function drop(name)
  local item = prefix .. 'item:' .. name
  local owner = redis.call('HGET', item, 'owner')
  if owner then redis.call('ZREM', prefix .. 'owner:' .. owner, name) end
  redis.call('ZREM', order, name)
  return redis.call('DEL', item)
end
local function touch(name)
  local newest = redis.call('ZRANGE', order, -1, -1, 'WITHSCORES')
  redis.call('ZADD', order, (tonumber(newest[2]) or 0) + 1, name)
end
"""
_GET = (
    _COMMON
    + """
local item, name, used = KEYS[2], ARGV[2], ARGV[3]
local found = redis.call('HMGET', item, 'owner', 'expires', 'sealed')
if not (found[1] and found[2] and found[3]) then return false end
if not redis.call('ZSCORE', prefix .. 'owner:' .. found[1], name) then
  drop(name)  -- an erasure would not find it
  return false
end
if used == '1' then touch(name) end
return found
"""
)
_PUT = (
    _COMMON
    + """
local item, mine, barred = KEYS[2], KEYS[3], KEYS[4]
local name, owner, sealed, instead_of = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now, expires, most = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local function outlive(key)
  if redis.call('PTTL', key) < expires - now then redis.call('PEXPIRE', key, expires - now) end
end
if redis.call('EXISTS', barred) == 1 then return 0 end
if instead_of ~= '' then
  if redis.call('HGET', item, 'sealed') ~= instead_of or not redis.call('ZSCORE', mine, name) then return 0 end
elseif redis.call('EXISTS', item) == 0 then
  for _ = 1, 1000 do
    local oldest = redis.call('ZRANGE', order, 0, 0)[1]
    if not oldest then break end
    local is_over = tonumber(redis.call('HGET', prefix .. 'item:' .. oldest, 'expires') or '0') <= now
    if not is_over and redis.call('ZCARD', order) < most then break end
    drop(oldest)
  end
end
redis.call('HSET', item, 'owner', owner, 'expires', ARGV[7], 'sealed', sealed)
redis.call('PEXPIRE', item, expires - now)
redis.call('ZADD', mine, expires, name)
redis.call('ZREMRANGEBYSCORE', mine, '-inf', now)
touch(name)
outlive(mine)
outlive(order)
return 1
"""
)
_FORGET = (
    _COMMON
    + """
local mine, barred, bar_ms = KEYS[2], KEYS[3], tonumber(ARGV[2])
local count = 0
for _, name in ipairs(redis.call('ZRANGE', mine, 0, -1)) do count = count + drop(name) end
redis.call('DEL', mine)
if bar_ms > 0 then redis.call('SET', barred, '1', 'PX', bar_ms) end
return count
"""
)


@dataclass(frozen=True, slots=True)
class Item:
    """A thing as it lies there: ``content`` opened, ``sealed`` as it was."""

    owner: str
    content: Any = field(repr=False)
    sealed: bytes = field(repr=False)


class Shelf:
    """Things of one ``kind``, ``max_items`` of them; the one used longest ago makes room.

    A thing has an id, which is not in Redis: its name there and the key it is sealed with both come from the id and the
    bank's records key, so that a copy of Redis cannot be read any more, by anybody, once the id is forgotten.

    Raises (every method):
        SharedStoreError: see ``RedisLink``.
    """

    def __init__(self, link: RedisLink, key: RecordsKey, kind: str, max_items: int) -> None:
        self._link, self._key, self._kind, self._max_items = link, key, kind, max_items
        self._prefix = f"{FORMAT}:{{{key.pseudonym('redis')} {kind}}}:"  # {…}: one slot of a Redis Cluster

    async def get(self, item_id: str, now: datetime, *, used: bool) -> Item | None:
        """The thing, if it is there at ``now`` and as this bank sealed it; ``used``: it is the last to make room."""
        name = self._name(item_id)
        keys = [self._at("order"), self._at("item", name)]
        found = await self._link.call(_GET, keys, [self._prefix, name, int(used)])
        if found is None:
            return None
        try:
            owner, expires, sealed = found[0].decode(), int(found[1]), found[2]
            content = open_sealed(self._key.key_of(self._kind, item_id), self._place(name, owner, expires), sealed)
        except (VaultError, ValueError):
            _LOG.warning("%s: a %s was not as this bank sealed it. It was not used.", self._link.said, self._kind)
            return None
        return Item(owner, json.loads(content), sealed) if _ms(now) < expires else None

    async def put(
        self, item_id: str, owner: str, content: Any, now: datetime, until: datetime, instead_of: Item | None = None
    ) -> bool:
        """Keep the JSON of ``content`` until then; ``False`` if ``instead_of`` is not what is there, or is erased."""
        name, expires = self._name(item_id), _ms(until)
        raw = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        sealed = seal(self._key.key_of(self._kind, item_id), self._place(name, owner, expires), raw)
        keys = [self._at("order"), self._at("item", name), self._at("owner", owner), self._at("barred", owner)]
        before = b"" if instead_of is None else instead_of.sealed
        words: Words = [self._prefix, name, owner, sealed, before, _ms(now), expires, self._max_items]
        return bool(await self._link.call(_PUT, keys, words))

    async def forget(self, owner: str, bar_ms: int = 0) -> int:
        """Remove everything of ``owner``, and let nothing new of theirs in for ``bar_ms``; how many things."""
        keys = [self._at("order"), self._at("owner", owner), self._at("barred", owner)]
        return int(await self._link.call(_FORGET, keys, [self._prefix, bar_ms]))

    def _name(self, item_id: str) -> str:
        return self._key.pseudonym(f"{self._kind} in redis", item_id)

    def _at(self, *words: str) -> str:
        return self._prefix + ":".join(words)

    def _place(self, name: str, owner: str, expires: int) -> str:
        return json.dumps([FORMAT, self._kind, name, owner, expires])


def _ms(at: datetime) -> int:
    """Since 1970."""
    return int(at.timestamp() * 1000)
