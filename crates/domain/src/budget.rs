//! Documented limits of the providers as one budget for the whole fleet: who may call when, and how a 429 slows
//! everybody down. The store keeps the state.
//!
//! Calls are spread evenly instead of spent at once and then waited for, so that whoever comes next, a person above all,
//! waits for one slot and not for the end of a window.

use crate::Millis;
use crate::fault::Endpoint;
use crate::words::words;
use crate::work::Class;
use std::time::Duration;

words!(
    /// Calls that have a limit of their own.
    Call {
        ItemGet => "item_get",
        AccountsGet => "accounts_get",
        Mint => "processor_token_create",
        TokenProbe => "processor_token_permissions_get",
        /// Layer's one bucket.
        Layer => "layer",
        LayerCreate => "layer_create",
    }
);

impl Call {
    /// The limit that a call of this endpoint counts against.
    pub fn of(endpoint: Endpoint) -> Option<Self> {
        match endpoint {
            Endpoint::ItemGet => Some(Self::ItemGet),
            Endpoint::AccountsGet => Some(Self::AccountsGet),
            Endpoint::ProcessorTokenCreate => Some(Self::Mint),
            Endpoint::ProcessorTokenPermissionsGet => Some(Self::TokenProbe),
            // These have a budget of their own in the receiver.
            Endpoint::WebhookVerificationKeyGet => None,
            Endpoint::CreateBusiness => Some(Self::LayerCreate),
            Endpoint::Oauth2Token
            | Endpoint::Whoami
            | Endpoint::FindBusiness
            | Endpoint::GetBusiness
            | Endpoint::ListPlaidAccounts
            | Endpoint::UpdateBusiness => Some(Self::Layer),
        }
    }
}

/// What Rekey may use of the documented limits, its share already taken out. All numbers are calls a minute.
#[derive(Debug, Clone)]
pub struct Limits {
    pub item_get: u32,
    pub accounts_get: u32,
    pub mint: u32,
    pub token_probe: u32,
    pub layer: u32,
    pub layer_create: u32,
    /// Of `/item/get` and of `/accounts/get`, each, about one Item.
    pub per_item: u32,
    /// From a halved rate back to the whole one.
    pub recovery: Duration,
}

/// The time over which a provider counts, and what a budget may do within it.
struct Window {
    length: Duration,
    /// How many calls may come at once, as time.
    burst: Duration,
    /// A call leaves at most this long after its slot.
    late: Duration,
}

const MINUTE: Window =
    Window { length: Duration::from_mins(1), burst: Duration::from_millis(250), late: Duration::from_secs(1) };
const SECOND: Window =
    Window { length: Duration::from_secs(1), burst: Duration::from_millis(50), late: Duration::from_millis(150) };

impl Call {
    /// Plaid documents calls a minute (<https://plaid.com/docs/errors/rate-limit-exceeded/>), Layer buckets that are
    /// refilled each second (<https://docs.layerfi.com/api-details/rate-limiting>).
    fn window(self) -> &'static Window {
        match self {
            Self::ItemGet | Self::AccountsGet | Self::Mint | Self::TokenProbe => &MINUTE,
            Self::Layer | Self::LayerCreate => &SECOND,
        }
    }

    /// A slot that was missed by more is void.
    pub fn late(self) -> Duration {
        self.window().late
    }

    fn burst(self) -> i64 {
        self.window().burst.as_micros() as i64
    }
}

/// Answers to calls that left before the rate was lowered say nothing about the new one.
const ECHO: Duration = Duration::from_secs(1);
/// The lowest that repeated refusals bring a rate to.
const SLOWEST: f64 = 1.0 / 32.0;
/// The longest rest that a provider's `Retry-After` can order: no documented window is longer than a minute, and every
/// list waits meanwhile. A call that comes too early is refused again.
const LONGEST_REST: Duration = Duration::from_mins(5);

impl Limits {
    /// Calls a minute.
    pub fn per_minute(&self, call: Call) -> u32 {
        match call {
            Call::ItemGet => self.item_get,
            Call::AccountsGet => self.accounts_get,
            Call::Mint => self.mint,
            Call::TokenProbe => self.token_probe,
            Call::Layer => self.layer,
            Call::LayerCreate => self.layer_create,
        }
    }

    /// Microseconds from one slot to the next at the whole rate. Windows are assumed to slide: one holds what was booked
    /// in it, one burst, and what left late.
    fn interval(&self, call: Call) -> f64 {
        let Window { length, burst, late } = call.window();
        let spread = |length: Duration, calls: u32| {
            (length + *burst + *late).as_micros() as f64 / f64::from(calls.saturating_sub(1).max(1))
        };
        let minute = self.per_minute(call);
        let in_window = (f64::from(minute) * length.as_secs_f64() / MINUTE.length.as_secs_f64()) as u32;
        // Where less than one call is allowed in a window, it is the minute that binds.
        spread(*length, in_window).max(spread(MINUTE.length, minute))
    }

    /// How looks at one Item are paced: how many may come at once, as time, and the time that each one costs.
    pub fn pace(&self) -> (Duration, Duration) {
        let at_once = (self.per_item / 2).max(1);
        let interval = Duration::from_mins(1) / (self.per_item - at_once.min(self.per_item)).max(1);
        (interval * (at_once - 1), interval)
    }
}

/// How far ahead a class may book. While calls are scarce the slots are booked as far as the most urgent of those who
/// wait may look, so whoever may look further always comes first.
pub fn horizon(class: Class) -> Duration {
    Duration::from_millis(match class {
        Class::Person => 2000,
        Class::Rotation => 400,
        Class::NewAccount => 300,
        Class::Retry => 200,
        Class::Sweep => 100,
    })
}

/// A row that waits is counted one class higher for each such time, but never as a person: nothing starves for ever.
pub const PROMOTION: Duration = Duration::from_mins(10);

/// What is booked of one limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Booked {
    /// Microseconds since 1970: every slot before this is taken.
    pub until: i64,
    /// No call is made before this.
    pub rest_until: Millis,
    pub slowed_at: Millis,
    /// The part of the rate that was left then.
    pub slowed_to: f64,
}

impl Default for Booked {
    fn default() -> Self {
        Self { until: 0, rest_until: Millis(0), slowed_at: Millis(0), slowed_to: 1.0 }
    }
}

impl Booked {
    /// The part of the rate that is in force.
    pub fn rate(&self, now: Millis, recovery: Duration) -> f64 {
        let since = now.since(self.slowed_at).as_secs_f64();
        (self.slowed_to + since / recovery.as_secs_f64().max(0.001) / 2.0).min(1.0)
    }

    /// How far ahead slots are taken, as a part of the farthest that anybody may look.
    pub fn ahead(&self, now: Millis) -> f64 {
        let until = Millis(self.until / 1000).max(self.rest_until);
        until.since(now).as_secs_f64() / horizon(Class::Person).as_secs_f64()
    }

    /// Whether calls wait for this limit, rather than this limit for calls. Whoever leaves it unused books from a burst ago
    /// at most; more than one slot beyond that is taken only while slots are scarce.
    pub fn is_spent(&self, limits: &Limits, call: Call, now: Millis) -> bool {
        let slot = (limits.interval(call) / self.rate(now, limits.recovery)) as i64;
        let burst = call.burst();
        self.until > now.0.saturating_mul(1000) - burst + slot.min(burst) || self.rest_until > now
    }

    /// Books one call. Ok: how long until it may leave. Err: how long until it is worth asking again.
    pub fn book(&mut self, limits: &Limits, call: Call, now: Millis, horizon: Duration) -> Result<Duration, Duration> {
        self.book_ahead(limits, call, now, horizon, Duration::ZERO)
    }

    /// The same for a caller that can't leave before `lead` is over.
    pub fn book_ahead(
        &mut self,
        limits: &Limits,
        call: Call,
        now: Millis,
        horizon: Duration,
        lead: Duration,
    ) -> Result<Duration, Duration> {
        let micros = |m: Millis| m.0.saturating_mul(1000);
        let earliest = if lead.is_zero() { micros(now) - call.burst() } else { micros(now.plus(lead)) };
        let slot = self.until.max(earliest).max(micros(self.rest_until));
        let wait = Duration::from_micros(u64::try_from(slot - micros(now)).unwrap_or(0));
        if wait > horizon + lead {
            return Err(wait - horizon - lead);
        }
        self.until = slot + (limits.interval(call) / self.rate(now, limits.recovery)) as i64;
        Ok(wait)
    }

    /// The provider said that it was too much, whatever the documentation says: half the rate for everybody.
    pub fn slow_down(&mut self, now: Millis, after: Option<Duration>, recovery: Duration) {
        if now >= self.slowed_at.plus(ECHO) {
            self.slowed_to = (self.rate(now, recovery) / 2.0).max(SLOWEST);
            self.slowed_at = now;
        }
        self.rest_until = self.rest_until.max(now.plus(after.unwrap_or(ECHO).min(LONGEST_REST)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(mint: u32) -> Limits {
        Limits {
            item_get: 1,
            accounts_get: 1,
            mint,
            token_probe: 1,
            layer: 1,
            layer_create: 1,
            per_item: 15,
            recovery: Duration::from_mins(5),
        }
    }

    const START: i64 = 1_700_000_000_000;

    proptest! {
        #[test]
        fn i9_no_window_holds_more_than_the_limit(
            limit in 2u32..2000, pauses in proptest::collection::vec(0u64..3000, 1..500), late in 0.0f64..1.0,
            layer in proptest::bool::ANY,
        ) {
            let (call, window, limit) =
                if layer { (Call::Layer, 1_000, 1 + limit / 50) } else { (Call::Mint, 60_000, limit) };
            let per_minute = limit * (60_000 / window) as u32;
            let limits = Limits { layer: per_minute, ..limits(per_minute) };
            let (mut booked, mut now) = (Booked::default(), Millis(START));
            let late = (late * (call.late().as_millis() - 1) as f64) as i64;
            let mut left: Vec<i64> = Vec::new();
            for (n, pause) in pauses.into_iter().enumerate() {
                now = now.plus(Duration::from_millis(pause % (1 + n as u64 % 3000)));
                while let Ok(wait) = booked.book(&limits, call, now, horizon(Class::Person)) {
                    // Every other call leaves as late as it may.
                    let late = if left.len().is_multiple_of(2) { 0 } else { late };
                    left.push(now.0 + wait.as_millis() as i64 + late);
                }
            }
            left.sort_unstable();
            for these in left.windows(limit as usize + 1) {
                let (first, last) = (these[0], these[limit as usize]);
                prop_assert!(last - first >= window, "{} calls within {} ms", limit + 1, last - first);
            }
        }
    }

    #[test]
    fn i9_nearly_all_of_a_limit_can_be_used() {
        let (limits, mut booked, mut calls) = (limits(500), Booked::default(), 0);
        for tick in 0..60_000 / 50 {
            let now = Millis(START + tick * 50);
            while booked.book(&limits, Call::Mint, now, Duration::ZERO).is_ok() {
                calls += 1;
            }
        }
        assert!((475..=500).contains(&calls), "{calls}");
    }

    #[test]
    fn i9_the_more_urgent_class_comes_first_however_many_wait() {
        let (limits, mut booked, now) = (limits(500), Booked::default(), Millis(START));
        while booked.book(&limits, Call::Mint, now, horizon(Class::Rotation)).is_ok() {}
        for class in [Class::NewAccount, Class::Retry, Class::Sweep] {
            assert!(booked.book(&limits, Call::Mint, now, horizon(class)).is_err(), "{class}");
        }
        let wait = booked.book(&limits, Call::Mint, now, horizon(Class::Person)).unwrap();
        assert!(wait < Duration::from_millis(600), "a person waits {wait:?}");
    }

    #[test]
    fn a_refusal_halves_the_rate_once_and_it_comes_back() {
        let (recovery, now) = (Duration::from_mins(5), Millis(START));
        let mut booked = Booked::default();
        for _ in 0..10 {
            booked.slow_down(now, Some(Duration::from_secs(3)), recovery);
        }
        assert_eq!(booked.rate(now, recovery), 0.5, "ten refusals of one moment are one");
        assert_eq!(booked.rest_until, now.plus(Duration::from_secs(3)));
        assert!(booked.book(&limits(500), Call::Mint, now, horizon(Class::Person)).is_err(), "everybody rests");
        assert_eq!(booked.rate(now.plus(recovery / 2), recovery), 0.75);
        assert_eq!(booked.rate(now.plus(recovery), recovery), 1.0);
        for n in 0..20 {
            booked.slow_down(now.plus(Duration::from_secs(2 * n)), None, recovery);
        }
        assert!(booked.rate(now.plus(Duration::from_secs(40)), recovery) >= SLOWEST);
    }

    #[test]
    fn a_limit_is_spent_while_calls_wait_for_it() {
        for (claim, limit) in [("quick slots", 6000), ("slow slots", 20)] {
            let (limits, mut booked, mut now) = (limits(limit), Booked::default(), Millis(START));
            assert!(!booked.is_spent(&limits, Call::Mint, now), "{claim}: nobody called yet");
            for _ in 0..100 {
                let _ = booked.book(&limits, Call::Mint, now, horizon(Class::Sweep));
                assert!(limit == 20 || !booked.is_spent(&limits, Call::Mint, now), "{claim}: a call now and then");
                now = now.plus(Duration::from_secs(10));
                assert!(!booked.is_spent(&limits, Call::Mint, now), "{claim}: and the slot has passed");
            }
            for _ in 0..100 {
                while booked.book(&limits, Call::Mint, now, horizon(Class::Sweep)).is_ok() {}
                // As long as a worker takes to ask again.
                now = now.plus(Duration::from_millis(50));
                assert!(booked.is_spent(&limits, Call::Mint, now), "{claim}: a queue");
            }
            assert!(booked.ahead(now) >= 0.0 && booked.ahead(now) < 2.0, "{claim}");
        }
        let rests = Booked { rest_until: Millis(START + 1), ..Booked::default() };
        assert!(rests.is_spent(&limits(50), Call::Mint, Millis(START)), "a provider asked for a rest");
        assert!(!rests.is_spent(&limits(50), Call::Mint, Millis(START + 1)), "the rest is over");
        // One and a half slots, at the whole rate; less than one at half of it.
        let until = START * 1000 - Call::Mint.burst() + 15_500;
        let booked = Booked { until, ..Booked::default() };
        assert!(booked.is_spent(&limits(6000), Call::Mint, Millis(START)));
        let slowed = Booked { slowed_at: Millis(START), slowed_to: 0.5, ..booked };
        assert!(!slowed.is_spent(&limits(6000), Call::Mint, Millis(START)), "a slot is longer at a lower rate");
        let ahead = Booked { until: (START + 1000) * 1000, ..Booked::default() };
        assert_eq!((ahead.ahead(Millis(START)), ahead.ahead(Millis(START + 1000))), (0.5, 0.0));
    }

    #[test]
    fn looks_at_one_item_fit_its_own_limit() {
        for per_item in 1..100 {
            let (at_once, each) = Limits { per_item, ..limits(1) }.pace();
            let in_a_minute = (at_once + Duration::from_mins(1)).as_secs_f64() / each.as_secs_f64();
            assert!(in_a_minute <= f64::from(per_item.max(2)) + 0.01, "{per_item}: {in_a_minute}");
        }
    }

    #[test]
    fn i9_every_call_with_a_limit_is_counted_against_its_own() {
        let limits =
            Limits { item_get: 1, accounts_get: 2, mint: 3, token_probe: 4, layer: 5, layer_create: 6, ..limits(0) };
        let table = [
            (Endpoint::ItemGet, Some((Call::ItemGet, 1))),
            (Endpoint::AccountsGet, Some((Call::AccountsGet, 2))),
            (Endpoint::ProcessorTokenCreate, Some((Call::Mint, 3))),
            (Endpoint::ProcessorTokenPermissionsGet, Some((Call::TokenProbe, 4))),
            (Endpoint::WebhookVerificationKeyGet, None),
            (Endpoint::UpdateBusiness, Some((Call::Layer, 5))),
            (Endpoint::CreateBusiness, Some((Call::LayerCreate, 6))),
        ];
        for (endpoint, expected) in table {
            let got = Call::of(endpoint).map(|call| (call, limits.per_minute(call)));
            assert_eq!(got, expected, "{endpoint}");
        }
    }

    #[test]
    fn i9_a_call_takes_its_part_of_the_widest_window_and_twice_as_much_at_half_the_rate() {
        // 49 gaps in 60 s, the burst of 250 ms, and the second that a call may leave late.
        let (limits, now, whole) = (limits(50), Millis(START), 1_250_000);
        for (claim, slowed_to, gap) in [("whole", 1.0, whole), ("half", 0.5, 2 * whole)] {
            let mut booked = Booked { until: now.0 * 1000, slowed_at: now, slowed_to, ..Booked::default() };
            assert_eq!(booked.book(&limits, Call::Mint, now, Duration::ZERO), Ok(Duration::ZERO), "{claim}");
            assert_eq!(booked.until - now.0 * 1000, gap, "{claim}");
        }
    }

    #[test]
    fn who_may_not_book_yet_is_told_when_to_ask_again() {
        let (limits, now, ms) = (limits(50), Millis(START), Duration::from_millis);
        for (taken, horizon, expected) in
            [(400, 400, Ok(ms(400))), (401, 400, Err(ms(1))), (1000, 400, Err(ms(600))), (-9000, 0, Ok(ms(0)))]
        {
            let mut booked = Booked { until: (now.0 + taken) * 1000, ..Booked::default() };
            assert_eq!(booked.book(&limits, Call::Mint, now, ms(horizon)), expected, "{taken} {horizon}");
        }
    }

    #[test]
    fn who_needs_time_before_a_call_books_behind_it() {
        let (limits, now, ms) = (limits(50), Millis(START), Duration::from_millis);
        let table = [
            (-9000, 500, 0, Ok(ms(500))),
            (600, 500, 100, Ok(ms(600))),
            (600, 500, 99, Err(ms(1))),
            (900, 500, 0, Err(ms(400))),
            (-9000, 0, 0, Ok(ms(0))),
        ];
        for (taken, lead, horizon, expected) in table {
            let mut booked = Booked { until: (now.0 + taken) * 1000, ..Booked::default() };
            let got = booked.book_ahead(&limits, Call::Mint, now, ms(horizon), ms(lead));
            assert_eq!(got, expected, "{taken} {lead} {horizon}");
        }
    }

    #[test]
    fn a_slot_is_void_by_the_window_of_its_limit() {
        let late = |call: Call| call.late().as_millis();
        assert_eq!(
            (late(Call::Mint), late(Call::AccountsGet), late(Call::ItemGet), late(Call::TokenProbe)),
            (1000, 1000, 1000, 1000)
        );
        assert_eq!((late(Call::Layer), late(Call::LayerCreate)), (150, 150));
        // 5 a second: a second, the burst and what leaves late, in four gaps; and never more than a minute's worth.
        for (per_minute, gap) in [(300, 300_000), (120, 1_200_000), (30, 2_075_862)] {
            let limits = Limits { layer: per_minute, ..limits(1) };
            let now = Millis(START);
            let mut booked = Booked { until: now.0 * 1000, ..Booked::default() };
            assert_eq!(booked.book(&limits, Call::Layer, now, Duration::ZERO), Ok(Duration::ZERO));
            assert_eq!(booked.until - now.0 * 1000, gap, "{per_minute}");
        }
    }

    #[test]
    fn looks_at_one_item_use_its_limit_half_at_once_and_half_spread() {
        let seconds = Duration::from_secs_f64;
        for (per_item, at_once, each) in [(0, 0.0, 60.0), (1, 0.0, 60.0), (2, 0.0, 60.0), (15, 45.0, 7.5)] {
            let pace = Limits { per_item, ..limits(1) }.pace();
            assert_eq!(pace, (seconds(at_once), seconds(each)), "{per_item}");
        }
    }
}
