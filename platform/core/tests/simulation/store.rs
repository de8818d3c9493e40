//! What the servers share: each method is one transaction, whole or not at all, and a crash keeps what
//! was committed. The rules are those of `hodei-core`; what is here only keeps the rows.

use hodei_core::{
    attempt::{AttemptState, Outcome},
    id::{AttemptKey, Epoch, JobId, WorkerId},
    job::{FinalState, JobEvent, JobState},
    session::{
        Frame,
        admission::{Candidate, Opening, Refusal, admit, authenticate, open},
        ruling::{Ending, Standing},
    },
    worker::WorkerState,
};
use uuid::Uuid;

use crate::{
    Millis, Sabotage, Uid,
    situations::{Situation, Situations},
};

pub(crate) const LEASE: Millis = 30_000;
pub(crate) const STARTUP: Millis = 60_000;
const RUN: Millis = 60_000;
pub(crate) const STOP_GRACE: Millis = 3_000;
const INFRASTRUCTURE_RETRIES: u32 = 3;
const COMMAND_RETRIES: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancelled,
    TimedOut,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) state: JobState,
    pub(crate) epoch: Epoch,
    pub(crate) not_before: Millis,
    /// How often a client had it run again.
    pub(crate) retries: u32,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) lost: u32,
    pub(crate) failed: u32,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) worker: usize,
    pub(crate) state: AttemptState,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) log: Vec<Frame>,
    pub(crate) stop: Option<Stop>,
    pub(crate) startup_deadline: Millis,
    pub(crate) run_deadline: Millis,
    pub(crate) stop_deadline: Option<Millis>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) state: WorkerState,
    pub(crate) pooled: bool,
    pub(crate) attempt: Option<AttemptKey>,
    pub(crate) token: Option<u64>,
    pub(crate) resource_uid: Option<Uid>,
    pub(crate) otp_used: bool,
    pub(crate) pod_uid: Option<Uid>,
    pub(crate) lease_until: Option<Millis>,
}

/// How an attempt ends.
pub(crate) enum End {
    Finished(Outcome),
    Lost,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) jobs: Vec<Job>,
    pub(crate) workers: Vec<Worker>,
    /// Grows with each commit that a server may have to act on.
    pub(crate) version: u64,
    /// Attempts that changed since somebody looked.
    pub(crate) touched: Vec<AttemptKey>,
    /// A transition that a closed machine does not allow was asked for.
    pub(crate) refused_transition: Option<String>,
    pub(crate) sabotage: Option<Sabotage>,
    /// What the schedule came to.
    pub(crate) situations: Situations,
}

pub(crate) fn job_id(index: usize) -> JobId {
    JobId::from(Uuid::from_u128(index as u128 + 1))
}

pub(crate) fn worker_id(index: usize) -> WorkerId {
    WorkerId::from(Uuid::from_u128(index as u128 + 1))
}

pub(crate) fn job_index(key: AttemptKey) -> usize {
    key.job.as_uuid().as_u128() as usize - 1
}

impl Attempt {
    fn standing(&self) -> Standing {
        let stored = self.log.len() as u64;
        Standing { worker: worker_id(self.worker), state: self.state, stored }
    }
}

impl Store {
    pub(crate) fn reach(&mut self, situation: Situation) {
        self.situations.reach(situation);
    }

    pub(crate) fn is(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    pub(crate) fn attempt(&self, key: AttemptKey) -> &Attempt {
        &self.jobs[job_index(key)].attempts[key.epoch.0 as usize - 1]
    }

    pub(crate) fn attempt_mut(&mut self, key: AttemptKey) -> &mut Attempt {
        self.version += 1;
        self.touched.push(key);
        &mut self.jobs[job_index(key)].attempts[key.epoch.0 as usize - 1]
    }

    pub(crate) fn transition(&mut self, job: usize, event: JobEvent) {
        self.version += 1;
        match self.jobs[job].state.on(event) {
            Ok(state) => self.jobs[job].state = state,
            Err(refused) => self.refused_transition = Some(format!("job {job}: {refused}")),
        }
    }

    pub(crate) fn advance(&mut self, worker: usize, next: WorkerState) {
        let row = &mut self.workers[worker];
        if row.state.can_become(next) {
            row.state = next;
            self.version += 1;
        }
    }

    pub(crate) fn register(
        &mut self,
        worker: usize,
        uid: Uid,
        token: u64,
        now: Millis,
    ) -> Result<(), Refusal> {
        let again = self.is(Sabotage::PasswordTwice);
        let row = &mut self.workers[worker];
        let candidate = Candidate {
            secret_matches: true,
            used: row.otp_used && !again,
            expired: false,
            state: if again { WorkerState::Connecting } else { row.state },
            known_uid: row.resource_uid.filter(|_| !again).map(|uid| uid.to_string()),
        };
        admit(&candidate, &uid.to_string())?;
        (row.otp_used, row.token, row.pod_uid) = (true, Some(token), Some(uid));
        row.lease_until = Some(now + LEASE);
        self.advance(worker, WorkerState::Ready);
        Ok(())
    }

    pub(crate) fn authenticate(&self, worker: usize, token: u64, uid: Uid) -> Result<(), Refusal> {
        let row = &self.workers[worker];
        let known = [row.pod_uid, row.resource_uid].map(|uid| uid.map(|uid| uid.to_string()));
        let known = known.iter().flatten().map(String::as_str);
        let known = known.filter(|_| !self.is(Sabotage::NoUidFence));
        authenticate(row.token == Some(token), known, &uid.to_string())
    }

    /// What a session goes on with: the opening, the worker's attempt, and what is durable of it.
    pub(crate) fn open_session(
        &mut self,
        worker: usize,
        held: Option<AttemptKey>,
        now: Millis,
    ) -> (Opening, Option<AttemptKey>, u64) {
        let own = self.workers[worker].attempt;
        let held = if self.is(Sabotage::NoEpochFence) { held.and(own) } else { held };
        let opening = open(own.map(|key| (key, self.attempt(key).state)), held);
        match (opening, own) {
            (Opening::Assign, Some(key)) => {
                if self.attempt(key).state == AttemptState::Assigned {
                    self.reach(Situation::GivenAgain);
                }
                self.assign(key);
            }
            (Opening::Resume, Some(key)) => {
                self.reach(Situation::Resumed);
                self.started(key, worker, now);
            }
            (Opening::Revoke, _) => self.reach(Situation::Revoked),
            (Opening::Forgotten, _) => self.reach(Situation::Forgotten),
            _ => {}
        }
        self.workers[worker].lease_until = Some(now + LEASE);
        let acked = own.filter(|_| own == held).map_or(0, |key| self.attempt(key).log.len() as u64);
        (opening, own, acked)
    }

    /// Writes down that the agent is being given the attempt.
    pub(crate) fn assign(&mut self, key: AttemptKey) {
        let attempt = self.attempt_mut(key);
        if attempt.state.can_become(AttemptState::Assigned) {
            attempt.state = AttemptState::Assigned;
        }
        let worker = attempt.worker;
        self.advance(worker, WorkerState::Busy);
    }

    pub(crate) fn started(&mut self, key: AttemptKey, worker: usize, now: Millis) {
        if self.attempt(key).standing().starts(worker_id(worker)) {
            let attempt = self.attempt_mut(key);
            (attempt.state, attempt.run_deadline) = (AttemptState::Running, now + RUN);
            self.transition(job_index(key), JobEvent::AttemptRunning);
        }
    }

    pub(crate) fn append(&mut self, key: AttemptKey, worker: usize, frames: &[Frame]) -> bool {
        let Some(first) = frames.first() else { return true };
        let standing = self.attempt(key).standing();
        let first =
            if self.is(Sabotage::AppendAnywhere) { standing.stored + 1 } else { first.sequence };
        let follows = standing.appends(worker_id(worker), first);
        if follows {
            self.attempt_mut(key).log.extend_from_slice(frames);
        }
        follows
    }

    pub(crate) fn end(&mut self, key: AttemptKey, worker: usize, end: End, now: Millis) -> Ending {
        let next = match end {
            End::Finished(_) => AttemptState::Finished,
            End::Lost => AttemptState::Lost,
        };
        let ending = self.attempt(key).standing().ends(worker_id(worker), next);
        let late = self.is(Sabotage::LateResult) && matches!(end, End::Finished(_));
        if ending != Ending::Take && !(late && ending != Ending::Repeated) {
            return ending;
        }
        let attempt = self.attempt_mut(key);
        attempt.state = next;
        let stop = attempt.stop;
        let has_gap = attempt.log.iter().any(|frame| frame.gap.is_some());
        let finished = match end {
            End::Finished(outcome) => Some(attempt.outcome.insert(outcome).final_state()),
            End::Lost => None,
        };
        if has_gap && finished.is_some() {
            self.reach(Situation::GapStored);
        }
        let job = job_index(key);
        if !self.jobs[job].state.is_final() {
            self.conclude(job, finished, stop, now);
        }
        let reuse = self.workers[worker].pooled && finished.is_some();
        let next = if reuse { WorkerState::Ready } else { WorkerState::Terminating };
        self.advance(worker, next);
        Ending::Take
    }

    /// What becomes of a job after an attempt that had this result, or none.
    fn conclude(&mut self, job: usize, end: Option<FinalState>, stop: Option<Stop>, now: Millis) {
        let row = &mut self.jobs[job];
        let (spent, budget) = match end {
            None => (&mut row.lost, INFRASTRUCTURE_RETRIES),
            Some(_) => (&mut row.failed, COMMAND_RETRIES),
        };
        let again = matches!(end, None | Some(FinalState::Failed)) && *spent < budget;
        let event = match (end, stop) {
            (Some(FinalState::Succeeded), _) => JobEvent::Finished(FinalState::Succeeded),
            (_, Some(Stop::Cancelled)) => JobEvent::Finished(FinalState::Cancelled),
            (_, Some(Stop::TimedOut)) => JobEvent::Finished(FinalState::TimedOut),
            (_, None) if again => {
                *spent += 1;
                self.situations.reach(Situation::TriedAgain);
                row.not_before = now + 500 * u64::from(*spent);
                JobEvent::Requeued
            }
            (end, None) => JobEvent::Finished(end.unwrap_or(FinalState::Failed)),
        };
        self.transition(job, event);
    }
}
