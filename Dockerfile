# docker build -t viewproof . && docker run --rm -v "$PWD:/work" viewproof watch train.py
FROM python:3.11-slim
WORKDIR /opt/viewproof
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# torch's own index has wheels without CUDA, which are a tenth of the size; pass --build-arg TORCH_INDEX= for CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch; fi \
    && pip install --no-cache-dir -c constraints.txt '.[all]' \
    && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["viewproof"]
CMD ["--help"]
