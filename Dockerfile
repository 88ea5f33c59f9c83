# The proxy alone: engines are never needed to serve. The RUN steps are the README's own commands.
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/parity \
 && /opt/parity/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
 && /opt/parity/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/parity parity
COPY --from=build /opt/parity /opt/parity
USER parity
WORKDIR /var/lib/parity
VOLUME /var/lib/parity
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["/opt/parity/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/healthz', timeout=2)"]
ENTRYPOINT ["/opt/parity/bin/parity"]
CMD ["serve", "--config", "/etc/parity/parity.toml"]
