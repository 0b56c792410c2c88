"""The Celery application of one node or of Flower, as `celery -A workers.node`; adds only logging to `workers.app`."""

import logging

from workers.app import create_app
from workers.settings import load_settings

app = create_app(load_settings())
app.set_current()
# Celery's own lines matter only as warnings; ours are one a chunk.
logging.getLogger("workers").setLevel(logging.INFO)
