//! What a provider's refusal means for the work at hand.

use crate::words::words;
use std::time::Duration;

words!(
    /// The two providers whose work can be paused.
    Provider { Plaid => "plaid", Layer => "layer" }
);

words!(
    /// The calls that Rekey makes, by their paths. Plaid's are all POST.
    Endpoint {
        ItemGet => "/item/get",
        AccountsGet => "/accounts/get",
        ProcessorTokenCreate => "/processor/token/create",
        ProcessorTokenPermissionsGet => "/processor/token/permissions/get",
        WebhookVerificationKeyGet => "/webhook_verification_key/get",
        /// Layer's bearer token.
        Oauth2Token => "/oauth2/token",
        Whoami => "GET /whoami",
        FindBusiness => "GET /v1/businesses",
        GetBusiness => "GET /v1/businesses/{id}",
        CreateBusiness => "POST /v1/businesses",
        ListPlaidAccounts => "GET /v1/businesses/{id}/plaid/accounts",
        UpdateBusiness => "PUT /v1/businesses/{id}",
    }
);

words!(
    /// What a provider's answer meant, for metrics. Not the provider's own code: those are open enums and would grow the
    /// series without end.
    Answered {
        Ok => "ok",
        UserMustAct => "user_must_act",
        NotReady => "not_ready",
        NoAccounts => "no_accounts",
        InstitutionGone => "institution_gone",
        ItemGone => "item_gone",
        UnknownToken => "unknown_token",
        UnknownAccount => "unknown_account",
        UnknownProcessorToken => "unknown_processor_token",
        UnknownKey => "unknown_key",
        NotSupported => "not_supported",
        Unknown => "unknown",
        NoSuchBusiness => "no_such_business",
        RefusedContent => "refused_content",
        Retry => "retry",
        SlowDown => "slow_down",
        Suspect => "suspect",
        Park => "park",
    }
);

/// The answer to the only question a caller has about a fault: what next?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Passing: try again, not before `after` when the provider named a time.
    Retry { after: Option<Duration> },
    /// More calls than the provider allows: everybody calls less often, and this row tries again.
    SlowDown { after: Option<Duration> },
    /// Credentials or configuration are refused. Whether that is the provider or this row alone is decided by a
    /// probe and by how many unrelated rows agree (I4).
    Suspect,
    /// Nobody knows what it means: tried again ever more slowly, up to hours.
    Slowly,
    /// This row alone can't be done, and trying again would change nothing.
    Park,
}

impl Next {
    /// What the answer meant that this follows from.
    pub fn answered(&self) -> Answered {
        match self {
            Self::Retry { .. } => Answered::Retry,
            Self::SlowDown { .. } => Answered::SlowDown,
            Self::Suspect => Answered::Suspect,
            Self::Slowly => Answered::Unknown,
            Self::Park => Answered::Park,
        }
    }
}

/// Several unrelated rows agree that the provider, not the row, is refused.
///
/// `distinct_rows` counts the rows refused for the same fault within the window, this one included.
pub fn provider_is_at_fault(probe_refused: Option<bool>, distinct_rows: u64, agree: u64) -> bool {
    probe_refused == Some(true) || distinct_rows >= agree
}

/// An error with its causes, for one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i4_one_row_never_pauses_the_fleet_and_one_broken_credential_never_parks_it() {
        let table = [
            ("probe refused: the provider", Some(true), 1, true),
            ("probe answered: the row alone", Some(false), 1, false),
            ("no probe: the row alone", None, 2, false),
            ("several rows agree against the probe", Some(false), 3, true),
            ("several rows agree", None, 3, true),
        ];
        for (claim, probe, rows, paused) in table {
            assert_eq!(provider_is_at_fault(probe, rows, 3), paused, "{claim}");
        }
    }

    #[test]
    fn an_error_names_its_causes_down_to_the_first() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layered(&'static str, #[source] Option<Box<Layered>>);
        let error = Layered("no list", Some(Box::new(Layered("no answer", Some(Box::new(Layered("no route", None)))))));
        assert_eq!(chain(&error), "no list: no answer: no route");
        let repeated = Layered("no list: no answer", Some(Box::new(Layered("no answer", None))));
        assert_eq!(chain(&repeated), "no list: no answer");
    }
}
