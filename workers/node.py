"""The Celery application of one node or of Flower, as `celery -A workers.node`; adds nothing to `workers.app`."""

from workers.app import create_app
from workers.settings import load_settings

app = create_app(load_settings())
app.set_current()
