//! What is around servers and agents: clients, the scheduler, the provider, and all that goes wrong.

use hodei_core::{job::JobEvent, worker::WorkerState};

use crate::{
    Sabotage, Uid,
    agents::{Link, Phase},
    store::LEASE,
    world::{Event, World},
};

impl World {
    pub(crate) fn submit(&mut self) {
        self.to_submit -= 1;
        let job = self.store.jobs.len();
        self.store.submit();
        if self.rng.chance(250) {
            self.after(0, 40_000, Event::Cancel(job));
        }
        if self.rng.chance(250) {
            self.after(1_000, 55_000, Event::Retry(job));
        }
    }

    /// A commit was told to a server.
    pub(crate) fn notify(&mut self, replica: usize) {
        self.replicas[replica].notified = false;
        if self.replicas[replica].up {
            self.look(replica);
            self.schedule(replica);
        }
    }

    /// What a server does now and then.
    pub(crate) fn tick(&mut self, replica: usize) {
        self.push(self.now + 4_000, Event::Clock(replica));
        if !self.replicas[replica].up {
            return;
        }
        self.look(replica);
        if !self.store_answers() {
            return;
        }
        let deaf = self.replicas[replica].last_good.is_none_or(|at| at + LEASE / 2 < self.now);
        if deaf {
            self.store.extend_leases(self.now);
        }
        self.replicas[replica].last_good = Some(self.now);
        self.renew_leases(replica);
        if !self.store.is(Sabotage::ClockStopped) {
            self.store.pass_time(self.now);
        }
        self.schedule(replica);
        for worker in 0..self.store.workers.len() {
            if self.store.workers[worker].state == WorkerState::Terminating {
                self.after(100, 3_000, Event::Destroy(worker));
            }
        }
    }

    /// Looks for jobs that wait. Claiming one comes later, and another server may be faster.
    fn schedule(&mut self, replica: usize) {
        if !self.store_answers() {
            return;
        }
        for job in 0..self.store.jobs.len() {
            if self.store.is_due(job, self.now) {
                let idle = self.store.idle_worker();
                self.after(1, 100, Event::Claim { replica, job, idle });
            }
        }
    }

    pub(crate) fn claim(&mut self, replica: usize, job: usize, idle: Option<usize>) {
        if !self.replicas[replica].up || !self.store_answers() {
            return;
        }
        let pooled = self.rng.chance(self.pooled);
        let claimed = self.store.claim(job, idle, pooled, self.now);
        if let Some((worker, true)) = claimed {
            let never_made = self.has_faults() && self.rng.chance(30);
            if !never_made {
                self.after(200, 5_000, Event::StartPod(worker));
            }
        }
    }

    fn next_uid(&self) -> Uid {
        self.processes.len() as Uid
    }

    pub(crate) fn start_pod(&mut self, worker: usize) {
        if self.store.workers[worker].state == WorkerState::Terminated {
            return;
        }
        let uid = self.next_uid();
        if self.rng.chance(700) {
            self.store.workers[worker].resource_uid = Some(uid);
        }
        self.begin_process(worker, uid, None);
    }

    /// The provider tells that the process of a pod has ended. A namesake's end is none of this worker's.
    pub(crate) fn seen_to_end(&mut self, worker: usize, uid: Uid) {
        if !self.store_answers() || self.replicas.iter().all(|replica| !replica.up) {
            return self.after(1_000, 5_000, Event::ProcessSeenToEnd { worker, uid });
        }
        let known = *self.store.workers[worker].resource_uid.get_or_insert(uid);
        let lives = |p: &crate::agents::Process| p.uid == uid && p.phase != Phase::Dead;
        if known == uid && !self.processes.iter().any(lives) {
            self.store.lose(worker, self.now);
        }
    }

    /// The provider deletes a pod, and confirms once nothing of it is left.
    pub(crate) fn destroy(&mut self, worker: usize) {
        if self.store.workers[worker].state != WorkerState::Terminating {
            return;
        }
        let mut lives = false;
        for process in 0..self.processes.len() {
            if self.processes[process].worker == worker {
                lives |= self.processes[process].phase != Phase::Dead;
                self.terminate(process);
            }
        }
        if !lives {
            self.after(1, 1_000, Event::Destroyed(worker));
        }
    }

    /// A process that lives, if there is one.
    fn victim(&mut self) -> Option<usize> {
        let lives = |&process: &usize| self.processes[process].phase != Phase::Dead;
        let living: Vec<_> = (0..self.processes.len()).filter(lives).collect();
        (!living.is_empty()).then(|| living[self.rng.index(living.len())])
    }

    fn stream_of(&self, process: usize) -> Option<usize> {
        match self.processes[process].link {
            Link::Opening(stream) | Link::Up(stream) => Some(stream),
            Link::Down | Link::Waiting => None,
        }
    }

    /// Something goes wrong, and the next thing some time later.
    pub(crate) fn strike(&mut self) {
        if !self.has_faults() {
            return;
        }
        self.after(100, self.pause, Event::Fault);
        match self.rng.below(100) {
            0..=15 => return self.crash_server(),
            16..=22 => {
                self.store_down_until = self.now + self.rng.between(100, 20_000);
                return;
            }
            23..=27 if !self.store.jobs.is_empty() => {
                let job = self.rng.index(self.store.jobs.len());
                let retried = self.store.jobs[job].state.on(JobEvent::Retried).is_ok();
                let event = if retried { Event::Retry(job) } else { Event::Cancel(job) };
                return self.after(0, 1_000, event);
            }
            _ => {}
        }
        if let Some(process) = self.victim() {
            self.strike_process(process);
        }
    }

    fn strike_process(&mut self, process: usize) {
        let (worker, uid) = (self.processes[process].worker, self.processes[process].uid);
        match self.rng.below(100) {
            0..=44 => {
                if let Some(stream) = self.stream_of(process) {
                    self.cut(stream);
                }
            }
            45..=59 => self.partition(process),
            60..=65 => self.end_process(process, true),
            // The node is lost: nobody sees it.
            66..=68 => self.end_process(process, false),
            69..=72 => self.terminate(process),
            // The container is started again in the same pod.
            73..=80 => {
                self.end_process(process, true);
                self.begin_process(worker, uid, None);
            }
            // A second pod of the same worker, with the same password.
            81..=90 => {
                let uid = self.next_uid();
                self.begin_process(worker, uid, None);
            }
            // One that has got hold of the session's token as well.
            _ => {
                let (uid, token) = (self.next_uid(), self.processes[process].token);
                if token.is_some() {
                    self.begin_process(worker, uid, token);
                }
            }
        }
    }

    /// One agent cannot reach one server, or both.
    fn partition(&mut self, process: usize) {
        let until = self.now + self.rng.between(1_000, 60_000);
        let whom = self.rng.index(3);
        for replica in (0..2).filter(|&replica| whom == 2 || whom == replica) {
            self.processes[process].cut_off_until[replica] = until;
        }
        if let Some(stream) = self.stream_of(process)
            && (whom == 2 || whom == self.streams[stream].replica)
        {
            self.cut(stream);
        }
    }

    fn crash_server(&mut self) {
        let replica = self.rng.index(2);
        if !self.replicas[replica].up {
            return;
        }
        self.replicas[replica].crash();
        self.after(100, 20_000, Event::Restart(replica));
        for stream in 0..self.streams.len() {
            let process = self.streams[stream].process;
            if self.streams[stream].replica == replica && self.stream_of(process) == Some(stream) {
                self.after(1, 10_000, Event::AgentNotices(stream));
            }
        }
    }
}
