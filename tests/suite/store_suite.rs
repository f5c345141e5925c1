//! One suite of store tests for both databases.

use domain::accounts::{AccountState, Traits};
use domain::budget::{Call, Limits};
use domain::item::ItemState;
use domain::work::{Block, Class, Kind};
use domain::{AccessToken, AccountId, BusinessId, Fingerprinter, ItemId, LayerId, ProcessorToken};
use rekey::config::{self, Config};
use secrecy::SecretString;
use std::time::Duration;
use store::{
    AccountUpdate, Blocked, Claim, Declaration, Error, Finish, KeyRing, Mark, News, Page, Push, Saved, Settings, Store,
};
use tests::{Parts, fresh_database};

stories!(
    i4_a_row_is_claimed_by_one_and_an_event_during_a_look_survives_it,
    i7_a_lost_lease_writes_nothing,
    a_row_follows_the_trace_of_its_event_until_that_is_served,
    a_lease_that_expires_is_taken_over,
    many_claimers_share_without_overlap,
    backoff_and_parking_wait_for_the_right_events,
    a_pause_stops_claims_and_frees_the_wronged,
    i8_a_move_ordered_during_a_look_waits_for_the_next_one,
    a_push_and_a_look_never_wait_for_each_other,
    what_is_read_together_is_of_one_moment,
    what_cannot_touch_a_token_is_no_signal,
    i5_candidates_are_stored_before_they_are_current,
    i5_what_a_dead_token_said_holds_only_where_nothing_else_is_known,
    i6_the_first_saved_answer_wins,
    i3_nothing_secret_is_readable_in_the_database,
    keys_are_checked_at_start,
    several_processes_migrate_at_once,
    a_database_of_the_future_is_refused,
    lists_are_paginated,
    figures_tell_who_waits_and_for_what,
);

struct Place {
    url: String,
    _directory: tempfile::TempDir,
}

async fn place(parts: Parts) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let url = match parts {
        Parts::Embedded => format!("sqlite://{}", directory.path().join("store.sqlite").display()),
        Parts::Real => fresh_database().await,
    };
    Place { url, _directory: directory }
}

const KEY: &str = "a:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "b:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

async fn open_with(place: &Place, keys: &str, fingerprint: u8) -> Result<Store, Error> {
    let settings = Settings {
        url: SecretString::from(place.url.clone()),
        connections: 8,
        acquire_timeout: Duration::from_secs(10),
    };
    let ring = KeyRing::parse(&SecretString::from(keys)).unwrap();
    Store::open(&settings, ring, Fingerprinter::new(1, &[fingerprint; 32])).await
}

async fn open(parts: Parts) -> (Store, Place) {
    let place = place(parts).await;
    (open_with(&place, KEY, 7).await.unwrap(), place)
}

fn item(n: &str) -> ItemId {
    ItemId::parse(n).unwrap()
}
fn mark(id: &str) -> Mark<'_> {
    Mark {
        kind: Kind::Item,
        id,
        class: Class::Rotation,
        reason: "test",
        wait: Duration::ZERO,
        quiet: None,
        unblocks: false,
        traceparent: None,
    }
}
async fn marked(store: &Store, mark: &Mark<'_>) -> i64 {
    let mut tx = store.begin().await.unwrap();
    let wanted = tx.mark(mark).await.unwrap();
    tx.commit().await.unwrap();
    wanted
}
async fn claim(store: &Store, owner: &str, lease: Duration) -> Vec<Claim> {
    store.claim(Kind::Item, owner, lease, 10, &limits()).await.unwrap()
}
/// More than any case uses.
fn limits() -> Limits {
    Limits {
        item_get: 600_000,
        accounts_get: 600_000,
        mint: 600_000,
        token_probe: 600_000,
        layer: 600_000,
        layer_create: 600_000,
        per_item: 60_000,
        recovery: Duration::from_secs(10),
    }
}
const LONG: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(3600);

fn done() -> Finish {
    Finish::done(SWEEP, Class::Sweep)
}
fn blocked(by: Block) -> Finish {
    let blocked = Blocked { by, code: "test".into(), why: "because".into() };
    Finish::blocked(SWEEP, Class::Retry, blocked)
}
async fn finish(store: &Store, claim: &Claim, finish: &Finish) -> Result<(), Error> {
    let mut tx = store.begin().await.unwrap();
    tx.finish(claim, finish).await?;
    tx.commit().await
}
async fn push(store: &Store, id: &str, token: &str, source: Declaration) {
    let push = Push {
        item: item(id),
        access_token: Some(AccessToken::new(token)),
        declaration: source,
        class: Class::Person,
        source: "push",
        traceparent: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.push(&push).await.unwrap();
    tx.commit().await.unwrap();
}
fn acme() -> Declaration {
    Declaration { business: Some(BusinessId::parse("acme").unwrap()), ..Declaration::default() }
}

async fn i4_a_row_is_claimed_by_one_and_an_event_during_a_look_survives_it(parts: Parts) {
    let (store, _place) = open(parts).await;
    assert_eq!(marked(&store, &mark("x")).await, 1);
    let first = claim(&store, "one", LONG).await.remove(0);
    assert!(claim(&store, "two", LONG).await.is_empty(), "leased");
    assert_eq!(marked(&store, &mark("x")).await, 2, "an event during the look");
    finish(&store, &first, &done()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let row = tx.work(Kind::Item, "x").await.unwrap().unwrap();
    assert_eq!((row.wanted, row.done), (2, 1), "a waiter for the second event is not told that it is served");
    drop(tx);
    let second = claim(&store, "two", LONG).await.remove(0);
    assert_eq!((second.wanted, second.taken_over), (2, None));
    finish(&store, &second, &done()).await.unwrap();
    assert!(claim(&store, "one", LONG).await.is_empty(), "served");
    let mut tx = store.begin().await.unwrap();
    let row = tx.work(Kind::Item, "x").await.unwrap().unwrap();
    assert_eq!((row.wanted, row.done, row.reason.as_str()), (2, 2, "sweep"));
}

async fn a_row_follows_the_trace_of_its_event_until_that_is_served(parts: Parts) {
    let (store, _place) = open(parts).await;
    let of = |trace| Mark { traceparent: Some(trace), unblocks: true, ..mark("x") };
    let look = async || claim(&store, "one", LONG).await.remove(0);
    marked(&store, &of("first")).await;
    let first = look().await;
    finish(&store, &first, &Finish { again_after: Duration::ZERO, ..blocked(Block::Backoff) }).await.unwrap();
    let retry = look().await;
    marked(&store, &of("second")).await;
    finish(&store, &retry, &done()).await.unwrap();
    let second = look().await;
    finish(&store, &second, &Finish::done(Duration::ZERO, Class::Sweep)).await.unwrap();
    let sweep = look().await;
    let followed = [first, retry, second, sweep].map(|claim| claim.traceparent);
    assert_eq!(followed, [Some("first".into()), Some("first".into()), Some("second".into()), None]);
}

async fn i7_a_lost_lease_writes_nothing(parts: Parts) {
    let (store, _place) = open(parts).await;
    marked(&store, &mark("x")).await;
    let mut lost = claim(&store, "one", Duration::from_millis(1)).await.remove(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let held = claim(&store, "two", LONG).await.remove(0);
    assert!(held.epoch > lost.epoch);
    let mut tx = store.begin().await.unwrap();
    tx.ensure_business(&BusinessId::parse("ghost").unwrap(), None).await.unwrap();
    assert!(matches!(tx.finish(&lost, &done()).await, Err(Error::Stale { .. })));
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.business(&BusinessId::parse("ghost").unwrap()).await.unwrap().is_none(), "the whole look is undone");
    assert!(matches!(tx.renew(&mut lost, LONG).await, Err(Error::Stale { .. })));
    assert!(matches!(tx.check_lease(&lost).await, Err(Error::Stale { .. })));
    assert!(tx.check_lease(&held).await.is_ok());
    drop(tx);
    // The same process may claim a row again whose lease it lost: only the epoch tells the two looks apart.
    finish(&store, &held, &done()).await.unwrap();
    marked(&store, &mark("x")).await;
    let mut lost = claim(&store, "one", Duration::from_millis(1)).await.remove(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    assert!(matches!(tx.finish(&lost, &done()).await, Err(Error::Stale { .. })));
    assert!(matches!(tx.renew(&mut lost, LONG).await, Err(Error::Stale { .. })));
    assert!(matches!(tx.check_lease(&lost).await, Err(Error::Stale { .. })));
    assert!(tx.check_lease(&held).await.is_ok());
}

async fn a_lease_that_expires_is_taken_over(parts: Parts) {
    let (store, _place) = open(parts).await;
    marked(&store, &mark("x")).await;
    let first = claim(&store, "one", Duration::from_millis(1)).await.remove(0);
    assert!(first.remaining() <= Duration::from_millis(1));
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = claim(&store, "two", LONG).await.remove(0);
    assert!(second.taken_over.is_some(), "what the first one sent may still be on its way");
    let blocked = Blocked { by: Block::Backoff, code: "x".into(), why: "x".into() };
    let failed = Finish::blocked(Duration::ZERO, Class::Retry, blocked);
    finish(&store, &second, &failed).await.unwrap();
    let third = claim(&store, "one", LONG).await.remove(0);
    assert!(third.taken_over.is_some(), "the take-over failed: the later look is still owed");
    finish(&store, &third, &Finish { owes_look: true, ..done() }).await.unwrap();
    marked(&store, &mark("x")).await;
    let fourth = claim(&store, "one", LONG).await.remove(0);
    assert!(fourth.taken_over > third.taken_over, "an event came before the later look, which is owed all the same");
    finish(&store, &fourth, &done()).await.unwrap();
    marked(&store, &mark("x")).await;
    assert!(claim(&store, "one", LONG).await.remove(0).taken_over.is_none());
}

async fn many_claimers_share_without_overlap(parts: Parts) {
    let (store, _place) = open(parts).await;
    let mut tx = store.begin().await.unwrap();
    for n in 0..60 {
        tx.mark(&mark(&format!("x{n:02}"))).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let store = store.clone();
        claimers.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..6 {
                mine.extend(store.claim(Kind::Item, &format!("w{n}"), LONG, 5, &limits()).await.unwrap());
            }
            mine.into_iter().map(|c| c.id).collect::<Vec<_>>()
        });
    }
    let mut all: Vec<String> = claimers.join_all().await.into_iter().flatten().collect();
    all.extend(claim(&store, "last", LONG).await.into_iter().map(|c| c.id));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!((count, all.len()), (60, 60));
}

async fn backoff_and_parking_wait_for_the_right_events(parts: Parts) {
    let (store, _place) = open(parts).await;
    for by in [Block::Backoff, Block::Parked] {
        let id = by.as_str();
        marked(&store, &mark(id)).await;
        let held = claim(&store, "one", LONG).await.remove(0);
        finish(&store, &held, &blocked(by)).await.unwrap();
        marked(&store, &mark(id)).await;
        assert!(claim(&store, "one", LONG).await.is_empty(), "{by}: an ordinary event does not hasten it");
        marked(&store, &Mark { unblocks: true, ..mark(id) }).await;
        let again = claim(&store, "one", LONG).await.remove(0);
        assert_eq!(again.attempts, 0, "{by}: a new token starts afresh");
        finish(&store, &again, &done()).await.unwrap();
    }
    // What unblocks arrives during the look that is about to fail: the failure is about the past.
    for by in [Block::Backoff, Block::Parked] {
        let id = format!("late-{by}");
        marked(&store, &mark(&id)).await;
        let held = claim(&store, "one", LONG).await.remove(0);
        marked(&store, &Mark { unblocks: true, ..mark(&id) }).await;
        finish(&store, &held, &blocked(by)).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let row = tx.work(Kind::Item, &id).await.unwrap().unwrap();
        assert_eq!((row.blocked, row.attempts), (None, 0), "{by}");
        drop(tx);
        let again = claim(&store, "one", LONG).await.remove(0);
        finish(&store, &again, &done()).await.unwrap();
    }
    // Held by a guard: every event looks again, because what it objected to may be gone.
    marked(&store, &mark("hold")).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    finish(&store, &held, &blocked(Block::Hold)).await.unwrap();
    marked(&store, &mark("hold")).await;
    let again = claim(&store, "one", LONG).await.remove(0);
    assert!(!again.permit);
    finish(&store, &again, &blocked(Block::Hold)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert!(tx.release(Kind::Item, "hold").await.unwrap());
    assert!(!tx.release(Kind::Item, "nobody").await.unwrap());
    tx.commit().await.unwrap();
    assert!(claim(&store, "one", LONG).await.remove(0).permit, "a release permits once");
}

async fn a_pause_stops_claims_and_frees_the_wronged(parts: Parts) {
    use domain::Provider;
    let (store, _place) = open(parts).await;
    for id in ["a", "b"] {
        marked(&store, &mark(id)).await;
    }
    let held = store.claim(Kind::Item, "one", LONG, 1, &limits()).await.unwrap().remove(0);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.suspect(Provider::Plaid, "KEYS", Kind::Item, &held.id, LONG).await.unwrap().rows, 1);
    tx.finish(&held, &blocked(Block::Parked)).await.unwrap();
    assert!(tx.pause(Provider::Plaid, "why", "KEYS", Duration::ZERO).await.unwrap());
    assert!(!tx.pause(Provider::Plaid, "why", "KEYS", Duration::ZERO).await.unwrap(), "once");
    tx.commit().await.unwrap();
    assert!(claim(&store, "one", LONG).await.is_empty(), "paused");
    let mut tx = store.begin().await.unwrap();
    assert!(
        tx.list_parked(&Page { after: None, limit: 9 }).await.unwrap().is_empty(),
        "I4: nobody stays parked for it"
    );
    assert_eq!(tx.due_probes(LONG).await.unwrap().len(), 1);
    assert!(tx.due_probes(LONG).await.unwrap().is_empty(), "one process probes");
    assert!(tx.resume(Provider::Plaid).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(claim(&store, "one", LONG).await.len(), 2, "everybody goes on");
}

async fn i8_a_move_ordered_during_a_look_waits_for_the_next_one(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let [acme, globex] = ["acme", "globex"].map(|b| BusinessId::parse(b).unwrap());
    let (id, account) = (item("x"), AccountId::parse("acc").unwrap());
    let traits = Traits { kind: "depository".into(), ..Traits::default() };
    let in_acme = AccountUpdate {
        item: &id,
        id: &account,
        traits: &traits,
        state: AccountState::Active,
        business: Some(&acme),
        missing_since: None,
        proof: None,
        outside: None,
    };
    let due = |tx: store::Tx| async {
        let mut tx = tx;
        tx.mark_business(&acme, Class::Rotation, "test", Duration::ZERO, true, None).await.unwrap();
        tx.commit().await.unwrap();
        store.claim(Kind::Business, "one", LONG, 10, &limits()).await.unwrap()
    };
    let mut tx = store.begin().await.unwrap();
    tx.promote(&id, &store.fingerprints().of("token-1")).await.unwrap();
    tx.set_item_state(&id, ItemState::Active, None).await.unwrap();
    tx.set_layer_id(&acme, &LayerId::parse("at-layer").unwrap()).await.unwrap();
    tx.ensure_business(&globex, None).await.unwrap();
    tx.save_account(&in_acme).await.unwrap();
    let look = due(tx).await.remove(0);
    // The look has planned with the account in the list when the platform orders the move.
    let mut tx = store.begin().await.unwrap();
    tx.save_account(&AccountUpdate { business: Some(&globex), ..in_acme }).await.unwrap();
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

/// A webhook about transactions comes during a look: the row is looked at again, but nobody's books have been at risk since.
async fn what_cannot_touch_a_token_is_no_signal(parts: Parts) {
    let (store, _place) = open(parts).await;
    for (quiet, signalled) in [(Some(LONG), false), (None, true)] {
        let id = format!("x{signalled}");
        marked(&store, &mark(&id)).await;
        let first = claim(&store, "a", Duration::from_millis(300)).await.remove(0);
        marked(&store, &Mark { quiet, ..mark(&id) }).await;
        finish(&store, &first, &done()).await.unwrap();
        let again = async || !claim(&store, "b", LONG).await.iter().all(|c| c.signal_at.is_some() != signalled);
        assert!(tests::holds(again).await, "quiet {quiet:?}");
    }
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
    assert!(tx.current_token(&item("x")).await.unwrap().is_none(), "stored, not current");
    assert!(tx.item(&item("x")).await.unwrap().unwrap().business.is_none(), "what came with it waits for the proof");
    assert_eq!(tx.promote(&item("x"), &fingerprint("token-1")).await.unwrap(), 1);
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business);
    assert_eq!(tx.current_token(&item("x")).await.unwrap().unwrap().token.expose(), "token-1");
    tx.commit().await.unwrap();
    push(&store, "x", "token-2", acme()).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.current_token(&item("x")).await.unwrap().unwrap().fingerprint, fingerprint("token-1"));
    tx.reject(&item("x"), &fingerprint("token-2"), "not this Item's", false).await.unwrap();
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
    tx.reject(&item("x"), &fingerprint("token-1"), "dead", true).await.unwrap();
    tx.add_candidate(&item("x"), &AccessToken::new("token-2"), "lookup", None).await.unwrap();
    tx.promote(&item("x"), &fingerprint("token-2")).await.unwrap();
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business, "the Item belongs to somebody");
    tx.commit().await.unwrap();
    let globex = Declaration { business: Some(BusinessId::parse("globex").unwrap()), ..Declaration::default() };
    push(&store, "x", "token-3", globex).await;
    let mut tx = store.begin().await.unwrap();
    tx.reject(&item("x"), &fingerprint("token-3"), "dead", true).await.unwrap();
    tx.add_candidate(&item("x"), &AccessToken::new("token-4"), "lookup", None).await.unwrap();
    tx.promote(&item("x"), &fingerprint("token-4")).await.unwrap();
    assert_eq!(tx.item(&item("x")).await.unwrap().unwrap().business, acme().business, "a refused push changes nothing");
}

async fn i6_the_first_saved_answer_wins(parts: Parts) {
    let (store, _place) = open(parts).await;
    push(&store, "x", "token-1", acme()).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let account = AccountId::parse("acc").unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.promote(&item("x"), &store.fingerprints().of("token-1")).await.unwrap();
    let acme = BusinessId::parse("acme").unwrap();
    let traits = Traits { kind: "depository".into(), ..Traits::default() };
    let id = item("x");
    let update = AccountUpdate {
        item: &id,
        id: &account,
        traits: &traits,
        state: AccountState::Active,
        business: Some(&acme),
        missing_since: None,
        proof: None,
        outside: None,
    };
    tx.save_account(&update).await.unwrap();
    tx.set_item_state(&id, ItemState::Active, None).await.unwrap();
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

async fn i3_nothing_secret_is_readable_in_the_database(parts: Parts) {
    let (store, place) = open(parts).await;
    let creation = Some("{\"phone_number\": \"marked-phone\"}".to_owned());
    push(&store, "x", "access-sandbox-marked", Declaration { creation, ..acme() }).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    tx.promote(&item("x"), &store.fingerprints().of("access-sandbox-marked")).await.unwrap();
    let intent = tx.intend(&held, &item("x"), &AccountId::parse("acc").unwrap(), 1).await.unwrap();
    tx.save_minted(&intent, &ProcessorToken::new("processor-sandbox-marked")).await.unwrap();
    tx.commit().await.unwrap();
    let dump = dump(&place.url).await;
    assert!(dump.len() > 500, "the dump is not empty");
    assert!(!dump.contains("marked"), "I3: a secret stands in the database");
}

/// Every row of every table as text.
async fn dump(url: &str) -> String {
    use sqlx::Row;
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().connect(url).await.unwrap();
    let tables = [
        "work",
        "items",
        "assignments",
        "access_tokens",
        "accounts",
        "processor_tokens",
        "businesses",
        "hints",
        "unknown_items",
        "outbox",
        "audit",
        "meta",
    ];
    let mut text = String::new();
    for table in tables {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {table}"))).fetch_all(&pool).await.unwrap();
        for row in rows {
            for column in 0..row.len() {
                let value = row.try_get::<Option<String>, _>(column).ok().flatten();
                text.push_str(&value.unwrap_or_default());
                text.push('\n');
            }
        }
    }
    text
}

async fn keys_are_checked_at_start(parts: Parts) {
    let place = place(parts).await;
    drop(open_with(&place, KEY, 7).await.unwrap());
    let refused = |result: Result<Store, Error>, word: &str| {
        let message = result.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    refused(open_with(&place, OTHER_KEY, 7).await, "add that key again");
    refused(open_with(&place, &KEY.replace("AQEB", "AQED"), 7).await, "a key was changed under the same id");
    refused(open_with(&place, KEY, 8).await, "fingerprint_key");
    // A new key in front seals, the old one behind it still opens.
    open_with(&place, &format!("{OTHER_KEY},{KEY}"), 7).await.unwrap();
}

async fn several_processes_migrate_at_once(parts: Parts) {
    let place = place(parts).await;
    let opened = futures_join((0..4).map(|_| open_with(&place, KEY, 7)).collect()).await;
    for store in opened {
        store.unwrap();
    }
}

async fn futures_join<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut out: Vec<Option<F::Output>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in pinned.iter_mut().zip(&mut out) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *slot = Some(value);
            }
        }
        if out.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    out.into_iter().flatten().collect()
}

async fn a_database_of_the_future_is_refused(parts: Parts) {
    let place = place(parts).await;
    let store = open_with(&place, KEY, 7).await.unwrap();
    store.close().await;
    sqlx::any::install_default_drivers();
    let pool = sqlx::any::AnyPoolOptions::new().connect(&place.url).await.unwrap();
    sqlx::query("UPDATE meta SET value = '99' WHERE name = 'oldest_compatible_schema'").execute(&pool).await.unwrap();
    let message = open_with(&place, KEY, 7).await.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("run a newer release"), "{message}");
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

/// The settings that the examples name are settings.
#[test]
fn every_configuration_in_the_repository_is_valid() {
    let config: Config = config::load_text("rekey.example.toml", config::EXAMPLE, &Default::default()).unwrap();
    assert_eq!(config.kafka.topics.partitions, 12);
    config::load_text("the tests' settings", tests::SETTINGS, &Default::default()).unwrap();
}

/// What is due, what a worker could take, and whose books are at risk are three questions.
async fn figures_tell_who_waits_and_for_what(parts: Parts) {
    let (store, _place) = open(parts).await;
    let ms = Duration::from_millis(20);
    let figures = async |spent: Option<Call>| {
        tokio::time::sleep(ms).await;
        let mut tx = store.begin_read().await.unwrap();
        let due: i64 = tx.due_rows(Kind::Item).await.unwrap().iter().map(|d| d.rows).sum();
        let claimable = tx.claimable_oldest(Kind::Item, |call| spent == Some(call)).await.unwrap();
        let risk = tx.at_risk().await.unwrap();
        assert_eq!(risk.businesses > 0, risk.oldest >= ms, "{risk:?}");
        (due, claimable >= ms, risk.businesses)
    };
    assert_eq!(figures(None).await, (0, false, 0));
    push(&store, "x", "access-sandbox-1", acme()).await;
    assert_eq!(figures(None).await, (1, true, 0), "what a push says of its business holds once its token is proved");
    let mut tx = store.begin().await.unwrap();
    let pushed = tx.candidates(&item("x")).await.unwrap().remove(0);
    tx.promote(&item("x"), &pushed.fingerprint).await.unwrap();
    tx.set_item_state(&item("x"), ItemState::Active, None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (1, true, 1), "an Item whose accounts nobody has read yet");
    assert_eq!(figures(Some(Call::AccountsGet)).await, (1, false, 1), "more workers would not help");
    assert_eq!(figures(Some(Call::Mint)).await, (1, true, 1), "it does not mint yet");

    let held = claim(&store, "one", LONG).await.remove(0);
    assert_eq!(figures(None).await, (0, false, 1), "somebody looks");
    finish(&store, &held, &Finish::unfinished(Duration::ZERO, Class::Rotation, Call::Mint)).await.unwrap();
    assert_eq!(figures(Some(Call::Mint)).await, (1, false, 1), "it waits for a mint");
    let held = claim(&store, "one", LONG).await.remove(0);
    finish(&store, &held, &blocked(Block::Parked)).await.unwrap();
    assert_eq!(figures(None).await, (0, false, 1), "it waits for a person");
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.blocked_counts(Kind::Item).await.unwrap(), [(Block::Parked, "test".to_owned(), 1)]);
    assert!(tx.release(Kind::Item, "x").await.unwrap());
    tx.pause(domain::Provider::Plaid, "test", "test", LONG).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (1, false, 1), "it waits for its provider");
    let mut tx = store.begin().await.unwrap();
    tx.resume(domain::Provider::Plaid).await.unwrap();
    tx.commit().await.unwrap();
    let held = claim(&store, "one", LONG).await.remove(0);
    finish(&store, &held, &done()).await.unwrap();
    assert_eq!(figures(None).await, (0, false, 0), "served");

    // What can't have touched a token puts nothing at risk, and is no beginning of a change that comes hours later.
    marked(&store, &Mark { quiet: Some(SWEEP), class: Class::Sweep, ..mark("x") }).await;
    assert_eq!(figures(None).await, (0, false, 0));
    marked(&store, &mark("x")).await;
    let held = claim(&store, "one", LONG).await.remove(0);
    assert!(held.signal_at.is_some());
    finish(&store, &held, &done()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.set_item_state(&item("x"), ItemState::AwaitingToken, None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(figures(None).await, (0, false, 1), "rotated, and nobody told us the new token");
}
