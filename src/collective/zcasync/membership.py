"""What a dispatcher is in its queues: it registers, gets its agents, takes over from the dead, leaves."""

from collective.zcasync import clock
from collective.zcasync import instanceuuid
from collective.zcasync import rightofway
from collective.zcasync import schema
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync.agent import Agent
from collective.zcasync.lanes import Lanes
from collective.zcasync.ownership import Ownership
from collective.zcasync.queue import get_queues
from collective.zcasync.readchecks import records_of
from collective.zcasync.threadpool import AgentThreadPool
from typing import Any

import logging
import time
import uuid

logger = logging.getLogger("collective.zcasync.events")

#: Connections of a dispatcher beside those of its job threads: for its claims, its pings and its mail.
BESIDE = 3


class Membership:
    """The part of the claim thread that knows of siblings. All methods run in the claim thread."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        identity = instanceuuid.process_identity()
        self.process = {**identity, "role": dispatcher.role, "incarnation": uuid.uuid4().hex}
        #: Names of the queues where another process works under the same UUID, or which could not be joined.
        self.refused: set[str] = set()
        self.siblings: list[Any] = []
        self.ownership = Ownership(dispatcher)
        self._paces: list[tuple[float, float]] = []
        self._reserved = 0
        self._schema_trouble: str | None = None

    def _served(self, queues: Any) -> list[Any]:
        served = self.dispatcher.served
        return [queue for queue in queues.values() if served is None or queue.name in served]

    def is_own(self, da: Any) -> bool:
        """Whether a registration is that of this very dispatcher, and not of another one with the same UUID."""
        return bool(da.process.get("incarnation") == self.process["incarnation"])

    def renew(self) -> None:
        """Be registered and active in each served queue, bury the dead, and learn which inboxes are home.

        Each queue has a transaction of its own: trouble in one keeps nobody from the others.
        """
        dispatcher = self.dispatcher
        queues, names = self._look()
        self.siblings, self._paces = [], []
        refused = set()
        for name in names:
            try:
                if not self._renew_one(name):
                    refused.add(name)
            except Exception as error:
                if transactions.is_disconnect(error):
                    raise
                logger.critical(
                    "dispatcher %s cannot join queue %r; the next poll tries again",
                    *(dispatcher.UUID, name),
                    exc_info=True,
                )
                if name not in dispatcher.claimer.homes:  # else it is a member already, and goes on
                    refused.add(name)
        dispatcher.heartbeat.siblings = self.siblings
        if self._paces:
            dispatcher.heartbeat.pace(*map(min, zip(*self._paces, strict=True)))
        dispatcher.heartbeat.registration_was_read()
        if queues is not None:
            self.refused = refused
            self._learn_homes()

    def _look(self) -> tuple[Any, list[str]]:
        """The queues, the names of those that are served, and whether this dispatcher may work for them."""
        dispatcher, conflicts = self.dispatcher, 0
        while True:
            dispatcher.manager.begin()
            queues = get_queues(dispatcher.connection)
            names = [] if queues is None else [queue.name for queue in self._served(queues)]
            if queues is None or not schema.understood(queues) or not self.ownership.look(queues):
                dispatcher.manager.abort()
                return queues, names
            try:
                dispatcher.manager.commit()
            except Exception as error:
                dispatcher.manager.abort()
                self.ownership.undo()
                conflicts += 1
                if not transactions.is_conflict(error) or conflicts == 20:
                    raise

    def _renew_one(self, name: str) -> bool:
        """One queue; false if another process works there under the same UUID."""
        dispatcher = self.dispatcher
        for attempt in range(20):
            dispatcher.manager.begin()
            try:
                queues = get_queues(dispatcher.connection)
                queue = None if queues is None else queues.get(name)
                if queue is None:
                    dispatcher.manager.abort()
                    return False
                if not schema.understood(queues):
                    self._tell_of_schema(schema.too_new(queues))
                    dispatcher.manager.abort()
                    return name in dispatcher.claimer.homes  # what it has begun it ends
                self._tell_of_schema(None)
                if queues.right_of_way is None:  # they are older than that
                    queues.right_of_way = rightofway.new_record()
                registers = name not in dispatcher.claimer.homes
                da = self._register(queue)
                siblings = [] if self.ownership.held else self._bury(queue)
                queue.dispatchers.tidy(dispatcher.UUID)
                before = clock.utcnow()
                dispatcher.manager.commit()
            except Exception as error:
                dispatcher.manager.abort()
                if not transactions.is_conflict(error) or transactions.is_disconnect(error) or attempt == 19:
                    raise
                continue
            break
        self.siblings += siblings
        if da is not None:
            if registers:  # so that a wrong clock is told of at the start, and with the first ping
                dispatcher.heartbeat.measure(before, da.last_ping)
            self._paces.append((da.ping_interval.total_seconds(), da.ping_death_interval.total_seconds()))
        return da is not None

    def _register(self, queue: Any) -> Any:
        """The own registration, active; None if another process has the same UUID and is not known to be dead."""
        dispatcher = self.dispatcher
        if dispatcher.UUID not in queue.dispatchers:
            queue.dispatchers.register(dispatcher.UUID)
        if queue.lanes is None:  # it is older than lanes
            queue.lanes = Lanes()
        da = queue.dispatchers[dispatcher.UUID]
        if da.activated is not None and not self.is_own(da):
            if not self._is_gone(da) and not self._is_silent(da):
                logger.log(
                    # Once: it may take a minute until the other one counts as dead, and each poll looks.
                    logging.DEBUG if queue.name in self.refused else logging.ERROR,
                    "The UUID %s is active in queue %r: another process? %s. This one takes no jobs there until it"
                    " is gone. If two processes share a uuid-file, give each one of its own.",
                    *(da.UUID, queue.name, instanceuuid.process_place(da.process) or "nobody knows where"),
                )
                return None
            logger.warning("Dispatcher %s in queue %r is that of a process that is dead", da.UUID, queue.name)
            if self.ownership.held is None:
                da.deactivate(died=not da.stops)
            else:  # what it ran stays as it is until a person decides
                queue.dispatchers.set_apart(da.UUID)
                queue.dispatchers.register(dispatcher.UUID)
                da = queue.dispatchers[dispatcher.UUID]
        if da.activated is None:
            dispatcher.connection.readCurrent(queue.parent)  # its schema is not raised at the same time
            da.process = dict(self.process)
            da.process |= {"deployment": self.ownership.name, "address": self.ownership.address}
            if dispatcher.max_threads is not None:
                da.process["threads"] = dispatcher.max_threads
            if queue.name in dispatcher.claimer.homes:
                logger.critical("dispatcher %s was taken for dead in queue %r; it is active again", da.UUID, queue.name)
                da.reactivate()
            else:
                da.activate()
            da.ping(clock.utcnow(), instanceuuid.process_memory(), self.process["version"], dispatcher.heartbeat.skew)
        if da.held != self.ownership.held:
            da.held = self.ownership.held
        self._agents(queue, da)
        return da

    def _tell_of_schema(self, trouble: str | None) -> None:
        """Log once that this code is too old for the queues, and that it is not any more."""
        if trouble is not None and trouble != self._schema_trouble:
            logger.critical("dispatcher %s takes no jobs: %s. It looks again.", self.dispatcher.UUID, trouble)
        elif trouble is None and self._schema_trouble is not None:
            logger.warning("dispatcher %s takes jobs: it understands the queues again", self.dispatcher.UUID)
        self._schema_trouble = trouble

    def _agents(self, queue: Any, da: Any) -> None:
        """Agents as the queue's templates for this role say; without any, one named "main"."""
        templates = queue.templates.get(self.dispatcher.role, {})
        for name, template in templates.items():
            if name not in da:
                da[name] = agent = Agent(size=template.size)
                agent.weight, agent.prefetch = template.weight, template.prefetch
        if not len(da):
            da["main"] = Agent(size=self.dispatcher.max_threads or 3)

    def _bury(self, queue: Any) -> list[Any]:
        """Take over from siblings that are dead or hang as they leave; (UUID, process, skew) of those that live."""
        others = [da for da in queue.dispatchers.active() if da.UUID != self.dispatcher.UUID]
        found = {id(da): "its process is gone" for da in others if self._is_gone(da)}
        living = [da for da in others if id(da) not in found]
        now = time.monotonic()
        self.dispatcher.observer.keep(queue.name, queue.dispatchers.active())
        for da in self.dispatcher.observer.overstayed(living, now):
            found[id(da)] = f"it was to leave, and is still there after {da.leaving_grace:g} s"
        for da in self.dispatcher.observer.dead(living, now):
            found.setdefault(id(da), f"it has not pinged for {da.ping_death_interval}")
            self.dispatcher.connection.readCurrent(da.last_ping)  # a ping that comes meanwhile saves it
        for da in others:
            if id(da) in found:
                logger.warning(
                    "dispatcher %s in queue %r is dead: %s. Its jobs are taken over.",
                    da.UUID,
                    queue.name,
                    found[id(da)],
                )
                da.deactivate(died=not da.stops)
        return [(da.UUID, dict(da.process), da.last_ping.skew) for da in others if da.activated is not None]

    def _is_gone(self, da: Any) -> bool:
        """Whether it is known that the process is gone; also an earlier dispatcher of this one, under the same UUID."""
        mine = (self.process["boot_id"], self.process["pid_namespace"], self.process["pid"], self.process["started"])
        theirs = tuple(da.process.get(key) for key in ("boot_id", "pid_namespace", "pid", "started"))
        if da.UUID == self.dispatcher.UUID and mine == theirs:
            return True
        return bool(da.process) and instanceuuid.process_is_gone(da.process) is True

    def _is_silent(self, da: Any) -> bool:
        if not self.dispatcher.observer.dead([da], time.monotonic()):
            return False
        self.dispatcher.connection.readCurrent(da.last_ping)
        return True

    def _learn_homes(self) -> None:
        """Each inbox has a home: the dispatcher that takes from it at once. Watch the home's, and the others' too."""
        dispatcher = self.dispatcher
        dispatcher.manager.begin()
        try:
            places: dict[bytes, str] = {}
            settings: dict[bytes, str] = {}
            foreign: set[bytes] = set()
            boxes: set[bytes] = set()
            kin: set[bytes] = set()
            queues = get_queues(dispatcher.connection)
            kin |= _oids(queues._queues) | _oids_of(queues.deployment)
            served = [q for q in self._served(queues) if q.name not in self.refused]
            for name in set(dispatcher.claimer.homes) - {queue.name for queue in served}:
                dispatcher.claimer.forget(name)
                for pool in dispatcher.queues.pop(name, {}).values():
                    pool.take_back()
                    pool.setSize(0)
            for queue in served:
                names = [da.name for da in queue.dispatchers.active() if da.held is None]
                me = names.index(str(dispatcher.UUID)) if str(dispatcher.UUID) in names else 0
                count = max(len(names), 1)
                homes = [shard for shard in range(len(queue.inboxes)) if shard % count == me]
                dispatcher.claimer.homes[queue.name] = homes
                for shard in range(len(queue.inboxes)):
                    both = {queue.inboxes[shard]._p_oid, queue.overflows[shard]._p_oid}
                    places |= dict.fromkeys(both, queue.name)
                    if shard not in homes:
                        foreign |= both
                # What people change wakes everybody: pauses, releases, sizes of quotas, templates.
                settings[queue._p_oid] = queue.name
                places |= dict.fromkeys((quota._p_oid for quota in queue.quotas.values()), queue.name)
                settings |= dict.fromkeys(dispatcher.claimer.laning.watched(queue), queue.name)
                da = queue.dispatchers.get(dispatcher.UUID)
                settings |= dict.fromkeys((agent._p_oid for agent in da.values()) if da is not None else (), queue.name)
                kin |= {other._p_oid for other in queue.dispatchers.values()} | _oids(queue.dispatchers._data)
                kin |= _oids(queue.templates) | _oids(queue.templates.get(dispatcher.role))
                kin |= _oids(queue.quotas._quotas) | _oids(getattr(da, "_agents", None))
                boxes |= {da.slot.mailbox._p_oid} if da is not None and da.slot is not None else set()
            dispatcher._kin = kin
            dispatcher.news.watch(places, settings, foreign)
            dispatcher.mail.watch(boxes)
            dispatcher.watcher.watch({*places, *settings, *boxes, *kin, *dispatcher.way.watched(queues)})
        finally:
            dispatcher.manager.abort()

    def pools(self, name: str, da: Any) -> dict[str, AgentThreadPool]:
        """The thread pool of each agent, made, resized or ended as the agents are now.

        Each may have as many threads as the process; how many of them all run jobs at once is seen to by ``Shares``.
        """
        dispatcher = self.dispatcher
        pools = dispatcher.queues.setdefault(name, {})
        most = dispatcher.max_threads
        for agent in da.values():
            size = agent.places if most is None else min(agent.places, most)
            if agent.name not in pools:
                pools[agent.name] = AgentThreadPool(dispatcher, name, agent.name, size)
            elif pools[agent.name].size != size:
                pools[agent.name].setSize(size)
            pools[agent.name].weight, pools[agent.name].prefetch = agent.weight, agent.prefetch
        for gone in set(pools) - set(da.keys()):
            pools.pop(gone).setSize(0)
        threads = sum(pool.size for some in dispatcher.queues.values() for pool in some.values())
        self.reserve(threads if most is None else min(threads, most))
        return pools

    def reserve(self, threads: int | None) -> None:
        """Let the database keep the connections of so many job threads, and of this dispatcher; None: of neither."""
        database, count = self.dispatcher.db, 0 if threads is None else BESIDE + threads
        if count != self._reserved:
            database.setPoolSize(database.getPoolSize() + count - self._reserved)
            self._reserved = count

    # The end

    def _mine(self) -> list[tuple[Any, Any]]:
        """The queues where it is registered, with its registration; a queue may have been removed meanwhile."""
        dispatcher = self.dispatcher
        queues = get_queues(dispatcher.connection)
        found = [queues.get(name) for name in dispatcher.claimer.homes] if queues is not None else []
        pairs = [(queue, queue.dispatchers.get(dispatcher.UUID)) for queue in found if queue is not None]
        return [(queue, da) for queue, da in pairs if da is not None and self.is_own(da)]

    def leave(self) -> None:
        """The first commit of a clean stop: say that it leaves, and give back what has not begun."""
        dispatcher = self.dispatcher
        back = {
            name: [item for pool in pools.values() for item in pool.take_back()]
            for name, pools in dispatcher.queues.items()
        }

        def call() -> None:
            dispatcher.manager.begin()
            for queue, da in self._mine():
                if da.slot is None:
                    continue
                da.leaving, da.leaving_grace = clock.utcnow(), dispatcher.leaving_grace
                for item in back.get(queue.name, ()):
                    self._return(queue, da.slot, item)

        transactions.never_fail(call, f"the leaving of {dispatcher.UUID}", dispatcher.manager)

    @staticmethod
    def _return(queue: Any, slot: Any, item: Any) -> None:
        row = slot.running.get(item.oid)
        if row is None or row[0].token != item.token:
            return
        sweeping.put_back(queue, slot, row[0])

    def end(self) -> None:
        """The last commit: file away what has finished, interrupt what still runs, and unregister."""
        dispatcher = self.dispatcher
        reports = {name: dispatcher.claimer.take_reports(name) for name in dispatcher.claimer.homes}

        def call() -> None:
            dispatcher.manager.begin()
            for queue, da in self._mine():
                if da.slot is not None:
                    sweeping.sweep(queue, da.slot, [(one.oid, one.what) for one in reports[queue.name]])
                if da.activated is not None:
                    da.deactivate()
                queue.dispatchers.unregister(dispatcher.UUID)

        transactions.never_fail(call, f"the end of {dispatcher.UUID}", dispatcher.manager)
        dispatcher.claimer.homes.clear()


def _oids(tree: Any) -> set[bytes]:
    """What to watch for entries that come into a tree and go."""
    return {record._p_oid for record in records_of(tree)}


def _oids_of(record: Any) -> set[bytes]:
    return set() if record is None else {record._p_oid}
