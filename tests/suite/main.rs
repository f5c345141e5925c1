//! The whole system's tests: one binary, cases in parallel, each on embedded and on real parts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on panics")]

/// Makes two tests of each story: one on embedded parts, one on Apache Kafka and PostgreSQL.
macro_rules! stories {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                super::$name(tests::Parts::Embedded).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn real() {
                super::$name(tests::Parts::Real).await;
            }
        })+
    };
}

mod account_stories;
mod api;
mod attack_stories;
mod budget_stories;
mod business_stories;
mod database_stories;
mod disk_stories;
mod documents;
mod fault_stories;
mod fleet_stories;
mod hostile;
mod item_stories;
mod kafka_rights;
mod kafka_stories;
mod layer_stories;
mod metrics;
mod plaid_stories;
mod process_stories;
mod push_stories;
mod receiver;
mod rolling_stories;
mod rotation_stories;
mod secrecy;
mod store_suite;
mod switches;
mod tls;
mod trace_stories;
mod verdict_stories;
