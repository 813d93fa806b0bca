# `just` lists what there is. Everything here is one or two plain commands: read them if you have no `just`.

compat := "broker/tests/compat"
target := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# List the targets
default:
    @just --list

# A broker on 127.0.0.1:9092 with a directory as its bucket
up *ARGS:
    cargo run -p tidemark-broker --bin tidemark -- dev {{ARGS}}

# All tests
test:
    cargo test

# Tests whose name contains NAME, with their output
one NAME:
    cargo test {{NAME}} -- --nocapture

# Formatting and lints, as CI has them
lint:
    cargo fmt --all --check
    cargo lint

# What CI runs; STEPS: format lint tests store model sim smoke-dir smoke-s3
ci *STEPS:
    .ci/run {{STEPS}}

# The commit protocol's models: both CI lists
model:
    cargo run --release -p tidemodel --bin tidemodel -- ci
    cargo run --release -p tidemodel --bin election -- ci

# Real clients (confluent, franz-go, java, tools) against a directory or S3
compat BUCKET="dir" CLIENTS="confluent,franz-go,java,tools":
    cargo build --bins
    python3 {{compat}}/smoke.py --tidemark {{target}}/debug/tidemark --bucket {{BUCKET}} --clients {{CLIENTS}}

# kill -9 rounds under load; ARGS as of chaos.py, e.g. `--bucket s3 --brokers 2`
chaos ROUNDS="10" *ARGS="":
    cargo build --bins
    python3 {{compat}}/chaos.py --tidemark {{target}}/debug/tidemark --bench {{target}}/debug/tidemark-bench --rounds {{ROUNDS}} {{ARGS}}

# The store suite on a real S3 server
conform:
    python3 {{compat}}/world.py s3 cargo test --test store_conformance -- --nocapture

# Load, raw store and fault proxy: `just bench produce --bootstrap 127.0.0.1:9092`
bench *ARGS:
    cargo run --release -p tidemark-bench -- {{ARGS}}

# Any object of a bucket as text
dump *ARGS:
    cargo run -p tidemark-broker --bin tidemark -- dump {{ARGS}}
