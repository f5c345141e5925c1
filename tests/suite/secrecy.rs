//! Secrets stay where they belong (I3).

use rekey::cli::sealing_key;
use rekey::wiring::Roles;
use sandbox::Announce;
use serde_json::json;
use tests::{Parts, World};

stories!(i3_the_key_ring_is_rotated_while_everything_runs);

const KEYS: &str = "REKEY_SECRETS__KEYS";

impl Rotating {
    /// Ends the processes one after the other and starts them with another ring, as a rollout does.
    async fn roll_out(&mut self, ring: &str) {
        self.world.local.environment.insert(KEYS.into(), ring.to_owned());
        let old: Vec<_> = self.world.rekeys.drain(..).collect();
        self.world.start_rekey(Roles::ALL, "").await;
        for rekey in old {
            rekey.stop().await;
        }
    }
}

struct Rotating {
    world: World,
}

/// The new key is first known to all, then seals, then everything is moved under it, then the old one goes: Items are
/// rotated all the time, and no row is ever unreadable.
async fn i3_the_key_ring_is_rotated_while_everything_runs(parts: Parts) {
    let world = World::start(parts, "").await;
    let (old, new) = (world.local.environment[KEYS].clone(), sealing_key());
    let id_of = |key: &str| key.split(':').next().unwrap().to_owned();
    let mut rotating = Rotating { world };
    let mut items = Vec::new();
    for n in 0..6 {
        rotating.world.business(&format!("b{n}"));
        items.push(rotating.world.link(&format!("b{n}"), 2).await);
    }
    rotating.world.until_exact().await;

    rotating.roll_out(&format!("{old},{new}")).await;
    rotating.world.rotate(&items[0], Announce::Push).await;
    rotating.roll_out(&format!("{new},{old}")).await;
    let world = &rotating.world;
    for item in &items[1..4] {
        world.rotate(item, Announce::Push).await;
    }
    // What `rekey keys rotate` does.
    let mut moved = 0;
    loop {
        let (status, body) = world.admin("POST", "/v1/keys/rotate", None).await;
        assert_eq!((status, &body["under"]), (200, &json!(id_of(&new))), "{body}");
        moved += body["moved"].as_u64().unwrap();
        if body["left"] == json!({}) {
            break;
        }
    }
    assert!(moved >= 5, "the tokens of the Items that were not rotated: {moved}");
    let (_, again) = world.admin("POST", "/v1/keys/rotate", None).await;
    assert_eq!((&again["moved"], &again["left"]), (&json!(0), &json!({})));

    rotating.roll_out(&new).await;
    let world = rotating.world;
    for item in &items {
        world.sync_item(item).await;
    }
    world.rotate(&items[5], Announce::Push).await;
    // A row under a key that is gone would be parked as unreadable.
    world.end().await;
}
