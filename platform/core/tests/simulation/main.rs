//! A deterministic simulator of the session protocol: two servers on one store, workers and jobs, driven
//! through schedules of loss, delay, repetition, crash, restart, partition and impostors. The agents are
//! the very machine that runs in a pod; the servers decide by the rules in `hodei_core::session`, over a
//! model of the store in which each transaction is whole or not at all. One seed is one schedule.
//!
//! - `HODEI_SIM_SEED=7 cargo test -p hodei-core --test simulation every_invariant` replays one schedule.
//! - `HODEI_SIM_SCHEDULES=1000000` runs that many, from seed `HODEI_SIM_FIRST` on (0).

mod agents;
mod commands;
mod control;
mod duty;
mod faults;
mod invariants;
mod network;
mod records;
mod rng;
mod servers;
mod situations;
mod spools;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use invariants::Invariant;
use situations::Situation;
use world::{Ended, World};

/// Virtual time.
type Millis = u64;
/// Which pod of those that have one name.
type Uid = u32;

/// A guard that is taken away, to see that what it guards breaks. Each lives in the model, or in what is
/// said to a machine; the machines themselves have no such switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sabotage {
    /// Frames are acknowledged when they arrive.
    AckTooEarly,
    /// What is said of another attempt counts as said of the session's own.
    NoEpochFence,
    /// A session is given to whoever has its token.
    NoUidFence,
    /// A one-time password works twice.
    PasswordTwice,
    /// Frames that were there already are taken as new ones.
    DoubleFrames,
    /// Frames are stored wherever the log ends.
    AppendAnywhere,
    /// A new stream goes on from what was received, durable or not.
    WelcomeTooFar,
    /// An agent goes on reading streams that it has left.
    StreamsMixed,
    /// An agent is not told that the attempt it holds is not its own any more.
    RevokeUnsaid,
    /// Output that was lost with its stream is not said again.
    SaidOnce,
    /// A result is taken before its frames are durable.
    ResultBeforeFrames,
    /// A result is taken of an attempt that has ended.
    LateResult,
    /// A claim does not look again whether the job and the worker are still free.
    ClaimTwice,
    /// A job goes back into the queue while the attempt whose lease ran out stays open.
    RequeueWithoutEnd,
    /// An assignment that comes again is begun again.
    BeginAgain,
    /// Nothing ever runs out of time.
    ClockStopped,
    /// What an agent had to drop is not said to the server.
    GapUnsaid,
    /// The record of what was dropped comes after the frame that follows on it.
    GapMisplaced,
    /// A disk gives back less than was written to it, and does not say so.
    DiskLies,
    /// A command without link and room waits for as long as that lasts.
    StallForEver,
    /// Output is dropped as soon as there is no room.
    DropAtOnce,
}

/// Schedules that `cargo test` runs.
const SCHEDULES: u64 = 1_000;
/// Within how many schedules a missing guard has to show.
const SABOTAGED: u64 = 3_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Says which schedule it was that panicked.
struct Schedule(u64);

impl Drop for Schedule {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule of seed {} panicked", self.0);
        }
    }
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Ended {
    let _schedule = Schedule(seed);
    World::new(seed, sabotage, false).run()
}

/// Fails with all there is to know of a schedule in which an invariant did not hold.
fn report(seed: u64) -> ! {
    let Ended { broken, events, trace, .. } = World::new(seed, None, true).run();
    let broken = broken.map_or_else(|| "it holds now".to_owned(), |broken| broken.to_string());
    panic!(
        "seed {seed}, event {events}: {broken}\n{}\nreplay: HODEI_SIM_SEED={seed} cargo test -p hodei-core \
         --test simulation every_invariant",
        trace.join("\n"),
    );
}

/// The first seed of a range whose schedule breaks an invariant, and how many events there were.
fn first_broken(seeds: std::ops::Range<u64>) -> (Option<u64>, u64) {
    let (next, found, events) =
        (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let work = || {
        let mut seen = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || found.load(Ordering::Relaxed) < u64::MAX {
                break;
            }
            let ended = run(seed, None);
            seen += ended.events;
            if ended.broken.is_some() {
                found.fetch_min(seed, Ordering::Relaxed);
            }
        }
        events.fetch_add(seen, Ordering::Relaxed);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    (Some(found.into_inner()).filter(|seed| *seed < u64::MAX), events.into_inner())
}

#[test]
fn every_invariant_holds_in_every_schedule() {
    if let Some(seed) = number("HODEI_SIM_SEED") {
        let ended = run(seed, None);
        println!("seed {seed}: {} events, digest {:016x}", ended.events, ended.digest);
        if ended.broken.is_some() {
            report(seed);
        }
        return;
    }
    let first = number("HODEI_SIM_FIRST").unwrap_or(0);
    let schedules = number("HODEI_SIM_SCHEDULES").unwrap_or(SCHEDULES);
    let started = std::time::Instant::now();
    let (broken, events) = first_broken(first..first + schedules);
    println!("{schedules} schedules, {events} events, {:?}", started.elapsed());
    if let Some(seed) = broken {
        report(seed);
    }
}

#[test]
fn one_seed_is_one_schedule() {
    for seed in 0..50 {
        let (first, second) = (run(seed, None), run(seed, None));
        assert_eq!((first.events, first.digest), (second.events, second.digest), "seed {seed}");
    }
}

#[test]
fn the_schedules_lead_to_every_situation() {
    let mut missing = Situation::ALL.to_vec();
    let mut seeds = 0..SABOTAGED;
    while !missing.is_empty() {
        let seed = seeds.next().unwrap_or_else(|| panic!("no schedule leads to {missing:?}"));
        let situations = run(seed, None).situations;
        missing.retain(|situation| !situations.contains(*situation));
    }
}

#[test]
fn a_guard_that_is_taken_away_is_missed() {
    use Invariant as I;
    use Sabotage as S;
    for (sabotage, expect) in [
        (S::AckTooEarly, I::DurableBeforeAcknowledged),
        (S::NoEpochFence, I::Fenced),
        (S::NoUidFence, I::NoLeaseHeldByTwo),
        (S::PasswordTwice, I::NoLeaseHeldByTwo),
        (S::DoubleFrames, I::ExactlyOnceInOrder),
        (S::AppendAnywhere, I::ExactlyOnceInOrder),
        (S::WelcomeTooFar, I::DurableBeforeAcknowledged),
        (S::StreamsMixed, I::RunOnce),
        (S::RevokeUnsaid, I::OrderlyServer),
        (S::SaidOnce, I::ResultHeard),
        (S::ResultBeforeFrames, I::CompleteOutput),
        (S::LateResult, I::OneResult),
        (S::ClaimTwice, I::OneOpenAttempt),
        (S::RequeueWithoutEnd, I::OneOpenAttempt),
        (S::BeginAgain, I::RunOnce),
        (S::ClockStopped, I::EveryJobEnds),
        (S::GapUnsaid, I::ExactlyOnceInOrder),
        (S::GapMisplaced, I::ExactlyOnceInOrder),
        (S::DiskLies, I::ExactlyOnceInOrder),
        (S::StallForEver, I::NoSilentStall),
        (S::DropAtOnce, I::DroppedInNeed),
    ] {
        let found = (0..SABOTAGED).find_map(|seed| Some((seed, run(seed, Some(sabotage)).broken?)));
        let (seed, broken) = found.unwrap_or_else(|| panic!("{sabotage:?} is not noticed"));
        println!("{sabotage:?}: seed {seed}: {broken}");
        assert_eq!(broken.invariant, expect, "{sabotage:?}, seed {seed}: {broken}");
    }
}
