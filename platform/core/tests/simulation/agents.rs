//! The agents: `AgentSession` of `hodei-core`, the machine that runs in every pod, and around it what
//! platform/worker has: the link, the command, the clock and SIGTERM.

use hodei_core::session::{
    AgentBounds, AgentSession, Departure, Frame, FromAgent, GapCause, Oddity, Order, ToAgent,
    admission::Refusal,
};
use std::time::Duration;

use crate::{
    Millis, Sabotage, Uid,
    commands::{Command, PIECE},
    situations::Situation,
    spools::{COST, Disk},
    store::Store,
    world::{Event, World},
};

pub(crate) const HEARTBEAT: Millis = 5_000;
const OPEN_TIMEOUT: Millis = 10_000;
const REGISTER_TIMEOUT: Millis = 60_000;
/// How long a command waits without link and room, until its output is dropped.
pub(crate) const STALL: Millis = 4_000;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Registering,
    Live,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Down,
    /// The delay before the next try runs.
    Waiting,
    Opening(usize),
    Up(usize),
}

/// One life of an agent in one pod.
pub(crate) struct Process {
    pub(crate) worker: usize,
    pub(crate) uid: Uid,
    pub(crate) phase: Phase,
    pub(crate) token: Option<u64>,
    pub(crate) session: AgentSession<Disk>,
    pub(crate) link: Link,
    /// Until then no connection to a server can be made.
    pub(crate) cut_off_until: [Millis; 2],
    pub(crate) command: Option<Command>,
    bounds: AgentBounds,
    disk: Disk,
    sending: bool,
    since: Millis,
    /// The last frame said of the attempt in hand, on whichever stream.
    pub(crate) said: u64,
    /// Since when the present link is up.
    pub(crate) up_since: Millis,
    /// Since when there is no link, if there is none.
    pub(crate) down_since: Millis,
}

impl Process {
    /// Whether it lives, with a link that has been up since then or longer.
    pub(crate) fn has_link_since(&self, then: Millis) -> bool {
        let up = matches!(self.link, Link::Up(_)) && self.up_since <= then;
        up && self.phase == Phase::Live && !self.session.is_leaving()
    }
}

/// Says, or with a sabotage does not say, what is lost in these frames.
fn tell_gaps(store: &mut Store, frames: &mut [Frame]) {
    let unreadable =
        |frame: &Frame| frame.gap.is_some_and(|gap| gap.cause == GapCause::SpoolUnreadable);
    if frames.iter().any(unreadable) {
        store.reach(Situation::Unreadable);
    }
    if store.is(Sabotage::GapUnsaid) {
        frames.iter_mut().for_each(|frame| frame.gap = None);
    }
    let at = frames.iter().position(|frame| frame.gap.is_some()).filter(|at| at + 1 < frames.len());
    if let Some(at) = at.filter(|_| store.is(Sabotage::GapMisplaced)) {
        frames.swap(at, at + 1);
        let numbers = (frames[at].sequence, frames[at + 1].sequence);
        (frames[at + 1].sequence, frames[at].sequence) = numbers;
    }
}

impl World {
    /// An agent begins its life: it registers, unless it has a session's token already.
    pub(crate) fn begin_process(&mut self, worker: usize, uid: Uid, token: Option<u64>) -> usize {
        let seconds = |seconds| Duration::from_secs(seconds);
        let stall = match self.store.sabotage {
            Some(Sabotage::StallForEver) => Millis::MAX,
            Some(Sabotage::DropAtOnce) => 0,
            _ => STALL,
        };
        let bounds = AgentBounds {
            window_bytes: COST * self.rng.between(1, 12) as usize,
            frame_bytes: PIECE,
            stall: Duration::from_millis(stall),
            give_up: seconds(45),
            idle: Some(seconds(90)),
            drain_grace: seconds(5),
        };
        let disk = Disk::new(&mut self.disks, self.store.sabotage);
        self.processes.push(Process {
            worker,
            uid,
            phase: Phase::Registering,
            token: None,
            bounds,
            session: AgentSession::new(bounds, disk.clone(), self.clock()),
            disk,
            link: Link::Down,
            cut_off_until: [0; 2],
            command: None,
            sending: false,
            since: self.now,
            said: 0,
            up_since: self.now,
            down_since: self.now,
        });
        let process = self.processes.len() - 1;
        match token {
            None => self.after(1, 500, Event::Register(process)),
            token => self.after(1, 500, Event::Registered { process, token }),
        }
        process
    }

    pub(crate) fn register(&mut self, process: usize) {
        let agent = &self.processes[process];
        if agent.phase != Phase::Registering {
            return;
        }
        if self.now > agent.since + REGISTER_TIMEOUT {
            return self.end_process(process, true);
        }
        let replica = self.rng.index(2);
        let lost = self.has_faults() && self.rng.chance(50);
        if lost || !self.can_connect(process, replica) {
            return self.after(100, 10_000, Event::Register(process));
        }
        self.after(1, 50, Event::RegisterAt { process, replica });
    }

    pub(crate) fn register_at(&mut self, process: usize, replica: usize) {
        let unclear = self.has_faults() && self.rng.chance(50);
        if !self.replicas[replica].up || !self.store_answers() {
            return self.after(100, 10_000, Event::Register(process));
        }
        let (worker, uid) = (self.processes[process].worker, self.processes[process].uid);
        let token = self.rng.below(u64::MAX);
        let registered = self.store.register(worker, uid, token, self.now);
        if registered == Err(Refusal::Replayed) {
            self.store.reach(Situation::PasswordReplayed);
        }
        let token = registered.ok().map(|()| token);
        if token.is_some() {
            self.oracle.admitted(worker, process);
        }
        if unclear {
            return self.after(100, 10_000, Event::Register(process));
        }
        self.after(1, 50, Event::Registered { process, token });
    }

    pub(crate) fn registered(&mut self, process: usize, token: Option<u64>) {
        if self.processes[process].phase != Phase::Registering {
            return;
        }
        if token.is_none() {
            return self.end_process(process, true);
        }
        let now = self.clock();
        let agent = &mut self.processes[process];
        (agent.phase, agent.token) = (Phase::Live, token);
        agent.session = AgentSession::new(agent.bounds, agent.disk.clone(), now);
        self.push(self.now + HEARTBEAT, Event::Beat(process));
        self.turn(process);
    }

    /// Ends a process; `seen`: the provider sees it, sooner or later.
    pub(crate) fn end_process(&mut self, process: usize, seen: bool) {
        let agent = &mut self.processes[process];
        if std::mem::replace(&mut agent.phase, Phase::Dead) == Phase::Dead {
            return;
        }
        agent.command = None;
        let (worker, uid, link) = (agent.worker, agent.uid, agent.link);
        match link {
            Link::Opening(stream) | Link::Up(stream) if seen => self.close_from_agent(stream),
            Link::Opening(stream) | Link::Up(stream) => self.cut(stream),
            Link::Down | Link::Waiting => {}
        }
        if seen {
            self.after(300, 5_000, Event::ProcessSeenToEnd { worker, uid });
        }
    }

    /// One turn of the agent's loop: leaves, opens its link, sends or reads on, whatever is due.
    pub(crate) fn turn(&mut self, process: usize) {
        let now = self.clock();
        let agent = &mut self.processes[process];
        if agent.phase != Phase::Live {
            return;
        }
        if let Some(departure) = agent.session.departure(now) {
            match departure {
                Departure::Unreported(_) => self.store.reach(Situation::Unreported),
                Departure::LinkLost { .. } => self.store.reach(Situation::GaveUp),
                Departure::Drained | Departure::Idle => {}
            }
            return self.end_process(process, true);
        }
        let sends = matches!(agent.link, Link::Up(_)) && agent.session.has_message();
        let begins_to_send = sends && !std::mem::replace(&mut agent.sending, true);
        let opens = agent.link == Link::Down;
        if opens {
            agent.link = Link::Waiting;
        }
        let reads = agent.session.has_room(now);
        let waiting =
            agent.command.as_mut().filter(|command| reads && command.waits_since.is_some());
        let resumed = waiting.map(|command| (command.waits_since.take(), command.run).1);
        if begins_to_send {
            self.after(0, 20, Event::Send(process));
        }
        if opens {
            self.after(50, 2_500, Event::Open(process));
        }
        if let Some(run) = resumed {
            self.after(0, 20, Event::Command { process, run });
        }
    }

    pub(crate) fn beat(&mut self, process: usize) {
        if self.processes[process].phase == Phase::Live {
            self.processes[process].session.beat();
            self.push(self.now + HEARTBEAT, Event::Beat(process));
            self.turn(process);
        }
    }

    pub(crate) fn send_next(&mut self, process: usize) {
        let agent = &mut self.processes[process];
        agent.sending = false;
        let Link::Up(stream) = agent.link else { return };
        if agent.phase == Phase::Live
            && let Some(mut message) = agent.session.next_message()
        {
            if let FromAgent::Logs { frames, .. } = &mut message {
                tell_gaps(&mut self.store, frames);
            }
            let again = matches!(&message, FromAgent::Logs { frames, .. }
                if frames.last().is_some_and(|last| last.sequence <= agent.said));
            if let FromAgent::Logs { frames, .. } = &message {
                agent.said = frames.last().map_or(0, |last| last.sequence);
            }
            if !(again && self.store.is(Sabotage::SaidOnce)) {
                self.say_to_server(stream, message);
            }
            self.turn(process);
        }
    }

    pub(crate) fn open_stream(&mut self, process: usize) {
        if self.processes[process].phase != Phase::Live {
            return;
        }
        let (replica, now) = (self.rng.index(2), self.clock());
        if !self.can_connect(process, replica) {
            self.processes[process].link = Link::Down;
            self.processes[process].session.link_lost(now);
            return self.turn(process);
        }
        let stream = self.make_stream(process, replica);
        self.processes[process].link = Link::Opening(stream);
        self.hello(stream);
        self.push(self.now + OPEN_TIMEOUT, Event::OpenTimeout(stream));
    }

    pub(crate) fn opening_over(&mut self, stream: usize) {
        if self.processes[self.streams[stream].process].link == Link::Opening(stream) {
            self.lose_stream(stream);
        }
    }

    fn lose_stream(&mut self, stream: usize) {
        let process = self.streams[stream].process;
        let now = self.clock();
        let agent = &mut self.processes[process];
        agent.link = Link::Down;
        if agent.session.link_lost(now) {
            agent.down_since = self.now;
        }
        self.close_from_agent(stream);
        self.turn(process);
    }

    /// The server's end of a stream says that it is over, or nothing is heard of it any more.
    pub(crate) fn stream_closed(&mut self, stream: usize, refused: bool) {
        let agent = &self.processes[self.streams[stream].process];
        if agent.phase == Phase::Live && self.is_present(stream) {
            if refused {
                return self.end_process(self.streams[stream].process, true);
            }
            self.lose_stream(stream);
        }
    }

    pub(crate) fn agent_hears(&mut self, stream: usize, message: &ToAgent) {
        let process = self.streams[stream].process;
        if self.processes[process].phase != Phase::Live || !self.reaches_agent(stream) {
            return;
        }
        let is_welcome = matches!(message, ToAgent::Welcome { .. });
        match self.processes[process].link {
            Link::Opening(present) if present == stream && is_welcome => {
                self.processes[process].link = Link::Up(stream);
                self.processes[process].up_since = self.now;
            }
            Link::Up(present) if present == stream => {}
            Link::Up(_) if self.store.is(Sabotage::StreamsMixed) => {}
            // A stream that was given up: nobody reads it.
            _ => return,
        }
        let now = self.clock();
        let held = self.processes[process].session.held().map(ToAgent::Assignment);
        let again = held.as_ref() == Some(message) && self.store.is(Sabotage::BeginAgain);
        let order = self.processes[process].session.on_message(message, now);
        if let Err(oddity @ (Oddity::Busy { .. } | Oddity::NeverMade { .. })) = order {
            self.oracle.odd(oddity);
        }
        match order.ok().flatten() {
            Some(Order::Begin(key)) => self.begin_command(process, key),
            Some(Order::Stop { attempt, grace }) => {
                self.stop_command(process, attempt, grace.as_millis() as Millis);
            }
            Some(Order::Drop(_) | Order::Reported { .. }) => self.processes[process].command = None,
            Some(Order::Leave) => return self.end_process(process, true),
            None => {}
        }
        if again && let Some(key) = self.processes[process].session.held() {
            self.begin_command(process, key);
        }
        self.turn(process);
    }

    /// SIGTERM; the kubelet kills what is left after its grace period.
    pub(crate) fn terminate(&mut self, process: usize) {
        let now = self.clock();
        let agent = &mut self.processes[process];
        match agent.phase {
            Phase::Dead => return,
            Phase::Registering => return self.end_process(process, true),
            Phase::Live if agent.session.is_leaving() => return,
            Phase::Live => agent.session.leave(now),
        }
        self.abandon_command(process);
        self.push(self.now + 15_000, Event::Kill(process));
        self.turn(process);
    }
}
