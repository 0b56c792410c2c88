"""Flower's settings, as its `--conf` file: loopback, and columns that show run, chunk, image count and result."""

address = "127.0.0.1"  # Flower listens on every interface by default, open to all
port = 5555
# The task's arguments read "run=faces chunk=42 images=64 first=a/b.jpg"; the name is the same for every chunk.
tasks_columns = "uuid,state,args,result,received,started,runtime,worker"
natural_time = True
max_tasks = 20_000  # Flower keeps tasks in memory and forgets; SQL does not
purge_offline_workers = 3600
task_runtime_metric_buckets = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0]
read_only = True  # nodes refuse remote control as well, unless it was allowed for both
inspect_timeout = 2000.0
