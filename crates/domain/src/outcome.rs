//! What changed, as the platform is told it: the types of the records on the topic of outcomes.

use crate::words::words;

words!(
    /// The type of an outcome. Where it is about an Item, its businesses are told it as well.
    Outcome {
        ItemState => "rekey.item.state_changed",
        ItemToken => "rekey.item.token_changed",
        ItemTokenRejected => "rekey.item.token_rejected",
        PushRefused => "rekey.item.push_refused",
        ItemEnds => "rekey.item.access_ends",
        Account => "rekey.account.changed",
        ListAccepted => "rekey.business.list_accepted",
        VerdictChanged => "rekey.business.verdict_changed",
        BusinessHeld => "rekey.business.held",
        Parked => "rekey.parked",
        Drift => "rekey.business.drift",
        /// Observe mode: what would be done.
        Would => "rekey.business.plan",
    }
);
