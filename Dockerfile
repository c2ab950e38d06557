# sequence-runner with everything it needs but the GPU driver, which the container runtime mounts.
#
#   DOCKER_BUILDKIT=1 docker build -t sequence-runner .
#
# TORCH_INDEX: address of one of PyTorch's wheel indexes, whose last part names the build: .../whl/cpu (no CUDA, about
# 4 GB less), .../whl/cu126 (older drivers). Empty: the default index, whose torch brings the CUDA it was built with.

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

FROM base AS code
WORKDIR /opt/sequence-runner
COPY . .
RUN python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-build-isolation -e . \
    && rm -rf *.egg-info \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash configs training ppo runner \
    && mkdir /out && cd / \
    && tar -c opt/sequence-runner opt/venv/bin/sequence-runner opt/venv/lib/python3.11/site-packages/*sequence_runner* \
    | tar -x -C /out

FROM base
RUN mkdir -m 1777 /runs && mkdir -p /data
WORKDIR /
# temporary files go to the first of these two that can be written: with --read-only and no --tmpfs /tmp, to the volume
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    TEMP=/runs \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=code /out /
ENTRYPOINT ["tini", "--", "sequence-runner"]
CMD ["--help"]
