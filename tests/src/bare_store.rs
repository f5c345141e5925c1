//! A store without a system around it, and what is done with one.

use domain::accounts::{AccountState, Traits};
use domain::budget::Limits;
use domain::queue::Finish;
use domain::work::Class;
use domain::{AccessToken, AccountId, BusinessId, Fingerprinter, ItemId};
use secrecy::SecretString;
use std::time::Duration;
use store::{AccountUpdate, Claim, Declaration, Error, KeyRing, Push, Settings, Store, Tx};

pub const KEY: &str = "a:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// Opens the database at `url`.
pub async fn open_with(url: &str, keys: &str, fingerprint: u8) -> Result<Store, Error> {
    open_with_connections(8, url, keys, fingerprint).await
}

pub async fn open_with_connections(connections: u32, url: &str, keys: &str, fingerprint: u8) -> Result<Store, Error> {
    let settings = Settings { url: SecretString::from(url), connections, acquire_timeout: Duration::from_secs(10) };
    let ring = KeyRing::parse(&SecretString::from(keys)).unwrap();
    Store::open(&settings, "outcomes", ring, Fingerprinter::new(1, &[fingerprint; 32])).await
}

pub fn item(n: &str) -> ItemId {
    ItemId::parse(n).unwrap()
}
/// More than any case uses.
pub fn limits() -> Limits {
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
pub const LONG: Duration = Duration::from_secs(60);
pub const SWEEP: Duration = Duration::from_secs(3600);

pub fn done() -> Finish {
    Finish::done(SWEEP, Class::Sweep)
}
pub async fn finish(store: &Store, claim: &Claim, finish: &Finish) -> Result<(), Error> {
    let mut tx = store.begin().await.unwrap();
    tx.finish(claim, finish).await?;
    tx.commit().await
}
pub async fn push(store: &Store, id: &str, token: &str, source: Declaration) {
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
/// An account that takes part.
pub async fn save_account(tx: &mut Tx, id: &str, business: &str) {
    let (item, business) = (item(id), BusinessId::parse(business).unwrap());
    let traits = Traits { kind: "depository".into(), ..Traits::default() };
    let update = AccountUpdate {
        item,
        id: AccountId::parse(format!("acc-{id}")).unwrap(),
        traits,
        state: AccountState::Active,
        business: Some(business),
        moving_from: None,
        before: None,
        missing_since: None,
        proof: None,
        outside: None,
    };
    tx.save_account(&update).await.unwrap();
}
pub fn acme() -> Declaration {
    Declaration { business: Some(BusinessId::parse("acme").unwrap()), ..Declaration::default() }
}
