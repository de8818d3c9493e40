//! The world of one schedule: servers on one store, agents in their pods, the streams between them, and
//! a queue of events in virtual time. One seed is one schedule.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use hodei_core::{
    id::AttemptKey,
    session::{FromAgent, ToAgent},
};

use crate::{
    Millis, Sabotage, Uid,
    agents::Process,
    invariants::{Broken, Oracle},
    network::Stream,
    rng::Rng,
    servers::Replica,
    situations::Situations,
    store::Store,
};

/// When the last fault strikes.
const FAULTS_END: Millis = 60_000;
/// By when every job has to be final: long enough for each of its attempts to run into a time-out.
const LATEST_END: Millis = FAULTS_END + 600_000;
/// Events shown of a schedule that failed.
const TAIL: usize = 60;

/// What happens next. A process, a stream, a worker, a server and a job are numbers.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Hello(usize, Option<AttemptKey>),
    ToServer(usize, FromAgent),
    AgentClosed(usize),
    ToAgent(usize, ToAgent),
    ServerClosed { stream: usize, refused: bool },
    ServerNotices(usize),
    AgentNotices(usize),
    StartPod(usize),
    Register(usize),
    RegisterAt { process: usize, replica: usize },
    Registered { process: usize, token: Option<u64> },
    Open(usize),
    OpenTimeout(usize),
    Send(usize),
    Beat(usize),
    Command { process: usize, run: u32 },
    Kill(usize),
    ProcessSeenToEnd { worker: usize, uid: Uid },
    Flush { replica: usize, incarnation: u32, log: usize },
    Notify(usize),
    Clock(usize),
    Restart(usize),
    Claim { replica: usize, job: usize, idle: Option<usize> },
    Destroy(usize),
    Destroyed(usize),
    Submit,
    Cancel(usize),
    Retry(usize),
    Fault,
}

struct Queued {
    at: Millis,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        Reverse((self.at, self.number)).cmp(&Reverse((other.at, other.number)))
    }
}

pub(crate) struct World {
    pub(crate) now: Millis,
    pub(crate) rng: Rng,
    /// What decides on the agents' disks: a schedule without them is the same with other ones.
    pub(crate) disks: Rng,
    pub(crate) store: Store,
    /// Until then no transaction succeeds.
    pub(crate) store_down_until: Millis,
    pub(crate) replicas: [Replica; 2],
    pub(crate) streams: Vec<Stream>,
    pub(crate) processes: Vec<Process>,
    pub(crate) oracle: Oracle,
    /// Jobs that a client is still to submit.
    pub(crate) to_submit: u64,
    /// Of a thousand jobs, how many go to pooled workers.
    pub(crate) pooled: u64,
    /// Of a thousand messages, how many are sent twice.
    pub(crate) repeated: u64,
    /// The longest time between two faults.
    pub(crate) pause: Millis,
    queue: BinaryHeap<Queued>,
    pushed: u64,
    seen_version: u64,
    trace: Option<Vec<String>>,
}

/// What came of a schedule.
pub(crate) struct Ended {
    pub(crate) broken: Option<Broken>,
    pub(crate) events: u64,
    /// A digest of all that happened: two runs of one seed agree on it.
    pub(crate) digest: u64,
    pub(crate) situations: Situations,
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let to_submit = rng.between(1, 4);
        let pooled = [0, 0, 500, 1000, 1000][rng.index(5)];
        let repeated = [0, 20, 100][rng.index(3)];
        let pause = [1_000, 3_000, 8_000][rng.index(3)];
        let mut world = Self {
            now: 0,
            rng,
            disks: Rng::new(!seed),
            store: Store { sabotage, ..Store::default() },
            store_down_until: 0,
            replicas: Default::default(),
            streams: Vec::new(),
            processes: Vec::new(),
            oracle: Oracle::default(),
            to_submit,
            pooled,
            repeated,
            pause,
            queue: BinaryHeap::new(),
            pushed: 0,
            seen_version: 0,
            trace: traced.then(Vec::new),
        };
        for replica in 0..world.replicas.len() {
            world.after(0, 4_000, Event::Clock(replica));
        }
        for _ in 0..to_submit {
            world.after(0, 30_000, Event::Submit);
        }
        world.after(0, 10_000, Event::Fault);
        world
    }

    /// Runs the schedule to its end, or to the first invariant that does not hold.
    pub(crate) fn run(mut self) -> Ended {
        let (mut events, mut digest) = (0_u64, 0_u64);
        let mut broken = None;
        while broken.is_none() && !self.is_over() {
            let Some(Queued { at, event, .. }) = self.queue.pop() else { break };
            if at > LATEST_END {
                break;
            }
            self.now = at;
            events += 1;
            digest = digest.rotate_left(5) ^ at ^ self.pushed;
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{at:>7} ms  {event:?}"));
            }
            self.happen(event);
            self.wake_servers();
            broken = self.check();
        }
        if broken.is_none() {
            broken = self.check_end();
        }
        let mut trace = self.trace.unwrap_or_default();
        let trace = trace.split_off(trace.len().saturating_sub(TAIL));
        let situations = self.store.situations;
        Ended { broken, events, digest, situations, trace }
    }

    fn is_over(&self) -> bool {
        !self.has_faults()
            && self.to_submit == 0
            && self.store.jobs.iter().all(|job| job.state.is_final())
    }

    /// Whether things still go wrong.
    pub(crate) fn has_faults(&self) -> bool {
        self.now < FAULTS_END
    }

    pub(crate) fn clock(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    pub(crate) fn push(&mut self, at: Millis, event: Event) {
        self.pushed += 1;
        self.queue.push(Queued { at, number: self.pushed, event });
    }

    /// Something happens within these bounds from now on.
    pub(crate) fn after(&mut self, least: Millis, most: Millis, event: Event) {
        let at = self.now + self.rng.between(least, most);
        self.push(at, event);
    }

    /// Each commit is told to the servers, sooner or later.
    fn wake_servers(&mut self) {
        if self.store.version == self.seen_version {
            return;
        }
        self.seen_version = self.store.version;
        for replica in 0..self.replicas.len() {
            if !std::mem::replace(&mut self.replicas[replica].notified, true) {
                self.after(1, 200, Event::Notify(replica));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Hello(stream, held) => self.open_session(stream, held),
            Event::ToServer(stream, message) => self.server_hears(stream, message),
            Event::AgentClosed(stream) | Event::ServerNotices(stream) => {
                self.forget_session(stream)
            }
            Event::ToAgent(stream, message) => self.agent_hears(stream, &message),
            Event::ServerClosed { stream, refused } => self.stream_closed(stream, refused),
            Event::AgentNotices(stream) => self.stream_closed(stream, false),
            Event::StartPod(worker) => self.start_pod(worker),
            Event::Register(process) => self.register(process),
            Event::RegisterAt { process, replica } => self.register_at(process, replica),
            Event::Registered { process, token } => self.registered(process, token),
            Event::Open(process) => self.open_stream(process),
            Event::OpenTimeout(stream) => self.opening_over(stream),
            Event::Send(process) => self.send_next(process),
            Event::Beat(process) => self.beat(process),
            Event::Command { process, run } => self.step_command(process, run),
            Event::Kill(process) => self.end_process(process, true),
            Event::ProcessSeenToEnd { worker, uid } => self.seen_to_end(worker, uid),
            Event::Flush { replica, incarnation, log } => self.flush(replica, incarnation, log),
            Event::Notify(replica) => self.notify(replica),
            Event::Clock(replica) => self.tick(replica),
            Event::Restart(replica) => self.replicas[replica].up = true,
            Event::Claim { replica, job, idle } => self.claim(replica, job, idle),
            Event::Destroy(worker) => self.destroy(worker),
            Event::Destroyed(worker) => self.store.terminated(worker),
            Event::Submit => self.submit(),
            Event::Cancel(job) => self.store.cancel(job, self.now),
            Event::Retry(job) => self.store.retry(job),
            Event::Fault => self.strike(),
        }
    }
}
