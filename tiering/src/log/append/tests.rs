use super::*;
use crate::log::script::{Act, Script};
use tokio::time::timeout;

const IDENTITY: usize = 8;

fn key(seq: u64) -> String {
    format!("log/{seq:020}")
}

fn body(name: u64) -> Body {
    Body::from([&name.to_be_bytes()[..], b"payload"].concat())
}

fn setup() -> (Script, Appender) {
    let seams = Seams::seeded(1);
    let script = Script::new(&seams);
    let log = appender(&script, &seams, Limits::default());
    (script, log)
}

fn appender(script: &Script, seams: &Seams, limits: Limits) -> Appender {
    let key_of: KeyOf = Arc::new(|seq| key(seq.0));
    Appender::new(script.bucket(), Kind::Parcel, key_of, IDENTITY, Seq(0), limits, seams)
}

async fn upto(log: &mut Appender, want: u64) -> Vec<Committed> {
    let mut told = Vec::new();
    while log.commit() < Seq(want) || told.last().is_none_or(|m: &Committed| m.upto < Seq(want)) {
        match timeout(Duration::from_secs(600), log.next()).await.expect("commits in time") {
            Event::Committed(moved) => told.push(moved),
            other => panic!("{other:?}"),
        }
    }
    told
}

#[tokio::test(start_paused = true)]
async fn r4_each_unclear_answer_ends_in_the_same_bytes_committed() {
    let cases: [&[Act]; 6] = [
        &[Act::Lost],
        &[Act::Conflict],
        &[Act::Conflict, Act::Fail, Act::Lost],
        &[Act::Fail, Act::Fail, Act::Fail],
        &[Act::Hang],
        &[Act::Late(Duration::from_secs(3))],
    ];
    for acts in cases {
        let (script, mut log) = setup();
        script.script(&key(0), acts);
        assert_eq!(log.push(body(7)), Seq(0));
        let told = upto(&mut log, 1).await;
        assert_eq!(told.len(), 1, "{acts:?}");
        assert!(!told[0].slow);
        let sent = body(7).to_bytes();
        assert!(script.puts().iter().all(|(_, bytes)| *bytes == sent), "R2: {acts:?}");
        assert_eq!(script.stored(&key(0)), Some(sent));
    }
}

#[tokio::test(start_paused = true)]
async fn r5_a_slow_first_object_holds_all_others_back() {
    let (script, mut log) = setup();
    script.script(&key(0), &[Act::After(Duration::from_millis(900))]);
    (0..16).for_each(|i| assert_eq!(log.push(body(i)), Seq(i)));
    assert!(!log.has_room());
    let early = timeout(Duration::from_millis(800), log.next()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!((log.commit(), log.in_flight()), (Seq(0), 1));
    let told = upto(&mut log, 16).await;
    assert_eq!(told.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r14_another_object_fences_and_nothing_behind_it_commits() {
    let (script, mut log) = setup();
    script.memory.overwrite(&key(5), Bytes::from_static(b"a seal, or whatever is not ours"));
    (0..16).for_each(|i| assert_eq!(log.push(body(i)), Seq(i)));
    let fenced = loop {
        match log.next().await {
            Event::Committed(moved) => assert!(moved.upto <= Seq(5)),
            other => break other,
        }
    };
    assert!(matches!(&fenced, Event::Fenced { seq: Seq(5), found } if found.starts_with(b"a seal")));
    assert!(log.commit() <= Seq(5) && !log.has_room());
    let before = script.puts().len();
    log.push(body(99));
    assert!(timeout(Duration::from_secs(300), log.next()).await.is_err(), "told once, then silent");
    assert_eq!(script.puts().len(), before, "E4: no new key");
}

#[tokio::test(start_paused = true)]
async fn hedge_wins_and_the_loser_that_lands_later_changes_nothing() {
    let (script, mut log) = setup();
    script.script(&key(0), &[Act::After(Duration::from_secs(4))]);
    log.push(body(0));
    let start = Instant::now();
    upto(&mut log, 1).await;
    assert!(start.elapsed() < Duration::from_millis(1100), "hedged after a second: {:?}", start.elapsed());
    assert_eq!(script.sent(&key(0)), 2);
    log.push(body(1));
    upto(&mut log, 2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(timeout(Duration::from_secs(1), log.next()).await.is_err());
    assert_eq!(log.commit(), Seq(2));
    assert_eq!(script.stored(&key(0)), Some(body(0).to_bytes()));
}

#[tokio::test(start_paused = true)]
async fn hedges_follow_the_learned_p99() {
    let (script, mut log) = setup();
    for i in 0..100 {
        log.push(body(i));
        upto(&mut log, i + 1).await;
    }
    script.script(&key(100), &[Act::Hang]);
    log.push(body(100));
    let start = Instant::now();
    upto(&mut log, 101).await;
    assert!(start.elapsed() < Duration::from_millis(40), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn r7_stuck_is_told_once_and_sending_goes_on() {
    let (script, mut log) = setup();
    script.script(&key(0), &[Act::Hang; 120]);
    log.push(body(0));
    let start = Instant::now();
    assert_eq!(log.next().await, Event::Stuck { seq: Seq(0) });
    assert_eq!(start.elapsed().as_secs(), 120);
    let told = upto(&mut log, 1).await;
    assert!(told[0].slow, "R23");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_appender_sends_no_more() {
    let (script, mut log) = setup();
    (0..16).for_each(|i| script.script(&key(i), &[Act::Fail; 1000]));
    (0..16).for_each(|i| assert_eq!(log.push(body(i)), Seq(i)));
    assert!(timeout(Duration::from_secs(5), log.next()).await.is_err());
    drop(log);
    tokio::task::yield_now().await;
    let before = script.puts().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(script.puts().len(), before);
}

#[tokio::test(start_paused = true)]
async fn next_is_cancel_safe() {
    let seams = Seams::seeded(5);
    let script = Script::new(&seams);
    let mut log = appender(&script, &seams, Limits::default());
    let (mut pushed, mut told) = (0, Seq(0));
    while told < Seq(500) {
        while pushed < 500 && log.has_room() {
            let takes = Duration::from_millis(seams.entropy.below(300));
            let act = [Act::After(takes), Act::Lost, Act::Fail][seams.entropy.below(3) as usize];
            script.script(&key(pushed), &[act]);
            assert_eq!(log.push(body(pushed)), Seq(pushed));
            pushed += 1;
        }
        let patience = Duration::from_millis(seams.entropy.below(20));
        match timeout(patience, log.next()).await {
            Ok(Event::Committed(moved)) => {
                assert!(moved.upto > told);
                told = moved.upto;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
    (0..500).for_each(|i| assert_eq!(script.stored(&key(i)), Some(body(i).to_bytes())));
}

#[tokio::test(start_paused = true)]
async fn kill_ends_every_put() {
    let seams = Seams::seeded(2);
    let script = Script::new(&seams);
    let mut log = appender(&script, &seams, Limits::default());
    script.script(&key(0), &[Act::Fail; 1000]);
    log.push(body(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    seams.tasks.kill();
    tokio::task::yield_now().await;
    let before = script.puts().len();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(script.puts().len(), before);
}
