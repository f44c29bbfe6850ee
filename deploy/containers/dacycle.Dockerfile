# The image of dacycle: every command, Prefect's server and its worker. From the repository's root:
#
#     docker build --file deploy/containers/dacycle.Dockerfile --tag dacycle:cpu .
#     docker build --file deploy/containers/dacycle.Dockerfile --tag dacycle:gpu --build-arg VARIANT=gpu .
#
# The GPU image also holds NVIDIA's CUDA and cuDNN as Python packages; its host needs the driver and NVIDIA's container
# toolkit. Both run as the user `dacycle` (1000) in /var/lib/dacycle, which is the folder for experiments and archives.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG VARIANT=cpu
WORKDIR /source
RUN python -m venv /opt/dacycle
ENV PATH=/opt/dacycle/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock ./
RUN pip install --requirement requirements.lock \
    && case "$VARIANT" in \
         cpu) ;; \
         gpu) pip install "onnxruntime-gpu[cuda,cudnn]==$(sed -n 's/^onnxruntime-gpu==//p' requirements.lock)" ;; \
         *) echo "VARIANT is cpu or gpu, not $VARIANT" >&2; exit 1 ;; \
       esac
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY cycler cycler
COPY assimilators assimilators
COPY obs_ingest obs_ingest
COPY forecast_adapter forecast_adapter
COPY deploy deploy
RUN pip install --no-deps --no-build-isolation .

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="dacycle" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --create-home dacycle \
    && install --directory --owner=dacycle --group=dacycle /var/lib/dacycle /var/lib/prefect
COPY --from=build /opt/dacycle /opt/dacycle
ENV PATH=/opt/dacycle/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    MALLOC_MMAP_THRESHOLD_=4194304 \
    DO_NOT_TRACK=1 \
    PREFECT_HOME=/var/lib/prefect
USER 1000
WORKDIR /var/lib/dacycle
CMD ["dacycle", "--help"]
