//! Where an account stands between the lists: whether it belongs into one, is leaving one, or is none of ours (I8).
//! Who is missing, and when that is a proof that it is gone: [`crate::accounts`].

use crate::BusinessId;
use crate::accounts::AccountState;
use crate::item::ItemState;

/// What decides which list an account belongs into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListMembership {
    /// Of the account itself.
    pub state: AccountState,
    /// Of its Item.
    pub item: ItemState,
    /// The business that it is assigned to; none: it takes no part.
    pub business: Option<BusinessId>,
    /// The business whose list it must have left, verified, before it enters `business`.
    pub moving_from: Option<BusinessId>,
    /// The platform's word, or a rule, takes it out of every list.
    pub outside: bool,
}

impl ListMembership {
    /// Proved gone, or its whole Item is.
    pub fn is_gone(&self) -> bool {
        self.state != AccountState::Active || self.item.is_gone()
    }

    /// The business whose list it belongs into now. None while another list still holds it.
    pub fn list(&self) -> Option<&BusinessId> {
        self.business.as_ref().filter(|_| self.moving_from.is_none() && !self.is_gone())
    }

    /// Whether a row of `here`'s list that is about this account may leave it. None: the account never took part here, and its
    /// row is as strange as any other. A token that Rekey minted (`by_token`) is Rekey's wherever it is listed.
    pub fn may_leave(&self, here: &BusinessId, by_token: bool) -> Option<bool> {
        let is_ours = self.business.is_some() || self.moving_from.as_ref() == Some(here) || self.is_gone() || by_token;
        // Without a business and without a word that took it out, something of ours was lost: no proof.
        let moved = self.moving_from.is_some() || self.business.as_ref().is_some_and(|b| b != here);
        is_ours.then_some(self.is_gone() || moved || self.outside)
    }

    /// The business that it is leaving once it is assigned to `to`. `exists_at_layer`: the one that it was in is known at
    /// Layer; a business that was never found there has no list that the account could be in.
    pub fn leaves_for(&self, to: Option<&BusinessId>, exists_at_layer: bool) -> Option<&BusinessId> {
        match (&self.business, &self.moving_from) {
            (now, before) if now.as_ref() == to => before.as_ref(),
            // Back to where it came from: it never left.
            (_, Some(before)) if Some(before) == to => None,
            (_, Some(before)) => Some(before),
            (now, None) => now.as_ref().filter(|_| exists_at_layer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn business(id: &str) -> BusinessId {
        BusinessId::parse(id.to_owned()).unwrap()
    }

    /// `acme`; `acme<globex`: in acme, still leaving globex; `-`: in none.
    fn placed(word: &str) -> ListMembership {
        let (to, from) = word.split_once('<').map_or((word, None), |(to, from)| (to, Some(from)));
        ListMembership {
            state: AccountState::Active,
            item: ItemState::Active,
            business: (to != "-").then(|| business(to)),
            moving_from: from.map(business),
            outside: false,
        }
    }

    #[test]
    fn a_list_holds_those_that_are_assigned_there_not_gone_and_in_no_other() {
        for (word, list) in [("acme", Some("acme")), ("-", None), ("acme<globex", None), ("-<globex", None)] {
            assert_eq!(placed(word).list(), list.map(business).as_ref(), "{word}");
        }
        for state in [AccountState::Revoked, AccountState::Closed] {
            assert_eq!(ListMembership { state, ..placed("acme") }.list(), None, "{state}");
        }
        for item in ItemState::ALL.iter().copied() {
            let is_listed = ListMembership { item, ..placed("acme") }.list().is_some();
            assert_eq!(is_listed, !matches!(item, ItemState::Revoked | ItemState::Removed), "{item}");
        }
    }

    #[test]
    fn what_leaves_acme_has_a_reason_and_what_never_took_part_is_strange() {
        let acme = business("acme");
        let closed = |word: &str| ListMembership { state: AccountState::Closed, ..placed(word) };
        let outside = |word: &str| ListMembership { outside: true, ..placed(word) };
        let table = [
            ("it belongs here", placed("acme"), false, Some(false)),
            ("it belongs here, by its token", placed("acme"), true, Some(false)),
            ("it belongs elsewhere", placed("globex"), false, Some(true)),
            ("it is leaving", placed("globex<acme"), false, Some(true)),
            ("it is leaving for no other", placed("-<acme"), false, Some(true)),
            ("it comes, and is here too early", placed("acme<globex"), false, Some(true)),
            ("gone", closed("acme"), false, Some(true)),
            ("gone, of no business", closed("-"), false, Some(true)),
            ("taken out by a word", outside("-"), true, Some(true)),
            ("lost by us: no proof", placed("-"), true, Some(false)),
            ("known and never in a list", placed("-"), false, None),
            ("left out, and listed by somebody else", outside("-"), false, None),
            ("it is leaving another", placed("-<globex"), false, None),
        ];
        for (name, membership, by_token, expected) in table {
            assert_eq!(membership.may_leave(&acme, by_token), expected, "{name}");
        }
    }

    #[test]
    fn a_move_ends_where_it_began_or_waits_for_the_list_it_was_in() {
        let table = [
            ("stays", "acme", Some("acme"), true, None),
            ("stays, and is still leaving", "acme<globex", Some("acme"), true, Some("globex")),
            ("moves", "acme", Some("globex"), true, Some("acme")),
            ("moves out of a business without a list", "acme", Some("globex"), false, None),
            ("leaves for no other", "acme", None, true, Some("acme")),
            ("turns back", "acme<globex", Some("globex"), true, None),
            ("moves on before it has left", "acme<globex", Some("initech"), true, Some("globex")),
            ("is taken out before it has left", "acme<globex", None, true, Some("globex")),
            ("enters", "-", Some("acme"), true, None),
            ("is taken back in while it leaves", "-<globex", Some("acme"), true, Some("globex")),
        ];
        for (name, word, to, exists_at_layer, expected) in table {
            let to = to.map(business);
            let leaves = placed(word).leaves_for(to.as_ref(), exists_at_layer).cloned();
            assert_eq!(leaves, expected.map(business), "{name}");
        }
    }
}
