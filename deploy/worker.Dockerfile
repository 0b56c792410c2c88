# syntax=docker/dockerfile:1
# A worker. From the project's folder: docker build -f deploy/worker.Dockerfile -t sam3-queue-worker .
# The base is plain Python: torch's Linux wheels bring the CUDA libraries, the NVIDIA container toolkit the driver.
# No SAM3 weights inside: they are gated, and belong into the /cache volume.
FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM python:3.12-slim-trixie
# uv and its cache are only mounted, so neither is in the image. Copy: a cache mount is another file system.
# Compile: the container's file system is read-only, so Python could not keep its bytecode.
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/sam3-queue

# With a C compiler torch can compile the model for the GPU (--compile).
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# Dependencies first: gigabytes that change with pyproject.toml only. All have wheels: nothing is built.
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=/src/pyproject.toml \
    uv venv "$VIRTUAL_ENV" && uv pip install -r /src/pyproject.toml --extra worker --extra heic --extra postgres --extra remote
# Then our own few kilobytes.
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,target=/src \
    uv pip install --no-deps /src

# Any other uid may be given at run time (to read your images), so the writable folders are open like /tmp,
# and USER names one for libraries that would look the uid up.
RUN useradd --uid 10001 --user-group --no-log-init --create-home sam3 \
    && install -d -m 1777 /cache /cache/huggingface /cache/state
ENV PATH=/opt/sam3-queue/bin:$PATH \
    HOME=/home/sam3 USER=sam3 \
    HF_HOME=/cache/huggingface SAM3_STATE_DIR=/cache/state \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1
VOLUME /cache
WORKDIR /home/sam3
USER 10001:10001
CMD ["sam3-worker", "--gpus", "all"]
