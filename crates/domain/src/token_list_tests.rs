use super::*;
use proptest::prelude::*;

fn fp(n: &str) -> Fingerprint {
    Fingerprint::from_stored(format!("fp1_{n}"))
}
fn acc(n: &str) -> AccountId {
    AccountId::parse(n).unwrap()
}
fn want(account: &str, token: &str) -> Wanted {
    Wanted { account: acc(account), token: Some(fp(token)), older_generation: false }
}
fn unminted(account: &str) -> Wanted {
    Wanted { account: acc(account), token: None, older_generation: false }
}
fn older(account: &str, token: &str) -> Wanted {
    Wanted { older_generation: true, ..want(account, token) }
}
fn row(account: &str, token: &str) -> Listed {
    Listed {
        token: Some(fp(token)),
        account: Some(acc(account)),
        status: RowStatus::Active,
        layer_owned: false,
        ours: Some(OurAccount { account: acc(account), may_leave: false }),
        word: None,
    }
}
fn leaving(account: &str, token: &str) -> Listed {
    Listed { ours: Some(OurAccount { account: acc(account), may_leave: true }), ..row(account, token) }
}
fn stranger(token: &str) -> Listed {
    Listed { ours: None, ..row("unheard-of", token) }
}
fn archived(account: &str, token: &str) -> Listed {
    Listed { status: RowStatus::Archived, ..row(account, token) }
}
fn layers_own(account: &str) -> Listed {
    Listed { layer_owned: true, token: None, ours: None, ..row(account, "none") }
}
fn policy() -> Policy {
    Policy {
        unknown: UnknownPolicy::Refuse,
        archived: ArchivedPolicy::LeaveOut,
        max_unproved_removals: 0,
        leave_out: LeaveOut::Nothing,
        resend: false,
        kept_back: None,
        archived_before: HashSet::new(),
        read_back: true,
    }
}
fn decide(wanted: &[Wanted], listed: &[Listed]) -> Plan {
    plan(wanted, listed, &Accepted::new(), &policy(), None)
}
fn put_in(plan: Plan) -> Put {
    match plan {
        Plan::Put(put) => put,
        other => panic!("expected a PUT, got {other:?}"),
    }
}
fn put_of(plan: Plan) -> Vec<Fingerprint> {
    put_in(plan).tokens
}
fn sent(tokens: &[&str]) -> Put {
    Put { tokens: tokens.iter().map(|t| fp(t)).collect(), ..Put::default() }
}
fn converged() -> Plan {
    Plan::Converged { verified: true, left_out: vec![], archived: vec![] }
}

#[test]
fn i9_nothing_differs_no_put() {
    assert_eq!(decide(&[want("a", "1"), want("b", "2")], &[row("b", "2"), row("a", "1")]), converged());
    assert_eq!(decide(&[], &[]), converged());
    assert_eq!(decide(&[want("a", "1")], &[row("a", "1"), layers_own("x")]), converged());
}

#[test]
fn a_rotated_token_replaces_its_predecessor_and_the_rest_of_the_list_is_sent_along() {
    let got = decide(&[want("a", "new"), want("b", "2")], &[row("a", "old"), row("b", "2")]);
    let Plan::Put(put) = got else { panic!("{got:?}") };
    assert_eq!(put.tokens, vec![fp("new"), fp("2")]);
    assert_eq!((put.added, put.replaced, put.removed), (vec![], vec![acc("a")], vec![]));
}

#[test]
fn i8_an_account_without_a_new_token_keeps_the_one_layer_has() {
    assert_eq!(put_of(decide(&[unminted("a"), want("b", "2")], &[row("a", "old")])), vec![fp("old"), fp("2")]);
    assert_eq!(decide(&[unminted("a")], &[row("a", "old")]), converged());
    assert_eq!(decide(&[unminted("a")], &[]), converged());
}

#[test]
fn i8_tokens_of_older_generations_are_left_out_only_after_layer_refused_the_list() {
    let wanted = [older("a", "old"), want("b", "2")];
    assert_eq!(put_of(decide(&wanted, &[row("a", "old")])), vec![fp("old"), fp("2")]);
    let refused = Policy { leave_out: LeaveOut::Older, ..policy() };
    let got = plan(&wanted, &[row("a", "old")], &Accepted::new(), &refused, None);
    let Plan::Put(put) = got else { panic!("{got:?}") };
    assert_eq!((put.tokens, put.left_out), (vec![fp("2")], vec![acc("a")]));
}

#[test]
fn i8_where_layer_skipped_a_token_the_older_ones_it_shows_stay() {
    let wanted = [older("a", "old"), older("b", "old-b"), want("c", "3")];
    let skipped = Policy { leave_out: LeaveOut::Skipped, ..policy() };
    let listed = [row("a", "old"), row("c", "2")];
    let got = plan(&wanted, &listed, &Accepted::new(), &skipped, None);
    let Plan::Put(put) = got else { panic!("{got:?}") };
    assert_eq!((put.tokens, put.left_out), (vec![fp("old"), fp("3")], vec![acc("b")]));
}

#[test]
fn i8_an_account_leaves_only_with_proof() {
    assert_eq!(put_of(decide(&[want("a", "1")], &[row("a", "1"), leaving("b", "2")])), vec![fp("1")]);
    assert_eq!(
        decide(&[want("a", "1")], &[row("a", "1"), row("b", "2")]),
        Plan::Hold(Hold::Shrink { without_proof: vec![acc("b")] })
    );
    let lax = Policy { max_unproved_removals: 1, ..policy() };
    let got = plan(&[want("a", "1")], &[row("a", "1"), row("b", "2")], &Accepted::new(), &lax, None);
    assert_eq!(put_of(got), vec![fp("1")]);
    // A release is for the accounts that the guard had named.
    let seen = Permit(Hold::Shrink { without_proof: vec![acc("b")] }.objection());
    let released = |listed: &[Listed]| plan(&[want("a", "1")], listed, &Accepted::new(), &policy(), Some(&seen));
    assert_eq!(put_of(released(&[row("a", "1"), row("b", "2")])), vec![fp("1")]);
    let more = Hold::Shrink { without_proof: vec![acc("b"), acc("c")] };
    assert_eq!(released(&[row("a", "1"), row("b", "2"), row("c", "3")]), Plan::Hold(more));
}

#[test]
fn i8_the_empty_list_needs_every_account_proved_gone() {
    assert_eq!(put_of(decide(&[], &[leaving("a", "1"), leaving("b", "2")])), Vec::<Fingerprint>::new());
    let lax = Policy { max_unproved_removals: 9, ..policy() };
    let all = |permit| plan(&[], &[row("a", "1")], &Accepted::new(), &lax, permit);
    let Plan::Hold(hold) = all(None) else { panic!("no guard spoke") };
    assert_eq!(hold, Hold::Empty { accounts: vec![acc("a")], discarded: vec![] });
    let seen = Permit(hold.objection());
    assert_eq!(put_of(all(Some(&seen))), Vec::<Fingerprint>::new());
    // By then it would lose another one as well, which nobody has seen.
    let more = plan(&[], &[row("a", "1"), row("b", "2")], &Accepted::new(), &lax, Some(&seen));
    assert_eq!(more, Plan::Hold(Hold::Empty { accounts: vec![acc("a"), acc("b")], discarded: vec![] }));
}

#[test]
fn i8_unknown_tokens_are_refused_kept_or_adopted_and_never_silently_removed() {
    let wanted = [want("a", "1")];
    let listed = [stranger("x")];
    assert_eq!(decide(&wanted, &listed), Plan::Hold(Hold::UnknownTokens { tokens: vec![fp("x")] }));
    for unknown in [UnknownPolicy::Keep, UnknownPolicy::Adopt] {
        let lenient = Policy { unknown, ..policy() };
        let got = plan(&wanted, &listed, &Accepted::new(), &lenient, None);
        assert_eq!(put_of(got), vec![fp("1"), fp("x")]);
    }
    let seen = Permit(Hold::UnknownTokens { tokens: vec![fp("x")] }.objection());
    let released = |listed: &[Listed]| plan(&wanted, listed, &Accepted::new(), &policy(), Some(&seen));
    assert_eq!(put_of(released(&listed)), vec![fp("1"), fp("x")]);
    // Another stranger has come meanwhile.
    let more = Hold::UnknownTokens { tokens: vec![fp("x"), fp("y")] };
    assert_eq!(released(&[stranger("x"), stranger("y")]), Plan::Hold(more));
}

#[test]
fn i8_an_unknown_token_of_our_account_is_its_previous_token_and_never_doubled() {
    assert_eq!(put_of(decide(&[want("a", "1")], &[row("a", "foreign")])), vec![fp("1")]);
    assert_eq!(put_of(decide(&[want("a", "1")], &[row("a", "1"), row("a", "older")])), vec![fp("1")]);
}

#[test]
fn a_hidden_token_that_must_stay_holds_the_list() {
    let hidden = Listed { token: None, ..stranger("x") };
    assert_eq!(decide(&[want("a", "1")], std::slice::from_ref(&hidden)), Plan::Hold(Hold::Hidden { count: 1 }));
    assert_eq!(decide(&[want("a", "1")], &[row("a", "1"), hidden]), converged());
}

#[test]
fn accounts_that_layer_connected_itself_are_never_touched() {
    assert_eq!(put_of(decide(&[want("a", "1")], &[layers_own("x")])), vec![fp("1")]);
}

#[test]
fn an_account_archived_at_layer_stays_out_until_told() {
    let accepted = Accepted::from([fp("1")]);
    let decide =
        |policy: &Policy, accepted: &Accepted| plan(&[want("a", "1")], &[archived("a", "1")], accepted, policy, None);
    let stays_out = Plan::Converged { verified: true, left_out: vec![], archived: vec![acc("a")] };
    assert_eq!(decide(&policy(), &accepted), stays_out);
    // Never accepted from us: the archived row is history, the account is simply not listed yet.
    assert_eq!(put_of(decide(&policy(), &Accepted::new())), vec![fp("1")]);
    let again = Policy { archived: ArchivedPolicy::ReAdd, ..policy() };
    assert_eq!(put_of(decide(&again, &accepted)), vec![fp("1")]);
}

#[test]
fn an_account_archived_at_layer_stays_out_when_the_list_is_sent_for_another_one() {
    let accepted = Accepted::from([fp("1"), fp("2")]);
    let listed = [archived("a", "1"), row("b", "2")];
    let sent = put_in(plan(&[want("a", "1"), want("b", "3")], &listed, &accepted, &policy(), None));
    assert_eq!((sent.tokens, sent.archived.clone()), (vec![fp("3")], vec![acc("a")]));
    let after = Accepted::from([fp("1"), fp("3")]);
    let remembers = Policy { archived_before: sent.archived.into_iter().collect(), ..policy() };
    let decide =
        |token: &str, listed: &[Listed]| plan(&[want("a", token), want("b", "3")], listed, &after, &remembers, None);
    let stays_out = Plan::Converged { verified: true, left_out: vec![], archived: vec![acc("a")] };
    for listed in [vec![archived("a", "1"), row("b", "3")], vec![row("b", "3")]] {
        assert_eq!(decide("1", &listed), stays_out);
        assert_eq!(put_of(decide("4", &listed)), vec![fp("4"), fp("3")], "a new token is asked about anew");
    }
    assert_eq!(put_of(decide("4", &[row("a", "1"), row("b", "3")])), vec![fp("4"), fp("3")], "unarchived");
    assert_eq!(decide("1", &[row("a", "1"), row("b", "3")]), converged());
}

#[test]
fn i4_a_list_that_was_not_read_back_says_nothing_of_who_archived_what() {
    // It came back and was sent again; Layer answered well and did not apply it: what it shows is the history.
    let policy = Policy { read_back: false, ..policy() };
    let decided = plan(&[want("a", "1")], &[archived("a", "1")], &Accepted::from([fp("1")]), &policy, None);
    assert_eq!(put_of(decided), vec![fp("1")]);
}

#[test]
fn i4_a_dead_token_that_layer_archived_itself_is_not_somebodys_word() {
    let older = Wanted { older_generation: true, ..want("a", "1") };
    let decided = plan(&[older], &[archived("a", "1")], &Accepted::from([fp("1")]), &policy(), None);
    assert_eq!(put_of(decided), vec![fp("1")]);
}

#[test]
fn a_list_that_hides_tokens_is_judged_by_the_last_accepted_put_and_sent_again_by_the_sweep() {
    let omitted = Listed { token: None, ..row("a", "1") };
    let at = |accepted: &Accepted, resend| {
        let policy = Policy { resend, ..policy() };
        plan(&[want("a", "1")], std::slice::from_ref(&omitted), accepted, &policy, None)
    };
    assert_eq!(put_of(at(&Accepted::new(), false)), vec![fp("1")]);
    assert_eq!(
        at(&Accepted::from([fp("1")]), false),
        Plan::Converged { verified: false, left_out: vec![], archived: vec![] }
    );
    let again = Put { resent: true, ..sent(&["1"]) };
    assert_eq!(at(&Accepted::from([fp("1")]), true), Plan::Put(again), "nothing differs");
    // A real difference is none the less, though the sweep would have sent the list anyway.
    let policy = Policy { resend: true, ..policy() };
    let both = plan(
        &[want("a", "1"), want("b", "2")],
        std::slice::from_ref(&omitted),
        &Accepted::from([fp("1")]),
        &policy,
        None,
    );
    assert!(
        matches!(both, Plan::Put(Put { resent: false, added, replaced, .. }) if added == [acc("b")] && replaced.is_empty())
    );
}

#[test]
fn after_a_put_the_list_is_applied_unchanged_or_foreign() {
    let before = [row("a", "old")];
    let put = sent(&["new"]);
    let seen = |after: &[Listed]| verify(&put, &before, after);
    assert_eq!(seen(&[row("a", "new"), layers_own("x")]), Verification::Applied);
    assert_eq!(seen(&[row("a", "old")]), Verification::Unchanged);
    assert_eq!(seen(&[row("a", "new"), stranger("z")]), Verification::Foreign);
    assert_eq!(seen(&[]), Verification::Foreign);
}

#[test]
fn i8_where_tokens_are_hidden_accounts_tell_that_a_list_was_not_applied() {
    let hidden = |account| Listed { token: None, ..row(account, "none") };
    let put = Put { added: vec![acc("new")], removed: vec![acc("old")], ..sent(&["1", "2"]) };
    let seen = |after: &[Listed]| verify(&put, &[hidden("old"), hidden("a")], after);
    assert_eq!(seen(&[hidden("a"), hidden("new")]), Verification::Unverifiable);
    assert_eq!(seen(&[hidden("a"), hidden("new"), hidden("old")]), Verification::Unchanged);
    assert_eq!(seen(&[hidden("a")]), Verification::Unchanged);
    assert_eq!(seen(&[hidden("a"), archived("new", "1")]), Verification::Unchanged);
}

#[test]
fn i8_a_list_that_would_lose_only_older_tokens_still_differs_from_none() {
    let refused = Policy { leave_out: LeaveOut::Older, ..policy() };
    let wanted = [older("a", "1"), older("b", "2")];
    let at = |listed: &[Listed]| plan(&wanted, listed, &Accepted::new(), &refused, None);
    assert_eq!(at(&[]), Plan::Converged { verified: true, left_out: vec![acc("a"), acc("b")], archived: vec![] });
    let wait = Plan::Wait { left_out: vec![acc("a"), acc("b")] };
    assert_eq!(at(&[row("a", "1")]), wait);
    assert_eq!(at(&[row("a", "1"), row("b", "2")]), wait);
    // One that leaves as well is no reason to send an empty list: the guard asks somebody.
    assert_eq!(
        at(&[row("a", "1"), leaving("c", "3")]),
        Plan::Hold(Hold::Empty { accounts: vec![acc("c"), acc("a"), acc("b")], discarded: vec![] })
    );
}

#[test]
fn i8_a_hidden_token_whose_successor_is_not_minted_holds_the_list() {
    let hidden = |account| Listed { token: None, ..row(account, "none") };
    let got = decide(&[unminted("a"), unminted("b"), want("c", "3")], &[hidden("a"), hidden("b")]);
    assert_eq!(got, Plan::Hold(Hold::Hidden { count: 2 }));
}

#[test]
fn an_archived_row_keeps_only_the_token_out_that_it_is_about() {
    let accepted = Accepted::from([fp("1")]);
    let decide = |listed: &[Listed]| plan(&[want("a", "1")], listed, &accepted, &policy(), None);
    let about = |token| Listed { token, ..archived("a", "1") };
    let stays_out = Plan::Converged { verified: true, left_out: vec![], archived: vec![acc("a")] };
    assert_eq!(decide(&[about(None)]), stays_out, "a hidden token may be the one");
    assert_eq!(put_of(decide(&[archived("a", "0")])), vec![fp("1")], "history of an older token");
    let other = Listed { status: RowStatus::Other, ..row("a", "1") };
    assert_eq!(decide(&[other]), converged(), "a status that nobody knows yet is a row");
    let both = [archived("a", "1"), row("a", "0")];
    assert_eq!(put_of(decide(&both)), vec![fp("1")], "listed again by somebody under another token");
}

#[test]
fn only_an_active_token_that_nobody_here_knows_is_a_strangers() {
    let sent = [fp("new")];
    let table = [
        ("ours, as sent", row("a", "new"), 0),
        ("ours, not sent", row("a", "old"), 0),
        ("sent, not recognised", stranger("new"), 0),
        ("a stranger's", stranger("x"), 1),
        ("a stranger's, archived", Listed { status: RowStatus::Archived, ..stranger("x") }, 0),
        ("Layer's own", Listed { layer_owned: true, ..stranger("x") }, 0),
        ("hidden", Listed { token: None, ..stranger("x") }, 0),
    ];
    for (claim, listed, strangers) in table {
        assert_eq!(strangers_after(&sent, &[listed]).len(), strangers, "{claim}");
    }
    assert_eq!(strangers_after(&sent, &[stranger("x"), stranger("y")]), vec![fp("x"), fp("y")]);
}

#[test]
fn archived_rows_say_nothing_about_whether_a_put_was_applied() {
    let seen = |after: &[Listed]| verify(&sent(&["new"]), &[row("a", "old")], after);
    assert_eq!(seen(&[row("a", "new"), archived("a", "old")]), Verification::Applied);
    assert_eq!(seen(&[row("a", "old"), archived("a", "new")]), Verification::Unchanged);
    assert_eq!(seen(&[Listed { token: None, ..row("a", "new") }]), Verification::Unverifiable);
}

fn any_wanted() -> impl Strategy<Value = Vec<Wanted>> {
    prop::collection::btree_map(0u8..6, (prop::option::of(0u8..9), any::<bool>()), 0..6).prop_map(|accounts| {
        accounts
            .into_iter()
            .map(|(a, (t, older))| Wanted {
                account: acc(&format!("a{a}")),
                token: t.map(|t| fp(&format!("{a}-{t}"))),
                older_generation: older,
            })
            .collect()
    })
}
fn any_listed() -> impl Strategy<Value = Vec<Listed>> {
    prop::collection::vec((0u8..8, 0u8..9, any::<bool>(), 0u8..5), 0..8).prop_map(|rows| {
        rows.into_iter()
            .map(|(a, t, may_leave, kind)| {
                let account = acc(&format!("a{a}"));
                // A token that is one of ours is always recognised, so a stranger's is never the same.
                let token = if kind == 0 { format!("x{a}-{t}") } else { format!("{a}-{t}") };
                let mut row = row(account.as_str(), &token);
                row.ours = (kind != 0).then_some(OurAccount { account, may_leave });
                // Of a token there is one word.
                let word = [None, Some(TokenWord::Keep), Some(TokenWord::Remove)][usize::from(t % 3)];
                row.word = word.filter(|_| kind == 0);
                row.layer_owned = kind == 1;
                row.status = if kind == 2 { RowStatus::Archived } else { RowStatus::Active };
                row
            })
            .collect()
    })
}

#[test]
fn i8_an_operators_word_on_one_unknown_token_holds_for_it_alone() {
    let said = |token, word| Listed { word: Some(word), ..stranger(token) };
    let wanted = [want("a", "1")];
    let kept = [row("a", "1"), said("x", TokenWord::Keep)];
    assert_eq!(decide(&wanted, &kept), converged());
    let got = decide(&wanted, &[row("a", "1"), said("x", TokenWord::Remove)]);
    let Plan::Put(put) = got else { panic!("{got:?}") };
    assert_eq!((put.tokens, put.discarded, put.removed), (vec![fp("1")], vec![fp("x")], vec![]));
    let another = [row("a", "1"), said("x", TokenWord::Remove), stranger("y")];
    assert_eq!(decide(&wanted, &another), Plan::Hold(Hold::UnknownTokens { tokens: vec![fp("y")] }));
    // It was the only one there.
    assert_eq!(put_of(decide(&[], &[said("x", TokenWord::Remove)])), Vec::<Fingerprint>::new());
    // A token of ours is no stranger's, whatever was said while it was.
    let ours = Listed { word: Some(TokenWord::Remove), ..row("a", "1") };
    assert_eq!(decide(&wanted, &[ours]), converged());
}

#[test]
fn i8_nothing_is_sent_while_an_operator_says_so() {
    let held = Policy { kept_back: Some("migration".into()), ..policy() };
    let (wanted, listed) = ([want("a", "new")], [row("a", "old")]);
    for permit in [None, Some(&Permit::default())] {
        let got = plan(&wanted, &listed, &Accepted::new(), &held, permit);
        assert_eq!(got, Plan::Hold(Hold::Operator { why: "migration".into() }));
    }
    let same = [row("a", "new")];
    assert_eq!(plan(&wanted, &same, &Accepted::new(), &held, None), converged());
}

proptest! {
    /// Whatever the facts: a release gets past the guard that was seen, and takes off the list only what it had named.
    #[test]
    fn i8_a_release_is_for_what_the_guard_named(wanted in any_wanted(), listed in any_listed(), other in any_listed()) {
        let at = |listed: &[Listed], permit: Option<&Permit>| plan(&wanted, listed, &Accepted::new(), &policy(), permit);
        let Plan::Hold(hold) = at(&listed, None) else { return Ok(()) };
        let permit = Permit(hold.objection());
        if !permit.0.is_empty() {
            let after = at(&listed, Some(&permit));
            prop_assert!(!matches!(&after, Plan::Hold(again) if *again == hold), "{:?}", after);
        }
        if let Plan::Put(put) = at(&other, Some(&permit)) {
            let may_leave = |account: &AccountId| {
                let rows = other.iter().filter(|row| row.status.is_row() && !row.layer_owned);
                rows.filter_map(|row| row.ours.as_ref()).filter(|ours| ours.account == *account).all(|ours| ours.may_leave)
            };
            let unproved: Vec<_> = put.removed.iter().filter(|account| !may_leave(account)).collect();
            let named = unproved.iter().all(|account| permit.0.accounts.contains(*account));
            prop_assert!(unproved.len() <= policy().max_unproved_removals || named, "{:?}", unproved);
        }
    }

    /// Whatever the facts: a PUT drops no account that is wanted and listed, and none that has no proof; a token
    /// stands in it once; carrying it out and planning again finds nothing to do.
    #[test]
    fn i8_i9_a_put_keeps_what_it_must_and_one_is_enough(wanted in any_wanted(), listed in any_listed()) {
        let keep = Policy { unknown: UnknownPolicy::Keep, ..policy() };
        let held = Policy { unknown: UnknownPolicy::Keep, kept_back: Some("because".into()), ..policy() };
        let while_held = plan(&wanted, &listed, &Accepted::new(), &held, Some(&Permit::default()));
        prop_assert!(!matches!(while_held, Plan::Put(_)), "{:?}", while_held);
        if let Plan::Put(put) = plan(&wanted, &listed, &Accepted::new(), &keep, None) {
            let unique: HashSet<_> = put.tokens.iter().collect();
            prop_assert_eq!(unique.len(), put.tokens.len());
            for row in listed.iter().filter(|r| r.status == RowStatus::Active && !r.layer_owned) {
                match &row.ours {
                    None => {
                        let (token, removed) = (row.token.as_ref().unwrap(), row.word == Some(TokenWord::Remove));
                        prop_assert_eq!((put.tokens.contains(token), put.discarded.contains(token)), (!removed, removed));
                    }
                    Some(ours) if !ours.may_leave => {
                        let prefix = format!("fp1_{}-", &ours.account.as_str()[1..]);
                        prop_assert!(put.tokens.iter().any(|t| t.as_str().starts_with(&prefix)));
                    }
                    Some(_) => {}
                }
            }
            let after: Vec<Listed> = put.tokens.iter().map(|t| {
                listed.iter().find(|r| r.token.as_ref() == Some(t)).cloned().map(|r| Listed { status: RowStatus::Active, layer_owned: false, ..r })
                    .unwrap_or_else(|| {
                        let owner = wanted.iter().find(|w| w.token.as_ref() == Some(t)).unwrap();
                        let (_, name) = t.as_str().split_once('_').unwrap();
                        row(owner.account.as_str(), name)
                    })
            }).collect();
            let accepted: Accepted = put.tokens.iter().cloned().collect();
            let again = plan(&wanted, &after, &accepted, &keep, None);
            prop_assert!(matches!(again, Plan::Converged { .. }), "{:?}", again);
        }
    }
}
