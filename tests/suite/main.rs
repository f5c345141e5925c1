//! The whole system's tests: one binary, cases in parallel. Stories run twice, on embedded parts and on real ones; the latter
//! need `tests/with-servers`. `i8_` in a name is the guarantee of crates/README.md that the story is about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on panics")]

/// Makes two tests of each function: one on embedded parts, one on Apache Kafka and PostgreSQL.
macro_rules! on_both_parts {
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

/// Makes two tests of each story, with a world in which Rekey runs in every role, and ends that world: every list exact, no
/// invariant violated, nothing left waiting. For a story that is about the likely answers of the providers, `on likely`; for
/// one after which somebody still has to look, `ending parked`; with settings of its own, `in "…"`.
macro_rules! stories {
    ($($name:ident $(on $likely:ident)? $(ending $parked:ident)? $(in $settings:literal)?),+ $(,)?) => {
        $(mod $name {
            async fn on(parts: tests::Parts) {
                let settings = concat!("", $($settings)?);
                let world = stories!(@start parts, settings $(, $likely)?);
                super::$name(&world).await;
                stories!(@end world $(, $parked)?);
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                on(tests::Parts::Embedded).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn real() {
                on(tests::Parts::Real).await;
            }
        })+
    };
    (@start $parts:expr, $settings:expr) => {tests::World::start($parts, $settings).await};
    (@start $parts:expr, $settings:expr, likely) => {tests::World::likely($parts, $settings).await};
    (@end $world:expr) => {$world.end().await};
    (@end $world:expr, parked) => {$world.end_with_parked().await};
}

mod account_stories;
mod act_stories;
mod api;
mod attack_stories;
mod batch_stories;
mod budget_stories;
mod business_stories;
mod database_stories;
mod disk_stories;
mod documents;
mod explain_stories;
mod fault_stories;
mod fleet_stories;
mod hostile;
mod item_stories;
mod kafka_rights;
mod kafka_stories;
mod layer_stories;
mod metrics;
mod page_stories;
mod plaid_stories;
mod plan_stories;
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
