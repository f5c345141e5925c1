//! The state of the simulated world, kept to return to it: for explorers that try every order of events.

use crate::Sandbox;
use crate::oracle::Counts;
use crate::world::{Item, LayerBusiness, Minted, World};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

/// A state to return to. Faults, switches and credentials are not part of it.
#[derive(Debug, Clone)]
pub struct Moment {
    items: BTreeMap<String, Item>,
    minted: HashMap<String, Minted>,
    layer: BTreeMap<String, LayerBusiness>,
    counts: Counts,
    violations: Vec<String>,
}

impl Sandbox {
    /// Remembers the world as it is.
    pub fn moment(&self) -> Moment {
        let World { items, minted, layer, counts, violations, .. } = &*self.world();
        Moment {
            items: items.clone(),
            minted: minted.clone(),
            layer: layer.clone(),
            counts: counts.clone(),
            violations: violations.clone(),
        }
    }

    /// Makes the world what it was then.
    pub fn return_to(&self, moment: &Moment) {
        let mut world = self.world();
        let moment = moment.clone();
        // The same chance from here on, each time.
        world.rng = StdRng::seed_from_u64(self.settings.seed.wrapping_add(1));
        world.items = moment.items;
        world.minted = moment.minted;
        world.layer = moment.layer;
        world.counts = moment.counts;
        world.violations = moment.violations;
        world.calls.clear();
    }

    /// What the truth and the providers hold, as a number: equal for states that no caller can tell apart.
    pub fn state_hash(&self) -> u64 {
        let world = self.world();
        let mut hasher = DefaultHasher::new();
        for item in world.items.values() {
            (&item.access_token, item.generation, item.status as u8, item.offboarded).hash(&mut hasher);
            for account in &item.accounts {
                (&account.id, account.open, &account.business).hash(&mut hasher);
            }
        }
        let minted: BTreeMap<&String, bool> = world.minted.iter().map(|(t, m)| (t, m.dead)).collect();
        minted.hash(&mut hasher);
        for business in world.layer.values() {
            (&business.id, business.archived, business.refused).hash(&mut hasher);
            for row in &business.rows {
                (&row.account, &row.token, row.archived).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Forgets violations beyond the first `known`: what a request does that arrives after its sender lost the right to
    /// send it is drift, to be repaired, and no fault of the order of steps.
    pub fn forgive(&self, known: usize) {
        self.world().violations.truncate(known);
    }
}
