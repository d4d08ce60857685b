# docker build -t dwcp-manager:2.0 -f deployments/docker/dwcp-manager.Dockerfile .
# Two stages of one base, because the virtual environment points at the interpreter that made it.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
RUN python3 -m venv /opt/dwcp/venv
# the dependencies alone first: this layer is kept while only the program changes
COPY requirements/run.lock requirements/run.lock
RUN /opt/dwcp/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/dwcp/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && /opt/dwcp/venv/bin/pip uninstall --yes --quiet hatchling editables pip \
    && mkdir -p /opt/dwcp/bin \
    && ln -s ../venv/bin/dwcp ../venv/bin/dwcp-manager /opt/dwcp/bin/

FROM ${BASE}
# a number, so that Kubernetes can tell that it is not root
RUN groupadd --system --gid 10001 dwcp \
    && useradd --system --uid 10001 --gid dwcp --home-dir /var/lib/dwcp --shell /bin/false dwcp \
    && mkdir -p /etc/dwcp /var/lib/dwcp /srv/dwcp \
    && chown dwcp:dwcp /var/lib/dwcp /srv/dwcp
COPY --from=build /opt/dwcp /opt/dwcp
ENV PATH=/opt/dwcp/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/dwcp
USER 10001:10001
VOLUME ["/var/lib/dwcp", "/srv/dwcp"]
EXPOSE 9000 8080 8443
STOPSIGNAL SIGTERM
# asks the manager of this configuration over HTTP, wherever it listens
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 CMD ["dwcp", "status", "--config", "/etc/dwcp/config.yaml"]
ENTRYPOINT ["dwcp-manager"]
CMD ["--config", "/etc/dwcp/config.yaml"]
