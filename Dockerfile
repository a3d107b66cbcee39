# docker build -t viewproof . && docker run --rm -v "$PWD:/work" viewproof watch train.py
FROM python:3.11-slim
WORKDIR /opt/viewproof
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# --build-arg TORCH_INDEX=URL: an index of wheels of torch without CUDA, which are a tenth of the size.
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch; fi \
    && pip install --no-cache-dir -c constraints.txt '.[all]' \
    && useradd --create-home user
USER user
WORKDIR /work
ENTRYPOINT ["viewproof"]
CMD ["--help"]
