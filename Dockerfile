# The consumer and its commands, for docker-compose.yml and as a start for your own image.
FROM python:3.13-slim

RUN useradd --system --home-dir /app --shell /usr/sbin/nologin outbox
WORKDIR /app

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir '.[binary]'

# Handlers are named as module:function, and looked for here.
COPY examples ./examples
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1

USER outbox
ENTRYPOINT ["pgcdc-outbox"]
