//! How far a change came, for a caller that waits for it: read from the verdicts and nothing else.

use domain::verdict::State;
use store::Judged;

/// How far a change came.
pub(crate) struct Stand {
    /// The reconciliation that saw the change has ended.
    pub(crate) served: bool,
    pub(crate) judged: Vec<Judged>,
}

impl Stand {
    pub(crate) fn converged(&self) -> bool {
        self.served && self.judged.iter().all(|j| j.verdict.state.is_good())
    }

    /// Layer took everything, as far as it shows.
    pub(crate) fn is_accepted(&self) -> bool {
        let accepted = |state: State| state.is_good() || state == State::Unverified;
        self.served && self.judged.iter().all(|j| accepted(j.verdict.state))
    }

    pub(crate) fn blocked(&self) -> Vec<String> {
        let stuck = self.judged.iter().filter(|j| is_stuck(j.verdict.state));
        let told = stuck.map(|Judged { subject, verdict, .. }| {
            format!("{} {} is {}: {}", subject.kind(), subject.id(), verdict.state, verdict.sentence())
        });
        told.collect()
    }

    /// Waiting on can bring something.
    pub(crate) fn is_under_way(&self) -> bool {
        let is_stuck = self.judged.iter().any(|j| is_stuck(j.verdict.state));
        let is_converging = self.judged.iter().any(|j| j.verdict.state == State::Converging);
        !self.is_accepted() && (is_converging || !is_stuck)
    }
}

/// Somebody must act, or much time must pass.
fn is_stuck(state: State) -> bool {
    match state {
        State::Converged | State::Empty | State::Gone | State::Converging | State::Unverified | State::Unknown => false,
        State::Partly
        | State::Refused
        | State::AwaitingToken
        | State::WaitingForUser
        | State::Unassigned
        | State::ProviderPaused
        | State::Held
        | State::Parked => true,
    }
}
