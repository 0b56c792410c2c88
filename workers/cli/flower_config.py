"""Flower's settings, read by Flower as its `--conf` file. Source: https://flower.readthedocs.io/en/latest/config.html."""

address = "127.0.0.1"  # by default Flower would listen on all interfaces, open to all
port = 5555
# The task's arguments read "run=faces chunk=42 images=64 first=a/b.jpg"; the name is the same for every chunk.
tasks_columns = "uuid,state,args,result,received,started,runtime,worker"
natural_time = True
max_tasks = 20_000  # tasks that Flower keeps in memory; SQL has all of them
purge_offline_workers = 3600
task_runtime_metric_buckets = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0]
read_only = True  # no buttons; nodes refuse remote control, too, unless --allow-control was given to both
inspect_timeout = 2000.0
