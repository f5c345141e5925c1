//! A store that has been in use for years: so many Items, written past Rekey, because pushing them would take hours. And each
//! thing that is done with a store, to see what it costs there.

use crate::bare_store::{KEY, LONG, acme, done, finish, item as item_id, limits, open_with, push, save_account};
use crate::explain::{Notices, Ran, explain};
use domain::accounts::MintRefused;
use domain::outcome::Outcome;
use domain::queue::Mark;
use domain::token_list::{RowStatus, Shown, TokenWord};
use domain::verdict::State;
use domain::webhook::{Pace, Signal};
use domain::work::{Class, HintKind, Kind, Subject};
use domain::{AccessToken, AccountId, BusinessId, Fingerprint, LayerId, Millis, ProcessorToken, Provider};
use sqlx::AnyConnection;
use sqlx::Connection as _;
use std::time::Duration;
use store::{
    Act, AuditFilter, BusinessMark, Claim, Intake, ItemSaid, LeftAlone, MintFault, NewBatch, OutcomeFilter, Page,
    Patience, Store,
};
use tracing_subscriber::layer::SubscriberExt as _;

/// Businesses have this many Items, and Items this many accounts.
pub const ITEMS_A_BUSINESS: u64 = 4;
pub const ACCOUNTS: u64 = 3;

/// The id of the `n`th Item of those that [`fill`] makes, from 1 on.
pub fn item(n: u64) -> String {
    format!("item-{}", 10_000_000 + n)
}
/// The id of the `n`th business, from 0 on.
pub fn business(n: u64) -> String {
    format!("business-{}", 10_000_000 + n)
}

/// Fills the migrated, empty database with `items` Items that are all right, and with the past that such a store has.
/// Those whose number is at most `due` have been due for a minute.
pub async fn fill(url: &str, items: u64, due: u64) {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(url).await.unwrap();
    let businesses = (items / ITEMS_A_BUSINESS).max(1);
    let numbers =
        |name: &str, upto: u64| format!("{name}(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM {name} WHERE i < {upto})");
    let with =
        format!("WITH RECURSIVE {}, {}, {} ", numbers("n", items), numbers("k", ACCOUNTS), numbers("b", businesses));
    let now = "CAST(1700000000000 AS BIGINT)";
    let (item, of) = ("'item-' || (10000000 + n.i)", format!("'business-' || (10000000 + n.i % {businesses})"));
    let (business, account) = ("'business-' || (10000000 + b.i - 1)", "'account-' || (10000000 + n.i) || '-' || k.i");
    let due_at = format!("CASE WHEN n.i <= {due} THEN {now} + n.i ELSE {now} * 2 END");
    let texts = [
        format!(
            "INSERT INTO items (item_id, state, state_since, business_id, only_listed, generation, created_at, read_at)
             {with} SELECT {item}, 'active', {now}, {of}, 0, 2, {now}, {now} FROM n"
        ),
        format!(
            "INSERT INTO accounts (item_id, account_id, state, business_id, kind, mask, mint_fault, mint_refused, mint_code,
                 mint_fault_generation, mint_tries, mint_again_at)
             {with} SELECT {item}, {account}, 'active', {of}, 'depository', CAST(1000 + n.i % 9000 AS TEXT),
                 CASE WHEN n.i % 1000 = 7 THEN 'refused' END, CASE WHEN n.i % 1000 = 7 THEN 'other' END,
                 CASE WHEN n.i % 1000 = 7 THEN 'X' END, CASE WHEN n.i % 1000 = 7 THEN 2 END,
                 CASE WHEN n.i % 1000 = 7 THEN 1 END, CASE WHEN n.i % 1000 = 7 THEN 0 END FROM n CROSS JOIN k"
        ),
        format!(
            "INSERT INTO access_tokens (item_id, fingerprint, standing, sealed, source, seen_at, judged_at)
             {with} SELECT {item}, 'fp1_' || n.i || '-' || k.i, CASE WHEN k.i = 1 THEN 'current' ELSE 'superseded' END,
                 CASE WHEN k.i = 1 THEN '1.a.sealed' END, 'push', {now}, {now} FROM n CROSS JOIN k WHERE k.i <= 2"
        ),
        format!(
            "INSERT INTO processor_tokens (id, item_id, account_id, generation, state, origin, fingerprint, sealed, epoch,
                 intended_at, settled_at)
             {with} SELECT 'token-' || n.i || '-' || k.i || '-' || g.i, {item}, {account}, g.i,
                 CASE WHEN g.i = 2 THEN 'live' WHEN n.i % 1000 = 3 THEN 'orphaned' ELSE 'superseded' END, 'minted',
                 'fp1_' || n.i || '-' || k.i || '-' || g.i, CASE WHEN g.i = 2 THEN '1.a.sealed' END, 1, {now}, {now}
             FROM n CROSS JOIN k CROSS JOIN (SELECT 1 AS i UNION ALL SELECT 2) g"
        ),
        format!(
            "INSERT INTO businesses (business_id, layer_id, leave_out, accepted, verified, converged_at, put_at, created_at)
             {with} SELECT {business}, 'layer-' || b.i, 'nothing', '[]', 1, {now}, {now}, {now} FROM b"
        ),
        format!(
            "INSERT INTO work (kind, id, due_at, class, reason, wanted, done, unblocked, attempts, epoch, held, permit,
                 looked_at, blocked_by, blocked_code, blocked_why, blocked_at, said_at, signal_at, needs)
             {with} SELECT 'item', {item}, {due_at}, 1 + n.i % 4, 'sweep', 2, CASE WHEN n.i <= {due} THEN 1 ELSE 2 END, 0, 0,
                 {now}, 0, 0, {now}, CASE WHEN n.i % 1000 = 5 THEN 'parked' END, CASE WHEN n.i % 1000 = 5 THEN 'unanswered' END,
                 NULL, NULL, 1, CASE WHEN n.i <= {due} THEN {now} END,
                 CASE WHEN n.i <= {due} AND n.i % 8 = 1 THEN 'processor_token_create' END FROM n"
        ),
        format!(
            "INSERT INTO work (kind, id, due_at, class, reason, wanted, done, unblocked, attempts, epoch, held, permit, looked_at)
             {with} SELECT 'business', {business}, {now} * 2, 4, 'sweep', 2, 2, 0, 0, {now}, 0, 0, {now} FROM b"
        ),
        format!(
            "INSERT INTO verdicts (kind, id, state, waits_on, since)
             {with} SELECT 'item', {item}, CASE WHEN n.i % 1000 = 5 THEN 'parked' WHEN n.i % 1000 = 7 THEN 'refused'
                 ELSE 'converged' END, 'nobody', {now} FROM n"
        ),
        format!(
            "INSERT INTO verdicts (kind, id, state, waits_on, since)
             {with} SELECT 'business', {business}, CASE WHEN b.i % 1000 = 7 THEN 'partly' ELSE 'converged' END, 'nobody',
                 {now} FROM b"
        ),
        format!(
            "INSERT INTO audit (id, actor, action, subject, detail, at)
             {with} SELECT 'a' || (10000000 + n.i), 'somebody', 'item.put', 'item/' || {item}, '', {now} FROM n"
        ),
        format!(
            "INSERT INTO history (id, subject, at, what, detail)
             {with} SELECT 'a' || (10000000 + n.i), 'item/' || {item}, {now}, 'rekey.reconciled', '{{}}' FROM n"
        ),
        // Of one type there are few, and they are old.
        format!(
            "INSERT INTO history (id, subject, at, what, detail)
             {with} SELECT 'b' || (10000000 + b.i), 'business/' || {business}, {now},
                 CASE WHEN b.i <= 3 THEN 'rekey.parked' ELSE 'rekey.business.verdict_changed' END, '{{}}' FROM b"
        ),
        format!(
            "INSERT INTO plaid_views (item_id, webhook_url, elsewhere, consent_until, sent_at, sent_code, heard_at, heard_type, heard_code,
                 missed_from, read_at)
             {with} SELECT {item}, 'https://ours.example/plaid', CASE WHEN n.i % 1000 = 9 THEN 1 ELSE 0 END,
                 CASE WHEN n.i % 10 = 1 THEN {now} * 2 END, {now}, 'X', CASE WHEN n.i % 1000 = 8 THEN NULL ELSE {now} END,
                 'TRANSACTIONS', 'X', 0, {now} FROM n"
        ),
        format!(
            "INSERT INTO unknown_items (item_id, first_seen, last_seen, seen)
             {with} SELECT 'unknown-' || (10000000 + n.i), {now}, {now} * 2, 1 FROM n WHERE n.i <= {items} / 10"
        ),
        format!(
            "INSERT INTO hints (item_id, account_id, kind, said_at, expires_at, reported)
             {with} SELECT {item}, '', 'pending_expiration', {now}, {now} * 2, 1 FROM n WHERE n.i % 5 = 1"
        ),
        format!(
            "INSERT INTO assignments (item_id, account_id, business_id)
             {with} SELECT {item}, {account}, {of} FROM n CROSS JOIN k WHERE n.i % 10 = 2"
        ),
        "ANALYZE".to_owned(),
    ];
    for text in texts {
        sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

/// Fills a new database at this URL of PostgreSQL's, makes these settings of its own and does [`everything`]: each statement, with what it was a part of. In the
/// thread of the caller alone, or what the database says is not heard.
pub async fn carried_out(url: &str, items: u64, due: u64, settings: &[&str]) -> Vec<(String, Ran)> {
    // With one subscriber alone, tracing asks the thread that first comes to a log line whether anybody wants it, and remembers that
    // for all threads: another test would answer for this one.
    crate::logs();
    let notices = Notices::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(notices.clone()));
    open_with(url, KEY, 7).await.unwrap().close().await;
    fill(url, items, due).await;
    explain(url, settings).await;
    let store = open_with(url, KEY, 7).await.unwrap();
    notices.take();
    let mut found = Vec::new();
    everything(&store, items, &mut |what| found.extend(notices.take().into_iter().map(|ran| (what.to_owned(), ran))))
        .await;
    found
}

/// Does each thing that is done with a store of `items` Items, and calls `seen` with its name after it. Some Items must be due.
pub async fn everything(store: &Store, items: u64, seen: &mut impl FnMut(&str)) {
    push(store, "probe", "token-1", acme()).await;
    seen("push");
    let held = store.claim(Kind::Item, "w", LONG, 16, &limits()).await.unwrap();
    seen("claim of 16 Items");
    for held in held.iter().filter(|h| h.subject.id() != "probe") {
        finish(store, held, &done()).await.unwrap();
    }
    seen("ends of many");
    let ended: Vec<_> = held.iter().map(|h| item_id(h.subject.id())).collect();
    for beside in store.claim_beside(&ended, Kind::Item, "w", LONG, 4, &limits()).await.unwrap() {
        finish(store, &beside, &done()).await.unwrap();
    }
    seen("a claim of Items beside others");
    let held = held.into_iter().find(|h| h.subject.id() == "probe").unwrap();
    leases(store, &held, seen).await;
    one_item(store, &held, seen).await;
    one_business(store, seen).await;
    events(store, seen).await;
    operators(store, items, seen).await;
    figures(store, seen).await;
    chores(store, seen).await;
    ends(store, seen).await;
}

async fn one_item(store: &Store, held: &Claim, seen: &mut impl FnMut(&str)) {
    let (id, token) = (item_id("probe"), AccessToken::new("token-1"));
    let fingerprint = store.fingerprints().of("token-1");
    let account = AccountId::parse("acc-probe").unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.check_lease(held).await.unwrap();
    tx.item(&id).await.unwrap();
    tx.has_open_intents(&id).await.unwrap();
    tx.orphan_intents(&id).await.unwrap();
    tx.accounts(&id).await.unwrap();
    tx.commit().await.unwrap();
    seen("begin of an Item's reconciliation");
    let mut tx = store.begin().await.unwrap();
    tx.candidates(&id).await.unwrap();
    tx.add_candidate(&id, &token, "lookup", None).await.unwrap();
    tx.promote(&id, &fingerprint).await.unwrap();
    tx.apply_declaration(&id, &fingerprint).await.unwrap();
    tx.current(&id).await.unwrap();
    tx.gone_under_newest(&id).await.unwrap();
    tx.commit().await.unwrap();
    seen("proof of a token");
    let mut tx = store.begin().await.unwrap();
    tx.assignments(&id).await.unwrap();
    tx.hints(&id).await.unwrap();
    tx.declaration_of_current(&id).await.unwrap();
    tx.live_generations(&id).await.unwrap();
    save_account(&mut tx, "probe", "acme").await;
    tx.lock_accounts(&id).await.unwrap();
    tx.commit().await.unwrap();
    seen("accounts of an Item");
    let mut tx = store.begin().await.unwrap();
    let intent = tx.intend(held, &id, &account, 1).await.unwrap();
    tx.save_minted(&intent, &ProcessorToken::new("p-1")).await.unwrap();
    let fault = MintFault {
        refused: MintRefused::Other,
        code: "X".into(),
        why: "because".into(),
        generation: 1,
        tries: 1,
        again_at: Millis(0),
    };
    tx.set_mint_fault(&id, &account, Some(&fault)).await.unwrap();
    let acme = BusinessId::parse("acme").unwrap();
    let mark = BusinessMark::changed(acme.clone(), Class::Rotation);
    tx.mark_businesses(&[mark], "test", Some(held)).await.unwrap();
    tx.commit().await.unwrap();
    seen("mint");
    let mut tx = store.begin().await.unwrap();
    tx.renew(&mut held.clone(), LONG).await.unwrap();
    tx.pace(held, domain::budget::Call::ItemGet, &limits()).await.unwrap().unwrap();
    tx.suspect(Provider::Plaid, "X", &held.subject, LONG).await.unwrap();
    let said = ItemSaid { consent_until: Some(Millis(1)), sent: Some((Millis(2), "X".into())), ..ItemSaid::default() };
    tx.record_said(&id, &said, LONG).await.unwrap();
    tx.mint_again(&id).await.unwrap();
    tx.finish(held, &done()).await.unwrap();
    tx.commit().await.unwrap();
    seen("end of an Item's reconciliation");
}

/// One lease, and as many as a process can hold.
async fn leases(store: &Store, held: &Claim, seen: &mut impl FnMut(&str)) {
    for many in [1, 32] {
        let claims: Vec<_> = (0..many).map(|n| (Subject::from(&item_id(&item(n + 1))), held.epoch)).collect();
        store.keep_leases("w", LONG, &claims).await.unwrap();
    }
    seen("leases that are kept");
}

async fn one_business(store: &Store, seen: &mut impl FnMut(&str)) {
    let mut held = store.claim(Kind::Business, "w", LONG, 16, &limits()).await.unwrap();
    let held = held.remove(0);
    seen("claim of a business");
    let Subject::Business(id) = &held.subject else { panic!("{:?}", held.subject) };
    let (known, account) =
        (Fingerprint::from_stored("fp1_7-1-2".into()), AccountId::parse("account-10000007-1").unwrap());
    let mut tx = store.begin().await.unwrap();
    tx.business(id).await.unwrap();
    let patience = Patience { longest: Duration::from_secs(5), near: Duration::from_secs(1) };
    tx.items_are_coming(id, Millis(0), &patience).await.unwrap();
    tx.wanted_accounts(id).await.unwrap();
    tx.creation_details(id).await.unwrap();
    let shown = Shown {
        token: Some(known),
        account: Some(account),
        status: RowStatus::Active,
        layer_owned: false,
        mask: None,
        name: None,
    };
    tx.recognise(id, std::slice::from_ref(&shown)).await.unwrap();
    tx.record_shown(id, &[shown]).await.unwrap();
    let stranger = store.fingerprints().of("a stranger");
    tx.say_of_token(id, &stranger, Some(TokenWord::Keep), "somebody").await.unwrap();
    tx.keep_back(id, Some("test")).await.unwrap();
    tx.keep_back(id, None).await.unwrap();
    tx.set_layer_id(id, &LayerId::parse("probe").unwrap()).await.unwrap();
    tx.book_removals(id, 1, 100, LONG).await.unwrap();
    tx.record_accepted(id, &[], &[]).await.unwrap();
    tx.open_live_tokens(id).await.unwrap();
    assert!(tx.leaving(id).await.unwrap().is_empty());
    tx.moves_done(id, &held).await.unwrap();
    tx.record_converged(id, true, &[], "test").await.unwrap();
    tx.finish(&held, &done()).await.unwrap();
    tx.commit().await.unwrap();
    seen("a business's reconciliation");
}

async fn events(store: &Store, seen: &mut impl FnMut(&str)) {
    let mut tx = store.begin().await.unwrap();
    tx.mark(&Mark { unblocks: true, ..Mark::new(&item_id(&item(3)), Class::Rotation, "test") }).await.unwrap();
    tx.commit().await.unwrap();
    seen("a mark");
    let items: Vec<_> = (1..=100).map(|n| item_id(&item(n * 7))).collect();
    let hint = Some(HintKind::PendingExpiration);
    let signal = Signal { class: Class::Rotation, pace: Pace::Soon, unblocks: true, hint };
    let one = |item| Intake {
        item,
        signal: &signal,
        reason: "test",
        account: None,
        said_at: Millis(2),
        detail: None,
        debounce: Duration::ZERO,
        quiet: LONG,
        hint_ttl: LONG,
        traceparent: None,
        webhook: Some(("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE")),
    };
    let events: Vec<_> = items.iter().map(one).collect();
    let mut tx = store.begin().await.unwrap();
    tx.intake(&events).await.unwrap();
    tx.commit().await.unwrap();
    seen("intake of many");
    let mut tx = store.begin().await.unwrap();
    tx.mark_unminted(&BusinessId::parse(business(3)).unwrap(), "test").await.unwrap();
    tx.commit().await.unwrap();
    seen("mint what a business lacks");
}

async fn operators(store: &Store, items: u64, seen: &mut impl FnMut(&str)) {
    let page = |after: &str| Page { after: Some(after.to_owned()).filter(|a| !a.is_empty()), limit: 50 };
    let middle = items / 2;
    let id = item_id(&item(middle));
    let mut tx = store.begin_read().await.unwrap();
    tx.item(&id).await.unwrap();
    tx.verdict(&id).await.unwrap();
    tx.token_views(&id).await.unwrap();
    tx.accounts(&id).await.unwrap();
    tx.processor_token_counts(&id).await.unwrap();
    tx.work(&id).await.unwrap();
    tx.plaid_view(&id).await.unwrap();
    seen("item show");
    let fifth = BusinessId::parse(business(5)).unwrap();
    tx.business(&fifth).await.unwrap();
    tx.wanted_accounts(&fifth).await.unwrap();
    tx.verdict(&fifth).await.unwrap();
    seen("business show");
    tx.facts_of(&fifth).await.unwrap();
    tx.shown(&fifth).await.unwrap();
    let items = tx.items_in(&fifth, 50).await.unwrap();
    tx.accounts_of(&items).await.unwrap();
    let subjects: Vec<Subject> = items.iter().map(Subject::from).chain([Subject::from(&fifth)]).collect();
    tx.history(&subjects, &page("")).await.unwrap();
    seen("explain a business");
    let listed = Fingerprint::from_stored("fp1_7-1-2".into());
    store
        .copy_of(&fifth, &[listed], &[AccountId::parse("account-10000007-1").unwrap()])
        .await
        .unwrap()
        .store
        .close()
        .await;
    seen("copy of what a plan needs");
    let of = |kind, subjects, oldest_first| OutcomeFilter { subjects, kind, since: None, oldest_first };
    for oldest_first in [false, true] {
        tx.list_outcomes(&of(None, None, oldest_first), &page("")).await.unwrap();
        tx.list_outcomes(&of(None, None, oldest_first), &page("b1")).await.unwrap();
        tx.list_outcomes(&of(Some(Outcome::Parked), None, oldest_first), &page("")).await.unwrap();
        tx.list_outcomes(&of(None, Some(subjects.clone()), oldest_first), &page("")).await.unwrap();
        let of_them = of(Some(Outcome::VerdictChanged), Some(subjects.clone()), oldest_first);
        tx.list_outcomes(&of_them, &page("")).await.unwrap();
    }
    seen("a page of outcomes");
    tx.find("1007", 50).await.unwrap();
    tx.find(id.as_str(), 50).await.unwrap();
    seen("find");
    let rows = tx.list_items(&page(&item(middle))).await.unwrap();
    tx.list_missed(&page("")).await.unwrap();
    tx.list_missed(&page(&item(middle))).await.unwrap();
    tx.list_consents(LONG, &page("")).await.unwrap();
    tx.list_elsewhere(&page("")).await.unwrap();
    tx.list_dead_letters(&page("")).await.unwrap();
    tx.list_kept_back(&page("")).await.unwrap();
    tx.list_businesses(&page(&business(middle / 8))).await.unwrap();
    tx.list_by_state(Kind::Item, State::Converged, &page(&item(middle))).await.unwrap();
    tx.list_by_state(Kind::Business, State::Partly, &page("")).await.unwrap();
    tx.list_unknown_items(&page("unknown-10000500")).await.unwrap();
    tx.list_orphans(&page("")).await.unwrap();
    seen("a page of a list");
    let ids: Vec<String> = rows.iter().map(|r| r.id.to_string()).collect();
    tx.items(&ids).await.unwrap();
    tx.verdicts(Kind::Item, &ids).await.unwrap();
    seen("verdicts of many");
    tx.list_parked(&page("")).await.unwrap();
    tx.list_parked(&page(&format!("item/{}", item(middle)))).await.unwrap();
    seen("parked list");
    let subject = Some(format!("item/{id}"));
    tx.audit_page(&AuditFilter { subject: None, by: None }, &page("")).await.unwrap();
    tx.audit_page(&AuditFilter { subject, by: None }, &page("")).await.unwrap();
    tx.audit_page(&AuditFilter { subject: None, by: Some("nobody".into()) }, &page("")).await.unwrap();
    seen("audit");
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    let plan = tx.ask_plan(&fifth, Class::Person).await.unwrap().unwrap();
    assert!(tx.is_plan_asked().await.unwrap());
    tx.take_plans(4, LONG).await.unwrap();
    tx.answer_plan(&plan, "{}").await.unwrap();
    tx.plan(&plan).await.unwrap();
    tx.forget_old_plans(LONG).await.unwrap();
    tx.commit().await.unwrap();
    seen("a plan");
    let mut tx = store.begin().await.unwrap();
    let (now, from) = (tx.now(), std::net::IpAddr::from([127, 0, 0, 1]));
    let code = "unanswered";
    tx.count_of_cause(code, now).await.unwrap();
    tx.rows_of_cause(code, now, None, 100).await.unwrap();
    tx.is_refused_mint(&item_id(&item(5)), code, now).await.unwrap();
    tx.rows_of_cause(code, now, Some(&format!("item/{}", item(middle))), 100).await.unwrap();
    let new = NewBatch { code, reason: None, by: "somebody", from, seen_at: now, meant: 1 };
    let batch = tx.order_batch(&new).await.unwrap().unwrap();
    assert!(tx.is_batch_waiting().await.unwrap());
    let taken = tx.take_batch(LONG).await.unwrap().unwrap();
    assert!(tx.count_released(&taken, LONG).await.unwrap());
    tx.put_batch_off(&taken, LONG).await.unwrap();
    tx.advance_batch(&taken, None, LeftAlone::default()).await.unwrap();
    tx.cancel_batch(&batch, "somebody").await.unwrap();
    tx.running_batch(code).await.unwrap();
    tx.same_batch(code, "somebody", now).await.unwrap();
    tx.batch(&batch).await.unwrap();
    tx.list_batches(&page("")).await.unwrap();
    tx.recent_batches(now).await.unwrap();
    tx.forget_old_batches(LONG).await.unwrap();
    tx.commit().await.unwrap();
    seen("a batch");
    let mut tx = store.begin().await.unwrap();
    tx.release(&item_id(&item(5)), Class::Person).await.unwrap();
    let subject = Subject::from(&id).to_string();
    let was = tx.in_force(&id).await.unwrap();
    tx.audit(&Act { by: "somebody", from: None, action: "item.put", subject, was, became: None }).await.unwrap();
    tx.commit().await.unwrap();
    seen("release");
}

async fn figures(store: &Store, seen: &mut impl FnMut(&str)) {
    let mut tx = store.begin_read().await.unwrap();
    for kind in Kind::ALL {
        tx.blocked_counts(*kind).await.unwrap();
        tx.reconciled_oldest(*kind).await.unwrap();
        tx.not_good(*kind).await.unwrap();
    }
    for kind in Kind::ALL {
        tx.due_rows(*kind).await.unwrap();
    }
    seen("stats of what is due");
    for kind in Kind::ALL {
        tx.claimable_oldest(*kind, |_| false).await.unwrap();
    }
    tx.refused_mints().await.unwrap();
    tx.count_orphans().await.unwrap();
    tx.outbox_length().await.unwrap();
    tx.count_attention(LONG, 10_000).await.unwrap();
    tx.budgets().await.unwrap();
    tx.pauses().await.unwrap();
    seen("stats");
}

async fn chores(store: &Store, seen: &mut impl FnMut(&str)) {
    let mut tx = store.begin().await.unwrap();
    tx.forget_unknown(LONG, 1_000_000).await.unwrap();
    tx.forget_expired_hints().await.unwrap();
    tx.forget_refused_pushes(LONG).await.unwrap();
    tx.forget_old_audit(Duration::from_hours(24 * 36_500), 100).await.unwrap();
    tx.forget_old_history(Duration::from_hours(24 * 36_500), 100).await.unwrap();
    tx.forget_old_dead_letters(LONG, 1000).await.unwrap();
    tx.acknowledge_missed(&item_id(&item(7))).await.unwrap();
    tx.shorten_history(&Subject::from(&item_id(&item(7))), 500).await.unwrap();
    tx.judge_unknown(100, 0).await.unwrap();
    tx.outbox(200).await.unwrap();
    tx.lease_chore("test", "w", LONG).await.unwrap();
    tx.commit().await.unwrap();
    seen("chores");
}

async fn ends(store: &Store, seen: &mut impl FnMut(&str)) {
    let gone = item_id("probe");
    let mut tx = store.begin().await.unwrap();
    let account = AccountId::parse("account-10000007-1").unwrap();
    tx.assign(&gone, &account, &BusinessId::parse(business(5)).unwrap()).await.unwrap();
    tx.replace_by(&gone, &item_id(&item(9))).await.unwrap();
    assert_eq!(tx.heirs_of(&gone).await.unwrap().len(), 1);
    tx.withdraw_heir(&item_id(&item(9))).await.unwrap();
    tx.remove_item(&gone).await.unwrap();
    tx.commit().await.unwrap();
    seen("remove of an Item");
    let mut tx = store.begin().await.unwrap();
    tx.erase_item(&gone, true).await.unwrap();
    tx.erase_business(&BusinessId::parse("acme").unwrap(), true).await.unwrap();
    tx.rollback().await.unwrap();
    seen("erase");
    let mut tx = store.begin().await.unwrap();
    tx.pause(Provider::Plaid, "test", "X", LONG).await.unwrap();
    tx.commit().await.unwrap();
    seen("pause");
    let held = store.claim(Kind::Item, "w", LONG, 1, &limits()).await.unwrap();
    assert!(held.is_empty());
    seen("claim under a pause");
    let mut tx = store.begin().await.unwrap();
    tx.resume(Provider::Plaid).await.unwrap();
    tx.commit().await.unwrap();
    seen("resume");
}
