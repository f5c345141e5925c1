//! What a process does. Each role scales on its own.

use crate::words::words;

words!(
    /// One part of Rekey, or the sandbox.
    Role {
        /// Takes webhooks in.
        Receiver => "receiver",
        /// Reconciles.
        Consumer => "consumer",
        /// Serves the admin API.
        Console => "console",
        /// Simulates Plaid and Layer.
        Sandbox => "sandbox",
    }
);

impl Role {
    /// Those of `rekey all`.
    pub const ALL_IN_ONE: &'static [Self] = &[Self::Receiver, Self::Consumer, Self::Console];
}
