//! The small worlds, and what the platform does in each.

use domain::{AccessToken, AccountId, BusinessId, ItemId};
use sandbox::{Announce, Sandbox};
use store::{Assignment, Declaration, Push, Store};

/// What the platform does, once each, at any moment after the one before it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// The access token changes and is pushed.
    Rotate,
    /// The access token changes; its push comes later, with another event.
    RotateInSilence,
    /// The push that was held back.
    Push,
    /// The push of the token before the current one, late.
    PushOld,
    /// The account belongs to the other business from now on.
    Move,
    /// The user closes the account.
    Close,
}

pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) events: &'static [Event],
    /// Whether the Item is linked and its list right before it begins.
    pub(crate) linked: bool,
    /// Crashes, lost answers and lost leases with which it ends within minutes; with one more it takes hours.
    pub(crate) faults: u32,
}

pub(crate) const SCENES: &[Scene] = &[
    Scene { name: "a first link", events: &[Event::Push], linked: false, faults: 1 },
    Scene { name: "one rotation", events: &[Event::Rotate], linked: true, faults: 1 },
    Scene { name: "two rotations", events: &[Event::Rotate, Event::Rotate], linked: true, faults: 0 },
    Scene { name: "a late push of an old token", events: &[Event::Rotate, Event::PushOld], linked: true, faults: 0 },
    Scene { name: "a move", events: &[Event::Move], linked: true, faults: 0 },
    Scene { name: "a move and a rotation", events: &[Event::Move, Event::Rotate], linked: true, faults: 0 },
    Scene {
        name: "a silent rotation, a move",
        events: &[Event::RotateInSilence, Event::Move, Event::Push],
        linked: true,
        faults: 0,
    },
    Scene { name: "a rotation, a closed account", events: &[Event::Rotate, Event::Close], linked: true, faults: 0 },
];

/// Who takes part.
#[derive(Debug, Clone)]
pub(crate) struct Cast {
    pub(crate) item: String,
    pub(crate) account: String,
}

pub(crate) const HERE: &str = "here";
pub(crate) const THERE: &str = "there";

/// Lets it happen. `old` is the access token before the last rotation.
pub(crate) async fn happen(event: Event, sandbox: &Sandbox, store: &Store, cast: &Cast, old: &mut String) {
    let now = sandbox.access_token(&cast.item).unwrap();
    match event {
        Event::Rotate | Event::RotateInSilence => {
            *old = now;
            sandbox.rotate(&cast.item, Announce::Silent).await.unwrap();
            if matches!(event, Event::Rotate) {
                push(sandbox, store, cast, &sandbox.access_token(&cast.item).unwrap()).await;
            }
        }
        Event::Push => push(sandbox, store, cast, &now).await,
        Event::PushOld => push(sandbox, store, cast, &old.clone()).await,
        Event::Move => {
            sandbox.assign_account(&cast.account, Some(THERE)).unwrap();
            push(sandbox, store, cast, &now).await;
        }
        Event::Close => {
            sandbox.close_account(&cast.account).unwrap();
            // The platform asks for a reconciliation; what it says is as it was.
            push(sandbox, store, cast, &now).await;
        }
    }
}

async fn push(sandbox: &Sandbox, store: &Store, cast: &Cast, token: &str) {
    let body = sandbox.push_body(&cast.item, &serde_json::json!({})).unwrap();
    let business = |v: &serde_json::Value| v.as_str().map(|b| BusinessId::parse(b.to_owned()).unwrap());
    let accounts = body["accounts"].as_array().map(|named| {
        let assignment = |a: &serde_json::Value| Assignment {
            account: AccountId::parse(a["account_id"].as_str().unwrap().to_owned()).unwrap(),
            business: business(&a["business"]),
        };
        store::Accounts::Only(named.iter().map(assignment).collect())
    });
    let push = Push {
        item: ItemId::parse(cast.item.clone()).unwrap(),
        access_token: Some(AccessToken::new(token.to_owned())),
        declaration: Declaration { business: business(&body["business"]), accounts, replaces: None, creation: None },
        class: domain::work::Class::Person,
        source: "push",
        traceparent: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.push(&push).await.unwrap();
    tx.commit().await.unwrap();
}
