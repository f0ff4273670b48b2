# Two stages: the second holds the binary and nothing that builds.
FROM rust:1-bookworm AS build
# PostgreSQL's own parser is C, and its bindings are made by libclang.
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang libclang-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --home-dir /var/lib/lockstep --create-home lockstep
COPY --from=build /src/target/release/lockstep /usr/local/bin/lockstep
USER lockstep
# The list of active backends is kept here: without a volume a restart asks the backends alone.
VOLUME /var/lib/lockstep
EXPOSE 6432 9632
# The process drains on SIGTERM, which is what `docker stop` sends.
ENTRYPOINT ["lockstep"]
CMD ["proxy", "--config", "/etc/lockstep/lockstep.toml"]
