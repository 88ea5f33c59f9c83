# The proxy alone: engines are never needed to serve. Each RUN step is a command of README.md or deploy/README.md, word
# for word (tests/unit/test_deploy_image.py).
#
#   docker build -t parity-proxy:0.1.0 .
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.lock .
RUN python3 -m venv /opt/parity
RUN /opt/parity/bin/pip install --require-hashes -r requirements.lock
COPY . .
RUN /opt/parity/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home --key HOME_MODE=0700 --home-dir /var/lib/parity --shell /usr/sbin/nologin parity
COPY --from=build /opt/parity /opt/parity
ENV PATH=/opt/parity/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 10001:10001
WORKDIR /var/lib/parity
VOLUME /var/lib/parity
EXPOSE 8080 9090
# Healthy: the relay's event loop hangs up on who hangs up. That asks no engine, speaks no HTTP, so it holds under TLS too,
# and says nothing of the monitor: whoever restarts what is unhealthy must never restart clients for the monitor's sake.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["/opt/parity/bin/python", "-I", "-S", "-c", "import socket; s = socket.create_connection(('127.0.0.1', 8080), 3); s.shutdown(socket.SHUT_WR); s.recv(1)"]
ENTRYPOINT ["/opt/parity/bin/parity"]
CMD ["serve", "--config", "/etc/parity/parity.toml"]
