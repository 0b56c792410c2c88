"""Reads the results of runs from Python. Never writes; works on runs that still go on.

    import sam3_queue

    for row in sam3_queue.open_run("out/"):
        for result in row.results:
            for instance in result.instances:
                print(row.path, result.class_name, instance.score, instance.mask.shape)

`open_run` takes what the commands take as RUN: a folder that sam3-run wrote, or the name of a run. This is the only
public module beside the commands. A mask needs numpy, `Run.to_pandas` needs pandas, nothing needs torch.
"""

from importlib.metadata import version

from sam3_queue.reader import Run, RunDataset, open_run
from sam3_queue.rows import Instance, Result, Row

__version__ = version("sam3-queue")

__all__ = ["Instance", "Result", "Row", "Run", "RunDataset", "__version__", "open_run"]
