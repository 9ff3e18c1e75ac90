# syntax=docker/dockerfile:1

# A static binary on an image that holds nothing else but certificates and a user: no shell, no package manager.
# Dependencies are built in a layer of their own, which only Cargo.toml and Cargo.lock can change.
# The sandbox (`demo`, `sandbox`) is left out. Configuration comes as a mounted file or from the environment.
#
#   docker build --build-arg DYNAFERRY_REVISION="$(git rev-parse HEAD)" -t dynaferry .
#   docker run --read-only --cap-drop ALL -v "$PWD/dynaferry.toml:/etc/dynaferry/dynaferry.toml:ro" -v state:/var/lib/dynaferry dynaferry

# For a registry of your own, name your copies of them: --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=…
# On Alpine, Rust's own target is musl, which makes the binary static.
ARG BUILD_IMAGE=lukemathwalker/cargo-chef:0.1.77-rust-1.95.0-alpine3.23
ARG RUNTIME_IMAGE=gcr.io/distroless/static-debian13:nonroot@sha256:e2e927ec666bae08560abb3c55d0659eceabb657f56b6782ab500a9fc7f555e3

FROM ${BUILD_IMAGE} AS chef
# For aws-lc, the cryptography under TLS. The tag above says which versions there are.
# hadolint ignore=DL3018
RUN apk add --no-cache cmake make musl-dev perl
WORKDIR /src

FROM chef AS plan
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN cargo chef prepare --recipe-path recipe.json --bin dynaferry

FROM chef AS build
ENV CARGO_PROFILE_RELEASE_LTO=thin
COPY --from=plan /src/recipe.json .
RUN cargo chef cook --release --locked --no-default-features --bin dynaferry --recipe-path recipe.json
COPY Cargo.toml Cargo.lock ./
COPY src src
ARG DYNAFERRY_REVISION=""
# Without line tables, three quarters of the file; backtraces still name functions, and a panic its line.
RUN DYNAFERRY_REVISION="$DYNAFERRY_REVISION" cargo build --release --locked --no-default-features --bin dynaferry \
    && strip --strip-debug target/release/dynaferry \
    && mkdir -p /state

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/dynaferry /dynaferry
# The one place that is written: checkpoint.store = "file:/var/lib/dynaferry/state.redb"
COPY --from=build --chown=65532:65532 /state /var/lib/dynaferry
RUN ["/dynaferry", "version"]
USER 65532:65532
WORKDIR /var/lib/dynaferry
VOLUME /var/lib/dynaferry
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["/dynaferry", "healthcheck"]
ENTRYPOINT ["/dynaferry"]
CMD ["run"]
