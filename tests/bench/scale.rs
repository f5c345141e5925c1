//! What each statement reads of a small store and of a large one, in pages of PostgreSQL: a figure that no machine changes.

use std::collections::BTreeMap;
use tests::postgres::{Postgres, lend};
use tests::scale::carried_out;

/// The store that the large one is compared with.
const SMALL: u64 = 10_000;

/// Prints for each thing that is done with a store the pages that it takes with 10 000 Items and with `items`.
pub(crate) async fn scale(items: u64) {
    let home = tempfile::Builder::new().prefix("rekey-bench-").tempdir().unwrap();
    lend(home.path());
    let server = Postgres::create(home.path(), home.path().join("postgres.log"));
    server.up().await;
    println!(
        "\n{:<58} {:>10} {:>10} {:>8}",
        format!("pages with {SMALL} and {items} Items, a twentieth of them due"),
        "small",
        "large",
        "ratio"
    );
    let mut small = BTreeMap::new();
    for (name, count) in [("small", SMALL), ("large", items)] {
        let url = server.create_database(name).await;
        let pages = pages(&url, count).await;
        if name == "small" {
            small = pages.into_iter().collect();
            continue;
        }
        for (what, large) in pages {
            let small = small.get(&what).copied().unwrap_or_default();
            println!("{what:<58} {small:>10} {large:>10} {:>7.2}x", large as f64 / small.max(1) as f64);
        }
    }
}

/// In the order in which they were done.
async fn pages(url: &str, items: u64) -> Vec<(String, u64)> {
    let mut found: Vec<(String, u64)> = Vec::new();
    for (what, ran) in carried_out(url, items, items / 20, &[]).await {
        match found.last_mut().filter(|(last, _)| *last == what) {
            Some((_, pages)) => *pages += ran.pages,
            None => found.push((what, ran.pages)),
        }
    }
    found
}
