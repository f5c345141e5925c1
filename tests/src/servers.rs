//! The real servers that `tests/with-servers` started.

use std::str::FromStr;

const HOW: &str = "run the tests through `make test`, which starts Apache Kafka and PostgreSQL";

/// `host:port` of a real Apache Kafka.
pub fn kafka_address() -> String {
    std::env::var("TEST_KAFKA").unwrap_or_else(|_| panic!("TEST_KAFKA is not set: {HOW}"))
}

/// The URL of the same database for a new role that may connect to it and nothing else.
pub async fn role_without_rights(database: &str) -> String {
    let name = format!("r{}", uuid::Uuid::new_v4().simple());
    let options = sqlx::any::AnyConnectOptions::from_str(database).unwrap();
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE ROLE {name} LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC"));
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    let (scheme, rest) = database.split_once("://").unwrap();
    let (_, place) = rest.rsplit_once('@').unwrap();
    format!("{scheme}://{name}@{place}")
}

/// The URL of an empty PostgreSQL database of its own.
pub async fn fresh_database() -> String {
    let server = std::env::var("TEST_POSTGRES").unwrap_or_else(|_| panic!("TEST_POSTGRES is not set: {HOW}"));
    sqlx::any::install_default_drivers();
    let name = format!("t{}", uuid::Uuid::new_v4().simple());
    let options = sqlx::any::AnyConnectOptions::from_str(&server).unwrap();
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    format!("{base}/{name}")
}
