# mailspan as a container image: one program, all stages; the command says which (`mailspan reduce`).
#
# The first stage builds an environment of exactly the versions in requirements/run.lock, each checked by its hash. The
# last one is the base image, that environment without pip and setuptools, and a user that owns nothing but its state
# folder: the rest may be mounted read-only. Any base with Python 3.11 or newer and its venv module will do.
ARG BASE_IMAGE=python:3.13.15-slim-trixie

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/mailspan
# First what changes seldom. Wheels only: no compiler is here, and none is wanted.
COPY requirements/run.lock requirements/
RUN /opt/mailspan/bin/python -m pip install --require-hashes --only-binary :all: --requirement requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY mailspan mailspan
COPY producers producers
COPY reducer reducer
COPY sink sink
COPY search search
COPY web web
RUN /opt/mailspan/bin/python -m pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /dist . \
    && /opt/mailspan/bin/python -m pip install --no-deps --no-index /dist/mailspan-*.whl \
    && /opt/mailspan/bin/python -m pip uninstall --yes setuptools pip \
    && /opt/mailspan/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/mailspan/lib

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="mailspan" \
      org.opencontainers.image.description="Turns the mail logs of a fleet of servers into searchable transactions." \
      org.opencontainers.image.licenses="Apache-2.0"
# What the base has of pip is not needed either.
RUN rm -rf /usr/local/lib/python3.*/site-packages/pip /usr/local/lib/python3.*/site-packages/pip-*.dist-info \
        /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip* \
    && groupadd --gid 10001 mailspan \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/mailspan --shell /usr/sbin/nologin mailspan \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/mailspan
COPY --from=build /opt/mailspan /opt/mailspan
ENV PATH=/opt/mailspan/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8 \
    HOME=/var/lib/mailspan \
    MAILSPAN_STATE_DIR=/var/lib/mailspan
WORKDIR /var/lib/mailspan
VOLUME /var/lib/mailspan
# A number, so that Kubernetes sees that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["mailspan"]
CMD ["--help"]
