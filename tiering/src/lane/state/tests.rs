use super::*;
use proptest::prelude::*;

const FULL: u64 = 4 << 20;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn paid() -> (State, Instant) {
    (State::new(Dial::new(false)), Instant::now())
}

fn free() -> (State, Instant) {
    (State::new(Dial::new(true)), Instant::now())
}

#[test]
fn no_batch_no_timer() {
    for (mut state, t) in [paid(), free()] {
        assert_eq!(state.wake(t), None);
        assert!(!state.close(t, 0));
        state.flush();
        assert!(!state.close(t, 0));
    }
}

#[test]
fn a_batch_goes_at_once_while_there_is_a_token_then_at_the_rate() {
    let (mut state, t) = paid();
    for _ in 0..2 {
        state.add(t, 100);
        assert!(state.close(t, 0), "burst of two");
    }
    state.add(t, 100);
    assert!(!state.close(t, 0));
    assert_eq!(state.wake(t), Some(t + ms(125)));
    assert!(!state.close(t + ms(124), 0));
    assert!(state.close(t + ms(125), 0));
}

#[test]
fn full_parcels_do_not_wait_for_tokens_and_their_debt_is_bounded() {
    let (mut state, t) = paid();
    for _ in 0..20 {
        state.add(t, FULL);
        assert!(state.close(t, 5));
        state.check();
    }
    state.add(t, 1);
    assert_eq!(state.wake(t), Some(t + ms(250)), "one token of debt and one for itself");
}

#[test]
fn without_tokens_the_oldest_batch_waits_no_longer_than_d() {
    let mut state = State::new(Dial { rate: Some(0.1), ..Dial::new(false) });
    let t = Instant::now();
    state.add(t, 1);
    assert!(state.close(t, 0));
    state.add(t, 1);
    assert_eq!(state.wake(t), Some(t + ms(250)), "half the target before anything is learned");
    assert!(!state.close(t + ms(249), 0) && state.close(t + ms(250), 0));
}

#[test]
fn d_is_what_the_target_leaves_within_its_bounds() {
    for (answer, low, high) in [(ms(100), 385, 405), (ms(1), 495, 500), (ms(3000), 125, 125)] {
        let (mut state, mut t) = paid();
        for _ in 0..40 {
            state.add(t, FULL);
            assert!(state.close(t, 0));
            t += answer;
            state.acked(t, 1);
            state.check();
        }
        let d = state.longest_wait().as_millis();
        assert!((low..=high).contains(&d), "{answer:?}: D = {d} ms");
    }
}

#[test]
fn free_store_shares_the_next_put_among_what_arrives_during_one() {
    let (mut state, t) = free();
    assert_eq!(state.add(t, 10), 0);
    assert!(state.close(t, 0), "nothing in flight: at once");
    (0..50).for_each(|_| assert_eq!(state.add(t, 10), 0));
    assert!(!state.close(t, 1), "one in flight: wait");
    assert!(state.close(t + ms(1), 0), "it landed: go");
    assert!(state.is_sent());
}

#[test]
fn free_store_does_not_wait_for_a_straggler() {
    let (mut state, t) = free();
    state.add(t, 10);
    assert_eq!(state.wake(t), Some(t + USUAL));
    assert!(!state.close(t + ms(4), 1));
    assert!(state.close(t + ms(5), 1));
}

#[test]
fn flush_beats_the_dial() {
    let (mut state, t) = free();
    state.add(t, 10);
    state.flush();
    assert!(state.close(t, 9));
}

#[test]
fn a_full_parcel_takes_no_more() {
    let (mut state, t) = paid();
    assert_eq!(state.add(t, FULL - 1), 0);
    assert_eq!(state.add(t, 500), 0, "the last batch may overshoot");
    assert_eq!(state.add(t, 1), 1);
    assert_eq!(state.unacked_bytes(), FULL + 500);
    assert!(state.close(t, 0));
    state.acked(t, 1);
    assert_eq!(state.unacked_bytes(), 1);
}

proptest! {
    #[test]
    fn bytes_are_neither_lost_nor_sent_twice(
        free in any::<bool>(),
        steps in proptest::collection::vec((0u8..4, 1u64..3_000_000, 0u64..200), 1..300),
    ) {
        let mut state = State::new(Dial::new(free));
        let mut now = Instant::now();
        let (mut in_flight, mut added, mut committed) = (0usize, 0u64, 0u64);
        for (what, bytes, pause) in steps {
            now += ms(pause);
            match what {
                0 | 1 => { state.add(now, bytes); added += bytes }
                2 => while state.close(now, in_flight) { in_flight += 1 },
                _ => {
                    let before = state.unacked_bytes();
                    state.acked(now, in_flight / 2);
                    committed += before - state.unacked_bytes();
                    in_flight -= in_flight / 2;
                }
            }
            state.check();
            prop_assert_eq!(added - committed, state.unacked_bytes());
        }
    }
}
