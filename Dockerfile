# An image for each service, and one for migrations, audit and replay. `make images` builds all of
# them (docs/images.md).

ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
COPY requirements/product.lock /
# Babel has a thousand locales, with 35 MB. Only those of notifications/letters are kept.
# The secrets are pip's settings for a private package index. No layer contains them.
RUN --mount=type=secret,id=pip-conf,target=/etc/pip.conf --mount=type=secret,id=pip-ca,target=/etc/pip-ca.pem \
    python3 -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --no-compile --require-hashes -r /product.lock \
    && /venv/bin/python -m pip uninstall --yes pip \
    && find /venv -type d \( -name tests -o -path "*/sqlalchemy/testing" -o -path "*/alembic/testing" \) \
    -prune -exec rm -r {} + \
    && find /venv -type f \( -name "*.[ch]" -o -name "*.[ch]pp" -o -name "*.pyi" \) -delete \
    && find /venv -path "*/babel/locale-data/*.dat" \
    ! -name root.dat ! -name en.dat ! -name ru.dat -delete \
    && /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /venv/lib
WORKDIR /app
COPY . .
# All users can read the files, with any umask of the checkout. The code is compiled here, because
# containers are read-only.
RUN chmod -R u=rwX,go=rX . \
    && /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash .

FROM ${BASE} AS runtime
ARG BASE
LABEL org.opencontainers.image.base.name="${BASE}" \
    org.opencontainers.image.licenses="Apache-2.0"
# `::` is all interfaces of IPv6 and IPv4, or only of IPv4 if the kernel has no IPv6.
# Each line of the log is JSON. Python's warnings, which are for developers, are not.
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONWARNINGS=ignore \
    GATEWAY_HOST=:: \
    GATEWAY_PORT=8000 \
    HEALTH_HOST=:: \
    HEALTH_PORT=8001 \
    LOG_FORMAT=json
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app/config.yaml /app/LICENSE /app/NOTICE ./
COPY --from=build /app/chassis chassis
EXPOSE 8001
USER 10001:10001

FROM runtime AS users
LABEL org.opencontainers.image.title="user-service-07"
COPY --from=build /app/users users
CMD ["nameko", "run", "--config", "config.yaml", "users.service"]

FROM runtime AS billing
LABEL org.opencontainers.image.title="billing-service-07"
COPY --from=build /app/billing billing
CMD ["nameko", "run", "--config", "config.yaml", "billing.service"]

FROM runtime AS orders
LABEL org.opencontainers.image.title="order-service-07"
COPY --from=build /app/orders orders
CMD ["nameko", "run", "--config", "config.yaml", "orders.service"]

FROM runtime AS notifications
LABEL org.opencontainers.image.title="notification-service-07"
COPY --from=build /app/notifications notifications
CMD ["nameko", "run", "--config", "config.yaml", "notifications.service"]

FROM runtime AS gateway
LABEL org.opencontainers.image.title="gateway-service-07"
COPY --from=build /app/gateway gateway
EXPOSE 8000
CMD ["nameko", "run", "--config", "config.yaml", "gateway.service"]

FROM runtime AS migrations
LABEL org.opencontainers.image.title="migrations-07"
COPY --from=build /app/users users
COPY --from=build /app/billing billing
COPY --from=build /app/orders orders
COPY --from=build /app/notifications notifications
COPY --from=build /app/audit audit
COPY --from=build /app/replay replay
CMD ["python", "-m", "chassis.migrate"]
