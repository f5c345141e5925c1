//! Configuration, wiring of the roles, command line. The only crate that reads configuration.

pub mod cli;
pub mod config;
pub mod demo;
pub mod local;
pub mod logs;
mod metrics;
pub mod process;
mod waiting;
pub mod wiring;
