use super::*;
use crate::work::{Code, Kind};

const NOW: Millis = Millis(1_000_000_000);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

fn subject() -> Subject {
    Subject::parse(Kind::Item, "x").unwrap()
}

fn objection(guard: Code) -> Objection {
    Objection { guards: [guard].into(), ..Objection::default() }
}

fn blocked(by: Block) -> Blocked {
    Blocked::new(by, "code", "why")
}

/// Nothing to do until the sweep comes, an hour from now.
fn resting() -> Row {
    Row {
        due_at: Some(NOW.plus(HOUR)),
        reason: "sweep".into(),
        wanted: 3,
        done: 3,
        looked_at: Some(NOW.minus(MINUTE)),
        ..Row::new(subject(), NOW)
    }
}

/// Under a lease of a minute, for the third event.
fn leased() -> Row {
    let mut row = Row { done: 2, class: Class::Rotation, reason: "webhook".into(), ..resting() };
    row.signal_at = Some(NOW.minus(MINUTE));
    row.traceparent = Some("trace".into());
    row.claim(&Claimant { owner: "a", lease: MINUTE, saved: Duration::ZERO, each: Duration::ZERO }, NOW);
    row
}

fn stuck(by: Block) -> Row {
    Row { blocked: Some(blocked(by)), blocked_at: Some(NOW), attempts: 5, due_at: Some(NOW.plus(MINUTE)), ..resting() }
}

fn event() -> Mark<'static> {
    Mark::new(subject(), Class::Rotation, "event")
}

fn marked(mut row: Row, mark: &Mark<'_>) -> Row {
    row.mark(mark, NOW);
    row
}

fn ended(mut row: Row, finish: &Finish) -> Row {
    row.end(3, None, finish, NOW);
    row
}

fn done() -> Finish {
    Finish::done(HOUR, Class::Sweep)
}

fn gave_up(by: Block) -> Finish {
    Finish::blocked(HOUR, Class::Retry, blocked(by))
}

#[test]
fn i4_an_event_makes_a_row_due_unless_something_keeps_it() {
    let quiet = |time| Mark { quiet: Some(time), ..event() };
    let second = Duration::from_secs(1);
    let within = |debounce| Mark { debounce, ..event() };
    let clears = Mark { unblocks: true, ..event() };
    let soon = Row { due_at: Some(NOW.plus(second)), ..resting() };
    let gathers = Row { wanted: 5, ..soon.clone() };
    let gathers_under_lease = Row { due_at: Some(NOW.plus(second)), wanted: 4, ..leased() };
    let table = [
        ("a row of its own", Row::new(subject(), NOW), event(), NOW),
        ("brought forward", resting(), event(), NOW),
        ("the first of a burst, maybe", resting(), within(MINUTE), NOW),
        ("soon after a look", resting(), within(2 * MINUTE), NOW.plus(MINUTE)),
        ("not put off", soon.clone(), within(2 * MINUTE), NOW.plus(second)),
        ("another of a burst", gathers.clone(), within(10 * second), NOW.plus(10 * second)),
        ("a burst that has lasted long", gathers.clone(), within(2 * second), NOW.plus(second)),
        ("a person in a burst", gathers.clone(), event(), NOW),
        ("ordered for later by something else", Row { wanted: 5, ..resting() }, within(10 * second), NOW),
        ("the first during a look", leased(), within(10 * second), NOW.plus(10 * second)),
        ("another during a look", gathers_under_lease, within(30 * second), NOW.plus(30 * second)),
        ("one that has to wait for budget", Row { needs: Some(Call::Mint), ..gathers }, within(MINUTE), NOW),
        ("looked at long enough ago", resting(), quiet(MINUTE), NOW),
        ("looked at just now", resting(), quiet(2 * MINUTE), NOW.plus(MINUTE)),
        ("looked at just now, and due before the quiet time ends", soon, quiet(2 * MINUTE), NOW.plus(second)),
        ("backs off", stuck(Block::Backoff), event(), NOW.plus(MINUTE)),
        ("parked", stuck(Block::Parked), event(), NOW.plus(MINUTE)),
        ("its provider is paused", stuck(Block::Pause), event(), NOW),
        ("held: looked at again, for what it is held for may be over", stuck(Block::Hold), event(), NOW),
        ("backs off, and the event clears it", stuck(Block::Backoff), clears.clone(), NOW),
        ("parked, and the event clears it", stuck(Block::Parked), clears, NOW),
    ];
    for (claim, row, mark, due) in table {
        let (wanted, was) = (row.wanted, row.blocked.clone());
        let row = marked(row, &mark);
        assert_eq!((row.due_at, row.wanted), (Some(due), wanted + 1), "{claim}");
        let expected = if mark.unblocks { (None, None, 0, row.wanted) } else { (was, row.blocked_at, row.attempts, 0) };
        assert_eq!((row.blocked, row.blocked_at, row.attempts, row.unblocked), expected, "{claim}");
    }
}

#[test]
fn i9_the_most_urgent_event_names_class_reason_and_trace() {
    let named = |class, reason, trace| Mark { traceparent: Some(trace), ..Mark::new(subject(), class, reason) };
    let row = marked(resting(), &named(Class::Rotation, "webhook", "first"));
    let row = marked(row, &named(Class::Sweep, "sweep", "second"));
    assert_eq!(
        (row.class, row.reason.as_str(), row.traceparent.as_deref()),
        (Class::Rotation, "webhook", Some("first"))
    );
    let row = marked(row, &named(Class::Rotation, "notice", "third"));
    assert_eq!((row.reason.as_str(), row.traceparent.as_deref()), ("notice", Some("third")), "of equals the last one");
    let row = marked(row, &named(Class::Person, "push", "fourth"));
    assert_eq!((row.class, row.reason.as_str()), (Class::Person, "push"));
}

#[test]
fn only_the_first_signal_and_what_clears_a_block_change_how_a_row_stands() {
    let quiet = Mark { quiet: Some(HOUR), ..event() };
    let earlier = Mark { since: Some(NOW.minus(MINUTE)), ..event() };
    let clears = Mark { unblocks: true, ..event() };
    let mut row = resting();
    assert!(!row.mark(&quiet, NOW) && row.signal_at.is_none(), "it can't have touched a token");
    assert!(row.mark(&earlier, NOW));
    assert_eq!(row.signal_at, Some(NOW.minus(MINUTE)), "it follows from an event of then");
    assert!(!row.mark(&event(), NOW), "one waits already");
    assert_eq!(row.signal_at, Some(NOW.minus(MINUTE)));
    assert!(!row.mark(&clears, NOW), "nothing blocks it");
    row.blocked = Some(Blocked::new(Block::Parked, "x", String::new()));
    assert!(!row.mark(&event(), NOW), "it is as parked as before");
    assert!(row.mark(&clears, NOW) && row.blocked.is_none());
}

#[test]
fn i7_a_claim_raises_the_epoch_and_knows_whose_row_it_takes_over() {
    let by = |owner| Claimant { owner, lease: MINUTE, saved: MINUTE, each: Duration::from_secs(10) };
    let mut row = resting();
    let epoch = row.epoch;
    row.claim(&by("a"), NOW);
    assert_eq!((row.epoch, row.held, row.taken_over), (epoch + 1, true, None));
    assert_eq!((row.due_at, row.looked_at), (Some(NOW.plus(MINUTE)), Some(NOW)), "due again when the lease ends");
    assert_eq!(row.lease, Some(Lease { owner: "a".into(), until: NOW.plus(MINUTE) }));
    let later = NOW.plus(2 * MINUTE);
    row.claim(&by("b"), later);
    assert_eq!((row.epoch, row.taken_over), (epoch + 2, Some(later)), "a never gave it back");
}

#[test]
fn i9_looks_at_one_item_are_spaced_and_a_rest_saves_some_up() {
    let by = Claimant { owner: "a", lease: MINUTE, saved: MINUTE, each: Duration::from_secs(25) };
    let mut row = resting();
    let mut looks = 0;
    while row.next_look.is_none_or(|at| at <= NOW) {
        row.claim(&by, NOW);
        looks += 1;
    }
    assert_eq!(looks, 3, "a minute saved up is worth two of 25 s, and one begins with what is left");
    assert_eq!(row.next_look, Some(NOW.plus(Duration::from_secs(15))));
    row.claim(&by, NOW.plus(HOUR));
    assert_eq!(row.next_look, Some(NOW.plus(HOUR).minus(MINUTE).plus(Duration::from_secs(25))), "more is not saved up");
}

#[test]
fn i4_a_look_that_reached_its_end_has_served_what_it_began_with() {
    let row = ended(leased(), &done());
    assert_eq!((row.done, row.lease.clone(), row.held), (3, None, false));
    assert_eq!((row.due_at, row.class, row.reason.as_str()), (Some(NOW.plus(HOUR)), Class::Sweep, "sweep"));
    assert_eq!((row.signal_at, row.traceparent), (None, None), "the next look is the sweep's");

    let during = marked(leased(), &event());
    let row = ended(during, &done());
    assert_eq!((row.wanted, row.done, row.due_at), (4, 3, Some(NOW)), "what came meanwhile is served by the next look");
    assert_eq!((row.class, row.reason.as_str(), row.signal_at), (Class::Rotation, "event", Some(NOW)));

    let row = ended(marked(leased(), &Mark { quiet: Some(HOUR), ..event() }), &done());
    assert_eq!((row.due_at, row.signal_at), (Some(NOW.plus(MINUTE)), None), "a webhook that can wait is no signal");
}

#[test]
fn i4_a_block_outlasts_the_events_of_its_look_unless_one_clears_it() {
    let clears = Mark { unblocks: true, ..event() };
    let table = [
        ("backs off", Block::Backoff, event(), NOW.plus(HOUR), true),
        ("its provider is paused", Block::Pause, event(), NOW.plus(HOUR), true),
        ("parked", Block::Parked, event(), NOW.plus(HOUR), true),
        ("held", Block::Hold, event(), NOW, true),
        ("would back off", Block::Backoff, clears.clone(), NOW, false),
        ("would be parked", Block::Parked, clears, NOW, false),
    ];
    for (claim, by, mark, due, is_blocked) in table {
        let before = Row { attempts: 2, ..marked(leased(), &mark) };
        let attempts = if is_blocked { before.attempts + 1 } else { 0 };
        let row = ended(before, &gave_up(by));
        assert_eq!(
            (row.due_at, row.blocked.is_some(), row.blocked_at.is_some()),
            (Some(due), is_blocked, is_blocked),
            "{claim}"
        );
        assert_eq!((row.attempts, row.done), (attempts, 2), "{claim}: nothing is served");
        assert_eq!(row.signal_at, Some(NOW.minus(MINUTE)), "{claim}: the oldest event waits still");
    }
    let again = ended(Row { blocked_at: Some(NOW.minus(HOUR)), ..leased() }, &gave_up(Block::Backoff));
    assert_eq!(again.blocked_at, Some(NOW.minus(HOUR)), "since when it has been blocked");
    assert_eq!(again.reason, "retry: code");
}

#[test]
fn a_look_without_budget_goes_on_where_it_stopped() {
    let finish = Finish::unfinished(MINUTE, Class::Rotation, Call::Mint);
    let row = ended(Row { attempts: 2, permit: Some(Permit::default()), ..leased() }, &finish);
    assert_eq!((row.done, row.attempts, row.permit.is_some()), (2, 2, true), "neither served nor failed");
    assert_eq!((row.needs, row.due_at, row.blocked.clone()), (Some(Call::Mint), Some(NOW.plus(MINUTE)), None));
    assert_eq!((row.reason.as_str(), row.traceparent.as_deref()), ("webhook", Some("trace")));
    assert_eq!(ended(row, &done()).needs, None);
}

#[test]
fn i8_a_permit_is_spent_by_the_look_that_had_it_and_came_to_an_end() {
    let table = [
        ("had none: it was given during the look", false, done(), true),
        ("reached its end", true, done(), false),
        ("was held again", true, gave_up(Block::Hold), false),
        ("was parked", true, gave_up(Block::Parked), false),
        ("failed for a while", true, gave_up(Block::Backoff), true),
        ("its provider was paused", true, gave_up(Block::Pause), true),
        ("ran out of budget", true, Finish::unfinished(MINUTE, Class::Retry, Call::Layer), true),
    ];
    for (claim, had, finish, left) in table {
        let given = Permit(objection(Code::UnknownTokens));
        let mut row = Row { permit: Some(given.clone()), ..leased() };
        row.end(3, had.then_some(&given), &finish, NOW);
        assert_eq!(row.permit.is_some(), left, "{claim}");
    }
}

#[test]
fn i9_a_row_that_is_released_with_many_stays_as_urgent_as_it_was() {
    for (was, released, becomes) in [
        (Class::Rotation, Class::Retry, Class::Rotation),
        (Class::Sweep, Class::Retry, Class::Retry),
        (Class::Rotation, Class::Person, Class::Person),
    ] {
        let mut row = Row { class: was, ..stuck(Block::Hold) };
        assert!(row.release(released, NOW));
        assert_eq!(row.class, becomes);
    }
}

#[test]
fn i8_it_is_known_since_when_a_guard_says_what_it_says() {
    let says = |why: &str| Finish::blocked(MINUTE, Class::Sweep, Blocked::new(Block::Hold, "shrink_guard", why));
    let mut row = ended(leased(), &says("two accounts"));
    let first = row.said_at;
    assert_eq!((first, row.blocked_at), (Some(NOW), Some(NOW)));
    row.end(row.wanted, None, &says("two accounts"), NOW.plus(MINUTE));
    assert_eq!(row.said_at, first);
    row.end(row.wanted, None, &says("forty accounts"), NOW.plus(HOUR));
    assert_eq!((row.said_at, row.blocked_at), (Some(NOW.plus(HOUR)), Some(NOW)));
}

#[test]
fn i8_a_release_permits_what_the_guard_said_and_what_was_permitted_before() {
    let says = |guard| {
        let blocked = Blocked { objection: objection(guard), ..blocked(Block::Hold) };
        Finish::blocked(MINUTE, Class::Sweep, blocked)
    };
    let mut row = ended(leased(), &says(Code::UnknownTokens));
    assert!(row.release(Class::Person, NOW));
    let first = row.permit.clone().unwrap();
    assert_eq!(first, Permit(objection(Code::UnknownTokens)));
    // The next guard speaks: whoever releases it as well has seen both.
    row.end(row.wanted, Some(&first), &says(Code::ShrinkGuard), NOW);
    assert_eq!(row.permit, None, "spent");
    assert!(row.release(Class::Person, NOW));
    let both = row.permit.clone().unwrap();
    assert!(both.covers(&objection(Code::UnknownTokens)) && both.covers(&objection(Code::ShrinkGuard)));
    // One that was given meanwhile is not the one that was spent.
    row.end(row.wanted, Some(&first), &done(), NOW);
    assert_eq!(row.permit, Some(both));
}

#[test]
fn i7_a_takeover_is_settled_by_a_look_that_reached_its_end_and_owes_none() {
    let taken = || Row { taken_over: Some(NOW), ..leased() };
    assert_eq!(ended(taken(), &done()).taken_over, None);
    assert_eq!(ended(taken(), &Finish { owes_another: true, ..done() }).taken_over, Some(NOW));
    assert_eq!(ended(taken(), &gave_up(Block::Backoff)).taken_over, Some(NOW));
    assert_eq!(ended(taken(), &Finish::unfinished(MINUTE, Class::Retry, Call::Layer)).taken_over, Some(NOW));
}

#[test]
fn a_release_frees_what_is_blocked_and_nothing_else() {
    let mut row = resting();
    assert!(!row.release(Class::Person, NOW));
    assert_eq!(row, resting());
    let mut row = stuck(Block::Parked);
    assert!(row.release(Class::Person, NOW));
    assert_eq!((row.due_at, row.class, row.permit), (Some(NOW), Class::Person, Some(Permit::default())));
    assert_eq!((row.blocked, row.blocked_at, row.attempts), (None, None, 0));
    assert_eq!((row.wanted, row.unblocked, row.signal_at), (4, 4, Some(NOW)));
}

#[test]
fn i4_a_look_is_awaited_until_it_ended_or_gave_up() {
    let (since, now) = (NOW, NOW.plus(MINUTE));
    let row = |looked_at: Millis, due_at: Millis, by: Option<Block>| Row {
        wanted: 2,
        done: 1,
        looked_at: Some(looked_at),
        due_at: Some(due_at),
        blocked: by.map(blocked),
        ..resting()
    };
    let (before, after) = (Millis(since.0 - 1), Millis(since.0 + 1));
    let served = Row { done: 2, ..row(after, now.plus(HOUR), None) };
    let lease = Some(Lease { owner: "a".into(), until: now.plus(HOUR) });
    let table = [
        ("not looked at yet", row(before, now, None), true),
        ("cut short, and due again at once", row(after, now, None), true),
        ("looked at; a webhook that can wait came since", row(after, now.plus(HOUR), None), false),
        ("served", served.clone(), false),
        ("being looked at", Row { lease, ..served }, true),
        ("fails for a while", row(after, now, Some(Block::Backoff)), true),
        ("its provider is paused", row(after, now, Some(Block::Pause)), true),
        ("held", row(before, now, Some(Block::Hold)), false),
        ("parked", row(before, now, Some(Block::Parked)), false),
    ];
    for (claim, row, expected) in table {
        assert_eq!(row.awaits_reconciliation(since, now), expected, "{claim}");
    }
}

#[test]
fn i9_who_waits_long_comes_before_who_came_later_and_never_before_a_person() {
    let table = [
        (Class::Person, Duration::ZERO, Class::Person),
        (Class::Person, 9 * HOUR, Class::Person),
        (Class::Rotation, 9 * HOUR, Class::Rotation),
        (Class::Sweep, PROMOTION - Duration::from_millis(1), Class::Sweep),
        (Class::Sweep, PROMOTION, Class::Retry),
        (Class::Sweep, 2 * PROMOTION, Class::NewAccount),
        (Class::Sweep, 3 * PROMOTION, Class::Rotation),
        (Class::Sweep, 9 * HOUR, Class::Rotation),
        (Class::Retry, PROMOTION, Class::NewAccount),
    ];
    for (class, waited, urgency) in table {
        let row = Row { class, due_at: Some(NOW.minus(waited)), ..resting() };
        assert_eq!(row.urgency(NOW), urgency, "{class} after {waited:?}");
    }
    assert_eq!(Row { class: Class::Sweep, due_at: Some(NOW.plus(HOUR)), ..resting() }.urgency(NOW), Class::Sweep);
    assert_eq!(Row { class: Class::Sweep, due_at: None, ..resting() }.urgency(NOW), Class::Sweep);
}
