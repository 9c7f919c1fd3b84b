# ragsocket with nothing beside it: no compiler, no root, state in one volume.
#
#   docker build -t ragsocket . && docker compose up
#
# REQUIREMENTS=base leaves out what runs a model and embeds on this machine.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG REQUIREMENTS=run
WORKDIR /build
COPY requirements requirements
RUN python3 -m venv /opt/ragsocket \
 && /opt/ragsocket/bin/pip install --no-cache-dir --require-hashes -r requirements/${REQUIREMENTS}.txt \
 && python3 -m venv tools \
 && tools/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY clients/python clients/python
RUN tools/bin/python -m hatchling build --target wheel \
 && /opt/ragsocket/bin/pip install --no-cache-dir --no-deps dist/*.whl

FROM ${BASE}
# What runs a model here computes with OpenMP.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin ragsocket \
 && install -d -o ragsocket -g ragsocket /data /state
COPY --from=build /opt/ragsocket /opt/ragsocket
ENV PATH=/opt/ragsocket/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAGSOCKET_DATA=/data \
    RAGSOCKET_STATE_DIR=/state \
    RAGSOCKET_MODELS_DIR=/state/models
# Where a relative path would be looked for, and ragsocket.toml if one is mounted there.
WORKDIR /state
USER ragsocket
VOLUME /state
EXPOSE 8000
STOPSIGNAL SIGTERM
# The first start may fetch a model, and is well as soon as it is ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["ragsocket"]
CMD ["serve"]
