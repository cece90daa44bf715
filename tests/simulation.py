"""What happens in a simulated world, by its seed: clients that use the queue, and all the trouble around them."""

from collective.zcasync import clock
from collective.zcasync.queue import JobNotInQueue
from dataclasses import dataclass
from dataclasses import field
from datetime import timedelta
from enginemodel import Violated
from engineworld import set_queue
from random import Random
from simkernel import Kernel
from simkernel import Machine
from simkernel import Thread
from simstorage import frozen_at_its_commit
from simstorage import View
from simstorage import Weather
from simworld import open_database
from simworld import quick as quick
from simworld import Simulated
from typing import Any
from ZODB.POSException import ConflictError

import gc
import transaction

#: Simulated seconds in which clients put jobs and things go wrong, and which all jobs then get to end.
ACTIVE, SETTLE = 6.0, 150.0

#: Seconds between a put and the first line of a job that nothing hinders.
PROMPT = 1.5

#: Worlds after which memory is cleaned up.
CLEAN = 25

POLICIES = (None, None, "simworld:Scripted", "NeverRetry", "RetryCommonForever")
SETTINGS = ("pause", "resume", "resume", "hold", "release", "remove", "create", "grow", "shrink", "touch")

#: How a world is. calm: nothing goes wrong, and jobs must begin promptly. deaf: the same, but no dispatcher hears of
#: commits. In stormy ones everything happens.
KINDS = ("calm", "deaf", *("stormy",) * 8)


@dataclass
class Result:
    """How the world of a seed has gone."""

    seed: int
    fault: BaseException | None = None
    trace: list[str] = field(default_factory=list)
    #: Jobs and callbacks, and commits, that were stored.
    jobs: int = 0
    commits: int = 0
    #: What went wrong on purpose, and how often.
    troubles: dict[str, int] = field(default_factory=dict)


class Story:
    """The driver of one world."""

    def __init__(self, seed: int, chatty: bool = False) -> None:
        self.random = random = Random(seed)
        self.kind = "stormy" if chatty else random.choice(KINDS)
        self.stormy = self.kind == "stormy"
        self.weather = Weather()
        if self.kind == "deaf":
            self.weather.unheard = 1.0
        elif self.stormy:
            self._brew(random)
        self.world = Simulated(seed, self.weather)
        self.kernel = self.world.kernel
        self.poll = random.choice((2.0, 5.0))
        self.troubles: dict[str, int] = {}
        #: Whether all jobs are in a lane, or may share transactions, many at once.
        self.laned = self.stormy and random.random() < 0.15
        self.grouped = self.stormy and not self.laned and random.random() < 0.15
        if self.grouped:
            self.weather.latency = 0.002
        #: Whether machines stand still in the midst of jobs that commit by themselves, and go on after a takeover.
        self.icy = self.stormy and not self.grouped and random.random() < 0.2
        #: Whether clients have much to tell to jobs that run, or wait for a Deferred, and to their callbacks.
        self.chatty = chatty or self.stormy and Random(f"{seed} tell").random() < 0.1
        if self.chatty:
            self.laned = self.grouped = self.icy = False
        self.clients: list[Thread] = []

    def _brew(self, random: Random) -> None:
        """Each world has troubles of its own: few of them in one world show more than all in each."""
        weather = self.weather
        weather.latency = random.choice((0.002, 0.01, 0.1))
        weather.slow = random.choice((0.0, 0.02, 0.1))
        weather.conflict = random.choice((0.0, 0.02, 0.15))
        weather.lost_before = random.choice((0.0, 0.0, 0.01))
        weather.lost_after = random.choice((0.0, 0.01, 0.05))
        weather.lost_begin = random.choice((0.0, 0.0, 0.003))
        weather.unheard = random.choice((0.0, 0.0, 0.2, 1.0))

    # The course of things

    def run(self) -> None:
        world, random = self.world, self.random
        if not self.stormy:
            world.outcomes = ("return", "return", "raise", "hot", "annotate")
            world.longest = 0.1  # jobs behind others that share a thread have to be prompt as well
        elif self.icy:
            world.outcomes = ("return", "commit", "commit", "commit and raise", "checkpoint", "abort", "inner")
            world.longest = 4.0
        elif self.grouped:
            world.outcomes = ("return", "return", "return", "return", "hot", "return", "return", "raise", "commit")
        elif self.chatty:
            world.outcomes = ("return", "commit", "exit", "deferred", "deferred", "deferred failure", "annotate")
            world.longest = 3.0
        few = (2, 3) if self.icy else (1, 2, 2, 3) if self.stormy else (1, 2)
        for _number in range(random.choice(few)):
            self._start()
        for number in range(2 if self.stormy else 1):
            self._client(f"c{number + 1}")
        if self.stormy:
            self._plan_troubles()
        self.kernel.run(ACTIVE)
        self._settle()
        if not self.stormy:
            self._check_prompt()

    def _start(self, size: int | None = None) -> Any:
        host = self.random.choice(("h1", "h1", "h2"))
        machine: Any = self.world.start(host, size or self.random.choice((1, 2, 2, 3)), self.poll)
        if self.stormy and self.random.random() < 0.3 and not self.world.settling:
            machine.skew = self.random.uniform(-300, 300)
        return machine

    def _plan_troubles(self) -> None:
        for _number in range(2 if self.icy else 0):
            self.kernel.at(self.random.uniform(1, ACTIVE / 2), lambda: self._happen("freeze"))
        for what, chance in (
            *(("death", 0.6), ("death in a commit", 0.6), ("death in a commit", 0.6), ("clean stop", 0.4)),
            *(("freeze", 0.5), ("freeze", 0.3), ("cut", 0.4), ("storage away", 0.15), ("clock", 0.3), ("start", 0.5)),
        ):
            if self.random.random() < chance:
                self.kernel.at(self.random.uniform(0.3, ACTIVE), lambda what=what: self._happen(what))  # type: ignore[misc]

    def _happen(self, what: str) -> None:
        random, active = self.random, self.world.active()
        if what == "start" or not active:
            if len(active) < 3:
                self._start()
            return
        machine: Any = random.choice(active)
        self.troubles[what] = self.troubles.get(what, 0) + 1
        self.kernel.tell(f"{what} of {machine}")
        if what == "death":
            self.kernel.kill(machine)
        elif what == "death in a commit":
            machine.view.fuse = random.randint(0, 12)
        elif what == "clean stop":
            self.world.leave(machine)
        elif what == "freeze":
            frozen_at_its_commit(self.world.core, machine)
            machine.frozen = self.kernel.now + random.choice((1.0, 6.0, 9.0))
        elif what == "cut":
            machine.view.cut(random.uniform(0.2, 7))
        elif what == "storage away":
            seconds = random.uniform(0.2, 5)
            for view in self.world.core.views:
                if view.machine is not None:
                    view.cut(seconds)
        elif what == "clock":
            machine.skew += random.choice((-300, -20, 20, 300))

    def _settle(self) -> None:
        """Nothing goes wrong any more, and everybody has time: then nothing may be left over."""
        world = self.world
        world.settling = True
        for name in ("slow", "conflict", "lost_before", "lost_after", "lost_begin"):
            setattr(self.weather, name, 0.0)
        if self.stormy:
            self.weather.unheard = 0.0
        for machine in world.machines:
            machine.skew = 0.0
            machine.view.fuse = None  # type: ignore[attr-defined]
        self.kernel.tell("now everything gets well")
        # Longer than a lease of one whose clock is fast; and what was put for later is due.
        world.ahead += 1300.0 if self.stormy else 0.0
        client = Thread(target=self._let_all_run, name="person", machine=self._client_machine("person"))
        client.start()
        self._start(5)
        fault: list[BaseException] = []
        end = self.kernel.now + SETTLE
        while self.kernel.now < end:
            self.kernel.run(self.kernel.now + 1.0)
            fault = []
            try:
                if not client.over or any(not one.over for one in self.clients):
                    raise Violated("reachable", "a client hangs")
                world.checker.at_the_end()
                break
            except Violated as error:
                fault = [error]
        if fault:
            raise fault[0]
        for machine in world.active():
            world.leave(machine)
        self.kernel.run(self.kernel.now + 15)
        world.checker.check()

    def _let_all_run(self) -> None:
        machine: Any = self.kernel.current.machine
        connection, manager = self._connect(machine)
        while not all(one.over for one in self.clients):
            self.kernel.sleep(0.1)
        while True:
            manager.begin()
            try:
                queue = connection.root()["collective.zcasync"][""]
                queue.paused = False
                queue.release_group("g")
                manager.commit()
                return
            except ConflictError:
                manager.abort()

    def _check_prompt(self) -> None:
        world = self.world
        limit = PROMPT if self.kind == "calm" else self.poll + PROMPT
        for number in world.mains:
            waited = world.begun_at[number] - world.put_at[number]
            if waited > limit:
                raise Violated("prompt", f"job {number} began {waited:.1f} s after its put, in a {self.kind} world")

    # Clients

    def _client_machine(self, name: str) -> Any:
        machine: Any = Machine(name, "client", self.kernel)
        machine.view = View(self.world.core, self.weather, machine)
        self.world.machines.append(machine)
        return machine

    def _client(self, name: str) -> None:
        machine = self._client_machine(name)
        if self.stormy and self.random.random() < 0.3:
            machine.skew = self.random.uniform(-300, 300)
        thread = Thread(target=lambda: self._use(machine), name=name, machine=machine)
        self.clients.append(thread)
        thread.start()

    def _connect(self, machine: Any) -> tuple[Any, Any]:
        manager = transaction.TransactionManager()
        return open_database(machine).open(manager), manager

    def _use(self, machine: Any) -> None:
        """A client's life: transaction after transaction."""
        random, me = self.kernel.random, self.kernel.current
        connection, manager = self._connect(machine)
        jobs = 12 if self.grouped else 5 if self.chatty else random.randint(1, 4)
        while self.kernel.now < ACTIVE and jobs > 0:
            self.kernel.sleep(random.random() * (0.5 if self.chatty else 2.0))
            me.then = []
            try:
                manager.begin()
                queue = connection.root()["collective.zcasync"][""]
                for _number in range(random.choice((4, 8) if self.grouped else (1, 1, 2, 4))):
                    jobs -= self._act(queue, me)
                if random.random() < 0.05:
                    self.kernel.sleep(random.random() * 3)  # a long transaction: what it has seen grows old
                manager.commit()
            except Exception as error:
                manager.abort()
                if not isinstance(error, ConflictError) and "Disconnected" not in type(error).__name__:
                    raise

    def _act(self, queue: Any, me: Any) -> int:
        """One thing that a client does; how many jobs it has put."""
        random = self.kernel.random
        if not self.stormy:
            self._put(queue, me)
            return 1
        acts = ("put", *("meddle",) * 5) if self.chatty else ("put", "put", "put", "put", "meddle", "meddle", "set")
        what = random.choice(acts)
        if what == "put":
            self._put(queue, me)
            return 1
        if what == "set":
            self._set(queue, random.choice(SETTINGS), random.choice(("a", "b")))
        elif self.world.mains:
            self._meddle(queue, me, random.choice(self.world.mains[-6:]))
        return 0

    def _put(self, queue: Any, me: Any) -> None:
        world, random = self.world, self.kernel.random
        if not self.stormy:
            job = world.new_job()
            queue.put(job)
            me.then.append(lambda: world.learn(job))
            return
        policy = None if self.grouped else random.choice(POLICIES)
        wanted = () if self.grouped else random.choice(((), (), (), ("a",), ("b", "a")))
        names = [name for name in wanted if name in queue.quotas]
        group = "" if self.grouped else random.choice(("", "", "g"))
        job = world.new_job(policy, group=group, priority=random.choice((0, 0, 3)))
        job.quota_names = tuple(names)
        job.groupable = self.grouped or random.random() < 0.1
        if self.laned or random.random() < 0.1:
            job.lane = "content"
        made = [job, *self._callbacks(job, policy if random.random() < 0.5 else None)]
        after, by = random.choice((None, None, None, -5, 3, 10)), random.choice((None, None, None, 5, 30))
        if self.grouped:
            after = by = None
        when = None if after is None else clock.utcnow() + timedelta(seconds=after)
        queue.put(job, begin_after=when, begin_by=None if by is None else timedelta(seconds=by))
        me.then += [lambda one=one: world.learn(one) for one in made]  # type: ignore[misc]

    def _callbacks(self, job: Any, policy: str | None = None, shapes: Any = (0, 0, 1, 2, 3, 4)) -> list[Any]:
        shape, world = self.kernel.random.choice(shapes), self.world
        if not shape:
            return []
        first, second = world.new_job(policy), world.new_job()
        if shape == 1:
            job.addCallback(first)
            return [first]
        if shape == 2:
            job.addCallbacks(first, second)
        else:
            job.addCallback(first)
            (job if shape == 3 else first).addCallback(second)
        return [first, second]

    def _meddle(self, queue: Any, me: Any, number: int) -> None:
        """Add callbacks to a job, cancel it, or take it out."""
        world = self.world
        if number in world.removed or number in me.values:
            return
        try:
            job = queue._p_jar.get(world.oids[number])
            job._p_activate()
        except KeyError:  # this transaction does not see it yet
            return
        random = self.kernel.random
        acts = ("add", "add", "cancel", "cancel without callbacks", "remove")
        what = random.choice(("add", "add", "add", "add", "cancel") if self.chatty else acts)
        self.kernel.tell(f"{what} job {number}")
        if what == "add":
            if self.chatty and random.random() < 0.4:
                job = random.choice([job, *job.all_callbacks()])
            started = world.last
            made = self._callbacks(job, None, (1, 2, 3, 4))
            assert started < world.last
            me.then += [lambda one=one: world.learn(one) for one in made]  # type: ignore[misc]
        elif what == "remove":
            if not job._status_id:
                try:
                    queue.remove(job)
                except JobNotInQueue:
                    return
                me.then.append(lambda: world.removed.add(number))
                me.values[number] = "taken out"  # whether that is stored or not
        else:
            token = job.token
            answer = queue.cancel(job, what == "cancel")
            if answer == "stopping":
                me.then.append(lambda: world.asked.setdefault(number, token))
            elif what != "cancel":
                me.then.append(lambda: world.dropped.add(number))

    def _set(self, queue: Any, what: str, quota: str) -> None:
        self.kernel.tell(f"{what} {quota}")
        if what != "create" or quota not in queue.quotas:
            set_queue(queue, what, quota)


def simulate(seed: int, chatty: bool = False) -> Result:
    """The world of a seed, inside ``quick``. ``chatty``: only such a one; see Story."""
    story = Story(seed, chatty)
    result = Result(seed)
    try:
        story.run()
    except Exception as error:
        result.fault = error
    result.trace = list(story.kernel.trace)
    world = story.world
    result.jobs, result.commits, result.troubles = len(world.oids), world.commits, story.troubles
    try:
        story.kernel.errors.clear()
        story.world.close()
    except Exception as error:
        result.fault = result.fault or error
        Kernel.here = None
    if seed % CLEAN == 0:
        gc.collect()
    return result
