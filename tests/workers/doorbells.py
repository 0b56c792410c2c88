"""Doorbells that tests ring by hand, on a real broker."""

from celery import Celery

from db.doorbells import RungChunk
from workers.broker.app import create_app
from workers.fleet.dispatch import publisher
from workers.settings import Settings


def app_on(url: str) -> Celery:
    return create_app(Settings(broker_url=url))


def ring(app: Celery, *chunks: int) -> None:
    publisher(app)([RungChunk(1, "faces", chunk, chunk, 1, 4, "a.jpg", "") for chunk in chunks])
