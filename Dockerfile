# docker build -t viewproof . && docker run --rm -v "$PWD:/work" viewproof watch train.py
FROM python:3.11-slim
WORKDIR /opt/viewproof
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[all]' \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /work
ENTRYPOINT ["viewproof"]
CMD ["--help"]
