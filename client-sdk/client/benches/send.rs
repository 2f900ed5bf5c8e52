//! A full send without the network: the text into the outbox, encrypted, everything durable (synchronous FULL), and its acceptance durable too.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kith_client::measure::Sending;
use std::hint::black_box;

fn send(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut sending = Sending::new(folder.path()).expect("two stores");
    let text = "x".repeat(256);
    let mut group = c.benchmark_group("send_256_bytes_with_commits");
    for batch in [1, 8, 64] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("{batch}_at_a_time"), |b| {
            b.iter(|| assert_eq!(sending.send(black_box(batch), black_box(&text)), batch));
        });
    }
    group.finish();
}

criterion_group!(benches, send);
criterion_main!(benches);
