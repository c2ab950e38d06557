# sequence-runner with everything that it needs but the GPU's driver, which the container's runtime mounts.
#
#   DOCKER_BUILDKIT=1 docker build -t sequence-runner .          or: make image
#
# TORCH_INDEX is the address of one of PyTorch's own indexes of wheels, whose last part names a build: `cpu` (no CUDA,
# some GB less) or that of another CUDA, such as `cu126` for older drivers. Empty: the build that the usual index has,
# which brings a CUDA of its own.

FROM python:3.11-slim-bookworm AS base
# git publishes; certificates come with the base image, whose bundle may hold a company's own
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# the environment has no pip of its own; torch comes first, so that nothing pulls a second build of it
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=""
RUN python3 -m venv --without-pip /opt/venv \
    && if [ -n "$TORCH_INDEX" ]; then export PIP_INDEX_URL="$TORCH_INDEX"; fi \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir "$TORCH"
COPY requirements.lock /opt/sequence-runner/
RUN python3 -m pip --python /opt/venv/bin/python install --no-cache-dir -r /opt/sequence-runner/requirements.lock
# compiled for no processor in particular: what is built here must run on whatever machine is rented
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/numba

# The speed measurements of the stages call every compiled function that training uses.
FROM base AS compiled
WORKDIR /opt/sequence-runner
COPY configs configs
COPY training training
COPY ppo ppo
RUN PATH=/opt/venv/bin:$PATH \
    && python -c "from pathlib import Path; from configs.load import resolve; from configs.run_dir import RunDir; \
RunDir(Path('/tmp/run')).save_config(resolve('DEMO-USD_1H', 'quick').config)" \
    && python -m configs.describe --run-dir /tmp/run --calibrate --seconds 0.05 training.stages.synthetic \
       ppo.stages.pretrain ppo.stages.ppo ppo.stages.lstm_ppo ppo.stages.multi_asset ppo.stages.walk_forward \
       ppo.stages.evaluate \
    && find /opt/numba -exec touch -d @0 {} +

FROM base AS code
WORKDIR /opt/sequence-runner
COPY . .
RUN python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-build-isolation -e . \
    && rm -rf *.egg-info \
    && /opt/venv/bin/python -X no_debug_ranges -m compileall -q --invalidation-mode unchecked-hash configs training ppo runner \
    && mkdir /out && cd / \
    && tar -c opt/sequence-runner opt/venv/bin/sequence-runner opt/venv/lib/python3.11/site-packages/*sequence_runner* \
    | tar -x -C /out

FROM base
RUN mkdir -m 1777 /data /runs
COPY --from=compiled /opt/numba /opt/numba
# Temporary files go to the first of TMPDIR and TEMP that can be written: with --read-only and no --tmpfs /tmp, to /runs.
# /dev/shm can be written by every user. With --ipc host all containers share it, so what is there has the container's
# name in its own; with --network host too, that name is the machine's, and health and compiled functions are shared.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    TEMP=/runs \
    TORCHINDUCTOR_CACHE_DIR=/dev/shm/torchinductor \
    MPLCONFIGDIR=/dev/shm/matplotlib \
    NUMBA_CACHE_LOCATOR_CLASSES=training.numba_cache.PrivateCopyLocator \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SEQUENCE_HEARTBEAT=/dev/shm/sequence-runner.heartbeat
# ./data and ./runs are /data and /runs
WORKDIR /
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m --retries=3 \
    CMD test $(($(date +%s) - $(stat -c %Y "$SEQUENCE_HEARTBEAT.$(uname -n)" || echo 0))) -lt 300
ENTRYPOINT ["tini", "--", "sequence-runner"]
CMD ["--help"]
COPY --from=code /out /
# of the build, not of what is built: they change no layer
ARG VERSION=0.4.0
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="sequence-runner" \
      org.opencontainers.image.description="One command from an OHLCV dataset to a verified, reproducible trading-agent report" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
