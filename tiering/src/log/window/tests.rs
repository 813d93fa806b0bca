use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn window() -> (Window, Instant) {
    (Window::new(Seq(0), Limits::default()), Instant::now())
}

#[test]
fn r5_nothing_commits_before_its_predecessors() {
    let (mut window, t) = window();
    let seqs: Vec<Seq> = (0..3).filter_map(|i| window.send(t + ms(i), 1)).collect();
    assert_eq!(seqs, [Seq(0), Seq(1), Seq(2)]);
    assert_eq!(window.landed(t + ms(5), Seq(2)), None);
    assert_eq!(window.landed(t + ms(6), Seq(1)), None);
    let moved = window.landed(t + ms(7), Seq(0)).unwrap();
    assert_eq!(moved, Committed { upto: Seq(3), first_sent: t, slow: false });
    assert_eq!(window.in_flight(), 0);
}

#[test]
fn r14_nothing_commits_after_a_fence() {
    let (mut window, t) = window();
    (0..4).for_each(|_| assert!(window.send(t, 1).is_some()));
    assert!(window.landed(t, Seq(0)).is_some());
    window.fenced(Seq(2));
    assert_eq!(window.landed(t, Seq(1)), None);
    assert_eq!(window.landed(t, Seq(2)), None);
    assert_eq!(window.commit(), Seq(1));
    assert_eq!(window.send(t, 1), None);
    assert!(!window.has_room() && window.wake().is_none());
}

#[test]
fn r23_an_answer_later_than_t_ack_is_told() {
    let (mut window, t) = window();
    (0..2).for_each(|_| assert!(window.send(t, 1).is_some()));
    assert_eq!(window.landed(t + Duration::from_secs(61), Seq(1)), None);
    assert!(window.landed(t + Duration::from_secs(61), Seq(0)).unwrap().slow);
    window.send(t, 1);
    assert!(!window.landed(t + Duration::from_secs(60), Seq(2)).unwrap().slow);
}

#[test]
fn r7_the_oldest_object_is_told_stuck_once() {
    let (mut window, t) = window();
    window.send(t, 1);
    assert_eq!(window.stuck(t + Duration::from_secs(119)), None);
    assert_eq!(window.stuck(t + Duration::from_secs(120)), Some(Seq(0)));
    assert_eq!(window.stuck(t + Duration::from_secs(121)), None);
    window.landed(t, Seq(0));
    window.send(t, 1);
    assert_eq!(window.stuck(t + Duration::from_secs(120)), Some(Seq(1)));
}

#[test]
fn only_the_oldest_is_hedged_at_doubling_waits_three_times() {
    let (mut window, t) = window();
    (0..3).for_each(|_| assert!(window.send(t, 1).is_some()));
    assert_eq!(window.hedge(t + ms(999)), None);
    assert_eq!(window.hedge(t + ms(1000)), Some(Seq(0)));
    assert_eq!(window.hedge(t + ms(2999)), None);
    assert_eq!(window.hedge(t + ms(3000)), Some(Seq(0)));
    assert_eq!(window.hedge(t + ms(7000)), Some(Seq(0)));
    assert_eq!(window.hedge(t + ms(90_000)), None);
    window.landed(t + ms(90_000), Seq(0));
    assert_eq!(window.hedge(t + ms(90_000)), Some(Seq(1)));
}

#[test]
fn hedges_keep_to_their_budget() {
    let (mut window, t) = window();
    let mut hedges = 0;
    for i in 0..1000 {
        let now = t + ms(i * 10_000);
        let seq = window.send(now, 1).unwrap();
        while window.hedge(now + ms(9_000)).is_some() {
            hedges += 1;
        }
        window.landed(now + ms(9_500), seq);
    }
    assert!((50..=56).contains(&hedges), "{hedges} hedges of 1000 sends");
}

#[test]
fn room_is_bounded_by_puts_and_by_span() {
    let t = Instant::now();
    let mut window = Window::new(Seq(7), Limits { in_flight: 2, span: 4, ..Limits::default() });
    (0..2).for_each(|_| assert!(window.send(t, 1).is_some()));
    assert!(!window.has_room());
    for seq in 8..11 {
        window.landed(t, Seq(seq));
        window.check();
        if window.has_room() {
            window.send(t, 1);
        }
    }
    assert_eq!(window.next(), Seq(11));
    assert!(!window.has_room(), "four between commit and next");
    assert_eq!(window.landed(t, Seq(7)).unwrap().upto, Seq(11));
}

#[derive(Clone, Debug)]
enum Step {
    Send,
    Land(u64),
    Fence(u64),
    Hedge(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Send),
        8 => (0u64..40).prop_map(Step::Land),
        1 => (0u64..400).prop_map(Step::Fence),
        2 => (0u64..5_000).prop_map(Step::Hedge),
    ]
}

proptest! {
    /// R5, R14 against a model that knows only the set of landed objects.
    #[test]
    fn commit_is_the_contiguous_prefix_and_never_passes_a_fence(
        from in 0u64..1000,
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut now = Instant::now();
        let mut window = Window::new(Seq(from), Limits::default());
        let (mut sent, mut landed, mut frozen) = (from, BTreeSet::new(), None);
        for step in steps {
            now += ms(10);
            match step {
                Step::Send if window.has_room() => {
                    prop_assert_eq!(window.send(now, 1 << 14), Some(Seq(sent)));
                    sent += 1;
                }
                Step::Send => {}
                Step::Land(back) => {
                    let seq = sent.saturating_sub(back + 1).max(from);
                    if seq < sent {
                        let moved = window.landed(now, Seq(seq));
                        landed.insert(seq);
                        prop_assert!(moved.is_none_or(|m| m.upto == window.commit() && frozen.is_none()));
                    }
                }
                Step::Fence(ahead) => {
                    if ahead < 16 && frozen.is_none() && window.commit().0 + ahead < sent {
                        window.fenced(Seq(window.commit().0 + ahead));
                        frozen = Some(window.commit());
                    }
                }
                Step::Hedge(wait) => {
                    now += ms(wait);
                    if let Some(seq) = window.hedge(now) {
                        prop_assert_eq!(seq, window.commit());
                        prop_assert!(!landed.contains(&seq.0));
                    }
                }
            }
            window.check();
            let prefix = (from..).find(|seq| !landed.contains(seq)).unwrap_or(from);
            prop_assert_eq!(window.commit(), frozen.unwrap_or(Seq(prefix)));
        }
    }
}
