# The server, and nothing to build with. docs/deploy/container.md says how to build, check and run it.
#
# A tag can be moved, a digest cannot: a release passes PYTHON_DIGEST=@sha256:… of that very tag.
ARG PYTHON_IMAGE=python:3.11.14-slim-trixie
ARG PYTHON_DIGEST=

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements-image.lock requirements-build.lock ./
# Two environments: what builds the wheel never comes near the one that is shipped.
RUN python -m venv /build && python -m venv --without-pip /opt/mcp-ops
RUN /build/bin/python -m pip install --require-hashes --only-binary :all: \
    --requirement requirements-build.lock
RUN /build/bin/python -m pip --python /opt/mcp-ops/bin/python install --require-hashes \
    --only-binary :all: --requirement requirements-image.lock
COPY pyproject.toml README.md ./
COPY mcp_ops mcp_ops
RUN /build/bin/python -m hatchling build --target wheel --directory /build/wheel
RUN /build/bin/python -m pip --python /opt/mcp-ops/bin/python install --no-deps --no-index \
    --find-links /build/wheel mcp-ops
RUN mkdir -p /state/mcp-ops

FROM ${PYTHON_IMAGE}${PYTHON_DIGEST}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="mcp-ops" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base image's own installer has nothing to do here.
RUN python -m pip uninstall --yes --root-user-action=ignore pip
COPY --from=build /opt/mcp-ops /opt/mcp-ops
COPY --from=build --chown=10001:10001 /state/mcp-ops /var/lib/mcp-ops
# The file system may be read-only: only the state and, for client certificates of kubeconfigs,
# the folder for temporary files are written to.
ENV PATH=/opt/mcp-ops/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/mcp-ops \
    MCP_OPS_STATE_DIR=/var/lib/mcp-ops \
    MCP_TRANSPORT=http \
    MCP_OPS_HOST=0.0.0.0
VOLUME ["/var/lib/mcp-ops"]
EXPOSE 8000
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/mcp-ops
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/health/live' % (os.environ.get('PORT') or os.environ.get('WEBSITES_PORT') or 8000), timeout=4)"]
ENTRYPOINT ["mcp-ops"]
CMD ["serve"]
