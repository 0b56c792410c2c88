# syntax=docker/dockerfile:1
# Everything that needs no GPU and no torch: sam3-enqueue, sam3-status, sam3-retry, sam3-db, sam3-flower, ...
# From the project's folder: docker build -f deploy/producer.Dockerfile -t sam3-queue-producer .
FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.12-slim-trixie
# Built like worker.Dockerfile: the reasons are there.
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/sam3-queue
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=/src/pyproject.toml \
    uv venv "$VIRTUAL_ENV" && uv pip install -r /src/pyproject.toml --extra postgres --extra monitor --extra remote
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,target=/src \
    uv pip install --no-deps /src

RUN useradd --uid 10001 --user-group --no-log-init --create-home sam3
ENV PATH=/opt/sam3-queue/bin:$PATH HOME=/home/sam3 USER=sam3 PYTHONUNBUFFERED=1
WORKDIR /home/sam3
USER 10001:10001
CMD ["sam3-status"]
