# syntax=docker/dockerfile:1
#
#   docker build -t stochx .                       CPU
#   docker build -t stochx:cuda --target cuda .    NVIDIA GPUs; run it with --gpus all
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v stochx-cache:/cache stochx explain img.jpg

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS wheel
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /source

FROM python:${PYTHON}-slim AS base
# Any user may write what is downloaded and cached; a volume keeps it.
ENV MPLCONFIGDIR=/cache/matplotlib \
    HF_HOME=/cache/huggingface \
    TORCH_HOME=/cache/torch \
    XDG_CACHE_HOME=/cache
RUN mkdir --mode 1777 /cache /work
COPY --from=wheel /wheel /wheel
WORKDIR /work
ENTRYPOINT ["stochx"]
CMD ["--help"]

FROM base AS cuda
# The package index has PyTorch with its CUDA libraries; the host brings the driver.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir /wheel/*.whl
USER 1000:1000

FROM base AS cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir /wheel/*.whl
USER 1000:1000
