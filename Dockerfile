# The example application and its workers in one image; what a container does is said by its command.

FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE ./
COPY cqrs_fastapi ./cqrs_fastapi
# The wheel is what a release would be: an image built of it shows that no file was left out.
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /venv/bin/pip install --no-cache-dir /wheels/*.whl

FROM python:3.11-slim
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin cqrs
COPY --from=build /venv /venv
WORKDIR /srv
COPY alembic.ini app.py ./
COPY alembic ./alembic
COPY example_app ./example_app
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
# The web application and every worker answer the same path on the same port.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=3)"]
# One process; the exec form hands SIGTERM to it, upon which it drains.
CMD ["uvicorn", "app:app", "--host", "0.0.0.0", "--port", "8000"]
