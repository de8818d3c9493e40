# Cilium's agent, on a root made by mmdebstrap. The build context is laid out by hodei-e2e
# (harness/src/node_image/policy.rs); the chart says what is run.
ARG ROOT
FROM ${ROOT}
COPY files/ /
RUN ln -s clang-16 /usr/bin/clang
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
