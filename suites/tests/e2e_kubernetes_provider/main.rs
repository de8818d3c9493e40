//! The cases on a real cluster, a module a layer. Each runs by `make e2e`, or after `make up` by
//! `HODEI_K8S_TEST=1 cargo test -p hodei-suites --test e2e_kubernetes_provider -- --ignored`.

mod cleanup;
mod direct;
mod full_job;
mod infra;
mod lifecycle;
mod multi_worker;
mod node_control;
mod node_loss;
mod pods;
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
