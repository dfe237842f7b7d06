# The image of scripts/image, for those who build with an engine; scripts/image itself needs none.
#   docker build --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --build-arg NODENS_REVISION=$(git rev-parse HEAD) -t nodens .
# For another architecture than the engine's own: docker buildx build --platform linux/arm64.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG SOURCE_DATE_EPOCH=0
ARG NODENS_REVISION=
ENV SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH NODENS_REVISION=$NODENS_REVISION
# The same tree as in the archive: the binary, its bill of materials, licences.
RUN scripts/image --arch "$(dpkg --print-architecture)" --tree /image

FROM scratch
ARG NODENS_REVISION=
LABEL org.opencontainers.image.title=nodens \
      org.opencontainers.image.description="The DNS server of a Kubernetes node" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=$NODENS_REVISION
COPY --from=build /image/ /
# Root, since no other user can be given capabilities by a pod; all but NET_ADMIN and NET_BIND_SERVICE are given away.
USER 0:0
STOPSIGNAL SIGTERM
ENTRYPOINT ["/nodens"]
