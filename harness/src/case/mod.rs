//! One case: what its test is given, and what surrounds it.
//!
//! [`run_case`] is the whole life of a case: it finds the environment, makes what the case asks
//! for, runs the test's body, keeps evidence, audits, cleans up, and writes the outcome down. A
//! test is arrange, act, await, assert on a [`CaseEnv`], and nothing else.

mod audit;
mod clients;
mod database;
mod disturbance;
mod env;
mod evidence;
mod gate;
pub(crate) mod namespace;
mod neighbour;
mod options;
mod recorder;
mod run;
mod simulated_worker;
mod stack;
mod tls;
mod waits;

pub use clients::Clients;
pub use env::{CaseEnv, PROVIDER, command};
pub use gate::Gate;
pub use namespace::{CONTROL_PLANE_ACCOUNT, WORKER_ACCOUNT, read_manifest};
pub use neighbour::LISTENER;
pub use options::CaseOptions;
pub use recorder::{PodRecord, Recorder};
pub(crate) use run::explain;
pub use run::{ENABLE_VARIABLES, run_case, run_case_with};
pub use simulated_worker::{SimulatedWorker, WorkerLink};
pub use tls::make_authority;
pub use waits::{Output, is_final, pod_ready, pod_terminated};
