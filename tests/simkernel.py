"""One clock and one scheduler for all threads of a simulated world: they are greenlets, and only one ever runs.

The engine's own threads run here as they are: its modules get this module's ``threads`` for ``threading`` and
``SimpleQueue``, and the clock of the machine on which they run. So whoever waits for an event, for a lock or for some
seconds waits on the one clock, which jumps from one moment at which somebody goes on to the next. Nothing depends on
the real time, and the same seed gives the same world.
"""

from collections import deque
from collections.abc import Callable
from collective.zcasync import persistence
from collective.zcasync import places
from collective.zcasync.threadlocal import local
from greenlet import getcurrent
from greenlet import greenlet
from heapq import heappop
from heapq import heappush
from random import Random
from transaction import TransactionManager
from types import SimpleNamespace
from typing import Any

import itertools
import queue
import transaction

#: Seconds that somebody who was woken takes to run, at most.
WAKING = 0.0005

#: How often a thread of a machine that is gone is let on, until it has to be at its end.
UNWINDINGS = 1000


class Killed(SystemExit):
    """The machine of this thread is gone: nothing of it goes on."""


class Machine:
    """A process, with clocks of its own."""

    def __init__(self, name: str, host: str, kernel: "Kernel") -> None:
        self.name, self.host, self.kernel = name, host, kernel
        self.pid = next(kernel.pids)
        self.dead = False
        #: Until when it stands still.
        self.frozen = 0.0
        #: Seconds by which its clock is wrong, and at which its monotonic clock began.
        self.skew, self.began = 0.0, kernel.random.uniform(10, 1_000_000)
        self.threads: list[Thread] = []
        #: For the world: its storage and database, its dispatcher, and whether that is to stop.
        self.view: Any = None
        self.db: Any = None
        self.dispatcher: Any = None
        self.leaves = False
        #: The last moment of a key that was drawn in this process.
        self.last_key = 0
        self.main = Thread(machine=self, name=f"{name}-reactor")

    def __repr__(self) -> str:
        return self.name


class Kernel:
    """The scheduler: what goes on when."""

    #: The one that runs now: there is never more than one world in a process.
    here: Any = None

    def __init__(self, seed: int) -> None:
        Kernel.here = self
        self.random = Random(seed)
        self.now = 0.0
        self.pids = itertools.count(1000)
        self.current: Any = None
        self.hub = getcurrent()
        self.trace: deque[str] = deque(maxlen=4000)
        #: What went wrong in a thread that nobody looks after.
        self.errors: list[BaseException] = []
        self._events: list[Any] = []
        self._numbers = itertools.count()
        self.hub_locals = [vars(one).copy() for one in _locals()]
        self._loaded: Any = None

    def tell(self, what: str) -> None:
        """A line of the trace."""
        who = "" if self.current is None else self.current.name
        self.trace.append(f"{self.now:10.4f} {who:28} {what}")

    def soon(self, seconds: float, machine: Machine, call: Callable[..., Any], *args: Any) -> None:
        """Call it in so many seconds on that machine, as its reactor does; nothing in it may wait."""

        def act() -> None:
            self.current = machine.main
            self.switched(machine.main)
            call(*args)

        self.at(seconds, act, machine)

    def at(self, seconds: float, call: Callable[[], Any], machine: Machine | None = None) -> None:
        """Call it in so many seconds; nothing in it may wait. ``machine``: whose it is."""
        heappush(self._events, (self.now + max(seconds, 0.0), next(self._numbers), machine, call))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let everybody go on until then, or until it is done."""
        while self._events and self._events[0][0] <= until and not done():
            when, _number, machine, call = heappop(self._events)
            if machine is not None and machine.frozen > when:
                heappush(self._events, (machine.frozen, next(self._numbers), machine, call))
                continue
            self.now = max(self.now, when)
            if machine is not None and machine.dead:
                continue
            call()
            self.current = None
            if self.errors:
                raise self.errors[0]
        if not done():
            self.now = max(self.now, until)

    def end(self) -> None:
        self.switched(None)
        Kernel.here = None

    # For threads

    def resume(self, thread: "Thread", seconds: float, ticket: int, woken: bool) -> None:
        def call() -> None:
            if thread.ticket == ticket and not thread.over:
                self.go_on(thread, woken)

        self.at(seconds, call, thread.machine)

    def go_on(self, thread: "Thread", woken: bool) -> None:
        """From the hub: let a thread run until it waits again."""
        self.current = thread
        thread.ticket += 1
        thread.let.switch(woken)
        self.current = None

    def switched(self, thread: Any) -> None:
        """Give the thread that goes on its own values of what each thread has for itself."""
        if self._loaded is thread:
            return
        old = self.hub_locals if self._loaded is None else self._loaded.locals
        new = self.hub_locals if thread is None else thread.locals
        for at, one in enumerate(_locals()):
            values = vars(one)
            old[at] = values.copy()
            values.clear()
            values.update(new[at])
        if self._loaded is not None:
            self._loaded.machine.last_key = persistence._last
        if thread is not None:
            persistence._last = thread.machine.last_key
        self._loaded = thread

    def park(self, seconds: float | None = None) -> bool:
        """Wait, in a thread; whether somebody woke it before the time was over."""
        me = self.current
        if me.machine.dead:
            raise Killed
        if me is me.machine.main:
            raise AssertionError(f"{me.name} must not wait")
        me.ticket += 1
        if seconds is not None:
            self.resume(me, max(seconds, 1e-6), me.ticket, False)
        woken = bool(self.hub.switch())
        self.current = me
        self.switched(me)
        if me.machine.dead:
            raise Killed
        return woken

    def sleep(self, seconds: float) -> None:
        self.park(seconds)

    def wake(self, thread: "Thread") -> None:
        self.resume(thread, self.random.random() * WAKING, thread.ticket, True)

    def kill(self, machine: Machine) -> None:
        """The process is gone, wherever its threads stand."""
        if machine.dead:
            return
        machine.dead = True
        self.at(0, lambda: self._unwind(machine))

    def _unwind(self, machine: Machine) -> None:
        for thread in [one for one in machine.threads if one.started and not one.over]:
            for _time in range(UNWINDINGS):
                if thread.over:
                    break
                self.go_on(thread, False)
            else:
                raise AssertionError(f"{thread.name} goes on although its process is gone")
        machine.threads.clear()


def _locals() -> tuple[Any, ...]:
    return transaction.manager, local, places._thread


class Thread:
    """In place of threading.Thread: it belongs to the machine that has made it."""

    def __init__(
        self,
        group: Any = None,
        target: Any = None,
        name: str = "",
        args: Any = (),
        kwargs: Any = None,
        *,
        daemon: bool = True,
        machine: Any = None,
    ) -> None:
        self.machine: Machine = machine or Kernel.here.current.machine
        self.name = f"{self.machine.name}/{name}".replace("zcasync-", "") if machine is None else name
        self.target, self.args, self.kwargs = target, args, kwargs or {}
        self.daemon, self.started, self.over, self.ticket = daemon, False, False, 0
        self.ident = next(Kernel.here._numbers)
        self.locals: list[dict[str, Any]] = [{"manager": TransactionManager()}, {}, {}]
        self.joining = Event()
        self.let = greenlet(self._run, Kernel.here.hub)
        #: For the world: what to do as its next commit is stored, and as that of a certain transaction is.
        self.then: list[Callable[[], None]] = []
        self.in_transaction: list[tuple[Any, Callable[[], Any]]] = []
        self.values: dict[Any, Any] = {}

    def start(self) -> None:
        if self.machine.dead:
            return
        self.started = True
        self.machine.threads.append(self)
        Kernel.here.resume(self, Kernel.here.random.random() * WAKING, self.ticket, True)

    def _run(self, *_args: Any) -> None:
        kernel = Kernel.here
        kernel.switched(self)
        try:
            if not self.machine.dead:
                self.target(*self.args, **self.kwargs)
        except Killed:
            pass
        except SystemExit:
            kernel.tell("ends itself")
        except BaseException as error:
            kernel.errors.append(error)
        finally:
            self.over = True
            if self in self.machine.threads:
                self.machine.threads.remove(self)
            self.joining.set()

    def join(self, timeout: float | None = None) -> None:
        if self.started:
            self.joining.wait(timeout)

    def is_alive(self) -> bool:
        return self.started and not self.over


class Event:
    """In place of threading.Event."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for thread in self._waiting:
            Kernel.here.wake(thread)
        self._waiting = []

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        me = Kernel.here.current
        if me.machine.dead:
            raise Killed
        if not self._set:
            self._waiting.append(me)
            try:
                Kernel.here.park(timeout)
            finally:
                if me in self._waiting:
                    self._waiting.remove(me)
        return self._set


class Lock:
    """In place of threading.Lock and RLock."""

    def __init__(self) -> None:
        self.owner: Any = None
        self.count = 0
        self._waiting: deque[Thread] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = Kernel.here.current
        while self.owner not in (None, me) and not self.owner.machine.dead:
            if not blocking:
                return False
            self._waiting.append(me)
            try:
                Kernel.here.park()
            except BaseException:  # its process is gone: perhaps it was woken for the lock
                if self.owner is None:
                    self._wake_next()
                raise
        self.owner = me
        self.count += 1
        return True

    def release(self) -> None:
        self.count -= 1
        if self.count <= 0:
            self.owner, self.count = None, 0
            self._wake_next()

    def _wake_next(self) -> None:
        while self._waiting:
            thread = self._waiting.popleft()
            if not thread.machine.dead and not thread.over:
                Kernel.here.wake(thread)
                break

    def locked(self) -> bool:
        return self.owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()


class Condition:
    """In place of threading.Condition."""

    def __init__(self, lock: Any = None) -> None:
        self.lock = Lock() if lock is None else lock
        self._waiting: list[Thread] = []

    def __enter__(self) -> bool:
        return bool(self.lock.acquire())

    def __exit__(self, *_error: object) -> None:
        self.lock.release()

    acquire = __enter__

    def release(self) -> None:
        self.lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        me, count = Kernel.here.current, self.lock.count
        self._waiting.append(me)
        self.lock.count = 1
        self.lock.release()
        try:
            return bool(Kernel.here.park(timeout))
        finally:
            if me in self._waiting:
                self._waiting.remove(me)
            if not me.machine.dead:
                self.lock.acquire()
                self.lock.count = count

    def notify(self, n: int = 1) -> None:
        woken, self._waiting = self._waiting[:n], self._waiting[n:]
        for thread in woken:
            Kernel.here.wake(thread)

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Local:
    """In place of threading.local."""

    def __getattr__(self, name: str) -> Any:
        try:
            return Kernel.here.current.values[id(self), name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        Kernel.here.current.values[id(self), name] = value


class SimpleQueue:
    """In place of queue.SimpleQueue."""

    def __init__(self) -> None:
        self._rows: deque[Any] = deque()
        self._some = Event()

    def put(self, row: Any) -> None:
        self._rows.append(row)
        self._some.set()

    def get(self, timeout: float | None = None) -> Any:
        while not self._rows:
            self._some.clear()
            if not self._some.wait(timeout) and timeout is not None:
                raise queue.Empty
        return self._rows.popleft()


#: What the engine's modules get for ``threading``.
threads = SimpleNamespace(
    Thread=Thread,
    Event=Event,
    Lock=Lock,
    RLock=Lock,
    Condition=Condition,
    local=Local,
    TIMEOUT_MAX=1e9,
    current_thread=lambda: Kernel.here.current,
    get_ident=lambda: Kernel.here.current.ident,
)
