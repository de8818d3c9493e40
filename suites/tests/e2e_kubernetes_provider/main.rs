//! The cases on a real cluster, a module a layer. Each runs by `make e2e`, or after `make up` by
//! `HODEI_K8S_TEST=1 cargo test -p hodei-suites --test e2e_kubernetes_provider -- --ignored`.

mod candidate;
mod cleanup;
mod cleanup_churn;
mod cleanup_crash;
mod direct;
mod full_job;
mod full_job_command;
mod full_job_ends;
mod full_job_link;
mod full_job_output;
mod infra;
mod lifecycle;
mod multi_worker;
mod multi_worker_loss;
mod multi_worker_pool;
mod multi_worker_pool_bounds;
mod network_policy;
mod node_control;
mod node_loss;
mod pods;
mod pooled;
mod provider_capabilities;
mod provider_create;
mod provider_destroy;
mod provider_gpu;
mod provider_health;
mod provider_isolation;
mod provider_logs;
mod provider_requests;
mod provider_status;
mod provider_watch;
mod registration;
mod registration_sessions;
mod registration_tls;
mod soak;
