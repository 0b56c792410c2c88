"""This process of a node: what it is made of, and how it stops."""

import logging
import threading
from typing import ClassVar, NoReturn

from workers.inference import readahead
from workers.node import life
from workers.node.breaker import Breaker
from workers.node.heartbeat import Heartbeat
from workers.node.model import Model
from workers.node.worker import Worker, worn_out
from workers.settings import Settings, load_settings

log = logging.getLogger(__name__)


class Node:
    """A breaker from the start; a worker, its model and its heartbeat once the database answers."""

    _this: ClassVar["Node | None"] = None

    def __init__(self, settings: Settings, breaker: Breaker) -> None:
        self.settings = settings
        self.breaker = breaker  # it counts also while no worker can be made of this process
        self.draining = threading.Event()  # set when this process is asked to end
        self._parts: tuple[Worker, Model] | None = None

    @classmethod
    def this(cls) -> "Node":
        """What this process is; the first call reads its environment."""
        if Node._this is None:
            Node._this = Node(load_settings(), Breaker(life.faults_so_far(), life.tell_parent))
        return Node._this

    @property
    def worker(self) -> Worker:
        """The first use connects it, and raises what the database raises."""
        return self._connected()[0]

    @property
    def model(self) -> Model:
        return self._connected()[1]

    def _connected(self) -> tuple[Worker, Model]:
        if self._parts is None:
            worker = Worker(self.settings, self.draining)
            self._parts = worker, Model(worker, self.breaker)
            Heartbeat(worker, self.end_process).start()
        return self._parts

    @property
    def gpu_works(self) -> bool:
        """Whether this process has shown that its GPU works."""
        return self._parts is not None and self._parts[1].gpu_works

    @property
    def stops(self) -> bool:
        """Whether this process takes no more work."""
        return self.breaker.open or worn_out() or self.draining.is_set()

    def fault(self, reason: str) -> None:
        """Something around the work failed. Other nodes may be luckier, and handing chunks round at full speed would
        only use up their releases: so this one pauses."""
        self.breaker.fault(reason)
        if not self.breaker.open:
            self.draining.wait(self.settings.fault_pause_seconds)

    def renew_if_worn_out(self) -> None:
        """Have this process replaced, if that is due. Nothing may be in hand: then it costs nobody an attempt."""
        if worn_out():
            log.warning("decoders hang on %d files; this node is started again without them", readahead.left_behind())
            self.breaker.renew()

    def end_process(self, reason: str) -> NoReturn:
        """End at once, and count that as a fault."""
        log.error("this process cannot go on: %s", reason)
        self.breaker.fault(reason)
        life.end_process()
