//! Access tokens, minted tokens, and the accounts they are for.

use super::{
    KEY, LONG, OTHER_KEY, acme, claim, done, finish, item, limits, mark, marked, open, open_with, place, push,
    save_account,
};
use domain::accounts::{AccountState, Traits};
use domain::item::{ItemState, TokenCause};
use domain::work::{Class, Kind};
use domain::{AccessToken, AccountId, BusinessId, ItemId, LayerId, ProcessorToken};
use std::time::Duration;
use store::{AccountUpdate, BusinessMark, Declaration, News, Page, Push, Saved};
use tests::Parts;

on_both_parts!(
    a_push_and_a_look_never_wait_for_each_other,
    moving_keys_waits_for_nobody,
    what_is_read_together_is_of_one_moment,
    i5_candidates_are_stored_before_they_are_current,
    i5_what_a_dead_token_said_holds_only_where_nothing_else_is_known,
    i5_a_word_that_waits_goes_on_under_the_next_token,
    i6_the_first_saved_answer_wins,
    i6_a_removed_item_leaves_no_open_intent,
    i8_a_move_ordered_during_a_look_waits_for_the_next_one,
    the_newest_of_two_live_tokens_is_the_account_s,
    lists_are_paginated,
);

/// What first contact takes over supersedes nothing.
async fn the_newest_of_two_live_tokens_is_the_account_s(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-0", acme()).await;
    let (x, account, acme_id) = (item("x"), AccountId::parse("acc-x").unwrap(), BusinessId::parse("acme").unwrap());
    let mut tx = store.begin().await.unwrap();
    tx.promote(&x, &store.fingerprints().of("token-0")).await.unwrap();
    tx.apply_declaration(&x, &store.fingerprints().of("token-0")).await.unwrap();
    tx.set_item_state(&x, ItemState::Active, None, None).await.unwrap();
    save_account(&mut tx, "x", "acme").await;
    for (generation, token) in [(1, "p-new"), (0, "p-old")] {
        tx.adopt(&x, &account, generation, &ProcessorToken::new(token)).await.unwrap();
    }
    let newest = store.fingerprints().of_processor(&ProcessorToken::new("p-new"));
    let wanted = tx.wanted_accounts(&acme_id).await.unwrap();
    assert_eq!(wanted.len(), 1);
    assert_eq!((wanted[0].token.as_ref(), wanted[0].older_generation), (Some(&newest), false));
    let verdict = tx.verdict(&acme_id).await.unwrap().unwrap().verdict;
    assert_eq!(verdict.accounts, 1, "{verdict:?}");
    tx.rollback().await.unwrap();
}

/// Both write the row in the queue, the Item and its tokens: in two orders, PostgreSQL would give one of them up.
async fn a_push_and_a_look_never_wait_for_each_other(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-0", acme()).await;
    for n in 1..=20 {
        let claimed = claim(&store, "a", LONG).await.remove(0);
        let look = async {
            let mut tx = store.begin().await.unwrap();
            tx.check_lease(&claimed).await.unwrap();
            tx.promote(&item("x"), &store.fingerprints().of(&format!("token-{}", n - 1))).await.unwrap();
            tx.finish(&claimed, &done()).await.unwrap();
            tx.commit().await.unwrap();
        };
        let token = format!("token-{n}");
        tokio::join!(look, push(&store, "x", &token, acme()));
        // Nor do the first pushes of an Item, whose rows are not there yet.
        let new = format!("new-{n}");
        tokio::join!(push(&store, &new, "a", acme()), push(&store, &new, "b", acme()));
        for claimed in claim(&store, "b", LONG).await {
            finish(&store, &claimed, &done()).await.unwrap();
        }
        marked(&store, &mark("x")).await;
    }
}

/// A reconciliation replaces several tokens in one transaction, in its own order. Somebody who locks them in another order and waits
/// would end one of the two.
async fn moving_keys_waits_for_nobody(parts: Parts) {
    let place = place(parts).await;
    let store = open_with(&place, KEY, 7).await.unwrap();
    push(&store, "x", "token-0", acme()).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let accounts = ["acc-1", "acc-2"].map(|a| AccountId::parse(a).unwrap());
    let mut tx = store.begin().await.unwrap();
    tx.promote(&item("x"), &store.fingerprints().of("token-0")).await.unwrap();
    for (n, account) in accounts.iter().enumerate() {
        tx.adopt(&item("x"), account, 0, &ProcessorToken::new(format!("p-{n}"))).await.unwrap();
    }
    tx.commit().await.unwrap();

    let moving = open_with(&place, &format!("{OTHER_KEY},{KEY}"), 7).await.unwrap();
    let mut writer = store.begin().await.unwrap();
    let intent = writer.intend(&held, &item("x"), &accounts[0], 1).await.unwrap();
    assert!(matches!(writer.save_minted(&intent, &ProcessorToken::new("p-new")).await.unwrap(), Saved::Live(_)));
    let left = if parts == Parts::Real {
        let resealed = moving.reseal(100).await.unwrap();
        assert_eq!(resealed.moved, 4, "the access token, what came with it, the other account's token, the key check");
        resealed.left.values().sum()
    } else {
        0 // SQLite has one writer: the other waits for its turn, and holds nothing meanwhile.
    };
    assert_eq!(left, i64::from(parts == Parts::Real), "what is being written is left for the next pass");
    writer.commit().await.unwrap();
    while !moving.reseal(100).await.unwrap().left.is_empty() {}
}

/// A token that is wanted when the list is planned must not have lost its value when the list is sent.
async fn what_is_read_together_is_of_one_moment(parts: Parts) {
    let (store, _place) = open(parts).await;
    let mut reader = store.begin_read().await.unwrap();
    assert_eq!(reader.count_items().await.unwrap(), 0);
    push(&store, "x", "token", acme()).await;
    assert_eq!((reader.count_items().await.unwrap(), reader.count_businesses().await.unwrap()), (0, 0));
    drop(reader);
    assert_eq!(store.begin_read().await.unwrap().count_items().await.unwrap(), 1);
}

async fn i5_candidates_are_stored_before_they_are_current(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let fingerprint = |t: &str| store.fingerprints().of(t);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.current(&item("x")).await.unwrap().is_none(), "stored, not current");
    assert!(tx.item(&item("x")).await.unwrap().unwrap().business.is_none(), "what came with it waits for the proof");
    assert_eq!(tx.promote(&item("x"), &fingerprint("token-1")).await.unwrap(), 1);
    assert!(tx.item(&item("x")).await.unwrap().unwrap().business.is_none(), "and then for its own judgement");
    tx.apply_declaration(&item("x"), &fingerprint("token-1")).await.unwrap();
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business);
    assert_eq!(tx.current(&item("x")).await.unwrap().unwrap().token.unwrap().expose(), "token-1");
    tx.commit().await.unwrap();
    push(&store, "x", "token-2", acme()).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.current(&item("x")).await.unwrap().unwrap().token.unwrap().expose(), "token-1");
    tx.reject(&item("x"), &fingerprint("token-2"), TokenCause::OtherItem, "not this Item's", false).await.unwrap();
    let token = AccessToken::new("token-2");
    assert_eq!(tx.add_candidate(&item("x"), &token, "lookup", None).await.unwrap(), News::RefusedBefore { gone: None });
    assert_eq!(tx.add_candidate(&item("x"), &token, "push", Some(&acme())).await.unwrap(), News::Candidate);
    assert_eq!(tx.promote(&item("x"), &fingerprint("token-2")).await.unwrap(), 2);
    let current = AccessToken::new("token-2");
    assert_eq!(tx.add_candidate(&item("x"), &current, "lookup", None).await.unwrap(), News::IsCurrent);
    let views = tx.token_views(&item("x")).await.unwrap();
    assert_eq!(views.len(), 2, "{views:?}");
    tx.commit().await.unwrap();
    // Two rotations in a row: while Plaid was asked about the first token, the second one was pushed.
    push(&store, "x", "token-3", acme()).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    push(&store, "x", "token-4", acme()).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.promote(&item("x"), &fingerprint("token-3")).await.unwrap(), 3);
    let waiting: Vec<_> = tx.candidates(&item("x")).await.unwrap().into_iter().map(|c| c.fingerprint).collect();
    assert_eq!(waiting, [fingerprint("token-4")], "the newer one still waits for its own proof");
}

async fn i5_what_a_dead_token_said_holds_only_where_nothing_else_is_known(parts: Parts) {
    let (store, _place) = open(parts).await;
    let fingerprint = |t: &str| store.fingerprints().of(t);
    push(&store, "x", "token-1", acme()).await;
    let mut tx = store.begin().await.unwrap();
    tx.reject(&item("x"), &fingerprint("token-1"), TokenCause::UnknownToPlaid, "dead", true).await.unwrap();
    tx.add_candidate(&item("x"), &AccessToken::new("token-2"), "lookup", None).await.unwrap();
    tx.promote(&item("x"), &fingerprint("token-2")).await.unwrap();
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business, "the Item belongs to somebody");
    tx.commit().await.unwrap();
    let globex = Declaration { business: Some(BusinessId::parse("globex").unwrap()), ..Declaration::default() };
    push(&store, "x", "token-3", globex).await;
    let mut tx = store.begin().await.unwrap();
    tx.reject(&item("x"), &fingerprint("token-3"), TokenCause::UnknownToPlaid, "dead", true).await.unwrap();
    tx.add_candidate(&item("x"), &AccessToken::new("token-4"), "lookup", None).await.unwrap();
    tx.promote(&item("x"), &fingerprint("token-4")).await.unwrap();
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business, "a refused push changes nothing");
}

/// A reconciliation proves the pushed token and dies before it judges what came with it; then the Item is rotated again.
async fn i5_a_word_that_waits_goes_on_under_the_next_token(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let mut tx = store.begin().await.unwrap();
    tx.promote(&item("x"), &store.fingerprints().of("token-1")).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.add_candidate(&item("x"), &AccessToken::new("token-2"), "lookup", None).await.unwrap();
    let second = store.fingerprints().of("token-2");
    tx.promote(&item("x"), &second).await.unwrap();
    assert_eq!(tx.declaration_of_current(&item("x")).await.unwrap(), Some((second.clone(), acme())));
    tx.apply_declaration(&item("x"), &second).await.unwrap();
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business);
    tx.commit().await.unwrap();
}

async fn i6_the_first_saved_answer_wins(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let account = AccountId::parse("acc-x").unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.promote(&item("x"), &store.fingerprints().of("token-1")).await.unwrap();
    let acme = BusinessId::parse("acme").unwrap();
    let id = item("x");
    save_account(&mut tx, "x", "acme").await;
    tx.set_item_state(&id, ItemState::Active, None, None).await.unwrap();
    let first = tx.intend(&held, &id, &account, 1).await.unwrap();
    let second = tx.intend(&held, &id, &account, 1).await.unwrap();
    let crashed = tx.intend(&held, &id, &account, 1).await.unwrap();
    assert!(matches!(tx.save_minted(&second, &ProcessorToken::new("p-2")).await.unwrap(), Saved::Live(_)));
    assert!(matches!(tx.save_minted(&first, &ProcessorToken::new("p-1")).await.unwrap(), Saved::Orphan(_)));
    assert_eq!(tx.orphan_intents(&id).await.unwrap(), 1, "the look of the third one never ended");
    assert!(matches!(tx.save_minted(&crashed, &ProcessorToken::new("p-3")).await.unwrap(), Saved::Orphan(_)));
    let wanted = tx.wanted_accounts(&acme).await.unwrap();
    assert_eq!(wanted[0].token, Some(store.fingerprints().of("p-2")));
    assert!(!wanted[0].older_generation);
    // The next generation: the previous token is kept until its successor is saved, and erased with it.
    push_in(&mut tx, &id, "token-2").await;
    tx.promote(&id, &store.fingerprints().of("token-2")).await.unwrap();
    let wanted = tx.wanted_accounts(&acme).await.unwrap();
    assert!(wanted[0].older_generation && wanted[0].token.is_some(), "I8: kept");
    let late = tx.intend(&held, &id, &account, 1).await.unwrap();
    assert!(
        matches!(tx.save_minted(&late, &ProcessorToken::new("p-4")).await.unwrap(), Saved::Orphan(_)),
        "an old generation"
    );
    let next = tx.intend(&held, &id, &account, 2).await.unwrap();
    assert!(matches!(tx.save_minted(&next, &ProcessorToken::new("p-5")).await.unwrap(), Saved::Live(_)));
    let counts = tx.processor_token_counts(&id).await.unwrap();
    assert_eq!(counts, vec![("live".into(), 1), ("orphaned".into(), 3), ("superseded".into(), 1)]);
    assert_eq!(tx.open_live_tokens(&acme).await.unwrap()[0].1.expose(), "p-5");
}

/// Removed between a mint and its answer, or after a reconciliation that died there: nobody looks at it again.
async fn i6_a_removed_item_leaves_no_open_intent(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let (id, account) = (item("x"), AccountId::parse("acc").unwrap());
    let mut tx = store.begin().await.unwrap();
    tx.promote(&id, &store.fingerprints().of("token-1")).await.unwrap();
    let [_lost, answered, refused] = [
        tx.intend(&held, &id, &account, 1).await.unwrap(),
        tx.intend(&held, &id, &account, 1).await.unwrap(),
        tx.intend(&held, &id, &account, 1).await.unwrap(),
    ];
    tx.remove_item(&id).await.unwrap();
    assert_eq!(tx.processor_token_counts(&id).await.unwrap(), [("orphaned".to_owned(), 3)]);
    assert!(matches!(tx.save_minted(&answered, &ProcessorToken::new("p-1")).await.unwrap(), Saved::Orphan(_)));
    tx.drop_intent(&refused).await.unwrap();
    tx.drop_intent(&answered).await.unwrap();
    assert_eq!(
        tx.processor_token_counts(&id).await.unwrap(),
        [("orphaned".to_owned(), 2)],
        "what was minted stays known"
    );
}

async fn i8_a_move_ordered_during_a_look_waits_for_the_next_one(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let [acme, globex] = ["acme", "globex"].map(|b| BusinessId::parse(b).unwrap());
    let (id, account) = (item("x"), AccountId::parse("acc").unwrap());
    let traits = Traits { kind: "depository".into(), ..Traits::default() };
    let in_acme = AccountUpdate {
        item: id.clone(),
        id: account,
        traits,
        state: AccountState::Active,
        business: Some(acme.clone()),
        moving_from: None,
        before: None,
        missing_since: None,
        proof: None,
        outside: None,
    };
    let due = |tx: store::Tx| async {
        let mut tx = tx;
        let mark = BusinessMark::changed(acme.clone(), Class::Rotation);
        tx.mark_businesses(&[mark], "test", None).await.unwrap();
        tx.commit().await.unwrap();
        store.claim(Kind::Business, "one", LONG, 10, &limits()).await.unwrap()
    };
    let mut tx = store.begin().await.unwrap();
    tx.promote(&id, &store.fingerprints().of("token-1")).await.unwrap();
    tx.apply_declaration(&id, &store.fingerprints().of("token-1")).await.unwrap();
    tx.set_item_state(&id, ItemState::Active, None, None).await.unwrap();
    tx.set_layer_id(&acme, &LayerId::parse("at-layer").unwrap()).await.unwrap();
    tx.ensure_business(&globex, None).await.unwrap();
    tx.save_account(&in_acme).await.unwrap();
    let look = due(tx).await.remove(0);
    // The reconciliation has planned with the account in the list when the platform orders the move.
    let mut tx = store.begin().await.unwrap();
    tx.save_account(&AccountUpdate { business: Some(globex.clone()), moving_from: Some(acme.clone()), ..in_acme })
        .await
        .unwrap();
    assert!(due(tx).await.is_empty(), "the look is under way");
    let mut tx = store.begin().await.unwrap();
    assert!(tx.moves_done(&acme, &look).await.unwrap().is_empty(), "I8: this look has not seen it leave");
    assert!(tx.wanted_accounts(&globex).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    finish(&store, &look, &done()).await.unwrap();
    let next = due(store.begin().await.unwrap()).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.moves_done(&acme, &next).await.unwrap(), vec![globex.clone()]);
    assert_eq!(tx.wanted_accounts(&globex).await.unwrap().len(), 1);
}

async fn lists_are_paginated(parts: Parts) {
    let (store, _place) = open(parts).await;
    for n in 0..5 {
        push(&store, &format!("item{n}"), &format!("t{n}"), acme()).await;
    }
    let mut tx = store.begin().await.unwrap();
    let page = tx.list_items(&Page { after: Some("item1".into()), limit: 2 }).await.unwrap();
    let ids: Vec<&str> = page.iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["item2", "item3"]);
}

async fn push_in(tx: &mut store::Tx, id: &ItemId, token: &str) {
    let push = Push {
        item: id.clone(),
        access_token: Some(AccessToken::new(token)),
        declaration: acme(),
        class: Class::Person,
        source: "push",
        traceparent: None,
    };
    tx.push(&push).await.unwrap();
}
