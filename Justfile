# Each recipe is one line; what it does lies in the file that it calls.

# a server and five simulated devices on this machine
demo *ARGS:
    cargo demo -- {{ARGS}}

# what a commit must pass, without the long suites
check:
    cargo clippy --workspace --all-targets -- -D warnings && cargo test --package wayside-tests --test tidy

test *ARGS:
    cargo test --workspace {{ARGS}}

# seeds of the simulated fleet in four kinds of trouble
sim *ARGS:
    cargo run --quiet --package wayside-tests --bin sim -- {{ARGS}}

# known bugs, planted one by one: each must turn its test red
planted:
    .ci/planted

# what any bytes from outside may do, each target for so many seconds; needs nightly and `cargo install cargo-fuzz`
fuzz SECONDS="60":
    cd common && for target in $(cargo +nightly fuzz list); do cargo +nightly fuzz run "$target" -- -max_total_time={{SECONDS}} -max_len=65536 || exit 1; done

# the committed samples of the wire, written anew: only before a format is released
samples:
    cargo run --package wayside-common --example v1_samples

# figures with their peers: wire …
bench *ARGS:
    cargo bench-wayside {{ARGS}}

# the demo's scenarios, headless and checked
e2e:
    .ci/run demo

# an agent for another architecture, from Debian packages alone
cross-local TARGET:
    cross/local {{TARGET}}

docs:
    cargo doc --workspace --no-deps
