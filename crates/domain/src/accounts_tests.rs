use super::*;

fn acc(n: &str) -> AccountId {
    AccountId::parse(n).unwrap()
}
fn biz(n: &str) -> BusinessId {
    BusinessId::parse(n).unwrap()
}
fn checking(mask: &str) -> Traits {
    Traits { kind: "depository".into(), mask: Some(mask.into()), name: Some("Checking".into()), ..Traits::default() }
}
fn read(id: &str, mask: &str) -> Read {
    Read { id: acc(id), traits: checking(mask), unreadable: None }
}
fn known(id: &str, mask: &str) -> Known {
    Known {
        id: acc(id),
        state: AccountState::Active,
        business: Some(biz("acme")),
        missing_since: None,
        traits: checking(mask),
    }
}
fn rules() -> Rules {
    Rules {
        default_business: Some(biz("acme")),
        assigned: vec![],
        only_assigned: false,
        new_accounts_join: true,
        eligible_types: vec![AccountType::Depository, AccountType::Credit],
        gone_after: Duration::from_secs(600),
    }
}
const NOW: Millis = Millis(10_000_000);

fn changes(known: &[Known], read: &[Read], said: Said, rules: &Rules) -> Vec<(String, Change)> {
    settle(known, read, |_| said, rules, NOW).into_iter().map(|s| (s.id.to_string(), s.change)).collect()
}
fn only(known: &[Known], read: &[Read], said: Said, rules: &Rules) -> Change {
    let mut all = changes(known, read, said, rules);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).1
}
fn joined(business: &str) -> Change {
    Change::Joined { business: biz(business) }
}

#[test]
fn a_new_items_accounts_join_its_business() {
    assert_eq!(only(&[], &[read("a", "1")], Said::Nothing, &rules()), joined("acme"));
}

#[test]
fn accounts_of_one_item_may_belong_to_two_businesses_and_the_filter_leaves_out_the_rest() {
    let assigned = vec![(acc("a"), None), (acc("b"), Some(biz("globex")))];
    let rules = Rules { assigned, only_assigned: true, ..rules() };
    let got = changes(&[], &[read("a", "1"), read("b", "2"), read("c", "3")], Said::Nothing, &rules);
    assert_eq!(got[0].1, joined("acme"));
    assert_eq!(got[1].1, joined("globex"));
    assert!(matches!(got[2].1, Change::Outside(_)));
}

#[test]
fn ineligible_types_stay_outside() {
    let mut loan = read("l", "9");
    loan.traits.kind = "loan".into();
    assert!(matches!(only(&[], &[loan], Said::Nothing, &rules()), Change::Outside(_)));
}

#[test]
fn i11_why_an_account_stays_outside_is_the_platforms_word_before_plaids() {
    let odd = || Read { unreadable: Some("type"), ..read("a", "1") };
    let nowhere = Rules { default_business: None, ..rules() };
    let filtered = Rules { only_assigned: true, ..rules() };
    let table = [
        (odd(), rules(), Outside::Unreadable),
        (odd(), nowhere.clone(), Outside::Unreadable),
        (odd(), filtered, Outside::Filtered),
        (read("a", "1"), nowhere, Outside::Nowhere),
    ];
    for (read, rules, expected) in table {
        assert_eq!(only(&[], &[read], Said::Nothing, &rules), Change::Outside(expected));
    }
}

#[test]
fn whether_a_later_account_joins_is_a_setting() {
    let closed = Rules { new_accounts_join: false, ..rules() };
    let both = [read("a", "1"), read("b", "2")];
    assert_eq!(changes(&[known("a", "1")], &both, Said::Nothing, &rules())[1].1, joined("acme"));
    assert!(matches!(changes(&[known("a", "1")], &both, Said::Nothing, &closed)[1].1, Change::Outside(_)));
    let outside = Known { business: None, ..known("b", "2") };
    let again = changes(&[known("a", "1"), outside.clone()], &both, Said::Nothing, &closed);
    assert!(matches!(again[1].1, Change::Outside(_)), "it does not slip in at the next look");
    let named = Rules { assigned: vec![(acc("b"), None)], ..closed };
    assert_eq!(changes(&[known("a", "1"), outside], &both, Said::Nothing, &named)[1].1, joined("acme"));
}

#[test]
fn i8_a_missing_account_is_kept_until_a_second_read_set_apart() {
    let first = only(&[known("a", "1")], &[], Said::Nothing, &rules());
    assert_eq!(first, Change::Missing { since: NOW, again_at: Millis(10_600_000) });
    let soon = Known { missing_since: Some(NOW.minus(Duration::from_secs(599))), ..known("a", "1") };
    assert!(matches!(only(&[soon], &[], Said::Nothing, &rules()), Change::Missing { .. }));
    let late = Known { missing_since: Some(NOW.minus(Duration::from_secs(600))), ..known("a", "1") };
    assert_eq!(
        only(&[late], &[], Said::Nothing, &rules()),
        Change::Gone { state: AccountState::Closed, proof: Proof::TwoReads }
    );
}

#[test]
fn i8_a_revocation_is_believed_only_when_plaids_list_agrees() {
    assert_eq!(
        only(&[known("a", "1")], &[], Said::Revoked, &rules()),
        Change::Gone { state: AccountState::Revoked, proof: Proof::RevokedAndUnlisted }
    );
    assert_eq!(only(&[known("a", "1")], &[read("a", "1")], Said::Revoked, &rules()), Change::Present);
    assert_eq!(
        only(&[known("a", "1")], &[], Said::Refused, &rules()),
        Change::Gone { state: AccountState::Closed, proof: Proof::RefusedAndUnlisted }
    );
}

#[test]
fn a_renumbered_account_leaves_and_its_successor_joins_the_same_business() {
    let old = Known { business: Some(biz("globex")), ..known("old", "1") };
    let got = changes(&[old, known("b", "2")], &[read("new", "1"), read("b", "2")], Said::Nothing, &rules());
    assert_eq!(got[0].1, Change::Gone { state: AccountState::Closed, proof: Proof::Renumbered });
    assert_eq!(got[2], ("new".into(), joined("globex")));
}

#[test]
fn an_account_that_is_moved_and_renumbered_before_anybody_looked_goes_where_it_was_moved() {
    let moved = Rules { assigned: vec![(acc("old"), Some(biz("globex")))], ..rules() };
    let got = changes(&[known("old", "1")], &[read("new", "1")], Said::Nothing, &moved);
    assert_eq!(got[1], ("new".into(), joined("globex")));
    let left_out = Rules { assigned: vec![(acc("b"), None)], only_assigned: true, ..rules() };
    let got = changes(&[known("old", "1")], &[read("new", "1")], Said::Nothing, &left_out);
    assert!(matches!(got[1].1, Change::Outside(_)), "{got:?}");
}

#[test]
fn two_accounts_that_look_alike_prove_nothing() {
    let twins = [read("n1", "1"), read("n2", "1")];
    let got = changes(&[known("old", "1")], &twins, Said::Nothing, &rules());
    assert!(matches!(got[0].1, Change::Missing { .. }));
    let unmasked = Known { traits: Traits { mask: None, ..checking("1") }, ..known("old", "1") };
    let mut read = read("new", "1");
    read.traits.mask = None;
    assert!(matches!(changes(&[unmasked], &[read], Said::Nothing, &rules())[0].1, Change::Missing { .. }));
}

#[test]
fn an_account_that_comes_back_rejoins() {
    let gone = Known { state: AccountState::Closed, ..known("a", "1") };
    assert_eq!(only(&[gone], &[read("a", "1")], Said::Nothing, &rules()), joined("acme"));
    let missing = Known { missing_since: Some(NOW), ..known("a", "1") };
    assert_eq!(only(&[missing], &[read("a", "1")], Said::Nothing, &rules()), joined("acme"));
}

#[test]
fn the_platform_moves_an_account_or_takes_it_out() {
    let moved = Rules { assigned: vec![(acc("a"), Some(biz("globex")))], ..rules() };
    assert_eq!(only(&[known("a", "1")], &[read("a", "1")], Said::Nothing, &moved), Change::Moved { to: biz("globex") });
    let filtered = Rules { only_assigned: true, ..rules() };
    assert!(matches!(only(&[known("a", "1")], &[read("a", "1")], Said::Nothing, &filtered), Change::Outside(_)));
    let silent = Rules { default_business: None, ..rules() };
    assert_eq!(only(&[known("a", "1")], &[read("a", "1")], Said::Nothing, &silent), Change::Present);
}

#[test]
fn a_persistent_id_tells_more_than_what_two_accounts_look_like() {
    let with = |mask: &str, id: &str| Traits { persistent_id: Some(id.into()), ..checking(mask) };
    let table = [
        ("the same id under another mask", with("1", "p"), with("2", "p"), true),
        ("another id under the same mask", with("1", "p"), with("1", "q"), false),
        ("an id on one side only: looks decide", with("1", "p"), checking("1"), true),
    ];
    for (claim, before, now, same) in table {
        let old = Known { traits: before, ..known("old", "1") };
        let got = changes(&[old], &[Read { id: acc("new"), traits: now, unreadable: None }], Said::Nothing, &rules());
        let renumbered = Change::Gone { state: AccountState::Closed, proof: Proof::Renumbered };
        assert_eq!(got[0].1 == renumbered, same, "{claim}");
    }
}

#[test]
fn two_known_accounts_that_look_alike_have_no_heir() {
    let got = changes(&[known("old", "1"), known("twin", "1")], &[read("new", "1")], Said::Nothing, &rules());
    assert!(matches!(got[0].1, Change::Missing { .. }), "{got:?}");
}

#[test]
fn each_proof_has_a_word_of_its_own_in_the_history() {
    let proofs = [Proof::RevokedAndUnlisted, Proof::RefusedAndUnlisted, Proof::TwoReads, Proof::Renumbered];
    assert_eq!(proofs.map(Proof::as_str), ["revoked", "refused", "two_reads", "renumbered"]);
}

#[test]
fn an_account_of_a_linked_again_item_is_told_by_its_id_else_by_bank_mask_and_type() {
    let of = |mask: &str, persistent: Option<&str>, name: &str| Traits {
        kind: "depository".into(),
        subtype: Some("checking".into()),
        mask: Some(mask.into()),
        name: Some(name.into()),
        persistent_id: persistent.map(Into::into),
    };
    let same = |old: &[Traits], new: &[Traits], same_bank| {
        same_accounts(&old.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>(), same_bank)
    };
    let (plain, named) = (of("0001", None, "A"), of("0001", None, "B"));
    let by_mask = vec![(0, 0, SameBy::BankMaskAndType)];
    assert_eq!(same(std::slice::from_ref(&plain), std::slice::from_ref(&named), true), by_mask, "names tell nothing");
    assert_eq!(
        same(std::slice::from_ref(&plain), std::slice::from_ref(&named), false),
        vec![],
        "another bank, or an unknown one"
    );
    let (old, new) = (of("0001", Some("x"), "A"), of("0002", Some("x"), "A"));
    assert_eq!(same(&[old], &[new], false), vec![(0, 0, SameBy::PersistentId)]);
    let (old, new) = (of("0001", Some("x"), "A"), of("0001", Some("y"), "A"));
    assert_eq!(same(&[old], &[new], true), vec![], "the ids say that they are two");
    // Two that could be meant, on either side.
    assert_eq!(same(std::slice::from_ref(&plain), &[named.clone(), named.clone()], true), vec![]);
    assert_eq!(same(&[plain.clone(), plain.clone()], std::slice::from_ref(&named), true), vec![]);
    let card = Traits { kind: "credit".into(), ..plain.clone() };
    assert_eq!(same(&[plain, of("0009", None, "C")], &[card, named], true), vec![(0, 1, SameBy::BankMaskAndType)]);
}
