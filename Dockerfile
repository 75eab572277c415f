# The worker's image: no server, no tests, no root.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements-worker.lock pyproject.toml README.md ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements-worker.lock
COPY worker worker
COPY jobs jobs
COPY db db
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
COPY --from=build /venv /venv
RUN useradd --system --no-create-home lowtide
USER lowtide
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
# SIGTERM ends the open batch and hands the runs back; the default grace of 10 s is twice what that takes.
STOPSIGNAL SIGTERM
ENTRYPOINT ["lowtide"]
CMD ["worker"]
