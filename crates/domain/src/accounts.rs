//! What one read of an Item's accounts means for each account: joined, still there, missing, proved gone, back (I8).

use crate::setting::AccountType;
use crate::words::words;
use crate::{AccountId, BusinessId, Millis};
use std::time::Duration;

words!(
    /// What is known of an account.
    AccountState { Active => "active", Revoked => "revoked", Closed => "closed" }
);

/// What makes two accounts with different ids look like one bank account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traits {
    /// Plaid's account `type`, such as `depository`.
    pub kind: String,
    pub subtype: Option<String>,
    pub mask: Option<String>,
    pub name: Option<String>,
    /// `persistent_account_id`, which survives re-linking at some banks.
    pub persistent_id: Option<String>,
}

impl Traits {
    fn same_bank_account(&self, other: &Self) -> bool {
        match (&self.persistent_id, &other.persistent_id) {
            (Some(a), Some(b)) => a == b,
            // Without a mask two accounts of one bank can't be told apart, so nothing is concluded.
            _ => {
                self.mask.is_some()
                    // Names are for people: one bank shows "Brokerage" before and "BROKERAGE ...2518" after.
                    && (&self.kind, &self.subtype, &self.mask) == (&other.kind, &other.subtype, &other.mask)
            }
        }
    }
}

words!(
    /// What tells that two accounts of different Items are one bank account. Names are for people, and tell nothing.
    SameBy { PersistentId => "persistent_id", BankMaskAndType => "institution_mask_type" }
);

/// Which accounts of one Item are the same bank accounts as those of another: their places in both, and what tells. None where
/// two could be meant.
pub fn same_accounts(old: &[&Traits], new: &[&Traits], same_bank: bool) -> Vec<(usize, usize, SameBy)> {
    let same = |a: &Traits, b: &Traits| {
        let by = match (&a.persistent_id, &b.persistent_id) {
            (Some(_), Some(_)) => SameBy::PersistentId,
            _ => SameBy::BankMaskAndType,
        };
        // At another bank an account may have the same last digits.
        (a.same_bank_account(b) && (by == SameBy::PersistentId || same_bank)).then_some(by)
    };
    let mut found = Vec::new();
    for (o, before) in old.iter().enumerate() {
        let mut heirs = new.iter().enumerate().filter_map(|(n, after)| Some((n, same(before, after)?)));
        let (Some((n, by)), None) = (heirs.next(), heirs.next()) else { continue };
        let rivals = old.iter().filter(|other| same(other, new[n]).is_some()).count();
        if rivals == 1 {
            found.push((o, n, by));
        }
    }
    found
}

/// An account that Rekey knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: AccountId,
    pub state: AccountState,
    pub business: Option<BusinessId>,
    pub missing_since: Option<Millis>,
    pub traits: Traits,
}

/// An account in `/accounts/get`, which omits closed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub id: AccountId,
    pub traits: Traits,
    /// A field that decides and can't be read.
    pub unreadable: Option<&'static str>,
}

/// What the platform and the configuration say about joining.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The business that accounts of this Item join when nothing else is said.
    pub default_business: Option<BusinessId>,
    /// Accounts that the push names, each in its own business or in the default one.
    pub assigned: Vec<(AccountId, Option<BusinessId>)>,
    /// The account filter: accounts that are not named above take no part.
    pub only_assigned: bool,
    /// Whether an account that appears later joins by itself.
    pub new_accounts_join: bool,
    /// Account types that Layer can read, such as `depository`.
    pub eligible_types: Vec<AccountType>,
    /// How far apart two reads must be that both miss an account before it is proved gone.
    pub gone_after: Duration,
}

words!(
    /// Why an account is known to be gone.
    Proof {
        /// Plaid's webhook said so and its list agrees.
        RevokedAndUnlisted => "revoked",
        /// Plaid refused the account by an explicit code, and its list agrees.
        RefusedAndUnlisted => "refused",
        /// Two reads, set apart, both without it.
        TwoReads => "two_reads",
        /// The same bank account is back under another id.
        Renumbered => "renumbered",
    }
);

words!(
    /// Why an account that Plaid shows takes no part.
    Outside { Filtered => "filtered", Nowhere => "nowhere", Late => "late", Ineligible => "ineligible", Unreadable => "unreadable" }
);

impl Outside {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Filtered => "the account filter of the Item leaves it out",
            Self::Nowhere => "no business is assigned to it: push the Item with a business for this account",
            Self::Late => "it appeared later and consumer.new_accounts_join is off",
            Self::Ineligible => "its type is not one of plaid.account_types",
            Self::Unreadable => "Plaid shows it with a `type` that can't be read",
        }
    }
}

words!(
    /// Why no processor token could be minted for one account alone.
    MintRefused {
        /// Plaid does not know the account that it listed.
        UnknownAccount => "unknown_account",
        /// The account, or its Item, can't be used with this processor.
        NotSupported => "not_supported",
        /// Plaid is not ready for it yet.
        NotReady => "not_ready",
        /// The bank, or the user, has not granted access to this account.
        NotGranted => "not_granted",
        /// What Plaid answered with is not a new token.
        NoToken => "no_token",
        Other => "other",
    }
);

/// What happens to one account after a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New, or known and now assigned: it takes part in `business`.
    Joined {
        business: BusinessId,
    },
    /// Present as before.
    Present,
    /// Present, but takes no part, and why. One that took part leaves its list by the platform's word.
    Outside(Outside),
    /// The platform assigned it to another business.
    Moved {
        to: BusinessId,
    },
    /// Not in this read; kept until proved gone. Look again at `again_at`.
    Missing {
        since: Millis,
        again_at: Millis,
    },
    Gone {
        state: AccountState,
        proof: Proof,
    },
}

impl Change {
    /// It is shown, and takes part.
    pub fn is_present(&self) -> bool {
        matches!(self, Self::Joined { .. } | Self::Present | Self::Moved { .. })
    }
}

/// One account and what the read means for it. `id` is a known or a newly read account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub id: AccountId,
    pub traits: Traits,
    pub change: Change,
}

/// Whether the account with the given id is said to be gone by something other than its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Revoked,
    Refused,
}

/// Compares what is known with what Plaid lists now. First read of an Item: `known` is empty.
pub fn settle(
    known: &[Known],
    read: &[Read],
    said: impl Fn(&AccountId) -> Said,
    rules: &Rules,
    now: Millis,
) -> Vec<Settled> {
    let first_read = known.is_empty();
    let listed = |id: &AccountId| read.iter().find(|r| r.id == *id);
    let mut settled: Vec<Settled> = Vec::with_capacity(known.len() + read.len());
    let mut heirs: Vec<(AccountId, BusinessId)> = Vec::new();

    for account in known {
        let change = match listed(&account.id) {
            Some(found) => present(account, found, rules),
            None => {
                let heir = heir_of(account, known, read);
                if let (Some(heir), Some(business)) = (heir, inheritance(account, rules)) {
                    heirs.push((heir.id.clone(), business));
                }
                absent(account, said(&account.id), heir.is_some(), rules, now)
            }
        };
        // What can't be read is as it was.
        let found = listed(&account.id).filter(|r| r.unreadable.is_none());
        let traits = found.map_or(&account.traits, |r| &r.traits).clone();
        settled.push(Settled { id: account.id.clone(), traits, change });
    }
    for found in read.iter().filter(|r| !known.iter().any(|k| k.id == r.id)) {
        let heir = heirs.iter().find(|(id, _)| *id == found.id).map(|(_, business)| business.clone());
        let change = match heir {
            Some(business) => Change::Joined { business },
            None => appeared(found, first_read, rules),
        };
        settled.push(Settled { id: found.id.clone(), traits: found.traits.clone(), change });
    }
    settled
}

/// Where an account's successor goes: what the platform last said about the old id holds for the new one.
fn inheritance(gone: &Known, rules: &Rules) -> Option<BusinessId> {
    let business = gone.business.clone()?;
    let is_named = rules.assigned.iter().any(|(named, _)| *named == gone.id);
    match assigned(&gone.id, rules) {
        Assigned::To(to) if is_named => Some(to),
        Assigned::To(_) | Assigned::Nowhere => Some(business),
        Assigned::FilteredOut => None,
    }
}

/// The one unknown account in the read that is the same bank account; none if two could be.
fn heir_of<'a>(gone: &Known, known: &[Known], read: &'a [Read]) -> Option<&'a Read> {
    let is_new = |r: &&Read| !known.iter().any(|k| k.id == r.id);
    let mut same = read.iter().filter(is_new).filter(|r| r.traits.same_bank_account(&gone.traits));
    let heir = same.next()?;
    let rivals = known.iter().filter(|k| k.id != gone.id && k.traits.same_bank_account(&gone.traits)).count();
    (same.next().is_none() && rivals == 0).then_some(heir)
}

enum Assigned {
    To(BusinessId),
    FilteredOut,
    Nowhere,
}

fn assigned(id: &AccountId, rules: &Rules) -> Assigned {
    let named = rules.assigned.iter().find(|(named, _)| named == id);
    if rules.only_assigned && named.is_none() {
        return Assigned::FilteredOut;
    }
    match named.and_then(|(_, business)| business.clone()).or_else(|| rules.default_business.clone()) {
        Some(business) => Assigned::To(business),
        None => Assigned::Nowhere,
    }
}

fn appeared(found: &Read, first_read: bool, rules: &Rules) -> Change {
    let named = rules.assigned.iter().any(|(id, _)| *id == found.id);
    if !first_read && !named && !rules.new_accounts_join {
        return Change::Outside(Outside::Late);
    }
    // Who left it out on purpose need not hear what else is odd about it.
    match assigned(&found.id, rules) {
        Assigned::FilteredOut => Change::Outside(Outside::Filtered),
        Assigned::To(_) | Assigned::Nowhere if found.unreadable.is_some() => Change::Outside(Outside::Unreadable),
        Assigned::To(_) | Assigned::Nowhere
            if !rules.eligible_types.iter().any(|t| t.as_str() == found.traits.kind) =>
        {
            Change::Outside(Outside::Ineligible)
        }
        Assigned::To(business) => Change::Joined { business },
        Assigned::Nowhere => Change::Outside(Outside::Nowhere),
    }
}

fn present(account: &Known, found: &Read, rules: &Rules) -> Change {
    let Some(business) = &account.business else {
        // Known and outside: only the platform's word or the setting brings it in.
        return appeared(found, false, rules);
    };
    match assigned(&account.id, rules) {
        Assigned::FilteredOut => Change::Outside(Outside::Filtered),
        Assigned::To(to) if to != *business => Change::Moved { to },
        // Back after it was gone or missing: it joins the business it was in.
        Assigned::To(_) | Assigned::Nowhere
            if account.state != AccountState::Active || account.missing_since.is_some() =>
        {
            Change::Joined { business: business.clone() }
        }
        Assigned::To(_) | Assigned::Nowhere => Change::Present,
    }
}

fn absent(account: &Known, said: Said, replaced: bool, rules: &Rules, now: Millis) -> Change {
    let since = account.missing_since.unwrap_or(now);
    let gone = |state, proof| Change::Gone { state, proof };
    match (account.state, said) {
        (state @ (AccountState::Revoked | AccountState::Closed), _) => gone(state, Proof::TwoReads),
        (AccountState::Active, Said::Revoked) => gone(AccountState::Revoked, Proof::RevokedAndUnlisted),
        (AccountState::Active, Said::Refused) => gone(AccountState::Closed, Proof::RefusedAndUnlisted),
        (AccountState::Active, Said::Nothing) if replaced => gone(AccountState::Closed, Proof::Renumbered),
        (AccountState::Active, Said::Nothing) => {
            let again_at = since.plus(rules.gone_after);
            if account.missing_since.is_some() && now >= again_at {
                gone(AccountState::Closed, Proof::TwoReads)
            } else {
                Change::Missing { since, again_at }
            }
        }
    }
}

#[cfg(test)]
#[path = "accounts_tests.rs"]
mod tests;
