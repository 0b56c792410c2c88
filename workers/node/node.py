"""The worker of a node as a process: its parts, and how it stops. Knows no chunks."""

import logging
import threading
from typing import ClassVar, NoReturn

from workers.inference.stream import readahead
from workers.node import life
from workers.node.breaker import Breaker
from workers.node.heartbeat import Heartbeat
from workers.node.model import Model
from workers.node.worker import Worker, worn_out
from workers.places import web
from workers.settings import Settings, load_settings

log = logging.getLogger(__name__)

DIED_LOADING = "the process before this one ended while it loaded or compiled a model, as where memory runs out"


class Node:
    """Has a breaker from the start, and a worker, a model and a heartbeat once the database answers."""

    _this: ClassVar["Node | None"] = None

    def __init__(self, settings: Settings, breaker: Breaker) -> None:
        self.settings = settings
        self.breaker = breaker  # made at once, as it counts faults also while the database does not answer
        self.draining = threading.Event()  # set when this process is asked to end
        self._parts: tuple[Worker, Model] | None = None

    @classmethod
    def this(cls) -> "Node":
        """The one object of this process; the first call reads the environment."""
        if Node._this is None:
            settings = load_settings()
            web.allow(settings.image_hosts, settings.image_networks)
            Node._this = Node(settings, Breaker(life.faults_so_far(), life.tell_parent))
            if life.died_loading():
                Node._this.breaker.fault(DIED_LOADING)
        return Node._this

    @property
    def worker(self) -> Worker:
        """The worker of this process. The first use connects to the database, and raises its errors."""
        return self._connected()[0]

    @property
    def model(self) -> Model:
        """The model of this process; connects like `worker`."""
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
        """Count a fault of the surroundings, and pause.

        The pause lets other nodes take the chunk. Without it this node would take and release chunks at full speed, and
        use up their releases.
        """
        self.breaker.fault(reason)
        if not self.breaker.open:
            self.draining.wait(self.settings.fault_pause_seconds)

    def renew_if_worn_out(self) -> None:
        """Ask for a new process if too many decoders hang in this one. No chunk may be in hand, so that no attempt is
        lost."""
        if worn_out():
            log.warning("decoders hang on %d files; this node is started again without them", readahead.left_behind())
            self.breaker.renew()

    def end_process(self, reason: str) -> NoReturn:
        """Count a fault, and end this process at once."""
        log.error("this process cannot go on: %s", reason)
        self.breaker.fault(reason)
        life.end_process()
