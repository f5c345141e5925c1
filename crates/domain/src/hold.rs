//! Why an operator must look before a list is sent, in words, and what a release would permit (I8).

use crate::permit::{Objection, Permit};
use crate::words::counted;
use crate::work::Code;
use crate::{AccountId, Fingerprint};

/// Why an operator must look before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// The list would lose more than the guard allows without a proof.
    Shrink { without_proof: Vec<AccountId> },
    /// The list would become empty although nobody proved every account gone: what it would lose.
    Empty { accounts: Vec<AccountId>, discarded: Vec<Fingerprint> },
    /// Tokens that Rekey does not know are listed.
    UnknownTokens { tokens: Vec<Fingerprint> },
    /// Among the tokens that Rekey does not know, and was told to adopt, are dead ones.
    DeadTokens { tokens: Vec<Fingerprint> },
    /// A token that must be kept is not shown by Layer, so it can't be sent back.
    Hidden { count: usize },
    /// Between our PUT and the list after it somebody else changed the list.
    ForeignWriter { strangers: Vec<Fingerprint> },
    /// An operator told to send nothing.
    Operator { why: String },
}

/// Tokens that a sentence names; of more it gives the number.
const NAMED: usize = 5;

/// The first of them, for a sentence.
fn named(tokens: &[Fingerprint]) -> String {
    let mut names: Vec<&str> = tokens.iter().take(NAMED).map(Fingerprint::as_str).collect();
    if tokens.len() > NAMED {
        names.push("…");
    }
    names.join(", ")
}

impl Hold {
    /// What the row is blocked for.
    pub fn code(&self) -> Code {
        match self {
            Self::Shrink { .. } => Code::ShrinkGuard,
            Self::Empty { .. } => Code::EmptyListGuard,
            Self::UnknownTokens { .. } | Self::DeadTokens { .. } => Code::UnknownTokens,
            Self::Hidden { .. } => Code::HiddenTokens,
            Self::ForeignWriter { .. } => Code::ForeignWriter,
            Self::Operator { .. } => Code::OperatorHold,
        }
    }

    /// What a release of it permits.
    pub fn objection(&self) -> Objection {
        let of = |guards: &[Code], accounts: &[AccountId], tokens: &[Fingerprint]| Objection {
            guards: guards.iter().copied().collect(),
            accounts: accounts.iter().cloned().collect(),
            tokens: tokens.iter().cloned().collect(),
        };
        match self {
            Self::Shrink { without_proof } => of(&[Code::ShrinkGuard], without_proof, &[]),
            // What is lost with the whole list is lost: the guard of the fewer need not be overruled as well.
            Self::Empty { accounts, discarded } => of(&[Code::EmptyListGuard, Code::ShrinkGuard], accounts, discarded),
            // Whoever goes on from the list as another writer left it goes on with the strangers in it.
            Self::UnknownTokens { tokens }
            | Self::DeadTokens { tokens }
            | Self::ForeignWriter { strangers: tokens } => of(&[Code::UnknownTokens], &[], tokens),
            Self::Hidden { .. } | Self::Operator { .. } => Objection::default(),
        }
    }

    /// Whether an operator has seen this very objection, and said to go on.
    pub fn is_permitted(&self, permit: Option<&Permit>) -> bool {
        let objection = self.objection();
        !objection.is_empty() && permit.is_some_and(|permit| permit.covers(&objection))
    }
}

impl std::fmt::Display for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let accounts = |n: usize| counted(n, "account", "accounts");
        let unknown = |n: usize| counted(n, "token", "tokens");
        match self {
            Self::Shrink { without_proof } => write!(
                f,
                "the list would lose {} that nobody proved gone ({}): release to send it all the same",
                accounts(without_proof.len()),
                without_proof.iter().map(AccountId::as_str).collect::<Vec<_>>().join(", ")
            ),
            Self::Empty { accounts, .. } => write!(
                f,
                "the list would become empty although not every account is proved gone ({}): release to empty it",
                accounts.iter().map(AccountId::as_str).collect::<Vec<_>>().join(", ")
            ),
            Self::UnknownTokens { tokens } => write!(
                f,
                "Layer lists {} that Rekey does not know ({}): link their Items here, decide on each \
                 (`rekey business token`), or release to keep them this once",
                unknown(tokens.len()),
                named(tokens)
            ),
            Self::DeadTokens { tokens } => write!(
                f,
                "Layer lists {} that Rekey does not know and Plaid does not either ({}): link their Items here, \
                 remove them at Layer, or release to send them along this once",
                unknown(tokens.len()),
                named(tokens)
            ),
            Self::ForeignWriter { strangers } => write!(
                f,
                "somebody else changed the list while Rekey wrote it, and {} of it did not come from Rekey ({}): see \
                 who else sends PUT /v1/businesses/{{id}}, then release to go on with them in the list",
                unknown(strangers.len()),
                named(strangers)
            ),
            Self::Operator { why } => {
                write!(f, "an operator keeps the list from being sent ({why}): release to send it")
            }
            Self::Hidden { count } => write!(
                f,
                "Layer does not show {} that the list must keep: link their Items here so that Rekey can mint its own",
                unknown(*count)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acc(id: &str) -> AccountId {
        AccountId::parse(id).unwrap()
    }

    fn fps(many: usize) -> Vec<Fingerprint> {
        (0..many).map(|n| Fingerprint::from_stored(format!("fp1_{n}"))).collect()
    }

    #[test]
    fn each_hold_has_a_word_and_says_how_much_is_at_stake() {
        let table = [
            (Hold::Shrink { without_proof: vec![acc("a"), acc("b")] }, "shrink_guard", "lose 2 accounts"),
            (Hold::Shrink { without_proof: vec![acc("a")] }, "shrink_guard", "lose 1 account that"),
            (Hold::Shrink { without_proof: vec![acc("a"), acc("b")] }, "shrink_guard", "(a, b)"),
            (Hold::Empty { accounts: vec![], discarded: vec![] }, "empty_list_guard", "become empty"),
            (Hold::UnknownTokens { tokens: fps(3) }, "unknown_tokens", "lists 3 tokens"),
            (Hold::DeadTokens { tokens: fps(2) }, "unknown_tokens", "lists 2 tokens"),
            (Hold::Hidden { count: 4 }, "hidden_tokens", "show 4 tokens"),
            (Hold::ForeignWriter { strangers: fps(5) }, "foreign_writer", "5 tokens of it"),
        ];
        for (hold, word, says) in table {
            assert_eq!(hold.code().as_str(), word);
            assert!(hold.to_string().contains(says), "{hold}");
        }
    }
}
