"""The driver of a world: clients, claims, job threads, deaths and burials in an order that hypothesis chooses."""

from collective.zcasync import clock
from collective.zcasync.queue import JobNotInQueue
from datetime import timedelta
from enginechecks import Checker
from enginemodel import Client
from enginemodel import in_seconds
from enginemodel import OUTCOMES
from enginemodel import quick
from enginemodel import START
from enginemodel import Storage
from enginemodel import World
from engineworld import set_queue
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import seed as use_seed
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import multiple
from hypothesis.stateful import precondition
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import run_state_machine_as_test
from typing import Any
from ZODB.POSException import ConflictError

STORAGE = Storage()

POLICIES = (None, None, "enginemodel:Scripted", "NeverRetry", "RetryCommonForever")
ANSWERS = (False, True, timedelta(0), timedelta(seconds=20))
SETTINGS = ("pause", "resume", "resume", "hold", "release", "remove", "create", "grow", "shrink", "touch")
SHAPES = ("none", "none", "one", "either", "chain", "two")

clients = st.integers(0, 1)
picks = st.integers(0, 11)
stops = st.sampled_from([1, 2, 2, 3, 4, 6, 400])
outcomes = st.sampled_from(OUTCOMES)
answers = st.sampled_from(ANSWERS)
thens = st.sampled_from([*("return",) * 10, *OUTCOMES])
going_on = rule(pick=picks, stops=stops, outcome=outcomes, answer=answers, then=thens)

#: How some worlds begin: a client meddles with a job that runs, something happens to the job, and perhaps it then runs
#: to its end at the other dispatcher. By chance alone that is too rare.
MEDDLING = st.fixed_dictionaries(
    {
        "shape": st.sampled_from(["one", "either", "either", "chain"]),
        "what": st.sampled_from(["add", "cancel"]),
        "outcome": st.sampled_from(["return", "abort", "abort"]),
        "then": st.sampled_from(["crash", "take over", "leave", "reschedule", "reschedule", "end", "end"]),
        "stops": st.sampled_from([2, 2, 3, 400]),
        "commit": st.booleans(),
        "on": st.booleans(),
    }
)

#: With what dispatchers a world begins.
DISPATCHERS: dict[str, Any] = {
    "sizes": st.tuples(st.integers(1, 2), st.integers(1, 2)),
    "prefetch": st.sampled_from([0, 3]),
    "laned": st.booleans(),
}


class Machine(RuleBasedStateMachine):
    """The driver: each rule moves one actor, or changes one thing in one client's transaction."""

    jobs = Bundle("jobs")
    #: How many worlds were driven, and the first fault that was found: (its number, what).
    driven = 0
    found: tuple[int, BaseException] | None = None

    def __init__(self) -> None:
        super().__init__()
        Machine.driven += 1
        self.world: World = STORAGE.world()
        self.checker = Checker(self.world)
        self.seconds = 0.0
        #: Whether all jobs of this world are in lanes.
        self.laned = False

    def teardown(self) -> None:
        try:
            self.settle()
        except Exception as error:
            self.note(error)
            raise
        finally:
            self.world.close()

    def note(self, error: BaseException) -> None:
        if Machine.found is None:
            Machine.found = Machine.driven, error

    # Clients

    def _client(self, number: int) -> Client:
        self.tick(0.001)
        client = self.world.clients[number]
        client.begin()
        return client

    def tick(self, seconds: float) -> None:
        self.seconds += seconds
        clock.set_now(START + timedelta(seconds=self.seconds))

    def _callbacks(self, job: Any, shape: str, policy: str | None) -> list[Any]:
        """Add callbacks to a job; the jobs that they are."""
        if shape == "none":
            return []
        first, second = self.world.new_job(policy), self.world.new_job()
        if shape == "either":
            job.addCallbacks(first, second)
            return [first, second]
        job.addCallback(first)
        if shape == "one":
            return [first]
        (job if shape == "two" else first).addCallback(second)
        return [first, second]

    @rule(
        target=jobs,
        who=clients,
        quotas=st.sampled_from([(), (), ("a",), ("b", "a")]),
        after=st.sampled_from([None, None, None, -5, 10]),
        by=st.sampled_from([None, None, None, 5, 30]),
        group=st.sampled_from(["", "", "g"]),
        policy=st.sampled_from(POLICIES),
        shape=st.sampled_from(SHAPES),
        priority=st.sampled_from([0, 0, 3]),
        lane=st.sampled_from(["", "", "content"]),
        commit=st.booleans(),
    )
    def put(
        self,
        who: int,
        quotas: tuple[str, ...],
        after: float | None,
        by: float | None,
        group: str,
        policy: str | None,
        shape: str,
        priority: int,
        lane: str,
        commit: bool,
    ) -> Any:
        client = self._client(who)
        known = tuple(name for name in quotas if name in client.queue.quotas)
        job = self.world.new_job(policy, group=group, priority=priority, quota_names=known)
        job.lane = "content" if self.laned else lane
        number = job.args[0]
        callbacks = self._callbacks(job, shape, policy)
        when = None if after is None else clock.utcnow() + timedelta(seconds=after)
        client.queue.put(job, begin_after=when, begin_by=in_seconds(by))
        client.then += [self.world.learn(one) for one in (job, *callbacks)]
        if commit:
            client.commit()
        return number

    def _known(self, number: int, who: int) -> Any:
        """The job in the client's connection, if its put was committed and the client can see it."""
        client = self._client(who)
        if number not in self.world.oids:
            return None
        try:
            job = client.job(number)
            job._p_activate()
        except (KeyError, ConflictError):  # its put was committed after this transaction had begun
            return None
        return job

    @rule(
        number=jobs,
        who=clients,
        what=st.sampled_from(["add", "add", "cancel", "cancel without callbacks", "remove", "look"]),
        shape=st.sampled_from(SHAPES[2:]),
        commit=st.booleans(),
    )
    def meddle(self, number: int, who: int, what: str, shape: str, commit: bool) -> None:
        """A client adds callbacks to a job, cancels it, takes it out, or only has a transaction open from now on."""
        job, client = self._known(number, who), self.world.clients[who]
        if job is None or number in self.world.removed:
            return
        try:
            self._meddle(job, number, client, what, shape)
        except ConflictError:
            client.abort()
            return
        if commit or what == "remove":
            client.commit()

    def _meddle(self, job: Any, number: int, client: Client, what: str, shape: str) -> None:
        if what == "add":
            client.then += [self.world.learn(one) for one in self._callbacks(job, shape, None)]
        elif what == "remove" and not job._status_id:
            try:
                client.queue.remove(job)
            except JobNotInQueue:
                return
            client.then.append(lambda: self.world.removed.add(number))
        elif what.startswith("cancel"):
            token = job.token
            answer = client.queue.cancel(job, what == "cancel")
            if answer == "stopping":
                client.then.append(lambda: self.world.asked.setdefault(number, token))
            elif what == "cancel without callbacks":
                client.then.append(lambda: self.world.dropped.add(number))

    @rule(
        who=clients,
        what=st.sampled_from(["commit", "commit", "abort", "time", "time", "time", "mail", "mail", *SETTINGS]),
        quota=st.sampled_from(["a", "b"]),
        seconds=st.sampled_from([1, 8, 40]),
    )
    def happen(self, who: int, what: str, quota: str, seconds: float) -> None:
        """A transaction ends, time goes by, a dispatcher reads its mail, or somebody changes the queue."""
        client = self._client(who)
        if what == "abort":
            client.abort()
        elif what == "time":
            self.tick(seconds)
            return
        elif what == "mail":
            self._read_mail(who)
            return
        else:
            set_queue(client.queue, what, quota)
        client.commit()

    # Dispatchers

    @initialize(target=jobs, **DISPATCHERS, beginning=st.none() | MEDDLING)
    def two_dispatchers(self, sizes: tuple[int, int], prefetch: int, laned: bool, beginning: Any) -> Any:
        self.laned = laned
        for size in sizes:
            self.world.start(size, prefetch)
        return multiple() if beginning is None else self._begin_with(**beginning)

    def _begin_with(self, shape: str, what: str, outcome: str, then: str, stops: int, commit: bool, on: bool) -> int:
        first, second = self.world.dispatchers
        policy = "enginemodel:Scripted" if then == "reschedule" else None
        client, job = self._client(0), self.world.new_job(policy)
        number: int = job.args[0]
        callbacks = self._callbacks(job, shape, None)
        client.queue.put(job)
        client.then += [self.world.learn(one) for one in (job, *callbacks)]
        assert client.commit()
        thread = self._take(first)
        while thread.where != "call":
            thread.advance(1)
        self.meddle(number, 1, what, "one", commit)
        if then == "reschedule":
            thread.advance(outcome="raise", answer=timedelta(0))
        elif then == "end":
            thread.advance(outcome=outcome, then=outcome)
            self.world.claim(first, False, True).advance()
            self.meddle(number, 0, "add", "one", commit)
        elif then == "leave":
            self.world.leave(first).advance(stops)
        else:
            if then == "crash":
                self.world.crash(first)
            self.world.bury(second, first).advance(stops)
        if not commit:
            self.world.clients[1].commit()
        if on:
            for actor in self.world.actors[::-1]:
                actor.advance()
            again = self._take(second)
            if again is not None:
                again.advance()
        return number

    def _take(self, one: Any) -> Any:
        """The thread of a dispatcher that takes what waits; None if nothing does."""
        for _ in range(4):  # it looks into the inboxes of others only when its own was empty
            self.tick(0.001)
            self.world.claim(one, True, True).advance()
            for row in self.world.startable():
                if row[0] is one:
                    return self.world.begin(*row)
        return None

    def _alive(self) -> list[Any]:
        return [one for one in self.world.dispatchers if one.activated]

    def _idle(self) -> list[Any]:
        return [one for one in self._alive() if one.busy is None]

    @precondition(lambda self: self._idle())
    @rule(pick=picks, full=st.booleans(), look=st.booleans(), stops=st.sampled_from([2, 3, 400, 400]))
    def claim(self, pick: int, full: bool, look: bool, stops: int) -> None:
        self.tick(0.001)
        idle = self._idle()
        self.world.claim(idle[pick % len(idle)], full, look).advance(stops)

    def _proceed(self, pick: int, stops: int, outcome: str, answer: Any, then: str) -> None:
        """Somebody goes on: an actor that stands still, a thread that takes a job, or a claim."""
        self.tick(0.001)
        world = self.world
        rows = world.startable()
        number = pick % (len(world.actors) + len(rows) + 1)
        if number < len(world.actors):
            world.actors[number].advance(stops, outcome, answer, then)
        elif number < len(world.actors) + len(rows):
            world.begin(*rows[number - len(world.actors)]).advance(stops, outcome, answer, then)
        elif self._idle():
            idle = self._idle()
            world.claim(idle[pick % len(idle)], True, True).advance(400 if stops > 3 else stops)

    def _read_mail(self, pick: int) -> None:
        alive = self._alive()
        for one in alive[pick % len(alive) : pick % len(alive) + 1] if alive else ():
            one.mail.read_soon()
            one.mail._round()

    @precondition(lambda self: self.world.actors)
    @going_on
    def go_on(self, pick: int, stops: int, outcome: str, answer: Any, then: str) -> None:
        self.tick(0.001)
        actors = self.world.actors
        actors[pick % len(actors)].advance(stops, outcome, answer, then)

    @precondition(lambda self: self.world.startable())
    @going_on
    def begin(self, pick: int, stops: int, outcome: str, answer: Any, then: str) -> None:
        self.tick(0.001)
        rows = self.world.startable()
        self.world.begin(*rows[pick % len(rows)]).advance(stops, outcome, answer, then)

    # Three of these: most steps are steps of those who are there to work.

    @going_on
    def proceed(self, **drawn: Any) -> None:
        self._proceed(**drawn)

    @going_on
    def proceed_too(self, **drawn: Any) -> None:
        self._proceed(**drawn)

    @going_on
    def proceed_again(self, **drawn: Any) -> None:
        self._proceed(**drawn)

    @rule(
        what=st.sampled_from(["start", "leave", "take over", "take over", "crash"]),
        pick=picks,
        other=picks,
        stops=st.sampled_from([2, 3, 400, 400]),
    )
    def live(self, what: str, pick: int, other: int, stops: int) -> None:
        """A dispatcher starts, stops, dies; or takes over from one that is dead, or only taken for dead."""
        self.tick(0.001)
        idle = self._idle()
        if what == "start" or not idle:
            if len(self._alive()) < 3 and len(self.world.dispatchers) < 5:
                self.world.start(1 + pick % 2, other % 2 * 3)
            return
        one = idle.pop(pick % len(idle))
        if what == "leave":
            self.world.leave(one).advance(stops)
        elif idle:
            dead = idle[other % len(idle)]
            if what == "crash":
                self.world.crash(dead)
            self.world.bury(one, dead).advance(stops)

    # After each step, and at the end

    @invariant()
    def holds(self) -> None:
        try:
            self.checker.check()
        except Exception as error:
            self.note(error)
            raise

    def settle(self) -> None:
        """Everybody has time to do everything; then nothing may be left over."""
        world = self.world
        for client in world.clients:
            client.abort()
        for actor in list(world.actors):
            actor.advance()
        client = world.clients[0]
        client.manager.begin()
        queue = client.queue
        queue.paused = False
        queue.release_group("g")
        assert client.commit()
        for _ in range(3):
            self.tick(700)  # longer than a lease
            last = world.start(5, 0)
            for one in list(world.dispatchers):
                if one is not last and one.activated:
                    world.leave(one).advance()
                elif one.crashed:
                    world.bury(last, one).advance()
            idle = 0
            while idle < 3:
                self.tick(0.1)
                world.claim(last, True, True).advance()
                idle = 0 if world.startable() else idle + 1
                while world.startable():
                    world.begin(*world.startable()[0]).advance()
        self.checker.at_the_end()


class Meddled(Machine):
    """Only worlds that begin with a client who meddles: where that is what matters, they show a fault sooner."""

    @initialize(target=Machine.jobs, **DISPATCHERS, beginning=MEDDLING)
    def two_dispatchers(self, sizes: tuple[int, int], prefetch: int, laned: bool, beginning: Any) -> Any:
        return super().two_dispatchers(sizes, prefetch, laned, beginning)


def drive(
    examples: int, *, shrink: bool = True, seed: int | None = None, steps: int = 40, machine: type[Machine] = Machine
) -> None:
    """Drive so many worlds; raises what was found. Without a seed the same ones each time."""
    Machine.driven, Machine.found = 0, None
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    with quick():
        try:
            run = machine if seed is None else use_seed(seed)(type("Seeded", (machine,), {}))
            run_state_machine_as_test(
                run,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    derandomize=seed is None,
                    database=None,
                    print_blob=True,
                    report_multiple_bugs=False,
                    phases=phases,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            STORAGE.close()
