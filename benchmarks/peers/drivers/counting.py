"""What each driver does alike: be told what to do, count the jobs that run here, and say how long they took.

A driver is a script in the environment of its job system: ``driver.py put ADDRESS JOBS``, ``driver.py drain ADDRESS
JOBS`` (jobs that are there already) or ``driver.py work ADDRESS FILE`` (for ever; each job appends its number to FILE).
It prints one line of JSON. Nothing of the package is imported here, as the others' environments do not have it.
"""

import json
import os
import sys
import threading
import time

#: Job threads, for everybody that has threads.
THREADS = 4

#: Seconds that a job of the kill test takes.
LONG = 0.05


class Count:
    """Counts jobs, and ends the process with the last one."""

    def __init__(self) -> None:
        self.goal = 0
        self.done = 0
        self.first = 0.0
        self.lock = threading.Lock()

    def __call__(self) -> None:
        """A job was run."""
        with self.lock:
            if not self.done:
                self.first = time.perf_counter()
            self.done += 1
            if self.done == self.goal:
                say(seconds=time.perf_counter() - self.first)
                os._exit(0)


count = Count()


def say(**told: object) -> None:
    """The answer of this driver."""
    answer = sys.__stdout__  # some redirect sys.stdout into their log
    answer.write(json.dumps(told) + "\n")
    answer.flush()


def append(number: int) -> None:
    """A job of the kill test: in its midst it does what cannot be taken back."""
    time.sleep(LONG / 2)  # the time that a job takes, not a wait for something
    file = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    time.sleep(LONG / 2)


def main(module: object) -> None:
    """Do what the command line says, with the functions of a driver: connect(address), put(number), work()."""
    what, address, told = sys.argv[1:4]
    module.connect(address)
    if what == "put":
        start = time.perf_counter()
        for _ in range(int(told)):
            module.put()
        say(seconds=time.perf_counter() - start)
    elif what == "put-long":
        for number in range(int(told)):
            module.put(number)
        say(jobs=int(told))
    elif what == "drain":
        count.goal = int(told)
        module.work()
    else:
        os.environ["EFFECTS"] = told
        module.work()
