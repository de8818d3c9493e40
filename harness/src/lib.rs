//! The end-to-end harness of Hodei: from a bare machine to a cluster, a run and a verdict.
//!
//! The bootstrap half (`doctor`, `engine`, `tools`, `node_image`, `cluster`, images) brings a
//! Kind cluster up; the run half drives cases on it and judges them. Nothing here is known to
//! the platform, which the harness uses as a user does.

// What everything stands on.
pub mod bounded;
pub mod digest;
pub mod failure;
pub(crate) mod file_tree;
pub mod paths;
pub mod privilege;
pub mod process;
pub mod progress;
pub mod wait;

// From a bare machine to a cluster, and back.
pub mod bootstrap;
pub mod check_tools;
pub mod cluster;
pub mod component;
pub mod doctor;
pub mod engine;
pub mod lock;
pub mod node_image;
pub mod postgres_image;
pub mod pristine;
pub mod record;
pub mod takedown;
pub mod tools;
pub mod versions;
pub mod worker_image;

// From a cluster to a verdict.
pub mod api_audit;
pub mod api_proxy;
pub mod audit;
pub mod bench;
pub mod case;
pub mod catalogue;
pub mod conformance;
pub mod dry_run;
pub mod environment;
pub mod expression;
pub mod feature;
pub mod flake_rate;
pub mod history;
pub mod host_route;
pub mod job_times;
pub mod journal;
pub mod lineage;
pub mod link_proxy;
pub mod network_policy;
pub mod outcome;
pub mod ports;
pub mod postgres;
pub(crate) mod probe;
pub mod public_bug;
pub mod quarantine;
pub mod reap;
pub mod report;
pub mod resume;
pub mod rounds;
pub mod run_dir;
pub mod runner;
pub mod schedule;
pub mod selftest;
pub mod server_process;
pub mod shard;
pub mod stack;
pub mod verdict;
