//! The reader and the candidate as machines: each rule of E5-E7 and E14 by a script.

use tidemark_proto::id::{Generation, Nonce, Position, Seq};

use super::super::election::{Candidacy, Poll, Reader, Step, Verdict, candidacy};

const ME: Nonce = Nonce(1);
const OTHER: Nonce = Nonce(2);

fn at(generation: u64, seq: u64) -> Position {
    Position { generation: Generation(generation), seq: Seq(seq) }
}

#[test]
fn data_is_applied_in_order_and_nothing_leads_to_a_listing() {
    let mut reader = Reader::new(at(1, 0), ME);
    assert_eq!(reader.step(), Step::Get(at(1, 0)));
    reader.applied();
    assert_eq!(reader.step(), Step::Get(at(1, 1)));
    reader.saw_nothing();
    assert_eq!(reader.step(), Step::List(at(1, 1)), "E5: a 404 never ends a generation");
    assert_eq!(reader.listed(None), Verdict::Tail);
    assert_eq!(reader.step(), Step::Rest);
    reader.look();
    assert_eq!(reader.step(), Step::Get(at(1, 1)));
}

#[test]
fn a_seal_counts_only_after_a_listing_shows_no_snapshot_above_it() {
    let mut reader = Reader::new(at(1, 4), ME);
    reader.saw_seal(OTHER);
    assert_eq!(reader.step(), Step::List(at(1, 4)));
    assert_eq!(reader.listed(Some(at(1, 4))), Verdict::Crossed { owner: OTHER, mine: false });
    assert_eq!(reader.step(), Step::Get(at(2, 0)));
}

#[test]
fn a_seal_below_a_snapshot_of_any_later_generation_is_void() {
    for newer in [at(1, 5), at(2, 0), at(7, 3)] {
        let mut reader = Reader::new(at(1, 4), ME);
        reader.saw_seal(ME);
        assert_eq!(reader.listed(Some(newer)), Verdict::Restart, "also one's own");
        assert_eq!(reader.step(), Step::Load(newer));
        reader.restarted(newer);
        assert_eq!(reader.step(), Step::Get(newer));
    }
}

#[test]
fn own_seal_with_the_current_nonce_wins_and_with_an_old_one_does_not() {
    let mut reader = Reader::new(at(0, 0), ME);
    reader.saw_seal(ME);
    assert_eq!(reader.listed(None), Verdict::Crossed { owner: ME, mine: true });
    reader.ended(at(1, 3), OTHER);
    assert_eq!((reader.at(), reader.step()), (at(1, 3), Step::Get(at(1, 3))));
    reader.saw_seal(ME); // E4: a seal of the ownership that ended
    assert_eq!(reader.listed(None), Verdict::Crossed { owner: ME, mine: false });
}

#[test]
fn a_snapshot_that_is_gone_is_listed_for_again() {
    let mut reader = Reader::new(at(1, 0), ME);
    reader.saw_nothing();
    assert_eq!(reader.listed(Some(at(1, 9))), Verdict::Restart);
    reader.snapshot_gone();
    assert_eq!(reader.step(), Step::List(at(1, 0)));
    assert_eq!(reader.listed(Some(at(2, 2))), Verdict::Restart);
    reader.restarted(at(2, 2));
    assert_eq!(reader.step(), Step::Get(at(2, 2)));
}

#[test]
fn a_heard_controller_is_not_sealed_and_seals_grow_rarer() {
    let silent = Poll::default();
    let heard = Poll { heard: true, dead: true, ..silent };
    assert!(matches!(candidacy(heard, 0, 0.5), Candidacy::Wait(_)));
    assert!(matches!(candidacy(Poll { ahead: true, ..silent }, 0, 0.5), Candidacy::Wait(_)));
    assert_eq!(candidacy(Poll { dead: true, alone: true, ..silent }, 0, 0.5), Candidacy::Seal(0.0));
    let wait = |n| match candidacy(silent, n, 0.5) {
        Candidacy::Seal(share) => share,
        Candidacy::Wait(_) => panic!("silence is sealed"),
    };
    assert!((0..6).all(|n| wait(n + 1) == 2.0 * wait(n)));
    assert_eq!(wait(60), wait(6), "bounded");
}
