"""What a dispatcher is in its queues: it registers, gets its agents, takes over from the dead, leaves."""

from collective.zcasync import clock
from collective.zcasync import instanceuuid
from collective.zcasync import sweeping
from collective.zcasync import transactions
from collective.zcasync.agent import Agent
from collective.zcasync.queue import get_queues
from collective.zcasync.threadpool import AgentThreadPool
from typing import Any

import logging
import time

logger = logging.getLogger("collective.zcasync.events")


class Membership:
    """The part of the claim thread that knows of siblings. All methods run in the claim thread."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self.process = {**instanceuuid.process_identity(), "role": dispatcher.role}

    def _served(self, queues: Any) -> list[Any]:
        served = self.dispatcher.served
        return [queue for queue in queues.values() if served is None or queue.name in served]

    def renew(self) -> None:
        """Be registered and active in each served queue, bury the dead, and learn which inboxes are home."""
        dispatcher = self.dispatcher
        for attempt in range(20):
            dispatcher.manager.begin()
            try:
                queues = get_queues(dispatcher.connection)
                if queues is None:
                    dispatcher.manager.abort()
                    return
                siblings: list[Any] = []
                for queue in self._served(queues):
                    self._register(queue)
                    siblings += self._bury(queue)
                dispatcher.manager.commit()
            except Exception as error:
                dispatcher.manager.abort()
                if not transactions.is_conflict(error) or transactions.is_disconnect(error) or attempt == 19:
                    raise
                continue
            dispatcher.heartbeat.siblings = siblings
            break
        self._learn_homes()

    def _register(self, queue: Any) -> None:
        dispatcher = self.dispatcher
        if dispatcher.UUID not in queue.dispatchers:
            queue.dispatchers.register(dispatcher.UUID)
        da = queue.dispatchers[dispatcher.UUID]
        if da.activated is None:
            da.process = dict(self.process)
            buried = queue.name in dispatcher.claimer.homes
            if buried:
                logger.critical("dispatcher %s was taken for dead in queue %r; it is active again", da.UUID, queue.name)
                da.reactivate()
            else:
                da.activate()
            da.ping(clock.utcnow())
        self._agents(queue, da)

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
        """Take over from siblings that are dead or have left; return (UUID, process) of those that live."""
        dispatcher = self.dispatcher
        others = [da for da in queue.dispatchers.active() if da.UUID != dispatcher.UUID]
        gone = [da for da in others if self._is_gone(da)]
        silent = dispatcher.observer.dead([da for da in others if da not in gone], time.monotonic())
        for da in gone + silent:
            why = "its process is gone" if da in gone else f"it has not pinged for {da.ping_death_interval}"
            logger.warning("dispatcher %s in queue %r is dead: %s. Its jobs are taken over.", da.UUID, queue.name, why)
            da.deactivate(died=True)
            queue.dispatchers.unregister(da.UUID)
        return [(da.UUID, dict(da.process)) for da in others if da.activated is not None]

    @staticmethod
    def _is_gone(da: Any) -> bool:
        return bool(da.process) and instanceuuid.process_is_gone(da.process) is True

    def _learn_homes(self) -> None:
        """Each inbox has a home: the dispatcher that takes from it at once. Watch the home's, and the others' too."""
        dispatcher = self.dispatcher
        dispatcher.manager.begin()
        try:
            oids: set[bytes] = set()
            foreign: set[bytes] = set()
            boxes: set[bytes] = set()
            served = self._served(get_queues(dispatcher.connection))
            for name in set(dispatcher.claimer.homes) - {queue.name for queue in served}:
                dispatcher.claimer.forget(name)
                for pool in dispatcher.queues.pop(name, {}).values():
                    pool.take_back()
                    pool.setSize(0)
            for queue in served:
                names = [da.name for da in queue.dispatchers.active()]
                me = names.index(str(dispatcher.UUID)) if str(dispatcher.UUID) in names else 0
                count = max(len(names), 1)
                homes = [shard for shard in range(len(queue.inboxes)) if shard % count == me]
                dispatcher.claimer.homes[queue.name] = homes
                for shard in range(len(queue.inboxes)):
                    both = {queue.inboxes[shard]._p_oid, queue.overflows[shard]._p_oid}
                    oids |= both
                    if shard not in homes:
                        foreign |= both
                # What people change wakes everybody: pauses, releases, sizes of quotas, templates.
                oids |= {queue._p_oid, queue.quotas._p_oid, *(quota._p_oid for quota in queue.quotas.values())}
                da = queue.dispatchers.get(dispatcher.UUID)
                oids |= {agent._p_oid for agent in da.values()} if da is not None else set()
                boxes |= {da.slot.mailbox._p_oid} if da is not None and da.slot is not None else set()
            dispatcher._foreign = foreign
            dispatcher.mail.watch(boxes)
            dispatcher.watcher.watch(oids | boxes)
        finally:
            dispatcher.manager.abort()

    def pools(self, name: str, da: Any) -> dict[str, AgentThreadPool]:
        """The thread pool of each agent, made, resized or ended as the agents are now."""
        dispatcher = self.dispatcher
        pools = dispatcher.queues.setdefault(name, {})
        left = dispatcher.max_threads
        if left is not None:
            left -= sum(
                pool.size for other, some in dispatcher.queues.items() if other != name for pool in some.values()
            )
        for agent in da.values():
            size = agent.size if left is None else max(min(agent.size, left), 1)
            if left is not None:
                left -= size
            if agent.name not in pools:
                pools[agent.name] = AgentThreadPool(dispatcher, name, agent.name, size)
            elif pools[agent.name].size != size:
                pools[agent.name].setSize(size)
        for gone in set(pools) - set(da.keys()):
            pools.pop(gone).setSize(0)
        return pools

    # The end

    def _mine(self) -> list[tuple[Any, Any]]:
        """The queues where it is registered, with its registration; a queue may have been removed meanwhile."""
        dispatcher = self.dispatcher
        queues = get_queues(dispatcher.connection)
        found = [queues.get(name) for name in dispatcher.claimer.homes] if queues is not None else []
        pairs = [(queue, queue.dispatchers.get(dispatcher.UUID)) for queue in found if queue is not None]
        return [(queue, da) for queue, da in pairs if da is not None]

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
                da.leaving = clock.utcnow()
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
                    sweeping.sweep(queue, da.slot, [(oid, what) for _when, oid, what in reports[queue.name]])
                if da.activated is not None:
                    da.deactivate()
                queue.dispatchers.unregister(dispatcher.UUID)

        transactions.never_fail(call, f"the end of {dispatcher.UUID}", dispatcher.manager)
        dispatcher.claimer.homes.clear()
