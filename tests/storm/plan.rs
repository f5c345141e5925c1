//! What a seed stands for: the world, its weather, and what happens when.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use sandbox::{BadToken, Fault, FaultKind, LoginRequiredReads, Shows, Switches};
use std::time::Duration;
use tests::weather::{self, answer};

/// Everything that the seed decides.
#[derive(Debug)]
pub(crate) struct Plan {
    pub items: usize,
    pub businesses: usize,
    pub switches: Switches,
    pub weather: Vec<Fault>,
    /// In the order of their time, counted from the beginning of the storm.
    pub steps: Vec<(Duration, Step)>,
}

/// One thing that happens. Numbers choose among what exists at that moment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Link {
        business: usize,
        accounts: usize,
    },
    Rotate {
        item: usize,
        told: Told,
    },
    Webhook {
        item: usize,
        code: &'static str,
    },
    AddAccount {
        item: usize,
    },
    CloseAccount {
        item: usize,
        account: usize,
        told: bool,
    },
    ReopenAccount {
        item: usize,
        account: usize,
    },
    Renumber {
        item: usize,
        account: usize,
    },
    MoveAccount {
        item: usize,
        account: usize,
        business: usize,
    },
    RequireLogin {
        item: usize,
    },
    Repair {
        item: usize,
    },
    Revoke {
        item: usize,
        told: bool,
    },
    Offboard {
        item: usize,
    },
    SyncBusiness {
        business: usize,
    },
    /// The process dies at whatever await point it is at, and starts again on its database.
    Crash,
    /// SIGTERM and a start, in words.
    Restart,
    Kafka {
        up: bool,
    },
}

/// How a rotation becomes known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told {
    Push,
    /// Only the platform's database knows; the sweep finds it.
    Database,
    Webhook,
    Notice,
}

impl Plan {
    pub(crate) fn draw(seed: u64, items: usize, lasts: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let businesses = (items / 3).max(2);
        let mut steps = Vec::new();
        let at = |rng: &mut StdRng, from: f64| lasts.mul_f64(rng.random_range(from..1.0));
        // Most of the world exists before the weather turns; some of it is linked in the middle.
        for n in 0..items {
            let early = n * 5 < items * 4;
            let when = if early { Duration::ZERO } else { at(&mut rng, 0.1) };
            steps.push((when, Step::Link { business: n % businesses, accounts: rng.random_range(1..4) }));
        }
        for _ in 0..items * 2 {
            let item = rng.random_range(0..items);
            let told = *[Told::Push, Told::Database, Told::Webhook, Told::Notice].choose(&mut rng).unwrap();
            steps.push((at(&mut rng, 0.15), Step::Rotate { item, told }));
        }
        for _ in 0..items {
            let (item, account) = (rng.random_range(0..items), rng.random_range(0..3));
            let told = rng.random_bool(0.7);
            let business = rng.random_range(0..businesses);
            let step = match rng.random_range(0..14) {
                0 | 1 => Step::Webhook { item, code: "ERROR" },
                2 => Step::Webhook { item, code: "WEBHOOK_UPDATE_ACKNOWLEDGED" },
                3 => Step::AddAccount { item },
                4 | 5 => Step::CloseAccount { item, account, told },
                6 => Step::ReopenAccount { item, account },
                7 => Step::Renumber { item, account },
                8 => Step::MoveAccount { item, account, business },
                9 => Step::RequireLogin { item },
                10 => Step::Repair { item },
                11 => Step::Revoke { item, told },
                12 => Step::Offboard { item },
                _ => Step::SyncBusiness { business },
            };
            steps.push((at(&mut rng, 0.2), step));
        }
        for _ in 0..rng.random_range(1..5) {
            let step = if rng.random_bool(0.75) { Step::Crash } else { Step::Restart };
            steps.push((at(&mut rng, 0.1), step));
        }
        if rng.random_bool(0.4) {
            let down = at(&mut rng, 0.2);
            steps.push((down, Step::Kafka { up: false }));
            steps.push((down + lasts.mul_f64(rng.random_range(0.05..0.3)), Step::Kafka { up: true }));
        }
        steps.sort_by_key(|(when, _)| *when);
        let weather = weather(&mut rng, lasts);
        Self { items, businesses, switches: switches(&mut rng), weather, steps }
    }
}

/// Either answer to each unconfirmed fact.
fn switches(rng: &mut StdRng) -> Switches {
    let mut either = |often: f64| rng.random_bool(often);
    let mut switches = Switches {
        rotation_kills_processor_tokens: either(0.8),
        repeated_create_gives_same_token: either(0.3),
        login_required_reads: if either(0.5) { LoginRequiredReads::Fail } else { LoginRequiredReads::AnswerFromCache },
        mint_while_login_required: either(0.5),
        layer_checks_tokens: either(0.8),
        removed_rows_stay_archived: either(0.3),
        swap_keeps_row: either(0.5),
        list_page_size: if either(0.3) { 2 } else { 0 },
        bare_envelope: either(0.2),
        ..Switches::default()
    };
    // Without an envelope there is nowhere to say that there are more pages.
    switches.bare_envelope &= switches.list_page_size == 0;
    switches.bad_token = *[BadToken::FailsAll, BadToken::IsSkipped, BadToken::IsAccepted].choose(rng).unwrap();
    // Shown in full: where nobody can read a list back, it is sent again by every sweep, so "no needless PUT" and a
    // bound on convergence are judged where they can be.
    switches.list_shows = Shows::Full;
    switches
}

/// Faults that come and go by chance, and some that last for a while.
fn weather(rng: &mut StdRng, lasts: Duration) -> Vec<Fault> {
    let shared = weather::weather(900, 700).into_iter().map(|w| (w.call, w.embedded, w.kind));
    let all = shared.chain([("webhook", 0.1, FaultKind::ClockStep { seconds: -900 })]);
    let mut weather: Vec<Fault> = Vec::new();
    for (call, chance, kind) in all {
        if rng.random_bool(0.35) {
            weather.push(Fault { chance: chance * rng.random_range(0.2..1.0), ..Fault::new(call, kind) });
        }
    }
    // For a while nothing at all works: a credential is refused, a provider is dark, the keys are.
    let spells = [
        ("plaid", answer(400, "INVALID_INPUT", "INVALID_API_KEYS", None)),
        ("layer", answer(401, "Sandbox", "Unauthenticated", None)),
        ("layer", answer(403, "Sandbox", "Forbidden", None)),
        ("plaid", answer(503, "API_ERROR", "PLANNED_MAINTENANCE", None)),
        ("layer", FaultKind::CutBefore),
        ("/webhook_verification_key/get", answer(500, "API_ERROR", "INTERNAL_SERVER_ERROR", None)),
    ];
    for (call, kind) in spells {
        if rng.random_bool(0.2) {
            let begins = Some(lasts.as_secs_f64() * rng.random_range(0.1..0.8));
            let duration = Some(lasts.as_secs_f64() * rng.random_range(0.05..0.3));
            weather.push(Fault { begins, lasts: duration, ..Fault::new(call, kind) });
        }
    }
    weather
}
