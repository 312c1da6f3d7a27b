# Tasks of the house; `just --list` shows them.

# What continuous integration asks for: format, lints, tests, documentation
check: fmt clippy test doc

fmt:
    cargo fmt --check

clippy:
    cargo clippy --all-targets -- -D warnings

# All tests, or those whose name holds NAME
test NAME='':
    cargo test {{ NAME }}

doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps

# Write anew what tests expect of testdata, and review inline snapshots (needs cargo-insta)
snap:
    UPDATE_TESTDATA=1 cargo test --lib parser
    UPDATE_TESTDATA=1 cargo test --test it refusals
    git diff testdata
    cargo insta test --review

# Fuzz a target of fuzz/fuzz_targets until it fails or SECONDS are over (needs cargo-fuzz and a nightly compiler)
fuzz NAME SECONDS='60':
    cargo +nightly fuzz run {{ NAME }} -- -max_total_time={{ SECONDS }}

# Time the example: a build from nothing, then one that changes nothing
bench:
    cargo bench --bench parse --bench layers
    cargo build --release
    rm -rf target/bench
    bash -c 'time target/release/mica --root target/bench build -q --build-context mica=target/release examples/hello'
    bash -c 'time target/release/mica --root target/bench build -q --build-context mica=target/release examples/hello'

# Which lines the tests reach (needs cargo-llvm-cov)
cov:
    cargo llvm-cov --open
