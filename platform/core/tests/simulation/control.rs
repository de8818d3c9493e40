//! Transactions that are no agent's: a client's, the scheduler's, and those of the clock and the provider.

use hodei_core::{
    attempt::AttemptState,
    id::{AttemptKey, Epoch},
    job::{FinalState, JobEvent, JobState},
    worker::WorkerState,
};

use crate::{
    Millis, Sabotage,
    duty::Duty,
    situations::Situation,
    store::{
        Attempt, End, Job, LEASE, STARTUP, STOP_GRACE, Stop, Store, Worker, job_id, job_index,
    },
};

/// Beyond the grace period, how long a stopped agent has to report its result.
const STOP_MARGIN: Millis = 15_000;

impl Store {
    pub(crate) fn submit(&mut self) {
        self.version += 1;
        self.jobs.push(Job {
            state: JobState::Queued,
            epoch: Epoch(0),
            not_before: 0,
            retries: 0,
            attempts: Vec::new(),
            lost: 0,
            failed: 0,
        });
    }

    /// A client runs a job again that ended without success.
    pub(crate) fn retry(&mut self, job: usize) {
        if self.jobs[job].state.on(JobEvent::Retried).is_ok() {
            self.reach(Situation::Retried);
            self.transition(job, JobEvent::Retried);
            let row = &mut self.jobs[job];
            (row.lost, row.failed, row.retries) = (0, 0, row.retries + 1);
        }
    }

    pub(crate) fn cancel(&mut self, job: usize, now: Millis) {
        let state = self.jobs[job].state;
        if state.is_final() || state == JobState::Cancelling {
            return;
        }
        self.transition(job, JobEvent::CancelRequested);
        if self.jobs[job].state != JobState::Cancelling {
            return;
        }
        let key = AttemptKey { job: job_id(job), epoch: self.jobs[job].epoch };
        if self.attempt(key).state == AttemptState::Provisioning {
            self.reach(Situation::CancelledUnassigned);
            let attempt = self.attempt_mut(key);
            (attempt.state, attempt.stop) = (AttemptState::Lost, Some(Stop::Cancelled));
            let worker = attempt.worker;
            self.transition(job, JobEvent::Finished(FinalState::Cancelled));
            self.advance(worker, WorkerState::Terminating);
        } else {
            self.stop(key, Stop::Cancelled, now);
        }
    }

    fn stop(&mut self, key: AttemptKey, stop: Stop, now: Millis) {
        let attempt = self.attempt_mut(key);
        attempt.stop.get_or_insert(stop);
        attempt.stop_deadline.get_or_insert(now + STOP_GRACE + STOP_MARGIN);
    }

    /// A pooled worker that holds nothing.
    pub(crate) fn idle_worker(&self) -> Option<usize> {
        (0..self.workers.len()).find(|&worker| self.is_idle(worker))
    }

    fn is_idle(&self, worker: usize) -> bool {
        let row = &self.workers[worker];
        let open = row.attempt.is_some_and(|key| !self.attempt(key).state.is_final());
        row.pooled && row.state == WorkerState::Ready && !open
    }

    pub(crate) fn is_due(&self, job: usize, now: Millis) -> bool {
        self.jobs[job].state == JobState::Queued && self.jobs[job].not_before <= now
    }

    /// Claims a job for an idle worker, or for one still to be made; which, and whether it is new.
    pub(crate) fn claim(
        &mut self,
        job: usize,
        idle: Option<usize>,
        pooled: bool,
        now: Millis,
    ) -> Option<(usize, bool)> {
        let blind = self.is(Sabotage::ClaimTwice);
        let is_claimable = self.is_due(job, now) || (blind && !self.jobs[job].state.is_final());
        if !is_claimable {
            return None;
        }
        let idle = idle.filter(|&worker| blind || self.is_idle(worker));
        let epoch = self.jobs[job].epoch.next();
        let key = AttemptKey { job: job_id(job), epoch };
        if self.jobs[job].state == JobState::Queued {
            self.transition(job, JobEvent::AttemptCreated);
        }
        let worker = idle.unwrap_or(self.workers.len());
        self.jobs[job].epoch = epoch;
        self.jobs[job].attempts.push(Attempt {
            worker,
            state: AttemptState::Provisioning,
            outcome: None,
            log: Vec::new(),
            stop: None,
            startup_deadline: now + STARTUP,
            run_deadline: Millis::MAX,
            stop_deadline: None,
        });
        self.touched.push(key);
        if idle.is_some() {
            self.reach(Situation::TakenByIdleWorker);
        } else {
            self.workers.push(Worker {
                state: WorkerState::Creating,
                pooled,
                attempt: None,
                token: None,
                resource_uid: None,
                otp_used: false,
                pod_uid: None,
                lease_until: None,
            });
        }
        self.workers[worker].attempt = Some(key);
        Some((worker, idle.is_none()))
    }

    /// What a session has to know of its worker now.
    pub(crate) fn duty(&self, worker: usize) -> Duty {
        let row = &self.workers[worker];
        let attempt = row.attempt.map(|key| (key, self.attempt(key)));
        Duty {
            worker: row.state,
            attempt: attempt.map(|(key, attempt)| (key, attempt.state)),
            stopping: attempt.is_some_and(|(_, attempt)| attempt.stop.is_some()),
        }
    }

    pub(crate) fn renew_lease(&mut self, worker: usize, now: Millis) {
        self.workers[worker].lease_until = Some(now + LEASE);
    }

    /// After the servers were away, nobody could be heard.
    pub(crate) fn extend_leases(&mut self, now: Millis) {
        for lease in self.workers.iter_mut().filter_map(|row| row.lease_until.as_mut()) {
            *lease = (*lease).max(now + LEASE);
        }
    }

    /// Ends what has run out of time.
    pub(crate) fn pass_time(&mut self, now: Millis) {
        for job in 0..self.jobs.len() {
            for index in 0..self.jobs[job].attempts.len() {
                self.pass_time_of(
                    AttemptKey { job: job_id(job), epoch: Epoch(index as u32 + 1) },
                    now,
                );
            }
        }
        for worker in 0..self.workers.len() {
            let row = &self.workers[worker];
            let over = row.attempt.is_none_or(|key| self.attempt(key).state.is_final());
            let silent = row.lease_until.is_some_and(|until| until <= now);
            if over && (silent || !row.pooled) && row.state != WorkerState::Terminated {
                self.doom(worker);
            }
        }
    }

    fn pass_time_of(&mut self, key: AttemptKey, now: Millis) {
        let attempt = self.attempt(key);
        let (state, worker) = (attempt.state, attempt.worker);
        if state.is_final() {
            return;
        }
        let waits = matches!(state, AttemptState::Provisioning | AttemptState::Assigned);
        let over = if attempt.stop_deadline.is_some_and(|deadline| deadline <= now) {
            Situation::NotStopped
        } else if self.workers[worker].lease_until.is_some_and(|until| until <= now) {
            Situation::LeaseExpired
        } else if waits && attempt.startup_deadline <= now {
            Situation::NotStarted
        } else if attempt.run_deadline <= now && attempt.stop.is_none() {
            Situation::RanTooLong
        } else {
            return;
        };
        self.reach(over);
        match over {
            Situation::RanTooLong => self.stop(key, Stop::TimedOut, now),
            Situation::LeaseExpired if self.is(Sabotage::RequeueWithoutEnd) => {
                let job = &mut self.jobs[job_index(key)];
                job.state = job.state.on(JobEvent::Requeued).unwrap_or(job.state);
            }
            _ => drop(self.end(key, worker, End::Lost, now)),
        }
    }

    /// The worker is to be destroyed.
    pub(crate) fn doom(&mut self, worker: usize) {
        self.advance(worker, WorkerState::Terminating);
    }

    /// The provider saw the worker's process end.
    pub(crate) fn lose(&mut self, worker: usize, now: Millis) {
        if matches!(self.workers[worker].state, WorkerState::Terminating | WorkerState::Terminated)
        {
            return;
        }
        if let Some(key) = self.workers[worker].attempt {
            self.end(key, worker, End::Lost, now);
        }
        self.doom(worker);
    }

    /// The provider confirmed that nothing is left of it.
    pub(crate) fn terminated(&mut self, worker: usize) {
        self.advance(worker, WorkerState::Terminated);
        self.workers[worker].token = None;
    }
}
