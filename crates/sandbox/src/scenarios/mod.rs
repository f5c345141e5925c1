//! What only tests make happen and ask: behind the feature `scenarios`, so that the sandbox that is shipped has none of it.

mod events;
mod moment;
mod queries;

pub use moment::Moment;
pub use queries::Listed;
