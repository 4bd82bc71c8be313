# A service of a trained model.
#
#   docker build --tag official-maskrcnn .
#   docker build --tag official-maskrcnn:gpu --build-arg BASE=nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04 .
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume $PWD/runs/nuts:/model:ro official-maskrcnn
#
# The base has Python 3.11 or 3.12, or is a Debian or Ubuntu that offers it. TensorFlow's package for
# CPUs is the one for GPUs; it finds CUDA 12 and cuDNN 9 if the base has them.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# hadolint ignore=DL3008
RUN python3 -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
    || { apt-get update \
        && apt-get install --yes --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; }

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
WORKDIR /src
COPY requirements-lock.txt pyproject.toml README.md LICENSE ./
COPY official_maskrcnn ./official_maskrcnn
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --constraint requirements-lock.txt '.[serve]' \
    && python -m compileall -q /opt/venv/lib/python3*/site-packages/official_maskrcnn

RUN useradd --create-home --uid 10001 serve
USER 10001
WORKDIR /home/serve
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["official-maskrcnn"]
CMD ["serve", "--model", "/model", "--name", "model", "--host", "0.0.0.0"]
